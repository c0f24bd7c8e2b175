# SPDX-License-Identifier: Apache-2.0
"""Differentiable signed distance functions, iso-surfaces and images for PyTorch."""

from importlib.metadata import version as _version

__version__ = _version("diffiso")

from diffiso import fields, layers, losses, metrics, shapes
from diffiso.build_info import build_info
from diffiso.camera import Camera
from diffiso.ops import (
    BandReport,
    GridSample,
    NarrowBand,
    isosurface,
    marching_cubes,
    mesh_sdf,
    sample_field,
    sample_grid,
    vertex_attributes,
)
from diffiso.types import BrickGrid, Grid, Mesh, MeshBatch

__all__ = [
    "BandReport",
    "BrickGrid",
    "Camera",
    "Grid",
    "GridSample",
    "Mesh",
    "MeshBatch",
    "NarrowBand",
    "build_info",
    "fields",
    "isosurface",
    "layers",
    "losses",
    "marching_cubes",
    "mesh_sdf",
    "metrics",
    "sample_field",
    "sample_grid",
    "shapes",
    "vertex_attributes",
]
