// SPDX-License-Identifier: Apache-2.0
// The Python module diffiso._C. Importing it registers the ops with torch, since their
// registrations live in the same library; what it defines itself are facts, no tensor functions.
//
// common/torch.h stays out: older copies of pybind11 refuse the target version that it sets.
#include <pybind11/pybind11.h>

#include <sstream>
#include <string>

#include "build_config.h"  // written by setup.py
#include "core/marching_cubes_tables.h"
#include "cpu/simd.h"

namespace py = pybind11;

namespace diffiso {
namespace {

#ifdef __clang__
constexpr const char* kCompiler = __VERSION__;
#else
constexpr const char* kCompiler = "GCC " __VERSION__;
#endif

py::dict build_info() {
  const std::string cuda_version = DIFFISO_CUDA_VERSION;
  py::list archs;
  std::istringstream names(DIFFISO_CUDA_ARCHS);
  for (std::string name; names >> name;) archs.append(name);
  py::dict info;
  info["cuda"] = !cuda_version.empty();
  info["cuda_version"] = cuda_version.empty() ? py::object(py::none()) : py::str(cuda_version);
  info["cuda_archs"] = archs;
  info["built_with_torch"] = DIFFISO_TORCH_VERSION;
  info["compiler"] = kCompiler;
  info["simd"] = simd_name(simd_level());
  return info;
}

template <typename T, size_t n>
py::list to_list(const T (&values)[n]) {
  py::list out;
  for (T value : values) out.append(static_cast<int>(value));
  return out;
}

template <typename T, size_t rows, size_t columns>
py::list to_list(const T (&values)[rows][columns]) {
  py::list out;
  for (const auto& row : values) out.append(to_list(row));
  return out;
}

py::dict tables() {
  const MarchingCubesTables& source = marching_cubes_tables();
  py::dict out;
  out["edge"] = to_list(source.edge);
  out["triangle_count"] = to_list(source.triangle_count);
  out["triangle_edges"] = to_list(source.triangle_edges);
  return out;
}

}  // namespace
}  // namespace diffiso

PYBIND11_MODULE(_C, module) {
  module.doc() = "The compiled ops of diffiso: importing this registers torch.ops.diffiso.";
  module.def("build_info", &diffiso::build_info, "Return what this binary was built with and for.");
  module.def("marching_cubes_tables", &diffiso::tables,
             "Return the marching-cubes tables as nested lists.");
}
