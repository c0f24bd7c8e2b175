# SPDX-License-Identifier: Apache-2.0
"""Sampling and extraction in a narrow band beside a dense grid; bench.band_curve has the curves."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

import diffiso
from bench.cases import (
    Case,
    Contender,
    DentedSphere,
    Growth,
    Settings,
    outputs_of_mesh,
    over_threads,
)
from bench.peers import SLOW_RUNS

LOWER, UPPER = -1.0, 1.0


def sphere(points: Tensor) -> Tensor:
    x, y, z = points.unbind(1)
    return (x * x + y * y + z * z).sqrt() - 0.5


def surfaces(
    field: Any, cells: int, lipschitz: float | None, device: torch.device
) -> list[Contender]:
    """Cold and warm, beside all nodes; without gradients."""
    warm = diffiso.NarrowBand(LOWER, UPPER, cells, device=device)
    warm.sample(field)

    def extract(**options: Any) -> Any:
        with torch.no_grad():
            return diffiso.isosurface(field, **options)

    box = {"lower": LOWER, "upper": UPPER, "resolution": cells, "device": device}
    rule = "lipschitz" if lipschitz is None else lipschitz
    return [
        Contender("diffiso, cold band", lambda: extract(**box, band=rule), outputs_of_mesh, "ours"),
        Contender("diffiso, warm band", lambda: extract(band=warm), outputs_of_mesh, "part"),
        Contender(
            "diffiso, all nodes", lambda: extract(**box), outputs_of_mesh, "ours", runs=SLOW_RUNS
        ),
    ]


def cases(settings: Settings) -> Iterator[Case]:
    cells = settings.size(512, 16)
    contenders = surfaces(sphere, cells, 1.0, settings.device)
    yield Case(f"sphere, {cells} cells", contenders, samples=(cells + 1) ** 3)
    cells, width = settings.size(128, 16), settings.size(64, 8)
    field = DentedSphere(width).to(settings.device)
    contenders = surfaces(field, cells, None, settings.device)
    name = f"4-layer network of width {width}, {cells} cells"
    yield Case(name, contenders, samples=(cells + 1) ** 3)
    cells = settings.size(1024, 16)
    band = diffiso.NarrowBand(LOWER, UPPER, cells, lipschitz=1.0, device=settings.device)
    grid = band.sample(sphere)
    contenders = [
        Contender(
            f"diffiso, {name} faces",
            lambda dtype=dtype: diffiso.marching_cubes(grid, index_dtype=dtype),
            outputs_of_mesh,
            kind,
        )
        for name, dtype, kind in (
            ("int64", torch.int64, "ours"),
            ("int32", torch.int32, "part"),
        )
    ]
    name = f"marching cubes of bricks, sphere of {cells} cells"
    yield Case(name, contenders, samples=grid.values.numel())


def growths(settings: Settings) -> Iterator[Growth]:
    def cold(cells: int) -> Callable[[], Any]:
        return lambda: diffiso.isosurface(
            sphere, LOWER, UPPER, cells, band=1.0, device=settings.device
        )

    def warm(cells: int) -> Callable[[], Any]:
        band = diffiso.NarrowBand(LOWER, UPPER, cells, device=settings.device)
        band.sample(sphere)
        return lambda: diffiso.isosurface(sphere, band=band)

    cells = [settings.size(n, n // 8) for n in (64, 128, 256, 512, 1024)]
    yield Growth("cells along an axis, cold", cells, cold)
    yield Growth("cells along an axis, warm", cells[:-1], warm)
    yield from over_threads(cold(cells[-2]), settings)
