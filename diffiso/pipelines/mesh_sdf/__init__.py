# SPDX-License-Identifier: Apache-2.0
"""MeshSDF (Remelli et al., 2020): latent codes and weights moved by losses on meshes.

`diffiso refine` moves the latent code of a trained network until its mesh has given silhouettes, or
comes near to a given surface.
"""

from diffiso.pipelines.mesh_sdf.refine import RefineResult, refine
from diffiso.pipelines.mesh_sdf.refinement import Refinement, Step, refine_code
from diffiso.pipelines.mesh_sdf.settings import RefineSettings
from diffiso.pipelines.mesh_sdf.targets import (
    SilhouetteTarget,
    SurfaceTarget,
    Target,
    load_target,
)

__all__ = [
    "RefineResult",
    "RefineSettings",
    "Refinement",
    "SilhouetteTarget",
    "Step",
    "SurfaceTarget",
    "Target",
    "load_target",
    "refine",
    "refine_code",
]
