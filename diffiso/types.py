# SPDX-License-Identifier: Apache-2.0
"""The things ops take and give: grids, meshes and batches of meshes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

Vector3 = tuple[float, float, float]


def as_vector3(name: str, value: float | Sequence[float] | Tensor) -> Vector3:
    """Return three Python floats from a number, a sequence of three or a tensor of shape (3,)."""
    if isinstance(value, Tensor):
        value = value.detach().tolist()
    values = [float(value)] * 3 if isinstance(value, int | float) else [float(v) for v in value]
    if len(values) != 3 or not all(abs(v) < math.inf for v in values):
        raise ValueError(f"{name} must be a number or three finite numbers, got {value}")
    return values[0], values[1], values[2]


@dataclass(frozen=True, eq=False)
class Grid:
    """Samples of a field at the nodes of a box.

    Node (i, j, k) sits at ``lower + (i, j, k) * spacing`` in world units; z is contiguous. Without
    bounds a grid is in index coordinates: ``lower`` 0, ``spacing`` 1.

    Attributes:
        values: (X, Y, Z) or (B, X, Y, Z), floating.
        lower: World position of node (0, 0, 0).
        spacing: World distance of neighbouring nodes along each axis.

    Raises:
        TypeError: If ``values`` is no tensor.
        ValueError: If ``lower`` is not finite or ``spacing`` not positive.

    Example:
        >>> import torch, diffiso
        >>> diffiso.Grid.from_bounds(torch.zeros(5, 3, 3), -1, 1).spacing
        (0.5, 1.0, 1.0)
    """

    values: Tensor
    lower: Vector3 = (0.0, 0.0, 0.0)
    spacing: Vector3 = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        """Bring the bounds to floats and check them."""
        if not isinstance(self.values, Tensor):
            raise TypeError(f"Grid: values must be a tensor, got {type(self.values).__name__}")
        object.__setattr__(self, "lower", as_vector3("Grid: lower", self.lower))
        object.__setattr__(self, "spacing", as_vector3("Grid: spacing", self.spacing))
        if min(self.spacing) <= 0:
            raise ValueError(f"Grid: spacing must be positive, got {self.spacing}")

    @classmethod
    def from_bounds(
        cls,
        values: Tensor,
        lower: float | Sequence[float] | Tensor,
        upper: float | Sequence[float] | Tensor,
    ) -> Grid:
        """Return a grid whose first node sits at ``lower`` and whose last at ``upper``.

        Args:
            values: (X, Y, Z) or (B, X, Y, Z), at least 2 nodes along each axis.
            lower: World position of the first node: three numbers, or one for all axes.
            upper: World position of the last node.

        Raises:
            ValueError: If ``upper`` is not above ``lower`` on every axis, or an axis has one node.
        """
        if values.dim() not in (3, 4) or min(values.shape[-3:]) < 2:
            raise ValueError(
                "Grid.from_bounds: values must be (X, Y, Z) or (B, X, Y, Z) with at least 2 nodes "
                f"along every axis, got {tuple(values.shape)}"
            )
        low = as_vector3("Grid.from_bounds: lower", lower)
        high = as_vector3("Grid.from_bounds: upper", upper)
        if any(a >= b for a, b in zip(low, high, strict=True)):
            raise ValueError(f"Grid.from_bounds: upper must be above lower, got {low} and {high}")
        nodes = values.shape[-3:]
        spacing = [(b - a) / (n - 1) for a, b, n in zip(low, high, nodes, strict=True)]
        return cls(values, low, (spacing[0], spacing[1], spacing[2]))

    @property
    def upper(self) -> Vector3:
        """World position of the last node."""
        x, y, z = (
            a + (n - 1) * h
            for a, n, h in zip(self.lower, self.values.shape[-3:], self.spacing, strict=True)
        )
        return x, y, z

    def to(self, *args: Any, **kwargs: Any) -> Grid:
        """Return the grid with ``values.to(...)``."""
        return Grid(self.values.to(*args, **kwargs), self.lower, self.spacing)


@dataclass(frozen=True, eq=False)
class Mesh:
    """A triangle mesh.

    Attributes:
        vertices: (V, 3), world units.
        faces: (F, 3), int64 or int32, counter-clockwise seen from outside.
        edges: (V,), int64: the grid edge each vertex lies on, as ``3 * node + axis``, where
            ``node`` is the flat index of the edge's lower node; None unless asked for.
    """

    vertices: Tensor
    faces: Tensor
    edges: Tensor | None = None

    def numpy(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return vertices and faces as arrays, detached and on the CPU."""
        return self.vertices.detach().cpu().numpy(), self.faces.cpu().numpy()

    def to(self, device: torch.device | str) -> Mesh:
        """Return the mesh on a device."""
        edges = None if self.edges is None else self.edges.to(device)
        return Mesh(self.vertices.to(device), self.faces.to(device), edges)


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
