# SPDX-License-Identifier: Apache-2.0
"""Grids, rays and hits for the checks of the kernels that work on rays."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
from check_kernels import ball, smooth, special
from rays import random_rays
from torch import Tensor

from diffiso import Grid

torch.ops.load_library(os.environ["DIFFISO_SIMT_LIBRARY"])

cpu = torch.ops.diffiso
simt = torch.ops.diffiso_simt

# Numbers that float32 holds, so that both dtypes have one box.
LOWER = [-1.0, 0.25, 3.0]
SPACING = [0.5, 0.125, 1.75]
LEVEL = 0.1
Field = Callable[[torch.Generator, tuple[int, ...], torch.dtype], Tensor]
FIELDS: list[Field] = [smooth, special, ball]
# Tolerance, footprint, steps, Lipschitz bound (0: measured), whether to refine; empty: by voxels.
SPHERES = [[], [1e-3, 0.01, 40, 2.0, 1.0], [1e-3, 0.0, 60, 0.0, 0.0]]
INSIDE = range(3)


@dataclass(frozen=True)
class Scene:
    """Grids and rays as the ops take them."""

    values: Tensor
    origins: Tensor
    directions: Tensor
    size: list[int]
    footprint: Tensor
    light: Tensor

    @property
    def rays(self) -> tuple[Tensor, Tensor]:
        return self.origins, self.directions

    @property
    def where(self) -> tuple[list[int], list[float], list[float]]:
        return self.size, LOWER, SPACING

    def trace(self, ops=cpu, inside: int = 0, sphere=(), capture: bool = True, **limits: float):
        level, near, far = (
            limits.get(k, v) for k, v in (("level", 0.1), ("near", 0), ("far", 1e9))
        )
        options = (level, near, far, inside, list(sphere), False, 0.1, capture)
        return ops.trace(self.values, *self.rays, self.footprint, *self.where, *options)


def extras(
    generator: torch.Generator, values: Tensor, groups: int, rows: int
) -> tuple[Tensor, Tensor]:
    """A footprint and a light for all rays, for each group, or none."""
    count = (0, 1, groups)[rows]
    footprint = 0.02 + 0.1 * torch.rand(count, generator=generator)
    light = 3 * torch.randn(count, 3, generator=generator)
    return footprint.to(values.dtype), light.to(values.dtype)


def odd_rays(values: Tensor) -> tuple[Tensor, Tensor]:
    """Along axes, nodes and faces, from the box's corner, without direction, and no numbers."""
    x, y, z = LOWER
    far = 1e6
    rays = [
        ((x, y, z), (1.0, 0.0, 0.0)),
        ((x, y, z), (1.0, 1.0, 1.0)),
        ((x - 1, y, z), (1.0, 0.0, -0.0)),
        ((x + 0.5, y + 0.125, z - 1), (0.0, 0.0, 2.0)),
        ((x + 0.5, y - 1, z + 0.875), (0.0, 3.0, 0.0)),
        ((x - far, y, z), (1.0, 1e-7, 1e-7)),
        ((x, y - far, z), (0.0, -1.0, 0.0)),
        ((x, y, z), (0.0, 0.0, 0.0)),
        ((math.nan, y, z), (1.0, 0.0, 0.0)),
        ((x, y, z), (math.inf, 0.0, 0.0)),
        ((x, y, z), (1e-30, 0.0, 0.0)),
        ((x, math.inf, z), (0.0, 1.0, 0.0)),
    ]
    origins, directions = torch.tensor(rays, dtype=torch.float64).unbind(1)
    return origins.to(values.dtype), directions.to(values.dtype)


def explicit(
    generator: torch.Generator, values: Tensor, count: int, rows: int = 1, odd: bool = True
) -> Scene:
    """As many rays through each grid."""
    rays = [random_rays(Grid(v, LOWER, SPACING), count, generator) for v in values]
    if odd:
        rays = [[torch.cat(pair) for pair in zip(some, odd_rays(v), strict=True)]
                for some, v in zip(rays, values, strict=True)]  # fmt: skip
    origins, directions = (torch.stack(part) for part in zip(*rays, strict=True))
    extra = extras(generator, values, len(values), rows)
    return Scene(values, origins, directions, [], *extra)


