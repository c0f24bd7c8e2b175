# SPDX-License-Identifier: Apache-2.0
"""From a field to a mesh with gradients: dense sampling, extraction, attachment (MeshSDF)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from diffiso.ops._band_run import Criterion, Progress
from diffiso.ops._evaluation import FieldEvaluator, SampledBox, points_like
from diffiso.ops._field import MEMORY_BUDGET, Field
from diffiso.ops.marching_cubes import check_options, marching_cubes
from diffiso.ops.mesh_sdf import (
    Law,
    attach_to_field,
    check_law,
    mesh_sdf,
)
from diffiso.ops.narrow_band import NarrowBand
from diffiso.ops.sample_grid import sample_grid
from diffiso.types import BrickGrid, Grid, Mesh, MeshBatch

Attributes = Callable[[Tensor], Tensor]
Band = float | Literal["lipschitz", "sign"] | Criterion


def isosurface(
    field: Field | Grid | BrickGrid,
    lower: float | Sequence[float] | Tensor | None = None,
    upper: float | Sequence[float] | Tensor | None = None,
    resolution: int | Sequence[int] | None = None,
    *,
    level: float | Tensor = 0.0,
    law: Law = "sdf",
    close_boundary: bool = False,
    band: NarrowBand | Band | None = None,
    attributes: Attributes | Grid | BrickGrid | None = None,
    index_dtype: torch.dtype = torch.int64,
    memory_budget: int = MEMORY_BUDGET,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
) -> Mesh | MeshBatch:
    """Return the mesh of a field's level set, whose vertices carry gradients to the field.

    Samples the field without gradients, extracts by :func:`marching_cubes`, and attaches the
    vertices by :func:`mesh_sdf`: gradients of any loss on the vertices reach whatever the field
    closes over, also where the topology changes. Without a surface the mesh is empty and still
    attached: its backward gives zeros.

    Args:
        field: A callable (P, 3) -> (P,) made of torch operations, negative inside; or a
            :class:`Grid` or :class:`BrickGrid`, which has bounds of its own.
        lower: World position of the box's lower corner: three numbers, or one for all axes.
        upper: World position of its upper corner.
        resolution: Number of cells along each axis, or one for all; nodes are one more.
        level: The level, a number or a tensor of shape ().
        law: ``"sdf"`` (the paper's) or ``"implicit"`` (exact for fields whose gradient norm is not
            1).
        close_boundary: Close the solid where it leaves the box.
        band: Sample only where the surface can be, see :class:`NarrowBand`: a Lipschitz bound of
            the field (1 for a signed distance), ``"lipschitz"`` to estimate it, ``"sign"`` for
            occupancies and logits, a criterion of your own; or a :class:`NarrowBand` to keep from
            call to call, whose box, budget, dtype and device hold. The mesh has the same vertices
            and faces as without, in the order of bricks. None samples every node.
        attributes: What to carry along at the vertices, such as colours: see
            :func:`vertex_attributes`. Not for batches.
        index_dtype: dtype of the faces, ``torch.int64`` or ``torch.int32``.
        memory_budget: Bytes the field's evaluation may take at a time, beside the samples
            themselves, and its graph at the vertices, see :func:`mesh_sdf`. What one point takes is
            measured on a few.
        dtype: dtype of the points; by default that of the field's parameters, else torch's default.
        device: Device of the points; by default that of the field's parameters, else the CPU.
        progress: Called while the field is sampled, with the number of nodes done and of those to
            do as far as it is known.

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
    if isinstance(field, Grid | BrickGrid):
        if lower is not None or upper is not None or resolution is not None:
            raise ValueError(
                f"isosurface: a {type(field).__name__} has its own bounds; give no lower, upper, "
                "resolution"
            )
        if band is not None:
            raise ValueError("isosurface: band must be None for a Grid, which has its samples")
        grid: Grid | BrickGrid = replace(field, values=field.values.detach())
    elif band is not None:
        narrow = _as_band(
            band, lower, upper, resolution, close_boundary, memory_budget, dtype, device
        )
        close_boundary = False  # its samples end in infinities
        lower, dtype, device = narrow.like, narrow.dtype, narrow.device
        memory_budget = narrow.memory_budget
        grid = narrow.sample(field, level, progress)
    else:
        if lower is None or upper is None or resolution is None:
            raise ValueError("isosurface: lower, upper and resolution must be given for a callable")
        grid = sample_field(
            field,
            lower,
            upper,
            resolution,
            memory_budget=memory_budget,
            dtype=dtype,
            device=device,
            progress=progress,
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
    if isinstance(field, Grid | BrickGrid):
        vertices = mesh_sdf(field, mesh.vertices, law=law, level=level)
    else:
        points_dtype, _ = points_like(field, lower, dtype, device)
        vertices = attach_to_field(field, mesh.vertices, law, level, points_dtype, memory_budget)
    carried = None if attributes is None else vertex_attributes(attributes, vertices)
    return Mesh(vertices, mesh.faces, attributes=carried)


def _as_band(
    band: NarrowBand | Band,
    lower: Any,
    upper: Any,
    resolution: Any,
    close_boundary: bool,
    memory_budget: int,
    dtype: torch.dtype | None,
    device: torch.device | str | None,
) -> NarrowBand:
    """Return the band as an object, made here unless the caller keeps one."""
    box = (lower, upper, resolution)
    if isinstance(band, NarrowBand):
        if any(x is not None for x in (*box, dtype, device)) or memory_budget != MEMORY_BUDGET:
            raise ValueError(
                "isosurface: a NarrowBand has its own box, memory_budget, dtype and device; give "
                "none of them beside it"
            )
        if close_boundary and not band.close_boundary:
            raise ValueError(
                "isosurface: close_boundary must be set where the NarrowBand is made, got one "
                "without"
            )
        return band
    if any(x is None for x in box):
        raise ValueError("isosurface: lower, upper and resolution must be given for a callable")
    rules: dict[str, Any] = {"refine": band} if callable(band) or isinstance(band, str) else {}
    if not rules:
        rules = {"lipschitz": band}
    options: dict[str, Any] = {
        "close_boundary": close_boundary,
        "memory_budget": memory_budget,
        "dtype": dtype,
        "device": device,
    }
    return NarrowBand(lower, upper, resolution, **rules, **options).only_once()


def vertex_attributes(attributes: Attributes | Grid | BrickGrid, points: Tensor) -> Tensor:
    """Return what a field or a grid of several channels holds at points, such as colours.

    Differentiable in the points, and in the grid's values or whatever the field closes over.

    Args:
        attributes: A callable (P, 3) -> (P, C) or (P,) made of torch operations; or a
            :class:`Grid` of values (C, X, Y, Z), or (X, Y, Z) for one channel, or a
            :class:`BrickGrid`, one channel, read trilinearly; outside its box the value at the
            box's nearest point.
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
    if isinstance(attributes, Grid | BrickGrid):
        lower, upper = points.new_tensor(attributes.lower), points.new_tensor(attributes.upper)
        inside = points.clamp(lower, upper).to(attributes.values.dtype)
        if isinstance(attributes, BrickGrid):
            return sample_grid(attributes, inside).sdf[:, None].to(points.dtype)
        channels = attributes.values if attributes.values.dim() == 4 else attributes.values[None]
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
    progress: Progress | None = None,
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
    box = SampledBox("isosurface", lower, upper, resolution)
    evaluator = FieldEvaluator("isosurface", field, lower, memory_budget, dtype, device)
    axes = box.axes(evaluator.dtype, evaluator.device)
    _, rows, columns = nodes = box.nodes

    def points_of(begin: int, end: int) -> Tensor:
        flat = torch.arange(begin, end, device=evaluator.device)
        i, rest = flat // (rows * columns), flat % (rows * columns)
        return torch.stack((axes[0][i], axes[1][rest // columns], axes[2][rest % columns]), dim=1)

    values = evaluator.evaluate(points_of, math.prod(nodes), progress)
    if values.isnan().all():
        raise ValueError("isosurface: field must not be NaN everywhere, got NaN at every sample")
    return Grid.from_bounds(values.view(nodes), box.lower, box.upper)
