# SPDX-License-Identifier: Apache-2.0
"""The things ops take and give: dense and sparse grids, meshes, batches of meshes, ray hits."""

from diffiso.types.grids import BRICK_SIZE, BrickGrid, Grid, Vector3, as_vector3
from diffiso.types.meshes import Mesh, MeshBatch
from diffiso.types.rays import RayHits, RayStatus

__all__ = [
    "BRICK_SIZE",
    "BrickGrid",
    "Grid",
    "Mesh",
    "MeshBatch",
    "RayHits",
    "RayStatus",
    "Vector3",
    "as_vector3",
]
