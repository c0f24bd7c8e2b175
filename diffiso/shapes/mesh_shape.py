# SPDX-License-Identifier: Apache-2.0
"""A closed triangle mesh as a shape: signed distances, closest points and surface samples."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffiso.extras import require
from diffiso.shapes.csg import Shape
from diffiso.types import Mesh

_CHUNK = 1 << 20  # points per call of libigl: bounds its scratch memory


class ClosestPoints(NamedTuple):
    """The nearest surface points of a set of queries."""

    points: Tensor  # (P, 3)
    distances: Tensor  # (P,) unsigned
    faces: Tensor  # (P,) int64
    barycentric: Tensor  # (P, 3) weights of the face's corners


class SurfaceSamples(NamedTuple):
    """Points on a mesh, uniform by area."""

    points: Tensor  # (N, 3)
    faces: Tensor  # (N,) int64


class MeshShape(Shape):
    """The solid bounded by a closed triangle mesh; exact.

    Distances come from libigl's bounding volume hierarchy, signs from its fast winding numbers;
    computed on the CPU in float64. Differentiable in the points (not in the mesh). The winding may
    point in or out.

    Args:
        mesh: Closed triangles: every edge runs as often in one direction as in the other.
        name: What errors call it, for example a file name.

    Raises:
        ValueError: If the mesh has no faces, non-finite vertices, indices out of range, or open
            edges.
        ImportError: If the extra `pipelines` is not installed.
    """

    def __init__(self, mesh: Mesh, *, name: str = "mesh") -> None:
        vertices, faces = mesh.numpy()
        self.vertices = np.ascontiguousarray(vertices, dtype=np.float64)
        self.faces = np.ascontiguousarray(faces, dtype=np.int64)
        check_mesh(self.vertices, self.faces, name)
        missing = open_edge_count(self.faces)
        if missing:
            raise ValueError(
                f"{name}: an inside needs a closed surface, got {missing} open or misoriented edges"
            )
        if _signed_volume(self.vertices, self.faces) < 0:
            self.faces = np.ascontiguousarray(self.faces[:, ::-1])

    @property
    def lower(self) -> tuple[float, float, float]:
        """Return the lowest corner of the bounding box."""
        x, y, z = self.vertices[self.faces.ravel()].min(axis=0).tolist()
        return x, y, z

    @property
    def upper(self) -> tuple[float, float, float]:
        """Return the highest corner of the bounding box."""
        x, y, z = self.vertices[self.faces.ravel()].max(axis=0).tolist()
        return x, y, z

    def _field(self, points: Tensor) -> Tensor:
        igl = require("igl")
        queries = points.detach().reshape(-1, 3).to("cpu", torch.float64).numpy()
        kind = igl.SignedDistanceType.SIGNED_DISTANCE_TYPE_FAST_WINDING_NUMBER
        values = np.empty(len(queries))
        normals = np.empty((len(queries), 3)) if points.requires_grad else None
        for start in range(0, len(queries), _CHUNK):
            part = np.ascontiguousarray(queries[start : start + _CHUNK])
            rough, face, nearest, _ = igl.signed_distance(part, self.vertices, self.faces, kind)
            # libigl scales distances by an approximate winding number: only their signs hold.
            offset = part - nearest
            distance = np.where(rough < 0, -1.0, 1.0) * np.linalg.norm(offset, axis=1)
            values[start : start + _CHUNK] = distance
            if normals is not None:
                normals[start : start + _CHUNK] = self._normals(offset, distance, face)
        result = torch.from_numpy(values).to(points).reshape(points.shape[:-1])
        if normals is None:
            return result
        slope = torch.from_numpy(normals).to(points).reshape(points.shape)
        return result + ((points - points.detach()) * slope).sum(dim=-1)

    def _normals(
        self, offset: NDArray[np.float64], distance: NDArray[np.float64], face: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return the field's gradient: away from the surface, on it the face's normal."""
        corners = self.vertices[self.faces[face]]
        flat = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), np.finfo(np.float64).tiny)
        away = np.abs(distance[:, None]) > 1e-9 * np.ptp(self.vertices, axis=0).max()
        return np.where(away, offset / np.where(away, distance[:, None], 1.0), flat)


def check_mesh(vertices: NDArray[np.float64], faces: NDArray[np.int64], name: str = "mesh") -> None:
    """Check that triangles can be worked with.

    Raises:
        ValueError: If there are no faces, vertices are not finite, or indices are out of range.
    """
    if len(faces) == 0:
        raise ValueError(f"{name}: mesh must have faces, got none")
    if not np.isfinite(vertices).all():
        bad = int((~np.isfinite(vertices)).any(axis=1).sum())
        raise ValueError(f"{name}: vertices must be finite, got {bad} that are not")
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise ValueError(
            f"{name}: faces must index the {len(vertices)} vertices, "
            f"got indices from {faces.min()} to {faces.max()}"
        )


