# SPDX-License-Identifier: Apache-2.0
"""The steps of a narrow band in plain torch, on dense arrays.

A lattice is `(X, Y, Z)` values with NaN where there is none, and bools that say which nodes have
been asked for. The ops of `torch.ops.diffiso` do the same in bricks and with a bit per node.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import max_pool3d, pad

CORNERS = [(c >> 2 & 1, c >> 1 & 1, c & 1) for c in range(8)]


class BandMemory(NamedTuple):
    """What is known of the nodes at the last call.

    Attributes:
        wanted: `(X, Y, Z)` bool, nodes to evaluate anew.
        remembered: Nodes whose side is known.
        before: Those of them that were inside.
    """

    wanted: Tensor
    remembered: Tensor
    before: Tensor


def narrow_band_refine(
    values: Tensor,
    asked: Tensor,
    fine_nodes: Sequence[int],
    level: float,
    reach: Sequence[float] | None = None,
    keep: Tensor | None = None,
    dilation: int = 0,
    closed: bool = False,
) -> Tensor:
    """Return the nodes of the fine lattice that the children of refined cells have, bool.

    Args:
        values: `(X, Y, Z)` of the coarse lattice.
        asked: Its nodes that have been evaluated; a cell needs all eight.
        fine_nodes: Nodes of the fine lattice along each axis.
        level: Value of the surface.
        reach: How far from the level a corner's value clears a child, by the axes in which the
            child is on the corner's far side; None refines whole cells. A corner that is not finite
            clears nothing, and a cell of such on one side is taken for empty.
        keep: Cells to refine, by their lower node; None for those with corners on both sides.
        dilation: Cells to add around them.
        closed: Whether the outermost nodes lie outside the box, where every solid ends: in the
            outermost cells a corner that is inside, or infinite, clears nothing.
    """
    corners = _corners(values)
    full = _corners(asked).all(dim=0)
    cells = [n - 1 for n in fine_nodes]
    fine = torch.zeros([2 * n for n in full.shape], dtype=torch.bool)
    if reach is not None:
        inside, finite = corners < level, (corners - level).isfinite()
        rim = torch.zeros_like(full)
        if closed:
            rim[:] = True
            rim[1:-1, 1:-1, 1:-1] = False
        mixed = inside.any(dim=0) & (corners >= level).any(dim=0)
        known = finite.any(dim=0) | (rim & ~corners.isnan().all(dim=0))
        full = full & (known | mixed)
        distance = (corners - level).abs().where(finite & ~(rim & inside), 0)
        for child, (x, y, z) in enumerate(CORNERS):
            cleared = torch.stack([distance[c] > reach[c ^ child] for c in range(8)]).any(dim=0)
            fine[x::2, y::2, z::2] = full & ~cleared
    else:
        mixed = (corners < level).any(dim=0) & (corners >= level).any(dim=0)
        chosen = full & (mixed if keep is None else keep[:-1, :-1, :-1])
        for _ in range(dilation):
            chosen = _around(chosen)
        for x, y, z in CORNERS:
            fine[x::2, y::2, z::2] = chosen
    return _nodes_of(fine[: cells[0], : cells[1], : cells[2]])


def narrow_band_reuse(
    values: Tensor, asked: Tensor, level: float, threshold: float | None
) -> BandMemory:
    """Return which nodes to evaluate anew, and the sides of all."""
    inside, outside = asked & (values < level), asked & (values >= level)
    if threshold is None:
        mixed = _corners(inside).any(dim=0) & _corners(outside).any(dim=0)
        wanted = asked & _nodes_of(mixed & _corners(asked).all(dim=0))
    else:
        wanted = asked & ((values - level).abs() <= threshold)
    return BandMemory(wanted, inside | outside, inside)


def narrow_band_grow(
    values: Tensor, asked: Tensor, remembered: Tensor, before: Tensor, level: float
) -> BandMemory:
    """Return the nodes that crossed cells lack, and the memory with theirs.

    A cell is crossed if it has nodes on both sides by the newest value known of each; a node
    without any was, when it was last known, on the side of the other nodes of the cell.
    """
    now_inside, now_outside = asked & (values < level), asked & (values >= level)
    stale = remembered & ~asked
    inside, outside = now_inside | (stale & before), now_outside | (stale & ~before)
    flipped = remembered & ((now_inside & ~before) | (now_outside & before))
    unknown = ~(asked | remembered)
    mixed = _corners(inside).any(dim=0) & _corners(outside).any(dim=0)
    mixed |= _corners(flipped).any(dim=0) & _corners(unknown).any(dim=0)
    wanted = _nodes_of(mixed) & ~asked
    was_inside, was_outside = _around(remembered & before), _around(remembered & ~before)
    fresh = wanted & ~remembered
    return BandMemory(
        wanted,
        remembered | (fresh & (was_inside ^ was_outside)),
        (remembered & before) | (fresh & was_inside & ~was_outside),
    )


def _corners(nodes: Tensor) -> Tensor:
    """Return what cells have at their eight corners, `(8, X - 1, Y - 1, Z - 1)`."""
    x, y, z = (n - 1 for n in nodes.shape)
    return torch.stack([nodes[i : i + x, j : j + y, k : k + z] for i, j, k in CORNERS])


def _nodes_of(cells: Tensor) -> Tensor:
    """Return the nodes of some cells."""
    around = pad(cells, (1,) * 6)
    return _corners(around).any(dim=0)


def _around(bits: Tensor) -> Tensor:
    """Return bits and their 26 neighbours."""
    return max_pool3d(bits[None, None].float(), 3, stride=1, padding=1)[0, 0] > 0
