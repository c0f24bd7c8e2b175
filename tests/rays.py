# SPDX-License-Identifier: Apache-2.0
"""Grids and rays for tests of tracing; how a trace is compared with brute force."""

import torch
from fields import random_smooth, sample

from diffiso import Grid, reference
from diffiso.camera import Camera
from tools.check_trace import compare, random_grid, random_rays

__all__ = [
    "LOWER", "SPACING", "assert_brute_force", "box_grid", "found", "orbit", "random_grid",
    "random_rays", "random_scene", "steep",
]  # fmt: skip

# Corners and cells that float32 holds, so that both dtypes have one box; no two axes alike.
LOWER, SPACING = (-1.5, 0.25, 2.0), (0.5, 0.75, 0.125)


def box_grid(field, nodes, dtype=torch.float64, half=1.0):
    """Sample a field on the cube from -half to half."""
    shape = (nodes,) * 3 if isinstance(nodes, int) else nodes
    low, high = (-half,) * 3, (half,) * 3
    return Grid.from_bounds(sample(field, shape, low, high, dtype), low, high)


def orbit(count=2, size=(24, 32), distance=4.0, dtype=torch.float64, **options):
    """Cameras around the origin that see a cube of half side 1, off the axes."""
    turns = [20.0 + 360.0 * n / count for n in range(count)]
    options = {"field_of_view": 40.0, **options}
    return Camera.orbit(turns, 25.0, distance, size=size, dtype=dtype, **options)


def found(hits):
    """What brute force gives, of a trace."""
    return reference.RayHit(hits.t.detach(), hits.status, hits.cell)


def assert_brute_force(grid, origins, directions, hits, ties=0, **options):
    """Every ray of (P, 3) hits what it must; status and cell differ for at most `ties` of them."""
    result = compare(grid, origins, directions, found(hits), **options)
    assert result.wrong.tolist() == []
    assert result.ties <= ties
    return result


def random_scene(generator, dtype=torch.float64, count=64, batch=2):
    """A batch of smooth grids and rays through their box; origins and directions (B, P, 3)."""
    grid = Grid(random_smooth(generator, (batch, 4, 5, 6)).to(dtype), LOWER, SPACING)
    rays = [random_rays(grid, count, generator) for _ in range(batch)]
    origins, directions = (torch.stack(x) for x in zip(*rays, strict=True))
    return grid, origins, directions


def steep(grid, directions, hits, least=0.15):
    """Whether rays meet the surface at more than a grazing angle."""
    slope = reference.trilinear(hits.samples, hits.fraction, grid.spacing).gradient
    return hits.hit & (torch.cosine_similarity(slope, directions, dim=-1).abs() > least)
