# SPDX-License-Identifier: Apache-2.0
"""Differentiable signed distance functions, iso-surfaces and images for PyTorch."""

from importlib.metadata import version as _version

__version__ = _version("diffiso")

from diffiso import layers, shapes
from diffiso.build_info import build_info
from diffiso.ops import (
    GridSample,
    isosurface,
    marching_cubes,
    mesh_sdf,
    sample_field,
    sample_grid,
    vertex_attributes,
)
from diffiso.types import Grid, Mesh, MeshBatch

__all__ = [
    "Grid",
    "GridSample",
    "Mesh",
    "MeshBatch",
    "build_info",
    "isosurface",
    "layers",
    "marching_cubes",
    "mesh_sdf",
    "sample_field",
    "sample_grid",
    "shapes",
    "vertex_attributes",
]
