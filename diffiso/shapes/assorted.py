# SPDX-License-Identifier: Apache-2.0
"""Solids put together at random, for what wants many different shapes."""

from __future__ import annotations

import math

import torch

from diffiso.shapes.csg import Difference, Placed, Shape, Union, rotation_matrix
from diffiso.shapes.primitives import Box, Capsule, Sphere, Torus

_BLEND = 0.06  # width of the seams between parts, in units of the box
_ROUND = 0.06  # radius of the edges of boxes: grids of a hundred cells can hold them
# How far parts reach along an axis. Their distances are exact, so that all are 0.05 or more on the
# faces of the box; each of at most three seams takes away at most a quarter of its width, 0.015,
# and a hole adds. So the solid's distance is at least 0.005 there: it lies within the box.
_REACH = 0.95


def assorted_solids(count: int, generator: torch.Generator | None = None) -> list[Shape]:
    """Return solids of two to four boxes, balls, capsules and rings each, within [-1, 1]^3.

    Parts are turned and moved at random, melt into the first one, and every second solid is
    pierced by a straight hole through its middle: surfaces of many topologies.

    Args:
        count: How many.
        generator: Source of the draws.

    Raises:
        ValueError: If `count` is not positive.

    Example:
        >>> solids = assorted_solids(3, torch.Generator().manual_seed(0))
        >>> [solid(torch.zeros(1, 3)).shape for solid in solids]
        [torch.Size([1]), torch.Size([1]), torch.Size([1])]
    """
    if count < 1:
        raise ValueError(f"assorted_solids: count must be positive, got {count}")
    return [_solid(generator, pierced=index % 2 == 1) for index in range(count)]


def _solid(generator: torch.Generator | None, *, pierced: bool) -> Shape:
    first, _ = _part(generator)
    solid = Placed(first, _rotation(generator))
    parts = int(torch.randint(1, 4, (1,), generator=generator))
    whole: Shape = solid
    for _ in range(parts):
        # Every part reaches the middle of the first one, which is the middle of the box.
        offset = 0.3 * (2 * torch.rand(3, generator=generator) - 1)
        part, reach = _part(generator)
        offset = offset.clamp(reach - _REACH, _REACH - reach)
        placed = Placed(part, _rotation(generator), offset.double())
        whole = Union(whole, placed, smooth=_BLEND)
    if not pierced:
        return whole
    hole = Placed(Capsule((-2.0, 0.0, 0.0), (2.0, 0.0, 0.0), 0.12), _rotation(generator))
    return Difference(whole, hole, smooth=_BLEND)


def _part(generator: torch.Generator | None) -> tuple[Shape, float]:
    """Return a part around the origin, and how far from there it reaches: 0.74 at most."""
    kind = int(torch.randint(4, (1,), generator=generator))
    a, b, c = torch.rand(3, generator=generator).tolist()
    if kind == 0:
        half = (0.14 + 0.3 * a, 0.09 + 0.25 * b, 0.09 + 0.2 * c)
        return Box(half).grown(_ROUND), math.hypot(*half) + _ROUND
    if kind == 1:
        radius = 0.3 + 0.2 * a
        return Sphere(radius), radius
    if kind == 2:
        end, radius = 0.25 + 0.25 * a, 0.12 + 0.12 * b
        return Capsule((-end, 0.0, 0.0), (end, 0.0, 0.0), radius), end + radius
    major, minor = 0.35 + 0.12 * a, 0.10 + 0.06 * b
    return Torus(major, minor), major + minor


def _rotation(generator: torch.Generator | None) -> torch.Tensor:
    x, y, z = torch.randn(3, generator=generator).tolist()
    angle = 360 * float(torch.rand(1, generator=generator))
    length = math.sqrt(x * x + y * y + z * z)
    return rotation_matrix((x / length, y / length, z / length), angle)
