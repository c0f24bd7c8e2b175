# SPDX-License-Identifier: Apache-2.0
"""From a field to a mesh with gradients: dense sampling, extraction, attachment (MeshSDF)."""

from __future__ import annotations

import operator
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from diffiso.ops.marching_cubes import check_options, marching_cubes
from diffiso.ops.mesh_sdf import (
    Field,
    Law,
    attach_to_field,
    check_field_values,
    check_law,
    mesh_sdf,
)
from diffiso.ops.sample_grid import sample_grid
from diffiso.types import Grid, Mesh, MeshBatch, as_vector3

Attributes = Callable[[Tensor], Tensor]

MEMORY_BUDGET = 2**30  # bytes

_PROBE_POINTS = 256
_LARGEST_CHUNK = 2**18  # points
# Bytes that a field may work on at a time on the CPU. An 8 x 128 network takes 1.6 times as long in
# pieces of four times as much: its layers' values leave the caches and need fresh pages every time.
_LARGEST_CHUNK_CPU = 2**24


def isosurface(
    field: Field | Grid,
    lower: float | Sequence[float] | Tensor | None = None,
    upper: float | Sequence[float] | Tensor | None = None,
    resolution: int | Sequence[int] | None = None,
    *,
    level: float | Tensor = 0.0,
    law: Law = "sdf",
    close_boundary: bool = False,
    attributes: Attributes | Grid | None = None,
    index_dtype: torch.dtype = torch.int64,
    memory_budget: int = MEMORY_BUDGET,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Mesh | MeshBatch:
    """Return the mesh of a field's level set, whose vertices carry gradients to the field.

    Samples the field without gradients, extracts by :func:`marching_cubes`, and attaches the
    vertices by :func:`mesh_sdf`: gradients of any loss on the vertices reach whatever the field
    closes over, also where the topology changes. Without a surface the mesh is empty and still
    attached: its backward gives zeros.

    Args:
        field: A callable (P, 3) -> (P,) made of torch operations, negative inside; or a
            :class:`Grid`, which has bounds of its own.
        lower: World position of the box's lower corner: three numbers, or one for all axes.
        upper: World position of its upper corner.
        resolution: Number of cells along each axis, or one for all; nodes are one more.
        level: The level, a number or a tensor of shape ().
        law: ``"sdf"`` (the paper's) or ``"implicit"`` (exact for fields whose gradient norm is not
            1).
        close_boundary: Close the solid where it leaves the box.
        attributes: What to carry along at the vertices, such as colours: see
            :func:`vertex_attributes`. Not for batches.
        index_dtype: dtype of the faces, ``torch.int64`` or ``torch.int32``.
        memory_budget: Bytes the field's evaluation may take at a time, beside the samples
            themselves. What one point takes is measured on a few.
        dtype: dtype of the points; by default that of the field's parameters, else torch's default.
        device: Device of the points; by default that of the field's parameters, else the CPU.

    Returns:
        A :class:`Mesh`; for a batched :class:`Grid` a :class:`MeshBatch`.

    Raises:
        ValueError: If bounds, resolution, law or budget are not possible, if the field returns
            another shape than (P,), or NaN at every sample.

    Source:
        Remelli et al., MeshSDF, Algorithms 1 and 2.

    Example:
        >>> import torch, diffiso
        >>> radius = torch.tensor(0.5, requires_grad=True)
        >>> mesh = diffiso.isosurface(lambda p: p.norm(dim=1) - radius, -1, 1, 32)
        >>> mesh.vertices.norm(dim=1).mean().backward()
        >>> bool((radius.grad - 1).abs() < 1e-5)
        True
    """
    check_law(law)
    check_options(level, index_dtype)
    if isinstance(field, Grid):
        if lower is not None or upper is not None or resolution is not None:
            raise ValueError(
                "isosurface: a Grid has its own bounds; give no lower, upper, resolution"
            )
        grid = Grid(field.values.detach(), field.lower, field.spacing)
    else:
        if lower is None or upper is None or resolution is None:
            raise ValueError("isosurface: lower, upper and resolution must be given for a callable")
        grid = sample_field(
            field, lower, upper, resolution, memory_budget=memory_budget, dtype=dtype, device=device
        )
    plain_level = level.detach() if isinstance(level, Tensor) else level
    mesh = marching_cubes(
        grid, plain_level, close_boundary=close_boundary, index_dtype=index_dtype, gradient="none"
    )
    if isinstance(mesh, MeshBatch):
        if attributes is not None:
            raise ValueError("isosurface: attributes are for single grids, got a batch")
        attached = mesh_sdf(
            field, mesh.vertices, law=law, level=level, vertex_offsets=mesh.vertex_offsets
        )
        return MeshBatch(attached, mesh.faces, mesh.vertex_offsets, mesh.face_offsets)
    if isinstance(field, Grid):
        vertices = mesh_sdf(field, mesh.vertices, law=law, level=level)
    else:
        points_dtype, _ = _points_like(field, lower, dtype, device)
        vertices = attach_to_field(field, mesh.vertices, law, level, points_dtype)
    carried = None if attributes is None else vertex_attributes(attributes, vertices)
    return Mesh(vertices, mesh.faces, attributes=carried)


def vertex_attributes(attributes: Attributes | Grid, points: Tensor) -> Tensor:
    """Return what a field or a grid of several channels holds at points, such as colours.

    Differentiable in the points, and in the grid's values or whatever the field closes over.

    Args:
        attributes: A callable (P, 3) -> (P, C) or (P,) made of torch operations; or a
            :class:`Grid` of values (C, X, Y, Z), or (X, Y, Z) for one channel, read trilinearly;
            outside its box the value at the box's nearest point.
        points: (P, 3), world units.

    Returns:
        (P, C).

    Raises:
        ValueError: If the callable returns another shape.

    Example:
        >>> import torch, diffiso
        >>> ball = lambda p: p.norm(dim=1) - 0.5
        >>> mesh = diffiso.isosurface(ball, -1, 1, 16, attributes=lambda p: (1 + p) / 2)
        >>> mesh.attributes.shape == mesh.vertices.shape
        True
    """
    if isinstance(attributes, Grid):
        channels = attributes.values if attributes.values.dim() == 4 else attributes.values[None]
        lower, upper = points.new_tensor(attributes.lower), points.new_tensor(attributes.upper)
        inside = points.clamp(lower, upper).to(channels.dtype)
        grid = Grid(channels, attributes.lower, attributes.spacing)
        return sample_grid(grid, inside.expand(len(channels), -1, 3)).sdf.T.to(points.dtype)
    values = attributes(points)
    if not isinstance(values, Tensor) or values.dim() not in (1, 2) or len(values) != len(points):
        came = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(
            f"isosurface: attributes must return (P, C) or (P,) for {len(points)} points, "
            f"got {came}"
        )
    return values if values.dim() == 2 else values[:, None]


@torch.no_grad()
def sample_field(
    field: Field,
    lower: float | Sequence[float] | Tensor,
    upper: float | Sequence[float] | Tensor,
    resolution: int | Sequence[int],
    *,
    memory_budget: int = MEMORY_BUDGET,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Grid:
    """Return a field's samples at every node of a box, evaluated in chunks, without gradients.

    Args:
        field: A callable (P, 3) -> (P,); called under ``torch.no_grad`` and the caller's autocast.
        lower: World position of the box's lower corner: three numbers, or one for all axes.
        upper: World position of its upper corner.
        resolution: Number of cells along each axis, or one for all.
        memory_budget: Bytes the field's evaluation may take at a time, beside the samples
            themselves.
        dtype: dtype of the points; by default that of the field's parameters, else torch's default.
        device: Device of the points; by default that of the field's parameters, else the CPU.
        progress: Called with the number of nodes done and of all nodes after each chunk.

    Returns:
        A :class:`Grid` of (X, Y, Z) values in the dtype that the field returns.

    Raises:
        ValueError: As :func:`isosurface`.

    Example:
        >>> import diffiso
        >>> diffiso.sample_field(lambda p: p[:, 0], 0, 1, (4, 2, 2)).values[:, 0, 0]
        tensor([0.0000, 0.2500, 0.5000, 0.7500, 1.0000])
    """
    if not callable(field):
        raise TypeError(
            f"isosurface: field must be a Grid or a callable, got {type(field).__name__}"
        )
    cells = _cells(resolution)
    low, high = as_vector3("isosurface: lower", lower), as_vector3("isosurface: upper", upper)
    if any(a >= b for a, b in zip(low, high, strict=True)):
        raise ValueError(
            f"isosurface: upper must be above lower on every axis, got {low} and {high}"
        )
    dtype, device = _points_like(field, lower, dtype, device)
    axes = [
        torch.linspace(a, b, n + 1, dtype=torch.float64, device=device).to(dtype)
        for a, b, n in zip(low, high, cells, strict=True)
    ]
    nodes = [n + 1 for n in cells]
    count = nodes[0] * nodes[1] * nodes[2]

    def points_of(begin: int, end: int) -> Tensor:
        flat = torch.arange(begin, end, device=device)
        i, rest = flat // (nodes[1] * nodes[2]), flat % (nodes[1] * nodes[2])
        return torch.stack((axes[0][i], axes[1][rest // nodes[2]], axes[2][rest % nodes[2]]), dim=1)

    chunk = _chunk_size(field, points_of(0, min(count, _PROBE_POINTS)), memory_budget)
    values: Tensor | None = None
    for begin in range(0, count, chunk):
        points = points_of(begin, min(count, begin + chunk))
        part = check_field_values(field(points), points)
        if values is None:
            values = part.new_empty(count)
        values[begin : begin + chunk] = part
        if progress is not None:
            progress(min(count, begin + chunk), count)
    assert values is not None  # count is at least 8
    if values.isnan().all():
        raise ValueError("isosurface: field must not be NaN everywhere, got NaN at every sample")
    return Grid.from_bounds(values.view(nodes), low, high)


def _cells(resolution: int | Sequence[int]) -> list[int]:
    try:
        each = resolution if isinstance(resolution, Iterable) else [resolution] * 3
        cells = [] if isinstance(resolution, bool) else [operator.index(n) for n in each]
    except TypeError:
        cells = []
    if len(cells) != 3 or min(cells) < 1:
        raise ValueError(
            "isosurface: resolution must be one or three positive numbers of cells, "
            f"got {resolution}"
        )
    return cells


def _points_like(
    field: Field,
    lower: Any,
    dtype: torch.dtype | None,
    device: torch.device | str | None,
) -> tuple[torch.dtype, torch.device]:
    """Return dtype and device of points: as asked, as the parameters, or as the bounds."""
    like: Tensor | None = None
    if isinstance(field, nn.Module):
        like = next(field.parameters(), None)
    if like is None and isinstance(lower, Tensor):
        like = lower
    if dtype is None:
        floating = like is not None and like.is_floating_point()
        dtype = like.dtype if like is not None and floating else torch.get_default_dtype()
    if device is None:
        device = like.device if like is not None else torch.device("cpu")
    return dtype, torch.device(device)


class _PeakMemory(TorchDispatchMode):
    """Measures the most bytes that new tensors hold at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._add(tensor)
        return out

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self.seen:
            return
        self.seen.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.live -= size


def _chunk_size(field: Field, probe: Tensor, memory_budget: int) -> int:
    """Return how many points fit the budget, from what a few of them take."""
    with _PeakMemory() as memory:
        check_field_values(field(probe), probe)
    per_point = 64 + memory.peak / len(probe)  # 64: the points and the indices they come from
    chunk = int(memory_budget / per_point)
    if chunk < 1:
        raise ValueError(
            f"isosurface: memory_budget must hold one point of this field, {per_point:.0f} bytes, "
            f"got {memory_budget}"
        )
    if probe.device.type == "cpu":
        chunk = min(chunk, int(_LARGEST_CHUNK_CPU / per_point) + 1)
    return min(chunk, _LARGEST_CHUNK)
