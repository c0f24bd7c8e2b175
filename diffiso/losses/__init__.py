# SPDX-License-Identifier: Apache-2.0
"""What fields, grids, meshes and clouds are trained by. All are means, differentiable once or more.

Nearest points count as constants, which is exact to first order. Losses that search them need the
extra `pipelines`.
"""

from diffiso.losses.fields import (
    clamped_l1,
    eikonal,
    grid_gradient,
    grid_laplacian,
    narrow_band_mask,
)
from diffiso.losses.surfaces import chamfer, mesh_laplacian, point_to_surface, surface_loss

__all__ = [
    "chamfer",
    "clamped_l1",
    "eikonal",
    "grid_gradient",
    "grid_laplacian",
    "mesh_laplacian",
    "narrow_band_mask",
    "point_to_surface",
    "surface_loss",
]