def open_edge_count(faces: NDArray[np.int64]) -> int:
    """Return how many edges do not run equally often in both directions; 0 if closed."""
    edges = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    forward = edges[:, 0] < edges[:, 1]
    keys, where = np.unique(np.sort(edges, axis=1), axis=0, return_inverse=True)
    balance = np.zeros(len(keys), dtype=np.int64)
    np.add.at(balance, where.ravel(), np.where(forward, 1, -1))
    return int(np.count_nonzero(balance[keys[:, 0] != keys[:, 1]]))


def closest_points(mesh: Mesh, points: Tensor) -> ClosestPoints:
    """Return the points of a mesh nearest to queries, exact to triangles; not differentiable.

    Args:
        mesh: Triangles, open or closed.
        points: (P, 3) queries in world coordinates.

    Returns:
        Points, unsigned distances and barycentrics in the dtype of the queries.

    Raises:
        ValueError: If the mesh has no faces, non-finite vertices or indices out of range.
        ImportError: If the extra `pipelines` is not installed.
    """
    igl = require("igl")
    vertices, faces = mesh.numpy()
    vertices = np.ascontiguousarray(vertices, dtype=np.float64)
    faces = np.ascontiguousarray(faces, dtype=np.int64)
    check_mesh(vertices, faces)
    queries = np.ascontiguousarray(points.detach().to("cpu", torch.float64).numpy())
    squared, face, nearest = igl.point_mesh_squared_distance(queries, vertices, faces)
    weights = _barycentric(nearest, vertices[faces[face]])
    return ClosestPoints(
        torch.from_numpy(nearest).to(points),
        torch.from_numpy(np.sqrt(np.maximum(squared, 0))).to(points),
        torch.from_numpy(face.astype(np.int64)).to(points.device),
        torch.from_numpy(weights).to(points),
    )


def sample_surface(
    mesh: Mesh, count: int, generator: torch.Generator | None = None
) -> SurfaceSamples:
    """Return points spread uniformly by area over a mesh, differentiable in its vertices.

    Args:
        mesh: Triangles.
        count: How many points.
        generator: Source of the draws, on the CPU.

    Raises:
        ValueError: If the mesh has no area.
    """
    corners = mesh.vertices[mesh.faces]
    edges = corners[:, 1:] - corners[:, :1]
    area = torch.linalg.cross(edges[:, 0], edges[:, 1]).detach().norm(dim=1).cpu().double()
    total = area.cumsum(dim=0)
    if len(total) == 0 or not float(total[-1]) > 0:
        raise ValueError(
            f"sample_surface: mesh must have an area, got {len(total)} faces without any"
        )
    draws = torch.rand(count, 3, generator=generator, dtype=torch.float64)
    faces = torch.searchsorted(total, draws[:, 0] * total[-1], right=True).clamp(max=len(total) - 1)
    faces = faces.to(mesh.vertices.device)
    root, share = draws[:, 1].sqrt().to(corners)[:, None], draws[:, 2].to(corners)[:, None]
    chosen = corners[faces]
    points = (
        (1 - root) * chosen[:, 0] + root * (1 - share) * chosen[:, 1] + root * share * chosen[:, 2]
    )
    return SurfaceSamples(points, faces)


def _signed_volume(vertices: NDArray[np.float64], faces: NDArray[np.int64]) -> float:
    corners = vertices[faces] - vertices[faces[0, 0]]
    return float(np.einsum("ij,ij->", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])) / 6)


def _barycentric(points: NDArray[np.float64], corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return barycentrics of points in triangles; without area, those of the first corner."""
    first, second = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    local = points - corners[:, 0]
    a, b, c = (
        np.einsum("ij,ij->i", x, y) for x, y in ((first, first), (first, second), (second, second))
    )
    d, e = np.einsum("ij,ij->i", local, first), np.einsum("ij,ij->i", local, second)
    determinant = a * c - b * b
    flat = determinant <= 0
    safe = np.where(flat, 1.0, determinant)
    v, w = np.where(flat, 0.0, (c * d - b * e) / safe), np.where(flat, 0.0, (a * e - b * d) / safe)
    weights = np.stack([1 - v - w, v, w], axis=1).clip(0, 1)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))
