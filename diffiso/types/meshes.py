# SPDX-License-Identifier: Apache-2.0
"""Meshes and batches of meshes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from diffiso import geometry
from diffiso.geometry import SurfaceSamples


@dataclass(frozen=True, eq=False)
class Mesh:
    """A triangle mesh.

    Attributes:
        vertices: (V, 3), world units.
        faces: (F, 3), int64 or int32, counter-clockwise seen from outside.
        edges: (V,), int64: the grid edge each vertex lies on, as ``3 * node + axis``, where
            ``node`` is the flat index of the edge's lower node; None unless asked for.
        attributes: (V, C), what was interpolated at the vertices, such as colours; None unless
            asked for.

    Example:
        >>> import diffiso, torch
        >>> radius = torch.tensor(0.5, requires_grad=True)
        >>> mesh = diffiso.isosurface(lambda p: p.norm(dim=1) - radius, -1, 1, 64)
        >>> mesh.volume().backward()  # a sphere's area is its volume's derivative in the radius
        >>> bool((radius.grad / mesh.area() - 1).abs() < 1e-2)
        True
    """

    vertices: Tensor
    faces: Tensor
    edges: Tensor | None = None
    attributes: Tensor | None = None

    def area(self) -> Tensor:
        """Return the area of all faces, a scalar, differentiable in the vertices."""
        return geometry.surface_area(self.vertices, self.faces)

    def volume(self) -> Tensor:
        """Return the enclosed volume, a scalar, differentiable in the vertices.

        Positive where faces wind counter-clockwise seen from outside; meant for closed meshes.
        """
        return geometry.volume(self.vertices, self.faces)

    def face_normals(self) -> Tensor:
        """Return unit normals (F, 3), differentiable in the vertices; zero without an area."""
        return geometry.face_normals(self.vertices, self.faces)

    def vertex_normals(self) -> Tensor:
        """Return unit normals (V, 3), means over faces weighted by angle, differentiable."""
        return geometry.vertex_normals(self.vertices, self.faces)

    def sample(self, count: int, generator: torch.Generator | None = None) -> SurfaceSamples:
        """Return points spread uniformly by area, differentiable in the vertices.

        Args:
            count: How many points.
            generator: Source of the draws, on the CPU.

        Raises:
            ValueError: If `count` is negative or the mesh has no area.
        """
        return geometry.sample_surface(self.vertices, self.faces, count, generator)

    def euler_number(self) -> int:
        """Return V - E + F over used vertices: 2 for each closed part, 2 less for each handle."""
        return geometry.euler_number(self.faces)

    def open_edge_count(self) -> int:
        """Return how many edges do not run equally often in both directions; 0 if closed."""
        return geometry.open_edge_count(self.faces)

    def detach(self) -> Mesh:
        """Return the mesh cut from the graph that made it."""
        attributes = None if self.attributes is None else self.attributes.detach()
        return Mesh(self.vertices.detach(), self.faces, self.edges, attributes)

    def numpy(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return vertices and faces as arrays, detached and on the CPU."""
        return self.vertices.detach().cpu().numpy(), self.faces.cpu().numpy()

    def to(self, device: torch.device | str) -> Mesh:
        """Return the mesh on a device."""
        edges = None if self.edges is None else self.edges.to(device)
        attributes = None if self.attributes is None else self.attributes.to(device)
        return Mesh(self.vertices.to(device), self.faces.to(device), edges, attributes)


@dataclass(frozen=True, eq=False)
class MeshBatch:
    """The meshes of a batch of grids, packed one after the other.

    Iterating, or indexing with an int, gives each :class:`Mesh` with faces of its own; this waits
    for the offsets if they are on a GPU.

    Attributes:
        vertices: (V, 3), world units, of all meshes.
        faces: (F, 3), indices into all vertices.
        vertex_offsets: (B + 1,), int64: mesh b owns vertices ``vertex_offsets[b]`` to ``[b + 1]``.
        face_offsets: (B + 1,), int64.
        edges: (V,) or None, as in :class:`Mesh`; nodes are counted through the whole batch.
    """

    vertices: Tensor
    faces: Tensor
    vertex_offsets: Tensor
    face_offsets: Tensor
    edges: Tensor | None = None

    def area(self) -> Tensor:
        """Return the area (B,) of each mesh, differentiable in the vertices."""
        return self._sums(geometry.face_areas(self.vertices, self.faces))

    def volume(self) -> Tensor:
        """Return the enclosed volume (B,) of each mesh, differentiable in the vertices."""
        return self._sums(geometry.face_volumes(self.vertices, self.faces))

    def _sums(self, of_faces: Tensor) -> Tensor:
        """Return the sums over each mesh's faces."""
        mesh = torch.arange(len(self), device=of_faces.device)
        mesh = mesh.repeat_interleave(self.face_offsets.diff(), output_size=len(of_faces))
        return of_faces.new_zeros(len(self)).index_add(0, mesh, of_faces)

    def __len__(self) -> int:
        """Return the number of meshes."""
        return self.vertex_offsets.shape[0] - 1

    def __getitem__(self, index: int) -> Mesh:
        """Return one mesh."""
        count = len(self)
        if not -count <= index < count:
            raise IndexError(f"MeshBatch: index must be below {count}, got {index}")
        index %= count
        first, last = self.vertex_offsets[index : index + 2].tolist()
        begin, end = self.face_offsets[index : index + 2].tolist()
        edges = None if self.edges is None else self.edges[first:last]
        return Mesh(self.vertices[first:last], self.faces[begin:end] - first, edges)

    def __iter__(self) -> Iterator[Mesh]:
        """Yield every mesh."""
        return (self[b] for b in range(len(self)))
