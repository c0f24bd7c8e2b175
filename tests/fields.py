# SPDX-License-Identifier: Apache-2.0
"""Fields with known answers, and random grids made to hit every special case."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from diffiso import BrickGrid, Grid

Field = Callable[[Tensor], Tensor]

GRID_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def sphere(radius: float | Tensor, center: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Field:
    return lambda points: (points - points.new_tensor(center)).norm(dim=-1) - radius


def box(half: tuple[float, float, float]) -> Field:
    def signed_distance(points: Tensor) -> Tensor:
        beyond = points.abs() - points.new_tensor(half)
        return beyond.clamp(min=0).norm(dim=-1) + beyond.amax(dim=-1).clamp(max=0)

    return signed_distance


def torus(major: float, minor: float) -> Field:
    def signed_distance(points: Tensor) -> Tensor:
        ring = points[..., :2].norm(dim=-1) - major
        return torch.stack((ring, points[..., 2]), dim=-1).norm(dim=-1) - minor

    return signed_distance


def gyroid(points: Tensor) -> Tensor:
    """Triply periodic with period 2 pi; not a distance."""
    x, y, z = points.unbind(-1)
    return x.sin() * y.cos() + y.sin() * z.cos() + z.sin() * x.cos()


def sheared_plane(points: Tensor) -> Tensor:
    """Zero on x = 0.25 y - 0.5 z + 0.125: linear interpolation is exact on it."""
    x, y, z = points.unbind(-1)
    return x - 0.25 * y + 0.5 * z - 0.125


def nodes(
    shape: tuple[int, int, int],
    lower: tuple[float, float, float] = (-1.0, -1.0, -1.0),
    upper: tuple[float, float, float] = (1.0, 1.0, 1.0),
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    axes = [
        low + torch.arange(n, dtype=dtype) * ((high - low) / (n - 1))
        for n, low, high in zip(shape, lower, upper, strict=True)
    ]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)


def sample(
    field: Field,
    shape: tuple[int, int, int],
    lower: tuple[float, float, float] = (-1.0, -1.0, -1.0),
    upper: tuple[float, float, float] = (1.0, 1.0, 1.0),
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Evaluate in float64 at node-centred samples, then store in `dtype`."""
    return field(nodes(shape, lower, upper)).to(dtype)


def periodic_gyroid(cells: int, phase: float) -> Tensor:
    """One period on `cells + 1` nodes whose opposite faces are equal bit for bit."""
    index = torch.arange(cells + 1) % cells
    angles = (index.double() + phase) * (2 * math.pi / cells)
    return gyroid(torch.stack(torch.meshgrid(angles, angles, angles, indexing="ij"), dim=-1))


def random_shape(generator: torch.Generator, low: int = 2, high: int = 8) -> tuple[int, int, int]:
    x, y, z = torch.randint(low, high, (3,), generator=generator).tolist()
    return x, y, z


def random_ties(generator: torch.Generator, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Few distinct values, exact in every grid dtype: many equal each other, 0.0, -0.0 or 0.5."""
    palette = torch.tensor([-2.0, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0, 1.5])
    return palette[torch.randint(len(palette), shape, generator=generator)].to(dtype)


def sprinkle(
    values: Tensor,
    generator: torch.Generator,
    special: tuple[float, ...] = (math.nan, math.inf, -math.inf),
    share: float = 0.15,
) -> Tensor:
    """Replace about `share` of the values by special ones."""
    chosen = torch.rand(values.shape, generator=generator) < share
    which = torch.randint(len(special), values.shape, generator=generator)
    return torch.where(chosen, torch.tensor(special, dtype=values.dtype)[which], values)


def random_smooth(
    generator: torch.Generator, shape: tuple[int, ...], margin: float = 0.1
) -> Tensor:
    """Standard normal float64 samples kept `margin` away from 0: small steps flip no sign."""
    values = torch.randn(shape, generator=generator, dtype=torch.float64)
    return values + margin * torch.where(values < 0, -1.0, 1.0)


def with_holes(values: Tensor, generator: torch.Generator) -> Tensor:
    """Make whole bricks of 8 x 8 x 8 nodes absent, and a few nodes here and there."""
    gone = torch.rand([-(-n // 8) for n in values.shape], generator=generator) < 0.3
    for axis, n in enumerate(values.shape):
        gone = gone.repeat_interleave(8, dim=axis).narrow(axis, 0, n)
    gone = gone | (torch.rand(values.shape, generator=generator) < 0.01)
    return values.masked_fill(gone, math.nan)


def shuffled_bricks(grid: Grid, generator: torch.Generator) -> BrickGrid:
    """Bricks in a random order, with numbers stored beyond the box."""
    bricks = BrickGrid.from_grid(grid)
    box = BrickGrid.from_grid(Grid(torch.zeros_like(grid.values)))
    stored = box.table[bricks.coordinates.long().unbind(dim=1)]
    values = bricks.values.masked_fill(box.values[stored.long()].isnan(), 7.0)
    order = torch.randperm(len(values), generator=generator)
    return BrickGrid.from_bricks(
        values[order], bricks.coordinates[order], bricks.nodes, grid.lower, grid.spacing
    )


def exact_sphere(radius: float, center: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Field:
    """A sphere's distance by operations that IEEE rounds once: the same in chunks of any size."""

    def field(points: Tensor) -> Tensor:
        x, y, z = (points - points.new_tensor(center)).unbind(1)
        return (x * x + y * y + z * z).sqrt() - radius

    return field


def union(*fields: Field) -> Field:
    return lambda points: torch.stack([field(points) for field in fields]).amin(dim=0)
