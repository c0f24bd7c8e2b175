# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels of silhouettes against their CPU ops.

Pictures, contour edges and what vertices receive in a fixed order must agree to the last bit. Sums
over a picture's edges are compared within their roundings.
"""

from __future__ import annotations

import pytest
import torch
from check_kernels import FLOATS, assert_equal
from ray_scenes import cpu, simt
from silhouettes import NEAR, ball, cameras, cube, soup
from torch import Tensor

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = [13, 150]  # more than a block of pixels


def spiked(generator) -> tuple[Tensor, Tensor]:
    """A cube with faces that run past the cameras."""
    vertices, faces = cube()
    far = torch.tensor([[0.0, 0.3, 0.3], [9.0, 2.0, 8.0], [-9.0, 1.0, -8.0], [0.3, 9.0, 0.1]])
    more = torch.tensor([[8, 9, 10], [9, 8, 11], [10, 11, 9], [3, 3, 9]])
    return torch.cat([vertices, far.double()]), torch.cat([faces, more])


MESHES = {
    "soup": lambda g: soup(g, 40, 60),
    "ball": lambda g: ball(10),
    "spiked": spiked,
    "nothing": lambda g: (torch.zeros(0, 3).double(), torch.zeros(0, 3).long()),
    "no faces": lambda g: (soup(g)[0], torch.zeros(0, 3).long()),
}


def scene(names: tuple[str, ...], dtype, index, generator, per_mesh=2) -> tuple:
    """Packed meshes and the matrices of their cameras."""
    parts = [MESHES[name](generator) for name in names]
    counts = [(len(v), len(f)) for v, f in parts]
    ends = torch.tensor([(0, 0), *counts]).cumsum(dim=0).unbind(1)
    faces = [f + first for (_, f), first in zip(parts, ends[0], strict=False)]
    views = cameras(per_mesh * len(parts), size=tuple(SIZE))
    vertices = torch.cat([v for v, _ in parts]).to(dtype)
    matrices = views.projection_matrices.to(dtype)
    return vertices, torch.cat(faces).to(index), matrices, *(e.contiguous() for e in ends)


def assert_sums(actual: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    """Sums in double of some hundreds of terms, of which some cancel, rounded once at the end."""
    scale = max([1.0, *(float(tensor.abs().max()) for tensor in expected if tensor.numel())])
    for one, other in zip(actual, expected, strict=True):
        digits = torch.finfo(one.dtype).eps
        torch.testing.assert_close(one, other, rtol=4 * digits, atol=1e-12 * scale)


SCENES = [("soup",), ("ball",), ("spiked",), ("nothing",), ("no faces",)]
BATCHES = [("nothing", "soup", "no faces", "spiked"), ("ball", "nothing", "nothing")]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("index", [torch.int64, torch.int32])
@pytest.mark.parametrize("names", SCENES + BATCHES)
def test_silhouette(names, dtype, index, generator):
    inputs = scene(names, dtype, index, generator)
    for samples in (1, 16, 64):
        found = simt.silhouette(*inputs, SIZE, NEAR, samples)
        assert_equal(found, cpu.silhouette(*inputs, SIZE, NEAR, samples))
    coverage, contours, offsets = found
    grad = torch.randn(coverage.shape, dtype=torch.float64, generator=generator).to(dtype)
    rest = (inputs[0], inputs[2], inputs[3], contours, offsets, SIZE, NEAR)
    vertices, matrices = cpu.silhouette_backward(grad, *rest, False)
    for deterministic in (True, False):
        actual = simt.silhouette_backward(grad, *rest, deterministic)
        if deterministic:
            assert_equal((actual[0],), (vertices,))
        assert_sums(actual, (vertices, matrices))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("kept", [1, 3, 128])
@pytest.mark.parametrize("names", SCENES + BATCHES)
def test_soft_silhouette(names, kept, dtype, generator):
    inputs = scene(names, dtype, torch.int64, generator, per_mesh=1)
    size, rule = [20, 35], (1e-2, 0.05, kept)
    found = simt.soft_silhouette(*inputs, size, NEAR, *rule)
    assert_equal(found, cpu.soft_silhouette(*inputs, size, NEAR, *rule))
    grad = torch.randn(found[0].shape, dtype=torch.float64, generator=generator).to(dtype)
    rest = (*found, *inputs, size, NEAR, *rule)
    vertices, matrices = cpu.soft_silhouette_backward(grad, *rest, False)
    for deterministic in (True, False):
        actual = simt.soft_silhouette_backward(grad, *rest, deterministic)
        if deterministic:
            assert_equal((actual[0],), (vertices,))
        assert_sums(actual, (vertices, matrices))


@pytest.mark.parametrize("op", ["silhouette", "soft_silhouette"])
def test_refuses_what_the_cpu_refuses(op, generator):
    vertices, faces, *rest = scene(("ball",), torch.float32, torch.int64, generator)
    options = (SIZE, NEAR, 16) if op == "silhouette" else (SIZE, NEAR, 1e-2, 0.05, 4)
    lost = vertices.clone()
    lost[7] = torch.nan
    stray = faces.clone()
    stray[5, 1] = len(vertices)
    for bad, message in (((lost, faces), "got vertex 7"), ((vertices, stray), "got face 5")):
        for ops in (cpu, simt):
            with pytest.raises(RuntimeError, match=message):
                getattr(ops, op)(*bad, *rest, *options)
    matrices, vertex_offsets, face_offsets = rest
    for place, kept, message in (
        (0, vertex_offsets, "vertex_offsets must rise from 0 to the number of vertices"),
        (1, face_offsets, "face_offsets must rise from 0 to the number of faces"),
    ):
        for wrong in (kept + 4, kept - 4, kept * 3, kept.flip(0)):
            offsets = [vertex_offsets, face_offsets]
            offsets[place] = wrong
            for ops in (cpu, simt):
                with pytest.raises(RuntimeError, match=message):
                    getattr(ops, op)(vertices, faces, matrices, *offsets, *options)
