# SPDX-License-Identifier: Apache-2.0
"""Meshes and cameras for silhouettes, and the ops called as tensors."""

import torch

import diffiso
from diffiso import Camera

NEAR = 1e-3


def cameras(count=2, size=(20, 28), distance=4.0, dtype=torch.float64, field_of_view=50.0):
    """Around the origin, off the axes."""
    turns = [20.0 + 360 / count * k for k in range(count)]
    return Camera.orbit(turns, 15.0, distance, field_of_view=field_of_view, size=size, dtype=dtype)


def soup(generator, vertices=14, faces=12, dtype=torch.float64):
    """Random triangles around the origin that share vertices, of either winding."""
    points = torch.randn((vertices, 3), dtype=torch.float64, generator=generator) * 0.5
    corners = torch.randint(0, vertices, (faces, 3), generator=generator)
    return points.to(dtype), corners


def ball(cells=32, dtype=torch.float64, radius=0.5):
    mesh = diffiso.isosurface(lambda p: p.norm(dim=1) - radius, -1, 1, cells, dtype=dtype)
    return mesh.vertices.detach(), mesh.faces


def cube(dtype=torch.float64):
    """Half a unit to all sides, outward faces."""
    corners = torch.tensor(
        [[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)], dtype=dtype
    )
    sides = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = [face for a, b, c, d in sides for face in ((a, b, c), (a, c, d))]
    return corners, torch.tensor(faces)


def subdivided(vertices, faces):
    """Every face cut into four at the middles of its edges, which neighbours share."""
    edges = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    unique, place = edges.sort(dim=1)[0].unique(dim=0, return_inverse=True)
    ab, bc, ca = (place + len(vertices)).view(3, -1)
    a, b, c = faces.unbind(1)
    parts = [(a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca)]
    middles = vertices[unique].mean(dim=1)
    return torch.cat([vertices, middles]), torch.cat([torch.stack(p, dim=1) for p in parts])


def arguments(vertices, faces, projections, size):
    """Those that both ops share, of one mesh."""
    offsets = (torch.tensor([0, len(rows)]) for rows in (vertices, faces))
    return (vertices, faces, projections, *offsets, list(size), NEAR)


def smooth_weights(generator, count, size, dtype=torch.float64):
    """Pictures of weights that hardly change from pixel to pixel."""
    coarse = torch.rand((count, 1, 4, 4), generator=generator, dtype=torch.float64)
    fine = torch.nn.functional.interpolate(coarse, size=size, mode="bicubic", align_corners=True)
    return fine[:, 0].to(dtype)
