# SPDX-License-Identifier: Apache-2.0
"""Rays against grids, by brute force: where they meet the surface, and how near they come to it.

A ray is `origin + t * direction`. It is cut at every plane of nodes that it crosses; on a piece the
trilinear field is a cubic in t, which only falls or only rises between its turning points, so that
what happens to the field along the ray is read off exactly at turning points and ends of pieces.
Everything here is float64, whatever the dtype of the arguments, and nothing is differentiable: the
derivatives stand in `diffiso.reference.shading`.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from diffiso.reference.grids import sample_grid
from diffiso.reference.rays import crossing, cut, flat_index, piece_of

MISS, HIT, EXIT, START, UNFINISHED, INVALID = range(6)
STATIONARY, FIXED = -1, 3  # besides 0, 1, 2: see ClosestApproach.held


class RayHit(NamedTuple):
    """Where rays meet the surface.

    Attributes:
        t: `(B, P)` float64, in units of the direction; infinity where there is no hit.
        status: `(B, P)` int64: MISS, HIT (from outside), EXIT (from within), START (the ray met the
            field on the inner side, right there), UNFINISHED (out of steps), INVALID (the ray is
            not finite, or has no direction).
        cell: `(B, P)` int64, flat index within the values of the lower node of the cell, or -1.
    """

    t: Tensor
    status: Tensor
    cell: Tensor


class ClosestApproach(NamedTuple):
    """Where the field along rays is smallest.

    Attributes:
        t: `(B, P)` float64; infinity for a ray that meets no present cell.
        cell: `(B, P)` int64, flat index of the lower node, or -1.
        value: `(B, P)` float64, the field there.
        held: `(B, P)` int64, what keeps t there: STATIONARY (the field's derivative along the ray
            is zero), the axis 0, 1 or 2 of the plane of nodes on which it lies, or FIXED (near, far
            or nothing).
    """

    t: Tensor
    cell: Tensor
    value: Tensor
    held: Tensor


def first_hit(
    values: Tensor,
    origins: Tensor,
    directions: Tensor,
    lower: Sequence[float] = (0.0, 0.0, 0.0),
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    *,
    level: float = 0.0,
    near: float = 0.0,
    far: float = math.inf,
    inside: str = "exit",
) -> RayHit:
    """Return where rays first meet the surfaces of grids.

    A hit is where the field turns from `>= level` to `< level`; a place where it only touches the
    level is none. A cell with a sample that is not finite is a gap, in which nothing is known. A
    ray that begins inside, in its grid's box or behind a gap, is treated as `inside` says.

    Args:
        values: `(B, X, Y, Z)` samples.
        origins: `(B, P, 3)` world positions.
        directions: `(B, P, 3)` of any length.
        lower: World position of node (0, 0, 0).
        spacing: World distance between neighbouring nodes along x, y, z.
        level: `value < level` is inside.
        near: Least t.
        far: Greatest t.
        inside: Where its hit is: `"exit"`, where it leaves the solid; `"start"`, where it begins;
            `"ignore"`, where it next comes in from outside.

    Returns:
        t, status and cell.

    Example:
        >>> slope = torch.tensor([2.0, 1.0, -2.0]).expand(1, 2, 2, 3)
        >>> ray = torch.tensor([[[0.5, 0.5, -4.0]]]), torch.tensor([[[0.0, 0.0, 2.0]]])
        >>> first_hit(slope, *ray).t.item()  # at z = 4 / 3, 16 / 3 from the origin
        2.6666666666666665
    """
    rays = cut(values, origins, directions, lower, spacing, near, far)
    shifted = values.detach().double() - level
    count = len(rays.start)
    unknown, outside, within = 0, 1, 2  # which side of the surface a ray is on
    side = torch.full((count,), unknown)
    status = torch.where(rays.valid, MISS, INVALID)
    cell = torch.full((count,), -1)
    cubic = torch.zeros(count, 4, dtype=torch.float64)
    low, high, began, ended = torch.zeros(4, count, dtype=torch.float64)
    open_ = rays.meets.clone()
    for k in range(rays.times.shape[1] - 1):
        piece = piece_of(shifted, rays, k)
        side[piece.long & ~piece.present] = unknown
        here = piece.long & piece.present
        for point in range(4):
            below = piece.value(point) < 0
            met = here & open_ & (side == unknown)
            fell = here & open_ & (side == outside) & below
            rose = here & open_ & (side == within) & ~below
            side[here] = torch.where(below, within, outside)[here]
            found = torch.where(fell, HIT, MISS)
            if inside == "start":
                found[met & below] = START
            elif inside == "exit":
                found[rose] = EXIT
            new = found != MISS
            status[new] = found[new]
            cell[new] = piece.cell[new]
            cubic[new] = piece.cubic[new]
            low[new] = piece.turns[new, max(point - 1, 0)]
            high[new] = piece.turns[new, point]
            began[new], ended[new] = rays.times[new, k], rays.times[new, k + 1]
            open_ &= ~new
    share = crossing(cubic, low, high, to_inside=status == HIT)
    t = torch.where(cell >= 0, began + share * (ended - began), math.inf)
    return RayHit(*(x.view(origins.shape[:2]) for x in (t, status, cell)))


def closest_approach(
    values: Tensor,
    origins: Tensor,
    directions: Tensor,
    lower: Sequence[float] = (0.0, 0.0, 0.0),
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    *,
    near: float = 0.0,
    far: float = math.inf,
) -> ClosestApproach:
    """Return where along rays the fields of grids are smallest; the first such place.

    Args:
        values: `(B, X, Y, Z)` samples.
        origins: `(B, P, 3)` world positions.
        directions: `(B, P, 3)` of any length.
        lower: World position of node (0, 0, 0).
        spacing: World distance between neighbouring nodes along x, y, z.
        near: Least t.
        far: Greatest t.

    Returns:
        t, cell, value and what holds t there.

    Example:
        >>> valley = torch.tensor([2.0, 1.0, 3.0]).expand(1, 2, 2, 3)
        >>> ray = torch.tensor([[[0.5, 0.5, -4.0]]]), torch.tensor([[[0.0, 0.0, 2.0]]])
        >>> closest = closest_approach(valley, *ray)
        >>> closest.t.item(), closest.value.item(), closest.held.item()
        (2.5, 1.0, 2)
    """
    rays = cut(values, origins, directions, lower, spacing, near, far)
    samples = values.detach().double()
    count = len(rays.start)
    least, t = torch.full((2, count), math.inf, dtype=torch.float64)
    cell = torch.full((count,), -1)
    held = torch.full((count,), FIXED)
    for k in range(rays.times.shape[1] - 1):
        piece = piece_of(samples, rays, k)
        for point in range(4):
            share, value = piece.turns[:, point], piece.value(point)
            # Two cells agree on the face between them but for rounding: the first keeps it.
            rounding = 1e-13 * (piece.greatest - piece.least)
            new = piece.long & piece.present & (value < least - rounding)
            least[new] = value[new]
            cell[new] = piece.cell[new]
            began, ended = rays.times[:, k], rays.times[:, k + 1]
            t[new] = (began + share * (ended - began))[new]
            on_the_way = (share > 0) & (share < 1)
            held[new] = torch.where(on_the_way, STATIONARY, FIXED)[new]
    place = rays.start + t[:, None] * rays.step
    from_plane = torch.where(rays.step != 0, (place - place.round()).abs(), math.inf)
    on_plane = (held == FIXED) & (t > near) & (t < far)
    held = torch.where(on_plane, from_plane.argmin(dim=1), held)
    return ClosestApproach(*(x.view(origins.shape[:2]) for x in (t, cell, least, held)))


def sphere_trace(
    values: Tensor,
    origins: Tensor,
    directions: Tensor,
    lower: Sequence[float] = (0.0, 0.0, 0.0),
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    *,
    level: float = 0.0,
    near: float = 0.0,
    far: float = math.inf,
    tolerance: float = 1e-4,
    footprint: float = 0.0,
    max_steps: int = 1000,
    lipschitz: float = 1.0,
) -> RayHit:
    """Return where sphere tracing stops (SDFDiff, section 4, "Sphere Tracing").

    From where it enters the box a ray is moved on by the field's value, until that is small enough
    or the ray leaves the box. From there, s, it takes one more step: the hit is the paper's
    `p = s + f(s) v / |v|`. A ray that begins inside goes on by the distance to the outside. No cell
    may be absent.

    Args:
        values: `(B, X, Y, Z)` finite samples.
        origins: `(B, P, 3)` world positions.
        directions: `(B, P, 3)` of any length.
        lower: World position of node (0, 0, 0).
        spacing: World distance between neighbouring nodes along x, y, z.
        level: `value < level` is inside.
        near: Least t.
        far: Greatest t.
        tolerance: How small is small enough, in world units.
        footprint: What is added to that for every unit of t.
        max_steps: How often the field may be looked at.
        lipschitz: How much it changes at most in a world unit.

    Returns:
        t of p, which stays in the box, status (HIT, EXIT, MISS, UNFINISHED or INVALID), and the
        cell of p.

    Example:
        >>> slope = torch.tensor([2.0, 1.0, 0.0]).expand(1, 2, 2, 3)
        >>> ray = torch.tensor([[[0.5, 0.5, -4.0]]]), torch.tensor([[[0.0, 0.0, 2.0]]])
        >>> sphere_trace(slope, *ray).t.item()
        3.0
    """
    rays = cut(values, origins, directions, lower, spacing, near, far)
    samples, shape = values.detach().double(), origins.shape
    low, unit = samples.new_tensor(lower), samples.new_tensor(spacing)
    end = rays.times[:, -1]
    length = directions.double().norm(dim=2).flatten()

    def place(t: Tensor) -> Tensor:
        return rays.start + t[:, None] * rays.step

    def field(t: Tensor) -> Tensor:
        points = (low + place(t) * unit).view(shape)
        return sample_grid(samples, points, lower, spacing).sdf.flatten() - level

    t = rays.times[:, 0].where(rays.meets, 0.0)
    sign = torch.where(field(t) < 0, -1.0, 1.0)
    status = torch.where(rays.valid, torch.where(rays.meets, UNFINISHED, MISS), INVALID)
    for _ in range(max_steps):
        if not (status == UNFINISHED).any():
            break
        distance = sign * field(t)
        moving = status == UNFINISHED
        near_enough = moving & (distance <= tolerance + footprint * t)
        status = torch.where(near_enough, torch.where(sign > 0, HIT, EXIT), status)
        moving &= ~near_enough
        t = torch.where(moving, t + distance / (lipschitz * length), t)
        status = torch.where(moving & (t > end), MISS, status)
    hit = (status == HIT) | (status == EXIT)
    nodes = torch.tensor(values.shape[1:])
    last_step = sign * field(t.where(hit, 0.0)) / length
    t = torch.where(hit, (t + last_step).maximum(rays.times[:, 0]).minimum(end), math.inf)
    corner = place(t.where(hit, 0.0)).floor().long().clamp(min=0).minimum(nodes - 2)
    cell = flat_index(corner, nodes) + rays.first_node
    found = t, status, torch.where(hit, cell, -1)
    return RayHit(*(x.view(shape[:2]) for x in found))
