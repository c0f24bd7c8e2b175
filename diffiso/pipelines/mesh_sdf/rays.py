# SPDX-License-Identifier: Apache-2.0
"""Silhouettes of a field without a mesh: what MeshSDF is compared with (supplementary 8.8).

Sphere tracing of a network as DIST does it (Liu et al., 2020): many rays at once, of which those
that have arrived or left take no further part; longer steps than the field allows; and few rays at
first, each of which becomes four twice on the way. Unlike there, a long step is taken back where it
may have stepped over something (Keinert et al., Enhanced Sphere Tracing, 2014), and a ray that
stands for several keeps off what those may meet.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from diffiso.camera import Camera
from diffiso.ops import Field

_PACE = 1.5  # steps by so many times the distance: DIST's aggressive marching
_TOLERANCE = 5e-3  # world units: where the field is less, a ray has arrived
_STEPS = 50
_COARSE = 4  # pixels along each side that a ray stands for at first
_SPLIT_EVERY = 3  # steps until a ray becomes four
_AT_ONCE = 65_536  # points that the field is asked for


class Closest(NamedTuple):
    """Where rays come closest to a surface.

    Attributes:
        points: (P, 3) of the rays that pass the unit sphere, world coordinates.
        pixels: (P,) their places in the (N, H, W) pictures, flattened.
        queries: Evaluations of the field that it took.
    """

    points: Tensor
    pixels: Tensor
    queries: int


class RaySilhouette(NamedTuple):
    """Silhouettes seen along rays, beside those to reach.

    Attributes:
        loss: Mean over all pixels, world units, differentiable in what the field closes over: how
            far from arriving rays pass that should, and how far beyond it those are that should
            not.
        coverage: (N, H, W) 1 where a ray arrived, else 0.
        queries: Evaluations of the field.
    """

    loss: Tensor
    coverage: Tensor
    queries: int


def ray_silhouette(field: Field, cameras: Camera, coverage: Tensor) -> RaySilhouette:
    """Compare silhouettes with those of a field within the unit sphere, by sphere tracing.

    No gradient passes through the tracing: it follows the field at the point where each ray came
    closest, or arrived.

    Args:
        field: A signed distance, a callable (P, 3) -> (P,).
        cameras: N cameras.
        coverage: (N, H, W) to reach, from 0 to 1.

    Raises:
        ValueError: If the coverage is not (N, H, W) as the cameras', or not from 0 to 1.

    Source:
        Liu et al., DIST: Rendering Deep Implicit Signed Distance Function with Differentiable
        Sphere Tracing, 2020, sections 3.2 and 3.3.
    """
    check_coverage("ray_silhouette", coverage, cameras)
    found = closest_points(field, cameras)
    wanted = coverage.to(found.points).reshape(-1)
    should = wanted[found.pixels]
    values = torch.cat([field(part) for part in torch.split(found.points, _AT_ONCE)])
    beyond = values - _TOLERANCE
    apart = should * beyond.clamp(min=0) + (1 - should) * (-beyond).clamp(min=0)
    seen = torch.zeros_like(wanted)
    seen[found.pixels] = (beyond.detach() < 0).to(seen)
    queries = found.queries + len(found.points)
    return RaySilhouette(apart.sum() / wanted.numel(), seen.reshape(coverage.shape), queries)


def check_coverage(owner: str, coverage: Tensor, cameras: Camera) -> None:
    """Refuse coverage that is none of these cameras' pictures.

    Raises:
        ValueError: If it is not (N, H, W) as the cameras', or not from 0 to 1.
    """
    shape = (len(cameras), *cameras.size)
    if tuple(coverage.shape) != shape:
        raise ValueError(f"{owner}: coverage must be {shape}, got {tuple(coverage.shape)}")
    if coverage.numel() > 0 and not bool(((coverage >= 0) & (coverage <= 1)).all()):
        least, most = (float(end) for end in coverage.aminmax())
        raise ValueError(f"{owner}: coverage must be from 0 to 1, got {least:g} to {most:g}")


@torch.no_grad()
def closest_points(field: Field, cameras: Camera) -> Closest:
    """Return where rays through all pixels come closest to a surface within the unit sphere.

    Args:
        field: A signed distance, a callable (P, 3) -> (P,).
        cameras: N cameras.
    """
    side, queries = _COARSE, 0
    rays = _rays(cameras, side)
    t = best = rays.near
    least = torch.full_like(t, math.inf)
    # How far each is known to be free from the point before, and how far it went from there.
    before, step = torch.zeros_like(t), torch.zeros_like(t)
    met, left = rays.passes, torch.zeros_like(rays.passes)
    moving = met
    for count in range(_STEPS):
        if side > 1 and count > 0 and count % _SPLIT_EVERY == 0:
            side //= 2
            rays = _rays(cameras, side)
            t, best, least, met, left, before, step = (
                _split(x, rays.near) for x in (t, best, least, met, left, before, step)
            )
            t = torch.where(met, t.clamp(rays.near, rays.far), rays.near)
            before, step = torch.where(met, before, 0.0), torch.where(met, step, 0.0)
            moving = rays.passes & ~left
            # What was closest is behind some: of another ray, so they look there again.
            behind = moving & met & (best < t)
            best = torch.where(left | behind, best, t)
            values = _evaluate(field, rays, best, behind)
            queries += int(behind.sum())
            least, met = torch.where(left, least, values), rays.passes
        values = _evaluate(field, rays, t, moving)
        queries += int(moving.sum())
        closer = moving & (values < least)
        best, least = torch.where(closer, t, best), torch.where(closer, values, least)
        free = values - rays.spread * t  # of all rays that this one stands for
        too_far = moving & (step > before + free) & (step > before)
        arrived = moving & ~too_far & (free < _TOLERANCE)
        left = left | (moving & ~too_far & ~arrived & (t + free > rays.far))
        moving = moving & ~arrived & ~left
        ahead = torch.minimum(t + _PACE * free, rays.far)
        t, step, before = (
            torch.where(moving, torch.where(too_far, back, on), kept)
            for back, on, kept in (
                (t - step + before, ahead, t),
                (before, ahead - t, step),
                (before, free, before),
            )
        )
        if side == 1 and not bool(moving.any()):
            break
    best = best.clamp(rays.near, rays.far)  # where it is that of the ray that this one was part of
    points = rays.origins + best[..., None] * rays.directions
    pixels = rays.passes.flatten().nonzero()[:, 0]
    return Closest(points.reshape(-1, 3)[pixels], pixels, queries)


class _Rays(NamedTuple):
    """Rays through the middles of squares of pixels, each (N, h, w, ...)."""

    origins: Tensor
    directions: Tensor
    near: Tensor  # where they enter the unit sphere
    far: Tensor  # where they leave it
    passes: Tensor  # that they do so before the camera
    spread: Tensor  # (N, 1, 1) how far pixels' rays are from that of their square, at distance one


def _rays(cameras: Camera, side: int) -> _Rays:
    rows, columns = (
        torch.arange(0, pixels, side, device=cameras.focal.device) + 0.5 * side
        for pixels in cameras.size
    )
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    pixels = torch.stack([x, y], dim=-1).reshape(-1, 2).to(cameras.focal)
    origins, directions = (
        part.reshape(len(cameras), len(rows), len(columns), 3) for part in cameras.rays(pixels)
    )
    middle = -(origins * directions).sum(dim=-1)
    beside = (origins + middle[..., None] * directions).square().sum(dim=-1)
    half = (1 - beside).clamp(min=0).sqrt()
    near, far = (middle - half).clamp(min=0), middle + half
    spread = (side - 1) * math.sqrt(0.5) / cameras.focal.amin(dim=1)
    passes = (beside < 1) & (far > 0)
    return _Rays(origins, directions, near, far, passes, spread[:, None, None])


def _split(values: Tensor, like: Tensor) -> Tensor:
    """Return values (N, h, w) of rays for the four that each becomes, of another's shape."""
    finer = values.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
    return finer[:, : like.shape[1], : like.shape[2]]


def _evaluate(field: Field, rays: _Rays, t: Tensor, where: Tensor) -> Tensor:
    """Return the field along rays where it is asked for, elsewhere infinity."""
    points = rays.origins[where] + t[where][:, None] * rays.directions[where]
    found = torch.full_like(t, math.inf)
    if len(points) > 0:
        found[where] = torch.cat([field(part) for part in torch.split(points, _AT_ONCE)]).to(t)
    return found
