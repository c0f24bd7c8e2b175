# SPDX-License-Identifier: Apache-2.0
"""Trace many rays through random fields, and compare every one with brute force in float64.

The fields are no distances, their cells are not cubes, and some samples are absent. Rays begin
outside the box and in it, on either side of the surface. Exits with 1 if a hit is wrong.
"""

import argparse
import math
import sys
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import diffiso
from diffiso import reference

POLICIES = ("exit", "start", "ignore")
# Roundings between a ray and the field on it: of a place that runs up to the number of cells, times
# the field's slope there, in three axes; and of the field itself.
ROUNDINGS = 16


@dataclass(frozen=True)
class Agreement:
    """How rays compare with brute force.

    Attributes:
        rays: How many there are.
        hits: How many hit something, by brute force.
        ties: How many have another status or cell, where rounding decides which.
        wrong: (W,), which of them are wrong.
    """

    rays: int
    hits: int
    ties: int
    wrong: Tensor


def compare(
    grid: diffiso.Grid,
    origins: Tensor,
    directions: Tensor,
    hits: reference.RayHit,
    **options: Any,
) -> Agreement:
    """Compare hits with brute force.

    A hit is right if it has the status of the first hit and lies within rounding of it. Where that
    fails, the surface may be met at a grazing angle: it is a tie, and right, if it lies between the
    first hits of fields that are moved up and down by their rounding. In both cases the cell must
    be one that holds the point.

    Args:
        grid: One grid, (X, Y, Z).
        origins: (P, 3).
        directions: (P, 3).
        hits: t, status and cell that `diffiso.trace` found, of (P,).
        options: `level`, `near`, `far` and `inside`, as they were given to `diffiso.trace`.
    """
    rounding = torch.finfo(grid.values.dtype).eps
    level = options.pop("level", 0.0)
    finite = grid.values[grid.values.isfinite()].double()
    size = float((finite - level).abs().max()) if len(finite) else 0.0
    reach = ROUNDINGS * rounding * max(grid.values.shape)
    slack = 3 * reach * size

    def first_hit(at: float, chosen: Tensor) -> list[Tensor]:
        rays = origins[None, chosen], directions[None, chosen]
        found = reference.first_hit(
            grid.values[None], *rays, grid.lower, grid.spacing, level=at, **options
        )
        return [x[0] for x in found]

    everything = torch.arange(len(origins))
    t, status, cell = first_hit(level, everything)
    step = directions.double() / directions.new_tensor(grid.spacing, dtype=torch.float64)
    pace = step.abs().amax(dim=1)
    # t itself is rounded, and so is where the ray enters the box. A start may be where the ray
    # comes in by a plane of nodes, along an axis on which it is slow.
    starts = status == diffiso.RayStatus.START
    points = origins.double() + t.where(starts, 0.0)[:, None] * directions.double()
    place = (points - points.new_tensor(grid.lower)) / points.new_tensor(grid.spacing)
    on_plane = starts[:, None] & (step != 0) & ((place - place.round()).abs() <= reach)
    slowest = step.abs().where(on_plane, math.inf).amin(dim=1).minimum(pace)
    near_enough = 4 * rounding * t.abs() + reach / slowest
    ours = hits.t.detach().double()
    same_status = hits.status == status
    close = (ours == t) | ((ours - t).abs() <= near_enough)
    agrees = same_status & close & holds(grid, origins, directions, hits, reach)
    wrong = everything[~agrees]
    if len(wrong):
        lower, upper = first_hit(level + slack, wrong), first_hit(level - slack, wrong)
        times = torch.stack([lower[0], t[wrong], upper[0]])
        states = torch.stack([lower[1], status[wrong], upper[1]])
        room = near_enough[wrong].nan_to_num(posinf=0.0)
        between = (ours[wrong] >= times.amin(dim=0) - room) & (
            ours[wrong] <= times.amax(dim=0) + room
        )
        known = (hits.status[wrong] == states).any(dim=0)
        within = holds(grid, origins, directions, hits, reach)[wrong]
        wrong = wrong[~(between & known & within)]
    different = ~same_status | (hits.cell != cell)
    return Agreement(
        len(origins),
        int((cell >= 0).sum()),
        int(different.sum()) - int(different[wrong].sum()),
        wrong,
    )


