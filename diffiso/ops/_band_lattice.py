# SPDX-License-Identifier: Apache-2.0
"""The lattice that a narrow band works on: bricks, masks, and what is still to be evaluated."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from diffiso.ops import _band_fakes as _band_fakes  # registers them
from diffiso.types import BRICK_SIZE, Vector3

_NODES = BRICK_SIZE**3
_BRICKS_AT_ONCE = 1024
_CORNERS = [(c >> 2 & 1, c >> 1 & 1, c & 1) for c in range(8)]
Cells = tuple[int, int, int]
Node = tuple[int, int, int]


class SteepestPair(NamedTuple):
    """The two neighbouring samples between which a field rises most."""

    slope: float
    first: Node
    second: Node


@dataclass(frozen=True, eq=False)
class BandLattice:
    """Samples of a field at some nodes of a lattice, in bricks.

    Node i of a lattice of some stride is node ``min(i * stride, last)`` of the finest one, so that
    all have the box's corners. Masks have a bit per node, eight int64 words a brick.

    Attributes:
        values: (R, 8, 8, 8), NaN where there is no sample.
        table: (TX, TY, TZ), int32: which brick stands where, or -1.
        coordinates: (R, 3), int32: where in the table each brick stands.
        asked: (R, 8): nodes that have been, or are to be, evaluated.
        ids: (M,), int64: nodes to be evaluated, as ``512 * brick + node``.
        box_cells: Cells of the finest lattice along each axis.
        stride: Cells of the finest lattice to one of this, at most.
        remembered: (R, 8): nodes whose side at the last call is known; None if there was none.
        before: (R, 8): those of them that were inside.
    """

    values: Tensor
    table: Tensor
    coordinates: Tensor
    asked: Tensor
    ids: Tensor
    box_cells: Cells
    stride: int
    remembered: Tensor | None = None
    before: Tensor | None = None

    @classmethod
    def full(
        cls, box_cells: Cells, stride: int, dtype: torch.dtype, device: torch.device
    ) -> BandLattice:
        """Return a lattice of all its nodes, none of them evaluated."""
        nodes = _nodes(box_cells, stride)
        tiles = [-(-n // BRICK_SIZE) for n in nodes]
        count = math.prod(tiles)
        table = torch.arange(count, dtype=torch.int32, device=device).view(tiles)
        coordinates = torch.cartesian_prod(*(torch.arange(n, device=device) for n in tiles))
        inside = []
        for axis, size in enumerate(nodes):
            along = coordinates[:, axis, None] * BRICK_SIZE + torch.arange(8, device=device) < size
            inside.append(along.view(count, *(8 if a == axis else 1 for a in range(3))))
        wanted = inside[0] & inside[1] & inside[2]
        values = torch.full((count, *(BRICK_SIZE,) * 3), math.nan, dtype=dtype, device=device)
        ids = wanted.flatten().nonzero().flatten()
        return cls(values, table, coordinates.int(), pack(wanted), ids, box_cells, stride)

    @property
    def nodes(self) -> Node:
        """Number of nodes along each axis."""
        return _nodes(self.box_cells, self.stride)

    def spacing(self, finest: Vector3) -> Vector3:
        """Return the size of a cell, world units: that of the last one may be less."""
        x, y, z = (self.stride * h for h in finest)
        return x, y, z

    def place(self, node: Node) -> Node:
        """Return a node's indices in the finest lattice."""
        x, y, z = (min(self.stride * n, size) for n, size in zip(node, self.box_cells, strict=True))
        return x, y, z

    def columns(self, ids: Tensor) -> list[Tensor]:
        """Return where nodes are in the finest lattice, (M,) along each axis."""
        brick = ids >> 9
        origin = self.coordinates.long() * BRICK_SIZE
        columns = []
        for axis, size in enumerate(self.box_cells):
            node = origin[:, axis][brick] + (ids >> (6 - 3 * axis) & 7)
            columns.append((node * self.stride).clamp_(max=size))
        return columns

    def points(self, ids: Tensor, axes: list[Tensor]) -> Tensor:
        """Return where nodes are (M, 3), given the finest nodes' coordinates along each axis."""
        columns = self.columns(ids)
        return torch.stack([axis[n] for axis, n in zip(axes, columns, strict=True)], dim=1)

    def on_the_rim(self) -> Tensor:
        """Return which of the nodes to be evaluated are the first or last along an axis, (M,)."""
        parts = [torch.zeros(0, dtype=torch.bool, device=self.ids.device)]
        for ids in torch.split(self.ids, _NODES * _BRICKS_AT_ONCE):
            rim = torch.zeros_like(ids, dtype=torch.bool)
            for node, size in zip(self.columns(ids), self.box_cells, strict=True):
                rim |= (node == 0) | (node == size)
            parts.append(rim)
        return torch.cat(parts)

    def fill(self, ids: Tensor, results: Tensor) -> None:
        """Store the values of some nodes."""
        self.values.view(-1)[ids] = results.to(self.values.dtype)

    def in_dtype(self, dtype: torch.dtype) -> BandLattice:
        """Return the lattice with values of a dtype."""
        return self if self.values.dtype == dtype else replace(self, values=self.values.to(dtype))

    def refine(
        self,
        level: float,
        reach: list[float] | None,
        keep: Tensor | None,
        dilation: int,
        closed: bool,
    ) -> BandLattice:
        """Return the lattice of half the stride: nodes of the children of cells to refine.

        Args:
            level: Value of the surface.
            reach: What a corner must be away from the level to clear a child, see
                :func:`reach_of`; None to choose whole cells.
            keep: (R, 8) mask of cells to refine; None for those with corners on both sides.
            dilation: Cells to add around them.
            closed: Whether the outermost nodes lie outside the box, where the solid ends.
        """
        fine = _nodes(self.box_cells, self.stride // 2)
        values, table, coordinates, asked, ids = torch.ops.diffiso.narrow_band_refine(
            self.values,
            self.table,
            self.coordinates,
            self.asked,
            keep,
            list(self.nodes),
            list(fine),
            [0.0] * 8 if reach is None else reach,
            level,
            reach is not None,
            dilation,
            closed,
        )
        return BandLattice(values, table, coordinates, asked, ids, self.box_cells, self.stride // 2)

    def take(self, known: BandLattice) -> BandLattice:
        """Return the lattice with the samples that another of the same stride has."""
        x, y, z = self.coordinates.long().unbind(dim=1)
        there = known.table[x, y, z].long()[self.ids >> 9]
        node = self.ids & (_NODES - 1)
        word = known.asked.view(-1)[there.clamp(min=0) * BRICK_SIZE + (node >> 6)]
        has = (there >= 0) & ((word >> (node & 63) & 1) != 0)
        taken = known.values.view(-1)[there[has] * _NODES + node[has]]
        self.fill(self.ids[has], taken)
        return replace(self, ids=self.ids[~has])

    def grow(self, level: float) -> BandLattice | None:
        """Return the lattice with what it lacks of the cells that a surface crosses.

        None if it lacks nothing.
        """
        remembered = torch.zeros_like(self.asked) if self.remembered is None else self.remembered
        before = torch.zeros_like(self.asked) if self.before is None else self.before
        values, table, coordinates, asked, remembered, before, ids = (
            torch.ops.diffiso.narrow_band_grow(
                self.values,
                self.table,
                self.coordinates,
                self.asked,
                remembered,
                before,
                list(self.nodes),
                level,
            )
        )
        if len(ids) == 0:
            return None
        return BandLattice(
            values,
            table,
            coordinates,
            asked,
            ids,
            self.box_cells,
            self.stride,
            remembered,
            before,
        )

    def reuse(self, level: float, threshold: float | None) -> BandLattice:
        """Return the lattice of the nodes to evaluate anew, which remembers the sides of all.

        Its values are one NaN, expanded: a copy is to be filled.
        """
        wanted, remembered, before = torch.ops.diffiso.narrow_band_reuse(
            self.values,
            self.table,
            self.coordinates,
            self.asked,
            list(self.nodes),
            level,
            0.0 if threshold is None else threshold,
        )
        return replace(
            self,
            values=self.values.new_full((1, 1, 1, 1), math.nan).expand(self.values.shape),
            asked=wanted,
            ids=unpack(wanted).flatten().nonzero().flatten(),
            remembered=remembered,
            before=before,
        )

    def sample_count(self) -> int:
        """Return how many nodes have a value."""
        return int(self.values.isnan().logical_not_().sum())

    def without_empty_bricks(self) -> BandLattice:
        """Return the lattice without bricks that have no sample, and without memory."""
        alive = (self.asked != 0).any(dim=1)
        if alive.all():
            return replace(self, remembered=None, before=None)
        coordinates = self.coordinates[alive]
        table = torch.full_like(self.table, -1)
        x, y, z = coordinates.long().unbind(dim=1)
        table[x, y, z] = torch.arange(len(coordinates), dtype=torch.int32, device=table.device)
        return replace(
            self,
            values=self.values[alive],
            table=table,
            coordinates=coordinates,
            asked=self.asked[alive],
            ids=self.ids[:0],
            remembered=None,
            before=None,
        )

    def choose(
        self,
        criterion: Callable[[Tensor, Vector3], Tensor],
        spacing: Vector3,
        level: float,
        closed: bool,
    ) -> Tensor:
        """Return the mask (R, 8) of cells that a criterion keeps, from their corners' values.

        Where solids end at the box, also of those in which one does.
        """
        keep = torch.zeros_like(self.asked)
        absent = self.values.new_full((1, *(BRICK_SIZE,) * 3), math.nan)
        bricks = torch.cat((self.values, absent))
        tiles = self.coordinates.new_tensor(self.table.shape).long()
        for begin in range(0, len(self.values), _BRICKS_AT_ONCE):
            at = self.coordinates[begin : begin + _BRICKS_AT_ONCE].long()
            around = at[:, None] + at.new_tensor(_CORNERS)
            inside = (around < tiles).all(dim=2)
            x, y, z = torch.where(inside[..., None], around, 0).unbind(dim=2)
            which = torch.where(inside, self.table[x, y, z].long(), -1)
            blocks = bricks[which].view(-1, 2, 2, 2, *(BRICK_SIZE,) * 3)
            blocks = blocks.permute(0, 1, 4, 2, 5, 3, 6).reshape(-1, *(2 * BRICK_SIZE,) * 3)
            corners = torch.stack(
                [blocks[:, i : i + 8, j : j + 8, k : k + 8] for i, j, k in _CORNERS], dim=-1
            )
            sampled = ~corners.isnan().all(dim=-1)
            given = corners[sampled]
            answer = criterion(given, spacing)
            if not isinstance(answer, Tensor) or answer.shape != given.shape[:1]:
                came = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
                raise ValueError(
                    f"narrow_band: refine must return (C,) for corners (C, 8), here "
                    f"({len(given)},), got {came}"
                )
            if answer.dtype != torch.bool:
                raise ValueError(f"narrow_band: refine must return torch.bool, got {answer.dtype}")
            chosen = torch.zeros_like(sampled)
            chosen[sampled] = answer
            if closed:
                chosen |= (corners == math.inf).any(dim=-1) & (corners < level).any(dim=-1)
            keep[begin : begin + _BRICKS_AT_ONCE] = pack(chosen)
        return keep

    def steepest_pair(self, spacing: Vector3) -> SteepestPair:
        """Return the steepest pair of neighbouring samples, by axis or across a cell."""
        lengths = [
            math.sqrt(sum((c * h) ** 2 for c, h in zip(corner, spacing, strict=True)))
            for corner in _CORNERS
        ]
        facts = torch.ops.diffiso.narrow_band_slope(
            self.values, self.table, self.coordinates, self.asked, list(self.nodes), lengths
        ).tolist()
        i, j, k, x, y, z = (int(n) for n in facts[1:])
        return SteepestPair(facts[0], (i, j, k), (x, y, z))

    def value_at(self, node: Node) -> float:
        """Return the sample at a node that has one."""
        x, y, z = (n // BRICK_SIZE for n in node)
        i, j, k = (n % BRICK_SIZE for n in node)
        return float(self.values[int(self.table[x, y, z]), i, j, k])


def reach_of(
    spacing: Vector3, bound: float, values_dtype: torch.dtype, rounding: float
) -> list[float]:
    """Return what a corner of a cell must be away from the level to clear each child.

    Args:
        spacing: Size of the cell.
        bound: The field's Lipschitz bound.
        values_dtype: dtype of the samples, whose rounding is allowed for.
        rounding: What else a sample may be wrong by, field units.

    Returns:
        (8,): by the axes (4, 2, 1) on whose far side the child is from the corner.
    """
    far = [[(1 + c) * h / 2 for c, h in zip(corner, spacing, strict=True)] for corner in _CORNERS]
    slack = 1 + 4 * torch.finfo(values_dtype).eps
    return [slack * bound * math.hypot(*distance) + rounding for distance in far]


def pack(bits: Tensor) -> Tensor:
    """Return a mask (R, 8) int64 from bits (R, 8, 8, 8)."""
    weights = torch.ones(64, dtype=torch.int64, device=bits.device)
    weights = weights << torch.arange(64, device=bits.device)
    return (bits.reshape(-1, BRICK_SIZE, 64) * weights).sum(dim=2)


def unpack(masks: Tensor) -> Tensor:
    """Return bits (R, 8, 8, 8) from a mask (R, 8) int64."""
    lines = masks.contiguous().view(torch.uint8)  # the lowest byte first, eight nodes along z
    shifts = torch.arange(8, dtype=torch.uint8, device=masks.device)
    return (lines[..., None] >> shifts & 1).bool().view(-1, *(BRICK_SIZE,) * 3)


def _nodes(box_cells: Cells, stride: int) -> Node:
    x, y, z = (-(-n // stride) + 1 for n in box_cells)
    return x, y, z
