# SPDX-License-Identifier: Apache-2.0
"""The ops: one file each, with the public function, its fake and its gradient."""

from diffiso import _C as _C  # registers the ops
from diffiso.ops._field import Field
from diffiso.ops.isosurface import isosurface, sample_field, vertex_attributes
from diffiso.ops.marching_cubes import marching_cubes
from diffiso.ops.mesh_sdf import mesh_sdf
from diffiso.ops.narrow_band import BandReport, NarrowBand
from diffiso.ops.render import Rendering, render
from diffiso.ops.sample_grid import GridSample, sample_grid
from diffiso.ops.shade import Light, Shading, coverage, shade
from diffiso.ops.silhouette import SoftRasterizing, silhouette
from diffiso.ops.trace import SphereTracing, trace

__all__ = [
    "BandReport",
    "Field",
    "GridSample",
    "Light",
    "NarrowBand",
    "Rendering",
    "Shading",
    "SoftRasterizing",
    "SphereTracing",
    "coverage",
    "isosurface",
    "marching_cubes",
    "mesh_sdf",
    "render",
    "sample_field",
    "sample_grid",
    "shade",
    "silhouette",
    "trace",
    "vertex_attributes",
]
