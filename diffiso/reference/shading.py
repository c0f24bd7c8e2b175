# SPDX-License-Identifier: Apache-2.0
"""What is differentiable about a traced ray: the local derivative, and shading.

SDFDiff (Jiang et al. 2020), section 4: which samples a pixel depends on is found by tracing, which
is not differentiated; what it then is, is a function of these samples alone. Rays, hits and cells
are taken as found (see `diffiso.reference.trace`), and everything here is plain torch.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from diffiso.reference.cells import (
    CellField,
    cell_fraction,
    cell_nodes,
    cell_samples,
    node_gradients,
    trilinear,
)
from diffiso.reference.trace import EXIT, FIXED, HIT, STATIONARY, ClosestApproach, RayHit


class Shading(NamedTuple):
    """What rays see: `(B, P)` intensities and `(B, P, 3)` unit normals, zeros where nothing is."""

    intensity: Tensor
    normals: Tensor


def hit_t(
    values: Tensor,
    origins: Tensor,
    directions: Tensor,
    hits: RayHit,
    lower: Sequence[float] = (0.0, 0.0, 0.0),
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    *,
    law: str = "implicit",
    min_cosine: float = 0.01,
) -> Tensor:
    """Return t at hits as it is, but moving as the surface moves.

    `"sdfdiff"` is the paper's local derivative: the intersection is `p = s + f(s) v / |v|` with f
    as a function of the eight samples around s, so that `dt = df / |v|`; where the ray leaves a
    solid the field's sign is turned. It is exact for a distance and a ray at a right angle to the
    surface, and else too small. `"implicit"` is the derivative of the root of `f(s + t v) = 0`,
    which the paper mentions as the alternative: `dt = -df / (grad f . v)`, with the cosine between
    gradient and ray at least `min_cosine`, for it goes to infinity where a ray grazes the surface.

    Args:
        values: `(B, X, Y, Z)` samples.
        origins: `(B, P, 3)` world positions.
        directions: `(B, P, 3)` of any length.
        hits: Where they are; t, status and cell take no part in the gradient. t at START, where the
            surface does not hold it, is constant.
        lower: World position of node (0, 0, 0).
        spacing: World distance between neighbouring nodes along x, y, z.
        law: `"implicit"` or `"sdfdiff"`.
        min_cosine: The least that the cosine counts in the implicit law.

    Returns:
        `(B, P)`, infinity at misses, differentiable in values, origins and directions.

    Example:
        >>> slope = torch.tensor([2.0, 0.0]).expand(1, 2, 2, 2).clone().requires_grad_()
        >>> rays = torch.tensor([[[0.5, 0.5, -1.0]]]), torch.tensor([[[0.0, 0.0, 1.0]]])
        >>> hits = RayHit(torch.tensor([[1.5]]), torch.tensor([[HIT]]), torch.tensor([[0]]))
        >>> for law in ("implicit", "sdfdiff"):
        ...     t = hit_t(slope, *rays, hits, law=law)
        ...     print(torch.autograd.grad(t.sum(), slope)[0].sum().item())
        0.5
        1.0
    """
    on_surface = (hits.status == HIT) | (hits.status == EXIT)
    t = hits.t.to(origins.dtype).where(on_surface, 0.0)
    field = _field_at(values, origins, directions, t, hits.cell, lower, spacing)
    rise = (field.value - field.value.detach()).where(on_surface, 0.0)
    length = directions.detach().norm(dim=-1)
    if law == "sdfdiff":
        moved = t + torch.where(hits.status == EXIT, -rise, rise) / length.where(on_surface, 1.0)
    else:
        slope = (field.gradient * directions).sum(dim=-1)
        steepest = field.gradient.norm(dim=-1) * length
        sign = torch.where(hits.status == EXIT, 1.0, -1.0)
        slope = sign * torch.maximum(sign * slope, min_cosine * steepest)
        slope = slope.detach()
        moved = t - torch.where(slope == 0, 0.0, rise / slope.where(slope != 0, 1.0))
    return torch.where(on_surface, moved, hits.t.to(moved.dtype))


def closest_t(
    values: Tensor,
    origins: Tensor,
    directions: Tensor,
    closest: ClosestApproach,
    lower: Sequence[float] = (0.0, 0.0, 0.0),
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
) -> Tensor:
    """Return t at the closest approach, moving as the place of the smallest value moves.

    Where the field's derivative along the ray, `g = grad f . v`, is zero: `dt = -dg / (v H v)`.
    Where the smallest value is on a plane of nodes: as the ray's meeting with that plane.

    Args:
        values: `(B, X, Y, Z)` samples.
        origins: `(B, P, 3)` world positions.
        directions: `(B, P, 3)` of any length.
        closest: Where it is, and what holds it there.
        lower: World position of node (0, 0, 0).
        spacing: World distance between neighbouring nodes along x, y, z.

    Returns:
        `(B, P)`, differentiable in values, origins and directions.

    Example:
        >>> valley = torch.tensor([2.0, 1.0, 3.0]).expand(1, 2, 2, 3)
        >>> origin = torch.tensor([[[0.5, 0.5, -4.0]]], requires_grad=True)
        >>> closest = ClosestApproach(*torch.tensor([[[2.5]], [[1.0]], [[1.0]], [[2.0]]]))
        >>> closest = closest._replace(cell=closest.cell.long())
        >>> t = closest_t(valley, origin, torch.tensor([[[0.0, 0.0, 2.0]]]), closest)
        >>> torch.autograd.grad(t.sum(), origin)[0].tolist()
        [[[0.0, 0.0, -0.5]]]
    """
    found = closest.cell >= 0
    t = closest.t.to(origins.dtype).where(found, 0.0)
    field = _field_at(values, origins, directions, t, closest.cell, lower, spacing)
    g = (field.gradient * directions).sum(dim=-1)
    curvature = (field.hessian * directions[..., None] * directions[..., None, :]).sum(dim=(-1, -2))
    turning = found & (closest.held == STATIONARY) & (curvature != 0)
    bend = curvature.detach().where(turning, 1.0)
    moved = t - torch.where(turning, (g - g.detach()) / bend, 0.0)

    held = found & (closest.held != STATIONARY) & (closest.held != FIXED)
    axis = closest.held.long().clamp(0, 2)[..., None]
    place = (origins + t[..., None] * directions).gather(-1, axis)[..., 0]
    speed = directions.detach().gather(-1, axis)[..., 0].where(held, 1.0)
    moved = moved - torch.where(held, (place - place.detach()) / speed, 0.0)
    return torch.where(found, moved, closest.t.to(moved.dtype))


def coverage(
    values: Tensor,
    origins: Tensor,
    directions: Tensor,
    t: Tensor,
    cell: Tensor,
    footprint: Tensor,
    lower: Sequence[float] = (0.0, 0.0, 0.0),
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    *,
    level: float = 0.0,
    min_slope: float = 0.1,
) -> Tensor:
    """Return which share of its pixel a solid covers, from the closest approach of the ray.

    `clamp(1/2 - m / (2 r g), 0, 1)`: m is how far the field there is above the level, r half the
    pixel's width at that distance, and g the field's slope, which makes a distance of m. A pixel of
    no width is covered or not.

    Args:
        values: `(B, X, Y, Z)` samples.
        origins: `(B, P, 3)` world positions.
        directions: `(B, P, 3)` of any length.
        t: `(B, P)` where the closest approach is; differentiable.
        cell: `(B, P)` flat index of its cell's lower node, or -1.
        footprint: `(B, P)` half the pixel's width per unit of t.
        lower: World position of node (0, 0, 0).
        spacing: World distance between neighbouring nodes along x, y, z.
        level: Value of the surface.
        min_slope: Least g.

    Returns:
        `(B, P)`, 0 for cell -1, differentiable in all tensors.

    Example:
        >>> slope = torch.tensor([0.5, 2.5]).expand(1, 2, 2, 2)
        >>> ray = torch.tensor([[[0.5, 0.5, -2.0]]]), torch.tensor([[[0.0, 0.0, 1.0]]])
        >>> t, cell, footprint = torch.tensor([[2.0]]), torch.tensor([[0]]), torch.tensor([[0.25]])
        >>> coverage(slope, *ray, t, cell, footprint).item()  # 1/2 - 0.5 / (2 * 0.5 * 2)
        0.25
    """
    found = cell >= 0
    t = t.where(found, 1.0)
    field = _field_at(values, origins, directions, t, cell, lower, spacing)
    steep = field.gradient.detach().norm(dim=-1) > min_slope
    slope = torch.where(steep, field.gradient.where(steep[..., None], 1.0).norm(dim=-1), min_slope)
    height, radius = field.value - level, footprint * t
    wide = radius > 0
    share = (0.5 - height / (2 * radius * slope).where(wide, 1.0)).clamp(0, 1)
    return share.where(wide, (height < 0).to(share.dtype)).where(found, 0.0)


def hit_normals(
    values: Tensor,
    points: Tensor,
    cell: Tensor,
    lower: Sequence[float] = (0.0, 0.0, 0.0),
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    *,
    kind: str = "central",
) -> Tensor:
    """Return unit normals, out of the solid, at points in cells.

    `"central"` as SDFDiff, section 4: gradients at the nodes by central differences, interpolated
    at the point and then normalised, a function of the samples of a 4 x 4 x 4 neighbourhood. Where
    one of these is not finite, and with `"trilinear"`, the gradient of the cell's own field.

    Args:
        values: `(B, X, Y, Z)` samples.
        points: `(B, P, 3)` world positions.
        cell: `(B, P)` flat index of the cell's lower node, or -1.
        lower: World position of node (0, 0, 0).
        spacing: World distance between neighbouring nodes along x, y, z.
        kind: `"central"` or `"trilinear"`.

    Returns:
        `(B, P, 3)`, zeros for cell -1 and where the gradient is zero, differentiable in values and
        points.

    Example:
        >>> slope = torch.tensor([0.5, 2.5]).expand(1, 2, 2, 2)
        >>> hit_normals(slope, torch.full((1, 1, 3), 0.5), torch.zeros(1, 1).long()).tolist()
        [[[0.0, 0.0, 1.0]]]
    """
    fraction = cell_fraction(values, points, cell, lower, spacing)
    gradient = trilinear(cell_samples(values, cell), fraction, spacing).gradient
    if kind == "central":
        at_nodes = node_gradients(values, spacing).view(-1, 3)[cell_nodes(values, cell)]
        known = at_nodes.isfinite().flatten(-2).all(dim=-1)[..., None]
        at_nodes = at_nodes.where(known[..., None], 0.0)
        axes = [trilinear(part, fraction).value for part in at_nodes.unbind(-1)]
        gradient = torch.where(known, torch.stack(axes, dim=-1), gradient)
    some = (gradient != 0).any(dim=-1, keepdim=True) & (cell[..., None] >= 0)
    safe = gradient.where(some, 1.0)
    return torch.where(some, safe / safe.norm(dim=-1, keepdim=True), 0.0)


def shade(
    values: Tensor,
    origins: Tensor,
    directions: Tensor,
    t: Tensor,
    hits: RayHit,
    lower: Sequence[float] = (0.0, 0.0, 0.0),
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    *,
    light: Tensor | None = None,
    strength: float = 1.0,
    falloff: bool = False,
    normals: str = "central",
) -> Shading:
    """Return diffuse shading (SDFDiff, section 4, "Differentiable Shading").

    `strength * max(0, n . l)` with l the direction from the hit to the light; with `falloff`
    divided by the square of the distance. Normals point to the side that the ray is on: inwards
    where it leaves a solid.

    Args:
        values: `(B, X, Y, Z)` samples.
        origins: `(B, P, 3)` world positions.
        directions: `(B, P, 3)` of any length.
        t: `(B, P)` from `hit_t`; differentiable.
        hits: Status and cell.
        lower: World position of node (0, 0, 0).
        spacing: World distance between neighbouring nodes along x, y, z.
        light: `(B, P, 3)` world position, or None for the ray's origin.
        strength: Intensity where the light shines straight down, at distance 1 with `falloff`.
        falloff: Whether it loses strength with the distance.
        normals: `"central"` or `"trilinear"`.

    Returns:
        Intensities and normals, differentiable in values, origins, directions, t and light.

    Example:
        >>> slope = torch.tensor([1.0, -1.0]).expand(1, 2, 2, 2)
        >>> rays = torch.tensor([[[0.5, 0.5, -3.5]]]), torch.tensor([[[0.0, 0.0, 1.0]]])
        >>> hits = RayHit(torch.tensor([[4.0]]), torch.tensor([[HIT]]), torch.tensor([[0]]))
        >>> shade(slope, *rays, hits.t, hits, strength=8.0, falloff=True).intensity.item()
        0.5
    """
    found = hits.cell >= 0
    points = origins + t.where(found, 0.0)[..., None] * directions
    normal = hit_normals(values, points, hits.cell, lower, spacing, kind=normals)
    normal = torch.where((hits.status == EXIT)[..., None], -normal, normal)
    to_light = (origins if light is None else light) - points
    apart = (to_light != 0).any(dim=-1)
    distance = to_light.where(apart[..., None], 1.0).norm(dim=-1)
    cosine = (normal * to_light).sum(dim=-1) / distance
    intensity = strength * cosine.clamp(min=0)
    if falloff:
        intensity = intensity / distance.square()
    return Shading(intensity.where(found & apart, 0.0), normal)


def _field_at(
    values: Tensor,
    origins: Tensor,
    directions: Tensor,
    t: Tensor,
    cell: Tensor,
    lower: Sequence[float],
    spacing: Sequence[float],
) -> CellField:
    """Return the field where rays are at t, as that of given cells."""
    points = origins + t[..., None] * directions
    fraction = cell_fraction(values, points, cell, lower, spacing)
    return trilinear(cell_samples(values, cell), fraction, spacing)
