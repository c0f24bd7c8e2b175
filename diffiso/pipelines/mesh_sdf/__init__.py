# SPDX-License-Identifier: Apache-2.0
"""MeshSDF (Remelli et al., 2020): latent codes and weights moved by losses on meshes.

`diffiso refine` moves the latent code of a trained network until its mesh has given silhouettes, or
comes near to a given surface; `diffiso finetune` moves the weights until all meshes come nearer.
"""

from diffiso.pipelines.mesh_sdf.finetune import FinetuneResult, FinetuneState, finetune
from diffiso.pipelines.mesh_sdf.rays import RaySilhouette, ray_silhouette
from diffiso.pipelines.mesh_sdf.refine import RefineResult, refine
from diffiso.pipelines.mesh_sdf.refinement import Refinement, Step, refine_code
from diffiso.pipelines.mesh_sdf.settings import FinetuneSettings, RefineSettings
from diffiso.pipelines.mesh_sdf.targets import (
    SilhouetteTarget,
    SurfaceTarget,
    Target,
    load_target,
)

__all__ = [
    "FinetuneResult",
    "FinetuneSettings",
    "FinetuneState",
    "RaySilhouette",
    "RefineResult",
    "RefineSettings",
    "Refinement",
    "SilhouetteTarget",
    "Step",
    "SurfaceTarget",
    "Target",
    "finetune",
    "load_target",
    "ray_silhouette",
    "refine",
    "refine_code",
]
