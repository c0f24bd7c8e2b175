# SPDX-License-Identifier: Apache-2.0
from typing import TypedDict

class _BuildInfo(TypedDict):
    cuda: bool
    cuda_version: str | None
    cuda_archs: list[str]
    built_with_torch: str
    compiler: str
    simd: str

class _MarchingCubesTables(TypedDict):
    edge: list[list[int]]
    triangle_count: list[int]
    triangle_edges: list[list[int]]

def build_info() -> _BuildInfo: ...
def marching_cubes_tables() -> _MarchingCubesTables: ...
