# SPDX-License-Identifier: Apache-2.0
"""What lies near: nearest points of clouds and meshes, and which side of a mesh a point is on.

None of these is differentiable: a nearest point counts as a constant, which for distances is exact
to first order. Needs the extra `pipelines`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffiso.extras import require
from diffiso.types import Mesh

_PAIRS = 1 << 26  # distances held at a time where every pair is measured


class Neighbors(NamedTuple):
    """The nearest points of a cloud to each of a set of queries, nearest first.

    Attributes:
        distances: (P, k), world units.
        indices: (P, k) int64, into the cloud.
    """

    distances: Tensor
    indices: Tensor


class ClosestPoints(NamedTuple):
    """The nearest surface points of a set of queries.

    Attributes:
        points: (P, 3), world units.
        distances: (P,), unsigned.
        faces: (P,) int64, the face each lies on.
        barycentric: (P, 3), weights of that face's corners.
    """

    points: Tensor
    distances: Tensor
    faces: Tensor
    barycentric: Tensor


@torch.no_grad()
def nearest_neighbors(points: Tensor, cloud: Tensor, count: int = 1) -> Neighbors:
    """Return the points of a cloud that are nearest to each query.

    On the CPU by scipy's KD-tree, on CUDA by measuring every pair, in chunks.

    Args:
        points: (P, D) queries.
        cloud: (N, D), on the same device.
        count: How many neighbours of each.

    Returns:
        Distances and indices, (P, count) each, distances in the dtype of the queries.

    Raises:
        ValueError: If shapes do not fit, values are no floats or not finite, or the cloud has fewer
            points than asked for.
        ImportError: If the extra `pipelines` is not installed.

    Example:
        >>> cloud = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
        >>> nearest_neighbors(torch.tensor([[0.75, 0.0, 0.0]]), cloud)
        Neighbors(distances=tensor([[0.2500]]), indices=tensor([[1]]))
    """
    _check_cloud("points", points)
    _check_cloud("cloud", cloud)
    if points.shape[1] != cloud.shape[1]:
        raise ValueError(
            "nearest_neighbors: points and cloud must have equal dimensions, "
            f"got {points.shape[1]} and {cloud.shape[1]}"
        )
    if not 1 <= count <= len(cloud):
        raise ValueError(
            f"nearest_neighbors: count must be 1 to the cloud's {len(cloud)} points, got {count}"
        )
    if points.device.type != "cpu":
        return _measure_all(points, cloud, count)
    tree = require("scipy.spatial").cKDTree(cloud.double().numpy())
    distances, indices = tree.query(points.double().numpy(), k=[*range(1, count + 1)], workers=-1)
    return Neighbors(torch.from_numpy(distances).to(points), torch.from_numpy(indices).long())


def _measure_all(points: Tensor, cloud: Tensor, count: int) -> Neighbors:
    rows = max(1, _PAIRS // len(cloud))
    parts = []
    for part in torch.split(points, rows):
        # The matrix product's way of distances would lose half the digits.
        pairs = torch.cdist(part, cloud, compute_mode="donot_use_mm_for_euclid_dist")
        parts.append(pairs.topk(count, dim=1, largest=False))
    if not parts:
        return Neighbors(
            points.new_empty(0, count),
            torch.empty(0, count, dtype=torch.int64, device=points.device),
        )
    return Neighbors(torch.cat([p.values for p in parts]), torch.cat([p.indices for p in parts]))


class SurfaceTree:
    """A mesh that is asked for nearest points again and again: its hierarchy of boxes is kept.

    Making it takes longer than some thousand queries. What :func:`closest_points` and
    `diffiso.losses` measure against it, they measure against a surface at rest.

    Attributes:
        mesh: As it was given; its vertices must not change.

    Example:
        >>> import diffiso
        >>> tree = SurfaceTree(diffiso.isosurface(diffiso.shapes.Sphere(0.5), -1, 1, 16))
        >>> closest_points(tree, torch.tensor([[0.0, 0.0, 2.0]])).distances
        tensor([1.5000])
    """

    def __init__(self, mesh: Mesh) -> None:
        """Make the hierarchy.

        Raises:
            ValueError: If the mesh has no faces, vertices that are not finite, or indices out of
                range.
            ImportError: If the extra `pipelines` is not installed.
        """
        self.mesh = Mesh(mesh.vertices.detach(), mesh.faces)
        self._vertices, self._faces = mesh_arrays(mesh)
        self._boxes = require("igl").AABB()
        self._boxes.init(self._vertices, self._faces)

    def _nearest(self, points: Tensor) -> ClosestPoints:
        queries = _queries("closest_points", points)
        squared, face, nearest = self._boxes.squared_distance(self._vertices, self._faces, queries)
        squared, face = np.atleast_1d(squared), np.atleast_1d(face)
        nearest = nearest.reshape(-1, 3)
        weights = _barycentric(nearest, self._vertices[self._faces[face]])
        return ClosestPoints(
            torch.from_numpy(nearest).to(points),
            torch.from_numpy(np.sqrt(np.maximum(squared, 0))).to(points),
            torch.from_numpy(face.astype(np.int64)).to(points.device),
            torch.from_numpy(weights).to(points),
        )


def closest_points(mesh: Mesh | SurfaceTree, points: Tensor) -> ClosestPoints:
    """Return the points of a mesh nearest to queries, exact to triangles.

    By libigl's bounding volume hierarchy, on the CPU in float64.

    Args:
        mesh: Triangles, open or closed; a :class:`SurfaceTree` saves time where the same are asked
            again.
        points: (P, 3) queries in world coordinates.

    Returns:
        Points, unsigned distances and barycentrics in the dtype and on the device of the queries.

    Raises:
        ValueError: If the mesh has no faces, vertices or queries that are not finite, or indices
            out of range, or the queries are no floats.
        ImportError: If the extra `pipelines` is not installed.
    """
    tree = mesh if isinstance(mesh, SurfaceTree) else SurfaceTree(mesh)
    return tree._nearest(points)


def winding_numbers(mesh: Mesh, points: Tensor) -> Tensor:
    """Return how often a mesh winds around each query: about 1 inside, 0 outside.

    By libigl's fast winding numbers, on the CPU in float64: off by up to some percent near the
    surface, so compare with 1/2.

    Args:
        mesh: Triangles, wound counter-clockwise seen from outside.
        points: (P, 3) queries in world coordinates.

    Returns:
        (P,) in the dtype and on the device of the queries.

    Raises:
        ValueError: As :func:`closest_points`.
        ImportError: If the extra `pipelines` is not installed.
    """
    vertices, faces = mesh_arrays(mesh)
    queries = _queries("winding_numbers", points)
    numbers = require("igl").fast_winding_number(vertices, faces, queries)
    return torch.from_numpy(np.atleast_1d(numbers)).to(points)


def mesh_arrays(mesh: Mesh, name: str = "mesh") -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return vertices and faces that can be worked with, contiguous, as libigl wants them.

    Args:
        mesh: Triangles.
        name: What errors call it, for example a file name.

    Raises:
        ValueError: If there are no faces, vertices are not finite, or indices are out of range.
    """
    given_vertices, given_faces = mesh.numpy()
    vertices = np.ascontiguousarray(given_vertices, dtype=np.float64)
    faces = np.ascontiguousarray(given_faces, dtype=np.int64)
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
    return vertices, faces


