# SPDX-License-Identifier: Apache-2.0
"""The things ops take and give: dense and sparse grids, meshes and batches of meshes."""

from diffiso.types.grids import BRICK_SIZE, BrickGrid, Grid, Vector3, as_vector3
from diffiso.types.meshes import Mesh, MeshBatch

__all__ = ["BRICK_SIZE", "BrickGrid", "Grid", "Mesh", "MeshBatch", "Vector3", "as_vector3"]
