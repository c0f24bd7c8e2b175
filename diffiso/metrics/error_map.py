# SPDX-License-Identifier: Apache-2.0
"""Where on a surface the error is: distances to another one, dense enough to be coloured."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from diffiso.metrics.frames import bounds, used_vertices
from diffiso.metrics.inputs import checked_mesh
from diffiso.proximity import closest_points
from diffiso.types import Mesh

_MOST_FACES = 1 << 21  # beyond, edges stay long


class ErrorMap(NamedTuple):
    """A surface, and at every vertex its distance to another.

    Attributes:
        mesh: The surface, cut finer where its faces were large; in float64.
        distances: (V,) to the other surface's triangles, world units.
    """

    mesh: Mesh
    distances: Tensor


def error_map(mesh: Mesh, reference: Mesh, *, edge: float | None = None) -> ErrorMap:
    """Return a surface with its distance to another one at every vertex.

    A large face hides what happens between its corners, so edges are halved until they are short.
    The surface stays the same, and cuts go through both faces of an edge: nothing opens.

    Args:
        mesh: The surface to look at.
        reference: The surface to measure to.
        edge: Longest edge allowed, world units; by default a hundredth of the longest side of the
            mesh's bounding box. Refining ends early where it would take millions of faces.

    Raises:
        ValueError: If `edge` is not positive, or a mesh has no faces or no area or is not finite.
        ImportError: If the extra `pipelines` is not installed.

    Example:
        >>> from diffiso import isosurface, shapes
        >>> ball, egg = (isosurface(shapes.Sphere(r), -1.0, 1.0, 32) for r in (0.6, 0.7))
        >>> found = error_map(egg, ball)
        >>> len(found.mesh.vertices) == len(found.distances) > len(egg.vertices)
        True
    """
    mesh = checked_mesh("error_map", "mesh", mesh)
    reference = checked_mesh("error_map", "reference", reference)
    if edge is None:
        lower, upper = bounds(used_vertices(mesh))
        edge = float((upper - lower).max()) / 100
    if not edge > 0:
        raise ValueError(f"error_map: edge must be positive, got {edge}")
    vertices, faces = mesh.vertices, mesh.faces.long()
    while len(faces) < _MOST_FACES:
        before = len(vertices)
        vertices, faces = _halve_long_edges(vertices, faces, edge)
        if len(vertices) == before:
            break
    fine = Mesh(vertices, faces)
    return ErrorMap(fine, closest_points(reference, vertices).distances)


def _halve_long_edges(vertices: Tensor, faces: Tensor, edge: float) -> tuple[Tensor, Tensor]:
    """Return the mesh with a vertex in the middle of every edge that is longer than `edge`."""
    ahead = faces.roll(-1, dims=1)
    name = torch.minimum(faces, ahead) * len(vertices) + torch.maximum(faces, ahead)
    names, which = torch.unique(name, return_inverse=True)
    pairs = vertices[torch.stack([names // len(vertices), names % len(vertices)], dim=1)]
    long = (pairs[:, 0] - pairs[:, 1]).norm(dim=1) > edge
    middle = torch.where(long, len(vertices) + long.cumsum(dim=0) - 1, -1)[which]
    vertices = torch.cat([vertices, pairs[long].mean(dim=1)])
    # Turn each face so that a single cut lies on its first side, and a single whole side is last.
    cut = middle >= 0
    number = cut.sum(dim=1)
    first = torch.where(number == 1, cut.int().argmax(dim=1), 0)
    first = torch.where(number == 2, (cut.int().argmin(dim=1) + 1) % 3, first)
    turn = (first[:, None] + torch.arange(3, device=faces.device)) % 3
    a, b, c = faces.gather(1, turn).unbind(1)
    ab, bc, ca = middle.gather(1, turn).unbind(1)
    pieces = {
        0: [(a, b, c)],
        1: [(a, ab, c), (ab, b, c)],
        2: [(ab, b, bc), (a, ab, bc), (a, bc, c)],
        3: [(a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)],
    }
    parts = [
        torch.stack(piece, dim=1)[number == cuts] for cuts, many in pieces.items() for piece in many
    ]
    return vertices, torch.cat(parts)