def _queries(function: str, points: Tensor) -> NDArray[Any]:
    if points.dim() != 2 or points.shape[1] != 3:
        raise ValueError(f"{function}: points must be (P, 3), got {tuple(points.shape)}")
    if not points.is_floating_point():  # distances take the dtype of the queries
        raise ValueError(f"{function}: points must be floating point, got {points.dtype}")
    queries = np.ascontiguousarray(points.detach().to("cpu", torch.float64).numpy())
    if not np.isfinite(queries).all():
        raise ValueError(f"{function}: points must be finite, got NaN or infinity")
    return queries


def _check_cloud(name: str, cloud: Tensor) -> None:
    if cloud.dim() != 2:
        raise ValueError(f"nearest_neighbors: {name} must be (P, D), got {tuple(cloud.shape)}")
    if not cloud.is_floating_point():
        raise ValueError(f"nearest_neighbors: {name} must be floating point, got {cloud.dtype}")
    if not bool(cloud.isfinite().all()):
        raise ValueError(f"nearest_neighbors: {name} must be finite, got NaN or infinity")


def _barycentric(points: NDArray[np.float64], corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return barycentrics of points in triangles; they lead back to the point, however thin these.

    First the place along the longest edge, which is always well known, then the share of the corner
    beyond it, from 0 to what that place leaves room for. Without area, that share moves the point
    by nothing.
    """
    sides = np.roll(corners, -1, axis=1) - corners
    longest = np.einsum("fij,fij->fi", sides, sides).argmax(axis=1)
    order = (longest[:, None] + np.arange(3)) % 3
    start, end, apex = np.moveaxis(np.take_along_axis(corners, order[..., None], axis=1), 1, 0)
    base = end - start
    place, foot = (_share(x - start, base) for x in (points, apex))
    height = apex - start - foot[:, None] * base
    before = place < foot
    room = np.where(before, place, 1 - place) / np.where(before, foot, np.maximum(1 - foot, 1e-300))
    across = np.minimum(_share(points - start - place[:, None] * base, height), room)
    along = place - across * foot
    weights = np.stack([1 - along - across, along, across], axis=1).clip(0, 1)
    barycentric = np.empty_like(weights)
    np.put_along_axis(barycentric, order, weights, axis=1)
    return barycentric


def _share(vectors: NDArray[np.float64], along: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how far vectors reach along others, from 0 to 1; 0 along those of no length."""
    squared = np.einsum("ij,ij->i", along, along)
    reach = np.einsum("ij,ij->i", vectors, along) / np.where(squared > 0, squared, 1.0)
    return np.asarray(reach.clip(0, 1))
