# SPDX-License-Identifier: Apache-2.0
"""The benchmarks by name: one file each."""

from bench.cases import Cases
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

OPS: dict[str, Cases] = {
    "marching_cubes": marching_cubes.cases,
    "marching_cubes_backward": marching_cubes_backward.cases,
    "sample_grid": sample_grid.cases,
    "mesh_sdf": mesh_sdf.cases,
    "isosurface": isosurface.cases,
    "narrow_band": narrow_band.cases,
    "trace": trace.cases,
    "shade": shade.cases,
    "silhouette": silhouette.cases,
    "overhead": overhead.cases,
}

# Calls too short to leave a mark on memory.
WITHOUT_MEMORY = {"overhead"}
