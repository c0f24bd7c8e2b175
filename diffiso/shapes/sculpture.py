# SPDX-License-Identifier: Apache-2.0
"""Shapes worth looking at, for demonstrations that need no file."""

from __future__ import annotations

from diffiso.shapes.csg import Intersection, Shape
from diffiso.shapes.primitives import Gyroid, Sphere


def gyroid_ball(radius: float = 0.85, *, period: float = 1.0, wall: float = 0.2) -> Shape:
    """Return a ball cut out of a thick gyroid wall, with rounded rims: connected, of high genus.

    Args:
        radius: Radius of the ball around the origin, world units.
        period: Unit cell of the gyroid, world units.
        wall: Thickness of the wall in the gyroid's field, about a fifth more in world units.

    Raises:
        ValueError: If a length is not positive.
    """
    if min(radius, period, wall) <= 0:
        raise ValueError(f"gyroid_ball: lengths must be positive, got {(radius, period, wall)}")
    return Intersection(Sphere(radius), Gyroid(period).shell(wall), smooth=0.08 * radius)
