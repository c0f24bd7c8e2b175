# SPDX-License-Identifier: Apache-2.0
"""Rays in index coordinates, cut at the planes of nodes, and the cubic that each piece is.

Everything here is float64, and nothing is differentiable.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from diffiso.reference.grids import CORNERS


class CutRays(NamedTuple):
    """R rays in index coordinates, of all grids one after the other.

    Attributes:
        start: `(R, 3)` place of the origin.
        step: `(R, 3)` change of place for a step of 1 in t.
        times: `(R, K)` rising; the ray is within one cell between two that follow each other.
        valid: `(R,)` whether the ray is finite and has a direction.
        meets: `(R,)` whether anything of it lies in the box, between near and far.
        first_node: `(R,)` flat index of its grid's first node.
    """

    start: Tensor
    step: Tensor
    times: Tensor
    valid: Tensor
    meets: Tensor
    first_node: Tensor


class Piece(NamedTuple):
    """What each ray has between two of its times.

    Attributes:
        long: `(R,)` whether there is anything between them.
        present: `(R,)` whether the cell is: all its samples are finite.
        cell: `(R,)` flat index of the cell's lower node.
        cubic: `(R, 4)` the field, less the level, in powers of s, the share of the piece.
        least: `(R,)` least sample of the cell.
        greatest: `(R,)` greatest sample.
        turns: `(R, 4)` rising shares, from 0 to 1, between which the cubic only falls or rises.
    """

    long: Tensor
    present: Tensor
    cell: Tensor
    cubic: Tensor
    least: Tensor
    greatest: Tensor
    turns: Tensor

    def value(self, point: int) -> Tensor:
        """Return the field at a turn; rounding must not take it beyond the samples."""
        value = _value(self.cubic, self.turns[:, point])
        return value.maximum(self.least).minimum(self.greatest)


def cut(
    values: Tensor,
    origins: Tensor,
    directions: Tensor,
    lower: Sequence[float],
    spacing: Sequence[float],
    near: float,
    far: float,
) -> CutRays:
    """Return the rays in index coordinates, cut at all planes of nodes."""
    nodes = values.shape[1:]
    origin, direction = (x.detach().double().reshape(-1, 3) for x in (origins, directions))
    unit = direction.new_tensor(spacing)
    start, step = (origin - direction.new_tensor(lower)) / unit, direction / unit
    finite = (start.isfinite() & step.isfinite()).all(dim=1)
    valid = finite & (step != 0).any(dim=1)
    start = torch.where(valid[:, None], start, 0.0)
    step = torch.where(valid[:, None], step, 1.0)

    last = torch.tensor([float(n - 1) for n in nodes]).to(start)
    still = step == 0
    pace = torch.where(still, 1.0, step)
    at_faces = torch.stack((-start / pace, (last - start) / pace))
    entry = at_faces.amin(dim=0).masked_fill(still, -math.inf).amax(dim=1).clamp(min=near)
    leave = at_faces.amax(dim=0).masked_fill(still, math.inf).amin(dim=1).clamp(max=far)
    between = (~still | ((start >= 0) & (start <= last))).all(dim=1)
    meets = valid & between & (entry <= leave)

    planes = [
        ((torch.arange(n) - start[:, a : a + 1]) / pace[:, a : a + 1]).masked_fill(
            still[:, a : a + 1], math.inf
        )
        for a, n in enumerate(nodes)
    ]
    entry, leave = (x.where(meets, 0.0)[:, None] for x in (entry, leave))
    times = torch.cat((entry, *planes, leave), dim=1).clamp(entry, leave).sort(dim=1).values
    grid = torch.arange(len(values)).repeat_interleave(origins.shape[1])
    return CutRays(start, step, times, valid, meets, grid * math.prod(nodes))


def piece_of(samples: Tensor, rays: CutRays, k: int) -> Piece:
    """Return what the rays have between times k and k + 1."""
    began, ended = rays.times[:, k], rays.times[:, k + 1]
    nodes = torch.tensor(samples.shape[1:])
    middle = rays.start + ((began + ended) / 2)[:, None] * rays.step
    corner = middle.floor().long().clamp(min=0).minimum(nodes - 2)
    cell = flat_index(corner, nodes) + rays.first_node
    offsets = torch.stack([flat_index(torch.tensor(c), nodes) for c in CORNERS])
    eight = samples.flatten()[(cell[:, None] + offsets).clamp(max=samples.numel() - 1)]
    first = (rays.start + began[:, None] * rays.step - corner).clamp(0, 1)
    change = (rays.start + ended[:, None] * rays.step - corner).clamp(0, 1) - first

    cubic = eight.view(-1, 2, 2, 2, 1)
    for axis in range(3):  # interpolate along x, then y, then z
        along = (slice(None), axis, *(None,) * (3 - axis))
        cubic = _mix(cubic[:, 0], cubic[:, 1], first[along], change[along])
    # Planes that meet on the ray are a few roundings apart. But a ray that has one point in common
    # with the box is a piece of no length, and it is there.
    apart = ended - began > 1e-15 * torch.maximum(began.abs(), ended.abs())
    long = rays.meets & (apart | ((rays.times[:, 0] == rays.times[:, -1]) & (k == 0)))
    present, least, greatest = eight.isfinite().all(dim=1), eight.amin(dim=1), eight.amax(dim=1)
    return Piece(long, present, cell, cubic, least, greatest, _turns(cubic))


def _mix(low: Tensor, high: Tensor, first: Tensor, change: Tensor) -> Tensor:
    """Return polynomials (1 - u) low + u high for u = first + change * s, one degree higher."""
    rise = high - low
    return pad(low, (0, 1)) + first * pad(rise, (0, 1)) + change * pad(rise, (1, 0))


def _value(cubic: Tensor, s: Tensor) -> Tensor:
    c0, c1, c2, c3 = cubic.unbind(1)
    return c0 + s * (c1 + s * (c2 + s * c3))


def _turns(cubic: Tensor) -> Tensor:
    """Return 0, 1 and between them, in order, where the derivative is zero; (R, 4)."""
    _, c, h, third = cubic.unbind(1)  # the derivative is c + 2 h s + a s^2
    a = 3 * third
    root = (h * h - a * c).clamp(min=0).sqrt()
    q = -(h + torch.where(h < 0, -root, root))  # so that nothing cancels
    both = torch.stack((q / a, c / q), dim=1).nan_to_num(0.0, 1.0, 0.0).clamp(0, 1)
    return torch.cat((both, both.new_tensor([[0.0, 1.0]]).expand(len(both), 2)), 1).sort(1).values


def crossing(cubic: Tensor, low: Tensor, high: Tensor, to_inside: Tensor) -> Tensor:
    """Return the share between low, on one side, and high, on the other, where the side changes."""
    for _ in range(60):
        middle = (low + high) / 2
        beyond = (_value(cubic, middle) < 0) == to_inside
        low, high = torch.where(beyond, low, middle), torch.where(beyond, middle, high)
    return high


def flat_index(corner: Tensor, nodes: Tensor) -> Tensor:
    """Return the flat index of a node within its grid."""
    x, y, z = corner.unbind(-1)
    return (x * nodes[1] + y) * nodes[2] + z
