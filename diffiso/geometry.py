# SPDX-License-Identifier: Apache-2.0
"""What triangles have: areas, normals, volume, topology, points spread over them.

Plain torch on vertices (V, 3) and faces (F, 3); `diffiso.Mesh` offers the same as methods.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class SurfaceSamples(NamedTuple):
    """Points on a surface.

    Attributes:
        points: (N, 3), world units.
        faces: (N,) int64, the face each lies on.
        barycentric: (N, 3), weights of that face's corners.
    """

    points: Tensor
    faces: Tensor
    barycentric: Tensor


def face_areas(vertices: Tensor, faces: Tensor) -> Tensor:
    """Return the area (F,) of every face, differentiable in the vertices.

    A face without area has gradient zero.
    """
    return _length(_cross(vertices[faces]))[..., 0] / 2


def face_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Return unit normals (F, 3), outward where faces wind counter-clockwise seen from outside.

    Differentiable in the vertices; a face without area has normal and gradient zero.
    """
    return _unit(_cross(vertices[faces]))


def vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Return unit normals (V, 3): means over the faces around a vertex, weighted by their angles.

    Differentiable in the vertices; zero where no face with an area touches the vertex.

    Source:
        Thuermer and Wuethrich, Computing vertex normals from polygonal facets, 1998.
    """
    corners = vertices[faces]
    cross = _cross(corners)
    ahead, behind = corners.roll(-1, dims=1) - corners, corners.roll(1, dims=1) - corners
    flat = (cross == 0).all(dim=1)[:, None]
    # |cross| / 2 is the face's area, and the same at each of its corners.
    sine = torch.where(flat, 1.0, _length(cross))
    cosine = torch.where(flat, 1.0, (ahead * behind).sum(dim=2))
    weighted = torch.atan2(sine, cosine)[..., None] * _unit(cross)[:, None]
    total = torch.zeros_like(vertices).index_add(0, faces.flatten(), weighted.flatten(0, 1))
    return _unit(total)


def surface_area(vertices: Tensor, faces: Tensor) -> Tensor:
    """Return the area of all faces, a scalar, differentiable in the vertices."""
    return face_areas(vertices, faces).sum()


def volume(vertices: Tensor, faces: Tensor) -> Tensor:
    """Return the volume that a closed surface encloses, a scalar, differentiable in the vertices.

    Positive where faces wind counter-clockwise seen from outside. An open surface is closed by a
    cone to the middle of its vertices.
    """
    return face_volumes(vertices, faces).sum()


def face_volumes(vertices: Tensor, faces: Tensor) -> Tensor:
    """Return signed volumes (F,) between each face and the middle of all vertices."""
    # Near the middle differences of large products lose the fewest digits.
    a, b, c = (vertices - vertices.detach().mean(dim=0))[faces].unbind(1)
    sixfold: Tensor = (a * torch.linalg.cross(b, c)).sum(dim=1)
    return sixfold / 6


def sample_surface(
    vertices: Tensor, faces: Tensor, count: int, generator: torch.Generator | None = None
) -> SurfaceSamples:
    """Return points spread uniformly by area, differentiable in the vertices.

    Which face a point lies on and where on it counts as a constant.

    Args:
        vertices: (V, 3).
        faces: (F, 3).
        count: How many points.
        generator: Source of the draws, on the CPU.

    Raises:
        ValueError: If `count` is negative or the surface has no area.
    """
    if count < 0:
        raise ValueError(f"sample_surface: count must not be negative, got {count}")
    corners = vertices[faces]
    area = _cross(corners.detach()).norm(dim=1).cpu().double()
    total = area.cumsum(dim=0)
    if len(total) == 0 or not 0 < float(total[-1]) < torch.inf:
        raise ValueError(
            f"sample_surface: mesh must have a finite area, got {len(total)} faces "
            f"of {float(total[-1]) / 2 if len(total) else 0:g} in all"
        )
    draws = torch.rand(count, 3, generator=generator, dtype=torch.float64)
    chosen = torch.searchsorted(total, draws[:, 0] * total[-1], right=True)
    # Rounding may lead past the end, and from there to a face without area.
    chosen = chosen.clamp(max=int(area.nonzero()[-1])).to(vertices.device)
    root, share = draws[:, 1].sqrt(), draws[:, 2]
    weights = torch.stack([1 - root, root * (1 - share), root * share], dim=1).to(vertices)
    points = (corners[chosen] * weights[..., None]).sum(dim=1)
    return SurfaceSamples(points, chosen, weights)


def euler_number(faces: Tensor) -> int:
    """Return V - E + F over used vertices: 2 for each closed part, 2 less for each handle."""
    keys, _ = _edge_keys(faces)
    return len(torch.unique(faces)) - len(torch.unique(keys)) + len(faces)


def open_edge_count(faces: Tensor) -> int:
    """Return how many edges do not run equally often in both directions; 0 if closed."""
    keys, direction = _edge_keys(faces)
    edges, where = torch.unique(keys, return_inverse=True)
    balance = torch.zeros(len(edges), dtype=torch.int64, device=faces.device)
    return int(balance.index_add_(0, where, direction).count_nonzero())


def _edge_keys(faces: Tensor) -> tuple[Tensor, Tensor]:
    """Return one number for each face's three edges, equal for equal ends, and their directions.

    Directions are 1 from the lower to the higher vertex, -1 back, 0 within a vertex.
    """
    faces = faces.long()
    begin, end = faces.flatten(), faces.roll(-1, dims=1).flatten()
    count = int(faces.max()) + 1 if len(faces) else 1
    keys = torch.minimum(begin, end) * count + torch.maximum(begin, end)
    return keys, (end - begin).sign()


def _cross(corners: Tensor) -> Tensor:
    """Return normals (F, 3) of length twice the area of corners (F, 3, 3)."""
    normals: Tensor = torch.linalg.cross(
        corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    )
    return normals


def _length(vectors: Tensor) -> Tensor:
    """Return lengths (..., 1), with gradient zero where they are zero."""
    squared = vectors.square().sum(dim=-1, keepdim=True)
    some = squared > 0
    return torch.where(some, torch.where(some, squared, 1.0).sqrt(), 0.0)


def _unit(vectors: Tensor) -> Tensor:
    """Return vectors of length one; a zero vector stays zero, with gradient zero."""
    length = _length(vectors)
    some = length > 0
    return torch.where(some, vectors / torch.where(some, length, 1.0), 0.0)
