# SPDX-License-Identifier: Apache-2.0
"""Run every op once on the GPU, forward and backward: small, for compute-sanitizer."""

import torch

import diffiso


def main(device: str = "cuda") -> None:
    """Extract, sample, trace and draw a few small surfaces, and take all gradients."""
    torch.manual_seed(0)
    surfaces(device)
    bricks(device)
    pictures(device)
    if device == "cuda":
        torch.cuda.synchronize()
    print("gpu_smoke: every op ran")


def surfaces(device: str) -> None:
    for shape in [(2, 2, 2), (9, 5, 70), (3, 33, 17, 65)]:
        for close_boundary in (False, True):
            values = torch.randn(shape, device=device, requires_grad=True)
            level = torch.tensor(0.1, device=device, requires_grad=True)
            mesh = diffiso.marching_cubes(values, level, close_boundary=close_boundary)
            mesh.vertices.sum().backward()
    values = torch.randn(9, 5, 70, device=device, requires_grad=True)
    points = (torch.rand(1000, 3, device=device) * 80 - 5).requires_grad_()
    sample = diffiso.sample_grid(values, points)
    (sample.sdf.sum() + sample.gradient.sum()).backward()
    vertices = diffiso.marching_cubes(values.detach()).vertices
    for law in ("sdf", "implicit"):
        diffiso.mesh_sdf(diffiso.Grid(values), vertices, law=law).sum().backward()


def bricks(device: str) -> None:
    radius = torch.tensor(0.6, device=device, requires_grad=True)

    def field(points: torch.Tensor) -> torch.Tensor:
        return points.norm(dim=1) - radius

    warm = diffiso.NarrowBand(-1, 1, 32, device=device)
    for band in (1.0, "sign", warm, warm):
        box = {"lower": -1, "upper": 1, "resolution": 32, "device": device}
        mesh = diffiso.isosurface(field, **({} if band is warm else box), band=band)
        mesh.vertices.sum().backward()
    grid = diffiso.NarrowBand(-1, 1, 64, lipschitz=1.0, device=device).sample(field)
    diffiso.sample_grid(grid, torch.rand(500, 3, device=device) * 2 - 1)


def pictures(device: str) -> None:
    ball = diffiso.sample_field(lambda p: p.norm(dim=1) - 0.6, -1, 1, 24, device=device)
    values = ball.values.requires_grad_()
    grid = diffiso.Grid.from_bounds(values, -1, 1)
    cameras = diffiso.Camera.orbit([0.0, 90.0], 20.0, 4.0, field_of_view=40.0, size=(33, 50))
    cameras = cameras.to(device)
    found = diffiso.render(grid, cameras)
    (found.intensity.sum() + found.coverage.sum()).backward()
    for method in ("voxel", "sphere"):
        hits = diffiso.trace(grid, cameras=cameras, method=method)
        diffiso.shade(grid, hits, normals="trilinear").intensity.sum().backward()
    mesh = diffiso.marching_cubes(grid)
    points = mesh.vertices.detach().requires_grad_()
    for mode in ("contour", "soft"):
        diffiso.silhouette((points, mesh.faces), cameras, mode=mode).sum().backward()


if __name__ == "__main__":
    main()
