# SPDX-License-Identifier: Apache-2.0
"""The things ops take and give: dense and sparse grids, meshes and batches of meshes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from diffiso import geometry
from diffiso.geometry import SurfaceSamples

Vector3 = tuple[float, float, float]
BRICK_SIZE = 8  # nodes of a brick along each axis, as in csrc/core/bricks.h


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
class BrickGrid:
    """Samples of a field where they matter: bricks of 8 x 8 x 8 nodes of a box.

    Node (i, j, k) of the box is node (i % 8, j % 8, k % 8) of the brick that stands at (i // 8,
    j // 8, k // 8) of the table, and sits at ``lower + (i, j, k) * spacing`` in world units. A node
    in no brick is absent, and so is one whose value is NaN. :func:`marching_cubes` and
    :func:`sample_grid` take such a grid and treat it as the dense one with NaN at all absent nodes.

    Attributes:
        values: (R, 8, 8, 8), floating; what lies beyond the box counts for nothing.
        table: (TX, TY, TZ), int32: which brick stands where, -1 for none; as many as cover
            ``nodes``.
        coordinates: (R, 3), int32: where in the table each brick stands.
        nodes: Number of nodes of the box along each axis.
        lower: World position of node (0, 0, 0).
        spacing: World distance of neighbouring nodes along each axis.

    Raises:
        TypeError: If a tensor has another dtype.
        ValueError: If shapes do not fit, ``lower`` is not finite or ``spacing`` not positive.

    Example:
        >>> import torch, diffiso
        >>> dense = diffiso.sample_field(lambda p: p.norm(dim=1) - 0.5, -1, 1, 32)
        >>> near = dense.values.abs() < 0.1
        >>> band = diffiso.Grid(dense.values.where(near, torch.nan), dense.lower, dense.spacing)
        >>> bricks = diffiso.BrickGrid.from_grid(band)
        >>> len(diffiso.marching_cubes(bricks).faces) == len(diffiso.marching_cubes(dense).faces)
        True
    """

    values: Tensor
    table: Tensor
    coordinates: Tensor
    nodes: tuple[int, int, int]
    lower: Vector3 = (0.0, 0.0, 0.0)
    spacing: Vector3 = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        """Bring the bounds to floats and check shapes and dtypes."""
        object.__setattr__(self, "lower", as_vector3("BrickGrid: lower", self.lower))
        object.__setattr__(self, "spacing", as_vector3("BrickGrid: spacing", self.spacing))
        if min(self.spacing) <= 0:
            raise ValueError(f"BrickGrid: spacing must be positive, got {self.spacing}")
        if min(self.nodes) < 2:
            raise ValueError(f"BrickGrid: nodes must be at least 2 on every axis, got {self.nodes}")
        shapes = {
            "values": (self.values, (len(self.coordinates), *(BRICK_SIZE,) * 3)),
            "table": (self.table, tuple(-(-n // BRICK_SIZE) for n in self.nodes)),
            "coordinates": (self.coordinates, (len(self.coordinates), 3)),
        }
        for name, (tensor, shape) in shapes.items():
            if tuple(tensor.shape) != shape:
                raise ValueError(f"BrickGrid: {name} must be {shape}, got {tuple(tensor.shape)}")
            if name != "values" and tensor.dtype != torch.int32:
                raise TypeError(f"BrickGrid: {name} must be torch.int32, got {tensor.dtype}")
        if not self.values.is_floating_point():
            raise TypeError(f"BrickGrid: values must be floating, got {self.values.dtype}")

    @classmethod
    def from_bricks(
        cls,
        values: Tensor,
        coordinates: Tensor,
        nodes: tuple[int, int, int],
        lower: Vector3 = (0.0, 0.0, 0.0),
        spacing: Vector3 = (1.0, 1.0, 1.0),
    ) -> BrickGrid:
        """Return the grid of some bricks, in their order.

        Args:
            values: (R, 8, 8, 8), differentiable.
            coordinates: (R, 3), whole numbers: where each brick stands, in bricks.
            nodes: Number of nodes of the box along each axis.
            lower: World position of node (0, 0, 0).
            spacing: World distance of neighbouring nodes along each axis.

        Raises:
            ValueError: If two bricks stand in one place or one stands outside the box.
        """
        tiles = [-(-n // BRICK_SIZE) for n in nodes]
        place = coordinates.long()
        inside = (place >= 0) & (place < place.new_tensor(tiles))
        if not inside.all():
            came = place[~inside.all(dim=1)][0].tolist()
            raise ValueError(f"BrickGrid: coordinates must be below {tuple(tiles)}, got {came}")
        flat = (place[:, 0] * tiles[1] + place[:, 1]) * tiles[2] + place[:, 2]
        if len(flat.unique()) != len(flat):
            raise ValueError("BrickGrid: coordinates must differ, got two bricks in one place")
        table = torch.full(tiles, -1, dtype=torch.int32, device=values.device)
        order = torch.arange(len(flat), dtype=torch.int32, device=values.device)
        table.view(-1)[flat] = order
        return cls(values, table, coordinates.int(), nodes, lower, spacing)

    @classmethod
    def from_grid(cls, grid: Grid) -> BrickGrid:
        """Return the bricks of a dense grid (X, Y, Z) that have a node; differentiable."""
        values = grid.values
        if values.dim() != 3:
            raise ValueError(f"BrickGrid: values must be (X, Y, Z), got {tuple(values.shape)}")
        x, y, z = values.shape
        beyond = [n for size in (z, y, x) for n in (0, -size % BRICK_SIZE)]
        padded = torch.nn.functional.pad(values, beyond, value=math.nan)
        split = padded.unflatten(2, (-1, BRICK_SIZE)).unflatten(1, (-1, BRICK_SIZE))
        bricks = split.unflatten(0, (-1, BRICK_SIZE)).permute(0, 2, 4, 1, 3, 5)
        coordinates = (~bricks.isnan()).flatten(3).any(dim=3).nonzero()
        chosen = bricks[coordinates[:, 0], coordinates[:, 1], coordinates[:, 2]]
        return cls.from_bricks(chosen, coordinates, (x, y, z), grid.lower, grid.spacing)

    def to_grid(self) -> Grid:
        """Return the dense grid, NaN where nodes are absent; differentiable."""
        tiles = self.table.shape
        dense = self.values.new_full((*tiles, *(BRICK_SIZE,) * 3), math.nan)
        x, y, z = self.coordinates.long().unbind(dim=1)
        dense = dense.index_put((x, y, z), self.values)
        joined = dense.permute(0, 3, 1, 4, 2, 5).reshape([n * BRICK_SIZE for n in tiles])
        x, y, z = self.nodes
        return Grid(joined[:x, :y, :z], self.lower, self.spacing)

    @property
    def upper(self) -> Vector3:
        """World position of the last node."""
        x, y, z = (
            a + (n - 1) * h for a, n, h in zip(self.lower, self.nodes, self.spacing, strict=True)
        )
        return x, y, z

    def to(self, *args: Any, **kwargs: Any) -> BrickGrid:
        """Return the grid with ``values.to(...)``, its other tensors on the same device."""
        values = self.values.to(*args, **kwargs)
        table, coordinates = self.table.to(values.device), self.coordinates.to(values.device)
        return BrickGrid(values, table, coordinates, self.nodes, self.lower, self.spacing)


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
