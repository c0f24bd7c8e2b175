# SPDX-License-Identifier: Apache-2.0
"""Run every op once on the GPU, forward and backward: small, for compute-sanitizer."""

import torch

import diffiso


def main() -> None:
    """Extract, sample and attach a few small surfaces, and take all gradients."""
    torch.manual_seed(0)
    for shape in [(2, 2, 2), (9, 5, 70), (3, 33, 17, 65)]:
        for close_boundary in (False, True):
            values = torch.randn(shape, device="cuda", requires_grad=True)
            level = torch.tensor(0.1, device="cuda", requires_grad=True)
            mesh = diffiso.marching_cubes(values, level, close_boundary=close_boundary)
            mesh.vertices.sum().backward()
    values = torch.randn(9, 5, 70, device="cuda", requires_grad=True)
    points = (torch.rand(1000, 3, device="cuda") * 80 - 5).requires_grad_()
    sample = diffiso.sample_grid(values, points)
    (sample.sdf.sum() + sample.gradient.sum()).backward()
    vertices = diffiso.marching_cubes(values.detach()).vertices
    for law in ("sdf", "implicit"):
        diffiso.mesh_sdf(diffiso.Grid(values), vertices, law=law).sum().backward()
    torch.cuda.synchronize()
    print("gpu_smoke: every op ran")


if __name__ == "__main__":
    main()
