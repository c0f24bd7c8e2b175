# SPDX-License-Identifier: Apache-2.0
"""A closed triangle mesh as a shape."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffiso.extras import require
from diffiso.geometry import open_edge_count
from diffiso.proximity import mesh_arrays
from diffiso.shapes.csg import Shape
from diffiso.types import Mesh

_CHUNK = 1 << 20  # points per call of libigl: bounds its scratch memory


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
        self.vertices, self.faces = mesh_arrays(mesh, name)
        missing = open_edge_count(torch.from_numpy(self.faces))
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


def _signed_volume(vertices: NDArray[np.float64], faces: NDArray[np.int64]) -> float:
    corners = vertices[faces] - vertices[faces[0, 0]]
    return float(np.einsum("ij,ij->", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])) / 6)
