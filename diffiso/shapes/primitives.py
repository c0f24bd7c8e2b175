# SPDX-License-Identifier: Apache-2.0
"""Analytic shapes. Every parameter may be a tensor that wants a gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffiso.shapes.csg import Number, Shape, Vector, number, vector


@dataclass(frozen=True, eq=False)
class Sphere(Shape):
    """A ball; exact.

    Attributes:
        radius: World units.
        center: World coordinates.

    Example:
        >>> Sphere(0.5)(torch.tensor([[0.0, 0.0, 2.0]]))
        tensor([1.5000])
    """

    radius: Number = 1.0
    center: Vector = (0.0, 0.0, 0.0)

    def _field(self, points: Tensor) -> Tensor:
        return length(points - vector(self.center, points)) - number(self.radius, points)


@dataclass(frozen=True, eq=False)
class Box(Shape):
    """A box along the axes; exact.

    Attributes:
        half_size: Half the side lengths, world units.
        center: World coordinates.
    """

    half_size: Vector = (1.0, 1.0, 1.0)
    center: Vector = (0.0, 0.0, 0.0)

    def _field(self, points: Tensor) -> Tensor:
        beyond = (points - vector(self.center, points)).abs() - vector(self.half_size, points)
        return length(beyond.clamp(min=0)) + beyond.amax(dim=-1).clamp(max=0)


@dataclass(frozen=True, eq=False)
class Torus(Shape):
    """A torus around the z axis; exact for `major >= minor`.

    With `major < minor` the hole is closed (a spindle torus), with `major = 0` it is a ball of
    radius `minor`: exact outside, inside a bound.

    Attributes:
        major: Radius of the ring's centre line, world units.
        minor: Radius of the tube, world units.
        center: World coordinates.
    """

    major: Number = 1.0
    minor: Number = 0.4
    center: Vector = (0.0, 0.0, 0.0)

    def _field(self, points: Tensor) -> Tensor:
        local = points - vector(self.center, points)
        ring = length(local[..., :2]) - number(self.major, points)
        return length(torch.stack([ring, local[..., 2]], dim=-1)) - number(self.minor, points)


@dataclass(frozen=True, eq=False)
class Capsule(Shape):
    """All points within a radius of a segment; exact.

    Attributes:
        start: One end of the segment, world coordinates.
        end: The other end.
        radius: World units.
    """

    start: Vector = (0.0, 0.0, -0.5)
    end: Vector = (0.0, 0.0, 0.5)
    radius: Number = 0.5

    def _field(self, points: Tensor) -> Tensor:
        start = vector(self.start, points)
        along = vector(self.end, points) - start
        local = points - start
        squared = (along * along).sum().clamp(min=torch.finfo(points.dtype).tiny)
        share = ((local * along).sum(dim=-1) / squared).clamp(0, 1)
        return length(local - share[..., None] * along) - number(self.radius, points)


@dataclass(frozen=True, eq=False)
class Gyroid(Shape):
    """The side of Schoen's gyroid where `sin x cos y + sin y cos z + sin z cos x` is negative.

    **Not a distance.** The sum has the Lipschitz constant `sqrt(3) * 2 pi / period` (attained at
    the origin) and is returned divided by it: 1-Lipschitz, a lower bound of the distance. Its
    gradient's norm lies between sqrt(2/3) and 1 on the surface, so gradients through that surface
    want `law="implicit"`.

    Attributes:
        period: Edge of the cubic unit cell, world units.
    """

    period: float = 1.0

    def _field(self, points: Tensor) -> Tensor:
        frequency = 2 * math.pi / self.period
        sine, cosine = torch.sin(frequency * points), torch.cos(frequency * points)
        return (sine * cosine.roll(-1, dims=-1)).sum(dim=-1) / (math.sqrt(3) * frequency)


def length(vectors: Tensor) -> Tensor:
    """Return Euclidean lengths over the last axis; the gradient at zero is zero."""
    lengths: Tensor = torch.linalg.vector_norm(vectors, dim=-1)
    return lengths
