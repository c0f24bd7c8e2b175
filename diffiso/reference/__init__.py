# SPDX-License-Identifier: Apache-2.0
"""The ops once more, in plain torch: slow, clear, and the definition of what kernels must return.

Nothing here is written for speed. Every function is differentiable through torch's autograd, so the
gradient of a reference is the specification of the op's backward. Arguments are those of
`torch.ops.diffiso`: grids carry a batch dimension, nodes sit at `lower + (i, j, k) * spacing`.
"""

from diffiso.reference.cells import (
    CellField,
    cell_fraction,
    cell_nodes,
    cell_samples,
    node_gradients,
    trilinear,
)
from diffiso.reference.grids import (
    CORNERS,
    ExtractedSurface,
    FieldSample,
    marching_cubes,
    marching_cubes_bricks,
    mesh_sdf,
    mesh_sdf_grid,
    sample_grid,
)
from diffiso.reference.narrow_band import (
    BandMemory,
    narrow_band_grow,
    narrow_band_refine,
    narrow_band_reuse,
)
from diffiso.reference.shading import Shading, closest_t, coverage, hit_normals, hit_t, shade
from diffiso.reference.silhouette import sample_offsets, silhouette, soft_silhouette
from diffiso.reference.trace import (
    ClosestApproach,
    RayHit,
    closest_approach,
    first_hit,
    sphere_trace,
)

__all__ = [
    "CORNERS",
    "BandMemory",
    "CellField",
    "ClosestApproach",
    "ExtractedSurface",
    "FieldSample",
    "RayHit",
    "Shading",
    "cell_fraction",
    "cell_nodes",
    "cell_samples",
    "closest_approach",
    "closest_t",
    "coverage",
    "first_hit",
    "hit_normals",
    "hit_t",
    "marching_cubes",
    "marching_cubes_bricks",
    "mesh_sdf",
    "mesh_sdf_grid",
    "narrow_band_grow",
    "narrow_band_refine",
    "narrow_band_reuse",
    "node_gradients",
    "sample_grid",
    "sample_offsets",
    "shade",
    "silhouette",
    "soft_silhouette",
    "sphere_trace",
    "trilinear",
]