def holds(
    grid: diffiso.Grid, origins: Tensor, directions: Tensor, hits: reference.RayHit, reach: float
) -> Tensor:
    """Return whether the cells of hits hold the points, within rounding; True for misses."""
    t = hits.t.detach().double().where(hits.cell >= 0, 0.0)[:, None]
    points = origins.double() + t * directions.double()
    place = reference.cell_fraction(
        grid.values[None], points, hits.cell, grid.lower, grid.spacing
    ).sub(0.5)
    step = directions.double() / directions.new_tensor(grid.spacing, dtype=torch.float64)
    slack = reach + 4 * torch.finfo(grid.values.dtype).eps * (t * step).abs()
    inside = (place.abs() <= 0.5 + slack).all(dim=1)
    return torch.where(hits.cell >= 0, inside, hits.t.isinf())


def random_grid(
    generator: torch.Generator, dtype: torch.dtype, gaps: float = 0.0, most: int = 12
) -> diffiso.Grid:
    """Return a grid of normal numbers, of random sizes, with a share of absent samples."""
    x, y, z = torch.randint(2, most + 1, (3,), generator=generator).tolist()
    values = torch.randn(x, y, z, generator=generator, dtype=torch.float64)
    if gaps:
        absent = torch.rand(x, y, z, generator=generator) < gaps
        special = torch.tensor([math.nan, math.inf, -math.inf], dtype=torch.float64)
        chosen = special[torch.randint(3, (x, y, z), generator=generator)]
        values = torch.where(absent, chosen, values)
    # The same box for both dtypes: corners and spacings that float32 holds.
    lower, spacing = (
        (0.5 + torch.rand(3, generator=generator)).mul(64).round().div(64).tolist()
        for _ in range(2)
    )
    return diffiso.Grid(values.to(dtype), lower, spacing)


def random_rays(
    grid: diffiso.Grid, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return rays through a grid's box: half begin in it, half outside, up to its size away."""
    low, high = (torch.tensor(x, dtype=torch.float64) for x in (grid.lower, grid.upper))
    side = high - low

    def anywhere(rows: int) -> Tensor:
        return low + side * torch.rand(rows, 3, generator=generator, dtype=torch.float64)

    origins, targets = anywhere(count), anywhere(count)
    away = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    away = away / away.norm(dim=1, keepdim=True) * side.norm()
    outside = torch.arange(count) % 2 == 0
    origins = torch.where(outside[:, None], targets + away, origins)
    length = 2 ** (2 * torch.rand(count, 1, generator=generator, dtype=torch.float64) - 1)
    directions = (targets - origins) * length
    return origins.to(grid.values.dtype), directions.to(grid.values.dtype)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rays", type=int, default=1_000_000, help="in all (1000000)")
    parser.add_argument("--per-grid", type=int, default=20_000, help="rays of a field (20000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="where the rays are traced (cpu)")
    options = parser.parse_args()
    if min(options.rays, options.per_grid) < 1:
        parser.error("--rays and --per-grid must be positive")
    generator = torch.Generator().manual_seed(options.seed)
    began = time.perf_counter()
    rays = hits = ties = wrong = fields = 0
    while rays < options.rays:
        dtype = (torch.float32, torch.float64)[fields % 2]
        gaps = (0.0, 0.0, 0.1)[fields % 3]
        inside = POLICIES[fields // 3 % 3]
        grid = random_grid(generator, dtype, gaps)
        count = min(options.per_grid, options.rays - rays)
        origins, directions = random_rays(grid, count, generator)
        there = (x.to(options.device) for x in (origins, directions))
        traced = diffiso.trace(grid.to(options.device), *there, inside=inside)
        found = reference.RayHit(*(x.cpu() for x in (traced.t, traced.status, traced.cell)))
        result = compare(grid, origins, directions, found, inside=inside)
        for n in result.wrong[:3].tolist():
            print(
                f"field {fields}, {dtype}, inside={inside}, {gaps:.0%} absent, ray {n}: "
                f"{origins[n].tolist()} + t {directions[n].tolist()}: "
                f"t={found.t[n].item()}, status={found.status[n].item()}"
            )
        rays, fields = rays + result.rays, fields + 1
        hits, ties, wrong = hits + result.hits, ties + result.ties, wrong + len(result.wrong)
    seconds = time.perf_counter() - began
    print(
        f"{rays} rays, {fields} fields, {hits} hits: {wrong} wrong, {ties} ties by rounding, "
        f"{seconds:.0f} s"
    )
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
