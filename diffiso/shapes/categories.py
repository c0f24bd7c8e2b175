# SPDX-License-Identifier: Apache-2.0
"""Chairs and cars put together at random: families of solids that have parts in common.

The y axis points up; cars drive along x. All lie within [-1, 1]^3.
"""

from __future__ import annotations

import torch

from diffiso.shapes.csg import Difference, Intersection, Shape, Union
from diffiso.shapes.primitives import Box, Capsule

_ROUND = 0.02  # radius of edges, in units of the box: grids of a hundred cells can hold it
_FLOOR = -0.8  # where chairs stand


def chairs(count: int, generator: torch.Generator | None = None) -> list[Shape]:
    """Return chairs: a seat on four legs or on one, with a back that may have slits, and arms.

    Args:
        count: How many.
        generator: Source of the draws.

    Raises:
        ValueError: If `count` is not positive.

    Example:
        >>> (chair,) = chairs(1, torch.Generator().manual_seed(0))
        >>> bool(chair(torch.zeros(1, 3)) < 1)
        True
    """
    if count < 1:
        raise ValueError(f"chairs: count must be positive, got {count}")
    return [_chair(generator) for _ in range(count)]


def cars(count: int, generator: torch.Generator | None = None) -> list[Shape]:
    """Return cars: a body with wheel arches, a cabin or a box, four wheels, perhaps a spoiler.

    Args:
        count: How many.
        generator: Source of the draws.

    Raises:
        ValueError: If `count` is not positive.
    """
    if count < 1:
        raise ValueError(f"cars: count must be positive, got {count}")
    return [_car(generator) for _ in range(count)]


def _chair(generator: torch.Generator | None) -> Shape:
    draw = _Draw(generator)
    width, depth = draw.between(0.32, 0.48), draw.between(0.30, 0.45)
    seat, thick = draw.between(-0.20, 0.05), draw.between(0.03, 0.06)
    top, leg = draw.between(0.55, 0.9), draw.between(0.045, 0.07)
    lean = draw.between(0.0, 0.12)
    under = seat + thick - 0.01  # legs end within the seat
    chair = _box((width, thick, depth), (0.0, seat, 0.0))
    if draw.chance(0.7):
        splay = draw.between(0.0, 0.1)
        for x in (-1, 1):
            for z in (-1, 1):
                upper = (x * (width - leg), under - leg, z * (depth - leg))
                lower = (x * (width - leg + splay), _FLOOR + leg, z * (depth - leg + splay))
                chair = chair | Capsule(upper, lower, leg)
    else:
        post = 1.3 * leg
        chair = chair | Capsule((0.0, under - post, 0.0), (0.0, _FLOOR + 0.05, 0.0), post)
        for x, z in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            foot = (0.9 * width * x, _FLOOR + 0.06, 0.9 * width * z)
            chair = chair | Capsule((0.0, _FLOOR + 0.06, 0.0), foot, 0.05)
    chair = chair | _back(draw, width, depth, seat, top, lean)
    if draw.chance(0.4):
        height = seat + draw.between(0.22, 0.32)
        for x in (-1, 1):
            side = x * (width - 0.045)
            front = (side, height, 0.7 * depth)
            chair = chair | Capsule((side, height, -depth - 0.5 * lean), front, 0.045)
            chair = chair | Capsule((side, seat, 0.7 * depth), front, 0.045)
    return chair


def _back(draw: _Draw, width: float, depth: float, seat: float, top: float, lean: float) -> Shape:
    """Return a board, or two posts with bars between them; the upper end leans back."""
    thick = draw.between(0.03, 0.05)
    bars = int(draw.between(0, 5))
    if bars < 2:
        middle, half = 0.5 * (seat + top), 0.5 * (top - seat)
        board = _box((width, half, thick), (0.0, 0.0, 0.0))
        angle = -57.3 * lean / (2 * half)
        return board.turned((1.0, 0.0, 0.0), angle).moved((0.0, middle, thick - depth - 0.5 * lean))
    post = thick + 0.015
    back: Shape | None = None
    for x in (-1, 1):
        side = x * (width - post)
        part = Capsule((side, seat, post - depth), (side, top - post, post - depth - lean), post)
        back = part if back is None else back | part
    assert back is not None
    for bar in range(bars):
        share = 1.0 if bar == bars - 1 else 0.35 + 0.65 * bar / (bars - 1)
        height, behind = seat + share * (top - post - seat), post - depth - share * lean
        ends = [(x * (width - post), height, behind) for x in (-1, 1)]
        back = back | Capsule(ends[0], ends[1], post)
    return back


def _car(generator: torch.Generator | None) -> Shape:
    draw = _Draw(generator)
    long, wide, high = draw.between(0.72, 0.88), draw.between(0.28, 0.36), draw.between(0.13, 0.18)
    wheel = min(draw.between(0.13, 0.19), 2 * high - 0.11)  # arches stay below the bonnet
    floor = -0.12 - high
    body = _box((long, high, wide), (0.0, floor + high, 0.0), 0.05)
    roof = draw.between(0.11, 0.2)
    if draw.chance(0.25):  # a van
        cabin_long, cabin = draw.between(0.6, 0.75) * long, -0.15 * long
        roof = roof + 0.06
    else:
        cabin_long, cabin = draw.between(0.4, 0.6) * long, draw.between(-0.25, 0.05) * long
    deck = floor + 2 * high
    glass = _box((cabin_long, roof, 0.88 * wide), (cabin, deck + 0.5 * roof, 0.0), 0.08)
    car: Shape = Union(body, glass, smooth=draw.between(0.05, 0.25))
    reach = long - wheel - 0.12  # so that a bumper is left
    front, rear = (min(draw.between(0.55, 0.68) * long, reach) for _ in range(2))
    axle = floor + 0.02
    for x in (front, -rear):
        arch = Capsule((x, axle, -1.0), (x, axle, 1.0), wheel + 0.05)
        car = Difference(car, arch, smooth=0.03)
    car = car | _box((long - 0.1, 0.7 * high, 0.5 * wide), (0.0, floor + high, 0.0))
    for x in (front, -rear):
        axis = Capsule((x, axle, -2.0), (x, axle, 2.0), wheel)
        for z in (-1, 1):
            slab = _box((wheel + 0.1, wheel + 0.1, 0.07), (x, axle, z * (wide - 0.06)))
            car = car | Intersection(axis, slab, smooth=0.05)
        car = car | Capsule((x, axle, 0.06 - wide), (x, axle, wide - 0.06), 0.05)
    if draw.chance(0.35):
        height, back = deck + draw.between(0.1, 0.16), 0.06 - long
        car = car | _box((0.07, 0.03, 0.95 * wide), (back, height, 0.0))
        for side in (-0.7 * wide, 0.7 * wide):
            car = car | Capsule((back, deck - 0.05, side), (back, height, side), 0.035)
    return car


def _box(
    half: tuple[float, float, float], center: tuple[float, float, float], edge: float = _ROUND
) -> Shape:
    """Return a box of given half sides with rounded edges."""
    inner = tuple(max(side - edge, 0.005) for side in half)
    return Box((inner[0], inner[1], inner[2]), center).grown(edge)


class _Draw:
    """Numbers drawn from one generator."""

    def __init__(self, generator: torch.Generator | None) -> None:
        self.generator = generator

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand(1, generator=self.generator))

    def chance(self, share: float) -> bool:
        return self.between(0.0, 1.0) < share
