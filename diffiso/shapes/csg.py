# SPDX-License-Identifier: Apache-2.0
"""What a shape is, and how shapes are joined, cut and moved."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

Number = float | Tensor
Vector = tuple[float, float, float] | Tensor


class Shape(ABC):
    """A solid given by a field: negative inside, 1-Lipschitz.

    A shape is a callable `(..., 3) -> (...)`, so `(P, 3) -> (P,)` as every op wants it;
    differentiable in the points and in every tensor among its parameters; it works in the dtype and
    on the device of the points. The field never overstates the distance to the surface; where it
    equals the signed distance the class says "exact".

    Joined with operators: `a | b` (union), `a & b` (intersection), `a - b` (difference).
    """

    lipschitz: float = 1.0

    def __call__(self, points: Tensor) -> Tensor:
        """Return the field at points in world coordinates.

        Args:
            points: (..., 3) floating point tensor.

        Returns:
            (...) field values in world units.

        Raises:
            ValueError: If points are not floating point of shape (..., 3).
        """
        name = type(self).__name__
        if points.ndim == 0 or points.shape[-1] != 3:
            raise ValueError(f"{name}: points must be (..., 3), got {tuple(points.shape)}")
        if not points.is_floating_point():
            raise ValueError(f"{name}: points must be floating point, got {points.dtype}")
        return self._field(points)

    @abstractmethod
    def _field(self, points: Tensor) -> Tensor:
        """Return the field at points that were checked already."""

    def __or__(self, other: Shape) -> Shape:
        return Union(self, other)

    def __and__(self, other: Shape) -> Shape:
        return Intersection(self, other)

    def __sub__(self, other: Shape) -> Shape:
        return Difference(self, other)

    def moved(self, offset: Vector) -> Shape:
        """Return the shape moved by an offset in world units."""
        return Placed(self, offset=offset)

    def scaled(self, factor: Number) -> Shape:
        """Return the shape scaled about the origin by a positive factor."""
        return Placed(self, scale=factor)

    def turned(self, axis: tuple[float, float, float], degrees: float) -> Shape:
        """Return the shape turned about an axis through the origin, by the right-hand rule."""
        return Placed(self, rotation=rotation_matrix(axis, degrees))

    def grown(self, distance: Number) -> Shape:
        """Return the shape grown by a distance on all sides, which rounds its convex edges."""
        return Offset(self, distance)

    def shell(self, thickness: Number) -> Shape:
        """Return the wall of a given thickness around the shape's surface."""
        return Shell(self, thickness)


def number(value: Number, points: Tensor) -> Tensor:
    """Return a parameter as a tensor like the points, with its gradient."""
    return torch.as_tensor(value, dtype=points.dtype, device=points.device)


def vector(value: Vector, points: Tensor) -> Tensor:
    """Return three parameters as a tensor like the points, with its gradient."""
    return torch.as_tensor(value, dtype=points.dtype, device=points.device)


@dataclass(frozen=True, eq=False)
class Union(Shape):
    """Both solids. Exact outside; inside, where the two overlap, a bound.

    Attributes:
        first: A shape.
        second: Another.
        smooth: Width of the blend in world units; 0 is sharp. With a blend the field is a bound
            near the seam.
    """

    first: Shape
    second: Shape
    smooth: float = 0.0

    def _field(self, points: Tensor) -> Tensor:
        return smooth_minimum(self.first(points), self.second(points), self.smooth)


@dataclass(frozen=True, eq=False)
class Intersection(Shape):
    """What lies in both solids; a bound outside.

    Attributes:
        first: A shape.
        second: Another.
        smooth: Width of the blend in world units; 0 is sharp.
    """

    first: Shape
    second: Shape
    smooth: float = 0.0

    def _field(self, points: Tensor) -> Tensor:
        return -smooth_minimum(-self.first(points), -self.second(points), self.smooth)


@dataclass(frozen=True, eq=False)
class Difference(Shape):
    """The first solid without the second; a bound.

    Attributes:
        first: The shape to cut.
        second: The shape to cut away.
        smooth: Width of the blend in world units; 0 is sharp.
    """

    first: Shape
    second: Shape
    smooth: float = 0.0

    def _field(self, points: Tensor) -> Tensor:
        return -smooth_minimum(-self.first(points), self.second(points), self.smooth)


@dataclass(frozen=True, eq=False)
class Placed(Shape):
    """A shape that was scaled, then rotated, then moved; exact where the shape is.

    Attributes:
        shape: The shape.
        rotation: (3, 3) rotation matrix, or None.
        offset: Three world units.
        scale: Positive factor.
    """

    shape: Shape
    rotation: Tensor | None = None
    offset: Vector = (0.0, 0.0, 0.0)
    scale: Number = 1.0

    def __post_init__(self) -> None:
        """Check the scale.

        Raises:
            ValueError: If the scale is not positive.
        """
        scale = self.scale.item() if isinstance(self.scale, Tensor) else self.scale
        if not scale > 0:
            raise ValueError(f"Placed: scale must be positive, got {scale}")

    def _field(self, points: Tensor) -> Tensor:
        scale = number(self.scale, points)
        local = points - vector(self.offset, points)
        if self.rotation is not None:
            local = local @ self.rotation.to(points)
        return self.shape(local / scale) * scale


@dataclass(frozen=True, eq=False)
class Offset(Shape):
    """A shape grown by a distance; exact outside where the shape is.

    Attributes:
        shape: The shape.
        distance: World units; negative shrinks.
    """

    shape: Shape
    distance: Number

    def _field(self, points: Tensor) -> Tensor:
        return self.shape(points) - number(self.distance, points)


@dataclass(frozen=True, eq=False)
class Shell(Shape):
    """The wall around a shape's surface, half on either side; exact near it where the shape is.

    Attributes:
        shape: The shape.
        thickness: World units.
    """

    shape: Shape
    thickness: Number

    def _field(self, points: Tensor) -> Tensor:
        return self.shape(points).abs() - number(self.thickness, points) / 2


def smooth_minimum(first: Tensor, second: Tensor, width: float) -> Tensor:
    """Return the minimum of two fields, blended where they differ by less than `width`.

    Quadratic polynomial blend: its gradient is a convex combination of both gradients, so that it
    stays 1-Lipschitz; at most `width / 4` below the minimum.

    Args:
        first: Field values.
        second: Field values of the same shape.
        width: Blend width in field units; 0 is the plain minimum.

    Raises:
        ValueError: If the width is negative.
    """
    if width < 0:
        raise ValueError(f"smooth_minimum: width must not be negative, got {width}")
    if width == 0:
        return torch.minimum(first, second)
    overlap = (1 - (first - second).abs() / width).clamp(min=0)
    return torch.minimum(first, second) - overlap.square() * (width / 4)


def rotation_matrix(axis: tuple[float, float, float], degrees: float) -> Tensor:
    """Return the (3, 3) float64 matrix that turns by an angle about an axis (Rodrigues' formula).

    Raises:
        ValueError: If the axis is zero.
    """
    length = math.sqrt(sum(part * part for part in axis))
    if length == 0:
        raise ValueError("rotation_matrix: axis must not be zero, got (0, 0, 0)")
    x, y, z = (part / length for part in axis)
    cross = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    angle = math.radians(degrees)
    identity = torch.eye(3, dtype=torch.float64)
    return identity + math.sin(angle) * cross + (1 - math.cos(angle)) * (cross @ cross)
