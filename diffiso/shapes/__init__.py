# SPDX-License-Identifier: Apache-2.0
"""Signed distance functions: analytic shapes, combinations, a latent family, closed meshes.

Every shape is a callable `(..., 3) -> (...)`, negative inside and 1-Lipschitz, ready for
`diffiso.isosurface`.
"""

from diffiso.shapes.assorted import assorted_solids
from diffiso.shapes.categories import cars, chairs
from diffiso.shapes.csg import (
    Difference,
    Intersection,
    Offset,
    Placed,
    Shape,
    Shell,
    Union,
    rotation_matrix,
    smooth_minimum,
)
from diffiso.shapes.family import SphereTorus, spheres_and_tori
from diffiso.shapes.mesh_shape import MeshShape
from diffiso.shapes.primitives import Box, Capsule, Gyroid, Sphere, Torus
from diffiso.shapes.sampling import SdfSamples, sdf_samples
from diffiso.shapes.sculpture import gyroid_ball

__all__ = [
    "Box",
    "Capsule",
    "Difference",
    "Gyroid",
    "Intersection",
    "MeshShape",
    "Offset",
    "Placed",
    "SdfSamples",
    "Shape",
    "Shell",
    "Sphere",
    "SphereTorus",
    "Torus",
    "Union",
    "assorted_solids",
    "cars",
    "chairs",
    "gyroid_ball",
    "rotation_matrix",
    "sdf_samples",
    "smooth_minimum",
    "spheres_and_tori",
]
