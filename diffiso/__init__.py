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
    Light,
    NarrowBand,
    Rendering,
    Shading,
    SoftRasterizing,
    SphereTracing,
    coverage,
    isosurface,
    marching_cubes,
    mesh_sdf,
    render,
    sample_field,
    sample_grid,
    shade,
    silhouette,
    trace,
    vertex_attributes,
)
from diffiso.types import BrickGrid, Grid, Mesh, MeshBatch, RayHits, RayStatus

__all__ = [
    "BandReport",
    "BrickGrid",
    "Camera",
    "Grid",
    "GridSample",
    "Light",
    "Mesh",
    "MeshBatch",
    "NarrowBand",
    "RayHits",
    "RayStatus",
    "Rendering",
    "Shading",
    "SoftRasterizing",
    "SphereTracing",
    "build_info",
    "coverage",
    "fields",
    "isosurface",
    "layers",
    "losses",
    "marching_cubes",
    "mesh_sdf",
    "metrics",
    "render",
    "sample_field",
    "sample_grid",
    "shade",
    "shapes",
    "silhouette",
    "trace",
    "vertex_attributes",
]
