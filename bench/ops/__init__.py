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

# Calls too short to leave a mark on memory.
WITHOUT_MEMORY = {"overhead"}


def plan(name: str, settings: Settings) -> Iterator[Case | LeftOut]:
    """Return the cases of an op, one after the other, and why others are left out."""
    found: Iterator[Case | LeftOut] = OPS[name].cases(settings)
    return found


def cases(name: str, settings: Settings) -> Iterator[Case]:
    """Return the cases of an op that can be measured."""
    return (case for case in plan(name, settings) if isinstance(case, Case))


def growths(name: str, settings: Settings) -> Iterator[Growth]:
    """Return over what the time of an op is followed."""
    if hasattr(OPS[name], "growths"):
        yield from OPS[name].growths(settings)


def summary(name: str) -> str:
    return (OPS[name].__doc__ or "").partition("\n")[0]
