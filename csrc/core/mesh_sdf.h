// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/trilinear.h"

namespace diffiso {

// How a loss falls when the field rises at a surface point (MeshSDF, Eq. 3 and Algorithm 2):
// dv/df = -n for a signed distance, -n / |grad f| for any field. Where the gradient vanishes no
// direction is known, and the point passes nothing on.
template <typename scalar_t>
DIFFISO_HD scalar_t mesh_sdf_pull_back(Vec3<scalar_t> grad_vertex, Vec3<scalar_t> field_gradient,
                                       bool implicit) {
  const scalar_t norm = length(field_gradient);
  if (!(norm > 0)) return 0;
  const scalar_t along = dot(grad_vertex, field_gradient) / norm;
  return -(implicit ? along / norm : along);
}

}  // namespace diffiso
