# SPDX-License-Identifier: Apache-2.0
"""The benchmarks by name: one file each."""

from collections.abc import Iterator
from types import ModuleType

from bench.cases import Case, Growth, LeftOut, Settings
from bench.ops import (
    isosurface,
    marching_cubes,
    marching_cubes_backward,
    mesh_sdf,
    narrow_band,
    overhead,
    sample_grid,
    shade,
    silhouette,
    trace,
)

OPS: dict[str, ModuleType] = {
    "marching_cubes": marching_cubes,
    "marching_cubes_backward": marching_cubes_backward,
    "sample_grid": sample_grid,
    "mesh_sdf": mesh_sdf,
    "isosurface": isosurface,
    "narrow_band": narrow_band,
    "trace": trace,
    "shade": shade,
    "silhouette": silhouette,
    "overhead": overhead,
}

NEEDED = {
    "marching_cubes": (1000, 2000),
    "marching_cubes_backward": (400, 800),
    "sample_grid": (200, 400),
    "mesh_sdf": (800, 1000),
    "isosurface": (300, 400),
    "narrow_band": (1900, 1500),
    "trace": (200, 300),
    "shade": (400, 600),
    "silhouette": (100, 1000),
}
"""MB that cases, and all sizes of a growth at once, take at full size: for cases one and a half
times the most of a kept run (`peak_bytes`) with the inputs, for growths estimates. Larger cases of
marching_cubes state their own.
"""

# Calls too short to leave a mark on memory.
WITHOUT_MEMORY = {"overhead"}


def lacking(name: str, settings: Settings, *, growth: bool = False) -> str:
    """Say how much memory is missing; empty where it is there, and at tiny sizes."""
    megabytes = NEEDED.get(name, (0, 0))[growth]
    if settings.smoke:
        return ""
    return settings.lacks(megabytes * 10**6 // (4 if settings.quick else 1))


def plan(name: str, settings: Settings) -> Iterator[Case | LeftOut]:
    """Return the cases of an op, one after the other, and why others are left out."""
    if why := lacking(name, settings):
        yield LeftOut("all cases", why)
        return
    yield from OPS[name].cases(settings)


def cases(name: str, settings: Settings) -> Iterator[Case]:
    """Return the cases of an op that can be measured."""
    return (case for case in plan(name, settings) if isinstance(case, Case))


def growths(name: str, settings: Settings) -> Iterator[Growth | LeftOut]:
    """Return over what the time of an op is followed, or why it is not."""
    if why := lacking(name, settings, growth=True):
        yield LeftOut("all growing sizes", why)
    elif hasattr(OPS[name], "growths"):
        yield from OPS[name].growths(settings)


def summary(name: str) -> str:
    return (OPS[name].__doc__ or "").partition("\n")[0]
