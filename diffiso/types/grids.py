# SPDX-License-Identifier: Apache-2.0
"""Grids: samples of a field at the nodes of a box, all of them or bricks where they matter."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Vector3 = tuple[float, float, float]
BRICK_SIZE = 8  # nodes of a brick along each axis, as in csrc/core/bricks.h


def as_vector3(name: str, value: float | Sequence[float] | Tensor) -> Vector3:
    """Return three Python floats from a number, a sequence of three or a tensor of shape (3,)."""
    if isinstance(value, Tensor):
        value = value.detach().tolist()
    values = [float(value)] * 3 if isinstance(value, int | float) else [float(v) for v in value]
    if len(values) != 3 or not all(abs(v) < math.inf for v in values):
        raise ValueError(f"{name} must be a number or three finite numbers, got {value}")
    return values[0], values[1], values[2]


@dataclass(frozen=True, eq=False)
class Grid:
    """Samples of a field at the nodes of a box.

    Node (i, j, k) sits at ``lower + (i, j, k) * spacing`` in world units; z is contiguous. Without
    bounds a grid is in index coordinates: ``lower`` 0, ``spacing`` 1.

    Attributes:
        values: (X, Y, Z) or (B, X, Y, Z), floating.
        lower: World position of node (0, 0, 0).
        spacing: World distance of neighbouring nodes along each axis.

    Raises:
        TypeError: If ``values`` is no tensor.
        ValueError: If ``lower`` is not finite or ``spacing`` not positive.

    Example:
        >>> import torch, diffiso
        >>> diffiso.Grid.from_bounds(torch.zeros(5, 3, 3), -1, 1).spacing
        (0.5, 1.0, 1.0)
    """

    values: Tensor
    lower: Vector3 = (0.0, 0.0, 0.0)
    spacing: Vector3 = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        """Bring the bounds to floats and check them."""
        if not isinstance(self.values, Tensor):
            raise TypeError(f"Grid: values must be a tensor, got {type(self.values).__name__}")
        object.__setattr__(self, "lower", as_vector3("Grid: lower", self.lower))
        object.__setattr__(self, "spacing", as_vector3("Grid: spacing", self.spacing))
        if min(self.spacing) <= 0:
            raise ValueError(f"Grid: spacing must be positive, got {self.spacing}")

    @classmethod
    def from_bounds(
        cls,
        values: Tensor,
        lower: float | Sequence[float] | Tensor,
        upper: float | Sequence[float] | Tensor,
    ) -> Grid:
        """Return a grid whose first node sits at ``lower`` and whose last at ``upper``.

        Args:
            values: (X, Y, Z) or (B, X, Y, Z), at least 2 nodes along each axis.
            lower: World position of the first node: three numbers, or one for all axes.
            upper: World position of the last node.

        Raises:
            ValueError: If ``upper`` is not above ``lower`` on every axis, or an axis has one node.
        """
        if values.dim() not in (3, 4) or min(values.shape[-3:]) < 2:
            raise ValueError(
                "Grid.from_bounds: values must be (X, Y, Z) or (B, X, Y, Z) with at least 2 nodes "
                f"along every axis, got {tuple(values.shape)}"
            )
        low = as_vector3("Grid.from_bounds: lower", lower)
        high = as_vector3("Grid.from_bounds: upper", upper)
        if any(a >= b for a, b in zip(low, high, strict=True)):
            raise ValueError(f"Grid.from_bounds: upper must be above lower, got {low} and {high}")
        nodes = values.shape[-3:]
        spacing = [(b - a) / (n - 1) for a, b, n in zip(low, high, nodes, strict=True)]
        return cls(values, low, (spacing[0], spacing[1], spacing[2]))

    @property
    def upper(self) -> Vector3:
        """World position of the last node."""
        x, y, z = (
            a + (n - 1) * h
            for a, n, h in zip(self.lower, self.values.shape[-3:], self.spacing, strict=True)
        )
        return x, y, z

    def to(self, *args: Any, **kwargs: Any) -> Grid:
        """Return the grid with ``values.to(...)``."""
        return Grid(self.values.to(*args, **kwargs), self.lower, self.spacing)


@dataclass(frozen=True, eq=False)
class BrickGrid:
    """Samples of a field where they matter: bricks of 8 x 8 x 8 nodes of a box.

    Node (i, j, k) of the box is node (i % 8, j % 8, k % 8) of the brick that stands at (i // 8,
    j // 8, k // 8) of the table, and sits at ``lower + (i, j, k) * spacing`` in world units. A node
    in no brick is absent, and so is one whose value is NaN. :func:`marching_cubes` and
    :func:`sample_grid` take such a grid and treat it as the dense one with NaN at all absent nodes.

    Table and coordinates must say the same, which is not checked here: :meth:`from_bricks` makes
    the one from the other.

    Attributes:
        values: (R, 8, 8, 8), floating; what lies beyond the box counts for nothing.
        table: (TX, TY, TZ), int32: which brick stands where, -1 for none; as many as cover
            ``nodes``.
        coordinates: (R, 3), int32: where in the table each brick stands.
        nodes: Number of nodes of the box along each axis.
        lower: World position of node (0, 0, 0).
        spacing: World distance of neighbouring nodes along each axis.

    Raises:
        TypeError: If a tensor is none, or has another dtype.
        ValueError: If shapes or devices do not fit, ``nodes`` is not three numbers from 2 on,
            ``lower`` is not finite or ``spacing`` not positive.

    Example:
        >>> import torch, diffiso
        >>> dense = diffiso.sample_field(lambda p: p.norm(dim=1) - 0.5, -1, 1, 32)
        >>> near = dense.values.abs() < 0.1
        >>> band = diffiso.Grid(dense.values.where(near, torch.nan), dense.lower, dense.spacing)
        >>> bricks = diffiso.BrickGrid.from_grid(band)
        >>> len(diffiso.marching_cubes(bricks).faces) == len(diffiso.marching_cubes(dense).faces)
        True
    """

    values: Tensor
    table: Tensor
    coordinates: Tensor
    nodes: tuple[int, int, int]
    lower: Vector3 = (0.0, 0.0, 0.0)
    spacing: Vector3 = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        """Bring the bounds to floats and the sizes to ints, and check the tensors."""
        object.__setattr__(self, "lower", as_vector3("BrickGrid: lower", self.lower))
        object.__setattr__(self, "spacing", as_vector3("BrickGrid: spacing", self.spacing))
        object.__setattr__(self, "nodes", _as_nodes(self.nodes))
        if min(self.spacing) <= 0:
            raise ValueError(f"BrickGrid: spacing must be positive, got {self.spacing}")
        tensors = {"values": self.values, "table": self.table, "coordinates": self.coordinates}
        for name, tensor in tensors.items():
            if not isinstance(tensor, Tensor):
                raise TypeError(f"BrickGrid: {name} must be a tensor, got {type(tensor).__name__}")
            if tensor.device != self.values.device:
                raise ValueError(
                    f"BrickGrid: {name} must be on the device of values, {self.values.device}, "
                    f"got {tensor.device}"
                )
            if name != "values" and tensor.dtype != torch.int32:
                raise TypeError(f"BrickGrid: {name} must be torch.int32, got {tensor.dtype}")
        if not self.values.is_floating_point():
            raise TypeError(f"BrickGrid: values must be floating, got {self.values.dtype}")
        bricks = self.values.shape[:1]
        for name, shape in (
            ("values", (*bricks, BRICK_SIZE, BRICK_SIZE, BRICK_SIZE)),
            ("table", tuple(_tiles(self.nodes))),
            ("coordinates", (*bricks, 3)),
        ):
            if tensors[name].shape != shape:
                raise ValueError(
                    f"BrickGrid: {name} must be {shape}, got {tuple(tensors[name].shape)}"
                )

    @classmethod
    def from_bricks(
        cls,
        values: Tensor,
        coordinates: Tensor,
        nodes: Sequence[int],
        lower: Vector3 = (0.0, 0.0, 0.0),
        spacing: Vector3 = (1.0, 1.0, 1.0),
    ) -> BrickGrid:
        """Return the grid of some bricks, in their order.

        Args:
            values: (R, 8, 8, 8), differentiable.
            coordinates: (R, 3), of a dtype of whole numbers: where each brick stands, in bricks.
            nodes: Number of nodes of the box along each axis.
            lower: World position of node (0, 0, 0).
            spacing: World distance of neighbouring nodes along each axis.

        Raises:
            TypeError: If a tensor has another dtype.
            ValueError: If shapes or devices do not fit, two bricks stand in one place or one stands
                outside the box.
        """
        tiles = _tiles(_as_nodes(nodes))
        if coordinates.dtype not in (torch.int32, torch.int64):
            raise TypeError(
                f"BrickGrid: coordinates must be torch.int32 or int64, got {coordinates.dtype}"
            )
        if coordinates.dim() != 2 or coordinates.shape[1] != 3:
            raise ValueError(
                f"BrickGrid: coordinates must be (R, 3), got {tuple(coordinates.shape)}"
            )
        place = coordinates.long()
        inside = (place >= 0) & (place < place.new_tensor(tiles))
        if not inside.all():
            came = place[~inside.all(dim=1)][0].tolist()
            raise ValueError(
                f"BrickGrid: coordinates must be from 0 to below {tuple(tiles)}, got {came}"
            )
        flat = (place[:, 0] * tiles[1] + place[:, 1]) * tiles[2] + place[:, 2]
        if len(flat.unique()) != len(flat):
            raise ValueError("BrickGrid: coordinates must differ, got two bricks in one place")
        table = torch.full(tiles, -1, dtype=torch.int32, device=place.device)
        table.view(-1)[flat] = torch.arange(len(flat), dtype=torch.int32, device=place.device)
        where = coordinates.int().contiguous()
        return cls(values, table, where, _as_nodes(nodes), lower, spacing)

    @classmethod
    def from_grid(cls, grid: Grid) -> BrickGrid:
        """Return the bricks of a dense grid (X, Y, Z) that have a node; differentiable.

        Raises:
            TypeError: If values are not floating.
            ValueError: If the grid is a batch, or has fewer than 2 nodes along an axis.
        """
        values = grid.values
        if values.dim() != 3:
            raise ValueError(f"BrickGrid: values must be (X, Y, Z), got {tuple(values.shape)}")
        if not values.is_floating_point():
            raise TypeError(f"BrickGrid: values must be floating, got {values.dtype}")
        x, y, z = values.shape
        beyond = [n for size in (z, y, x) for n in (0, -size % BRICK_SIZE)]
        padded = torch.nn.functional.pad(values, beyond, value=math.nan)
        split = padded.unflatten(2, (-1, BRICK_SIZE)).unflatten(1, (-1, BRICK_SIZE))
        bricks = split.unflatten(0, (-1, BRICK_SIZE)).permute(0, 2, 4, 1, 3, 5)
        coordinates = (~bricks.isnan()).flatten(3).any(dim=3).nonzero()
        chosen = bricks[coordinates[:, 0], coordinates[:, 1], coordinates[:, 2]]
        return cls.from_bricks(chosen, coordinates, (x, y, z), grid.lower, grid.spacing)

    def to_grid(self) -> Grid:
        """Return the dense grid, NaN where nodes are absent; differentiable."""
        tiles = self.table.shape
        dense = self.values.new_full((*tiles, *(BRICK_SIZE,) * 3), math.nan)
        dense = dense.index_put(self.coordinates.long().unbind(dim=1), self.values)
        joined = dense.permute(0, 3, 1, 4, 2, 5).reshape([n * BRICK_SIZE for n in tiles])
        x, y, z = self.nodes
        return Grid(joined[:x, :y, :z], self.lower, self.spacing)

    @property
    def upper(self) -> Vector3:
        """World position of the last node."""
        x, y, z = (
            a + (n - 1) * h for a, n, h in zip(self.lower, self.nodes, self.spacing, strict=True)
        )
        return x, y, z

    def to(self, *args: Any, **kwargs: Any) -> BrickGrid:
        """Return the grid with ``values.to(...)``, its other tensors on the same device."""
        values = self.values.to(*args, **kwargs)
        table, coordinates = self.table.to(values.device), self.coordinates.to(values.device)
        return BrickGrid(values, table, coordinates, self.nodes, self.lower, self.spacing)


def _as_nodes(nodes: Sequence[int]) -> tuple[int, int, int]:
    try:
        sizes = [operator.index(n) for n in nodes]
    except TypeError:
        sizes = []
    if len(sizes) != 3 or min(sizes) < 2:
        raise ValueError(f"BrickGrid: nodes must be three numbers, at least 2 each, got {nodes}")
    return sizes[0], sizes[1], sizes[2]


def _tiles(nodes: tuple[int, int, int]) -> list[int]:
    """Return how many bricks cover the nodes along each axis."""
    return [-(-n // BRICK_SIZE) for n in nodes]