def pictures(
    generator: torch.Generator, values: Tensor, size: tuple[int, int], each: int, rows: int = 1
) -> Scene:
    """As many pictures of each grid, taken from outside its box and, every third, from within."""
    count = each * len(values)
    low = torch.tensor(LOWER).double()
    side = torch.tensor(SPACING).double() * (torch.tensor(values.shape[1:]) - 1)
    target = low + side * (0.3 + 0.4 * torch.rand(count, 3, generator=generator))
    away = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    away = away / away.norm(dim=1, keepdim=True) * side.norm()
    origins = torch.where(torch.arange(count)[:, None] % 3 == 2, target, target + away)
    forward = -away
    across = torch.linalg.cross(forward, torch.randn(count, 3, generator=generator).double())
    across = across / across.norm(dim=1, keepdim=True) * side.norm()
    down = torch.linalg.cross(forward, across) / side.norm()
    height, width = size
    across, down = across / width, down / height
    middle = across * width / 2 + down * height / 2
    matrices = torch.stack([across, down, forward - middle], dim=2)
    dtype = values.dtype
    extra = extras(generator, values, count, rows)
    return Scene(
        values, origins.to(dtype), matrices.to(dtype).contiguous(), list(size), *extra
    )  # fmt: skip


@dataclass(frozen=True)
class Traced:
    """A scene, its hits, and what a loss asks of everything that the ops give."""

    scene: Scene
    hits: tuple[Tensor, ...]
    grads: dict[str, Tensor]

    @staticmethod
    def of(generator: torch.Generator, scene: Scene, **options: int) -> Traced:
        hits = scene.trace(cpu, **options)
        columns = {"t": 1, "samples": 8, "closest_t": 1, "intensity": 1, "normals": 3, "share": 1}
        count = len(hits[0])
        grads = {
            name: torch.randn(
                (count,) if width == 1 else (count, width),
                generator=generator,
                dtype=scene.values.dtype,
            )
            for name, width in columns.items()
        }
        return Traced(scene, hits, grads)

    def apart(self) -> Traced:
        """The same with a grid of its own for every ray, given one by one."""
        scene, count = self.scene, len(self.hits[0])
        grids, groups = len(scene.values), len(scene.origins)
        nodes = scene.values[0].numel()
        group = torch.arange(count) // (count // groups)
        grid = torch.arange(count) // (count // grids)
        origins, directions = (part.reshape(-1, 3) for part in scene.rays)
        if scene.size:
            terms = scene.directions[group] * self.pixels()  # summed in the order of the core
            origins, directions = origins[group], terms[..., 0] + terms[..., 1] + terms[..., 2]
        alone = Scene(
            scene.values[grid],
            origins.view(count, 1, 3).contiguous(),
            directions.reshape(count, 1, 3).contiguous(),
            [],
            *(
                x[group] if len(x) == groups else x.repeat_interleave(count, 0)
                for x in (scene.footprint, scene.light)
            ),
        )
        hits = list(self.hits)
        for n in (2, 6):
            moved = hits[n] + (torch.arange(count) - grid) * nodes
            hits[n] = moved.where(hits[n] >= 0, -1)
        return Traced(alone, tuple(hits), self.grads)

    def pixels(self) -> Tensor:
        """(R, 1, 3): what the matrix of a picture is multiplied by."""
        height, width = self.scene.size
        n = torch.arange(len(self.hits[0]))
        y, x = n // width % height, n % width
        return torch.stack([x + 0.5, y + 0.5, torch.ones(len(n))], 1).to(self.scene.values)[:, None]


def scenes(generator: torch.Generator, dtype: torch.dtype, field: Field) -> list[Traced]:
    """Rays one by one, and pictures, with a light and a footprint for all or for each."""
    out = []
    for shape, rows in (((2, 2, 2), 1), ((3, 4, 2), 2), ((7, 6, 5), 1)):
        values = field(generator, (2, *shape), dtype)
        out.append(Traced.of(generator, explicit(generator, values, 100, rows), inside=rows))
        out.append(Traced.of(generator, pictures(generator, values, (9, 11), 2, 3 - rows)))
    return out
