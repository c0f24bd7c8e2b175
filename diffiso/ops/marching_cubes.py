# SPDX-License-Identifier: Apache-2.0
"""Marching cubes with gradients to the samples and the level."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diffiso.ops._registration import call, no_double_backward, no_forward_mode
from diffiso.ops.marching_cubes_bricks import surface_of_bricks
from diffiso.types import BrickGrid, Grid, Mesh, MeshBatch


def marching_cubes(
    grid: Grid | BrickGrid | Tensor | npt.NDArray[np.floating[Any]],
    level: float | Tensor = 0.0,
    *,
    gradient: Literal["linear", "none"] = "linear",
    close_boundary: bool = False,
    index_dtype: torch.dtype = torch.int64,
    return_edges: bool = False,
) -> Mesh | MeshBatch:
    """Return the welded, oriented triangle mesh of a grid's level set.

    On any samples, every edge inside the box is shared by exactly two faces, once in each
    direction. A node is inside where ``value < level``; faces wind counter-clockwise seen from
    outside. A NaN sample is absent and takes the cells around it along; infinities are numbers; a
    sample equal to the level gives coincident vertices and faces without area, never a crack. The
    order of vertices and faces is fixed and the same on CPU and CUDA: vertices by grid row (i, j),
    in a row by axis of their edge, then by k; faces by cell.

    A sparse grid gives the vertices, faces and gradients of the dense grid that it stands for, in
    another order: brick by brick as they are stored, in a brick vertices by axis of their edge,
    then by (i, j, k), and faces by cell. Edges are numbered as in the dense grid.

    Differentiable in ``grid.values`` and ``level`` with ``gradient="linear"``, the derivative of
    the linear interpolation along the edge; deterministic forward and backward. Reads float16 and
    bfloat16 grids as they are and computes them in float32. A CUDA call waits once, for the size of
    its output.

    Args:
        grid: A :class:`Grid`, a :class:`BrickGrid`, or the values of a grid as a tensor or array,
            (X, Y, Z) or (B, X, Y, Z), in index coordinates.
        level: A number, or a tensor of shape () or (B,), for a sparse grid () or (1,).
        gradient: ``"none"`` detaches the vertices.
        close_boundary: Close the solid where it leaves the box, as if all beyond were outside. The
            cap lies on the face of the box and has no gradient. Not for a sparse grid, whose bricks
            need not reach what is inside at the face of the box.
        index_dtype: ``torch.int64``, or ``torch.int32`` to halve the size of the faces.
        return_edges: Also give the grid edge of each vertex. With ``close_boundary`` edges are
            counted in the lattice that has one more node on every side.

    Returns:
        A :class:`Mesh` for one grid, dense or sparse, with vertices (V, 3) in world units; for a
        batch a :class:`MeshBatch`, packed. Without a surface both have shape (0, 3).

    Raises:
        ValueError: If ``gradient`` or ``index_dtype`` is none of those above, the level is NaN or
            too large for the dtype that the values are computed in, or ``close_boundary`` is asked
            of a sparse grid.
        RuntimeError: If shapes, dtypes or devices do not fit.

    Source:
        Lorensen and Cline 1987; the table is this project's own (``tools/generate_tables.py``).

    Example:
        >>> import torch, diffiso
        >>> x = torch.linspace(-1, 1, 33)
        >>> radius = torch.stack(torch.meshgrid(x, x, x, indexing="ij")).norm(dim=0)
        >>> mesh = diffiso.marching_cubes(diffiso.Grid.from_bounds(radius, -1, 1), 0.5)
        >>> len(mesh.vertices) - 3 * len(mesh.faces) // 2 + len(mesh.faces)
        2
    """
    if gradient not in ("linear", "none"):
        raise ValueError(f'marching_cubes: gradient must be "linear" or "none", got {gradient!r}')
    check_options(level, index_dtype)
    if isinstance(grid, BrickGrid):
        if close_boundary:
            raise ValueError(
                "marching_cubes: close_boundary must be False for a BrickGrid, got True: what is "
                "inside at the face of the box need not be in its bricks, so the cap would have "
                "holes; extract grid.to_grid(), or sample a box that the solid does not leave"
            )
        levels = _levels(level, grid.values, 1)
        return surface_of_bricks(grid, levels, gradient, index_dtype, return_edges)
    values, lower, spacing = _unpack(grid)
    single = values.dim() == 3
    if single:
        values = values[None]
    levels = _levels(level, values, values.shape[0] if values.dim() > 0 else 1)
    no_forward_mode("marching_cubes", values, levels)
    if gradient == "none":
        values, levels = values.detach(), levels.detach()
    attached = torch.is_grad_enabled() and (values.requires_grad or levels.requires_grad)
    vertices, faces, edges, vertex_offsets, face_offsets = call(
        torch.ops.diffiso.marching_cubes,
        values.contiguous(),
        levels.contiguous(),
        lower,
        spacing,
        close_boundary,
        index_dtype == torch.int32,
        return_edges or attached,
    )
    kept = edges if return_edges else None
    if single:
        return Mesh(vertices, faces, kept)
    return MeshBatch(vertices, faces, vertex_offsets, face_offsets, kept)


def check_options(level: float | Tensor, index_dtype: torch.dtype) -> None:
    """Raise unless the level and the dtype of faces are possible; a tensor's NaN is found later."""
    number = isinstance(level, (float, int, numbers.Real))  # the abstract one takes its time
    if not number and not isinstance(level, Tensor):
        raise TypeError(
            f"marching_cubes: level must be a number or a tensor, got {type(level).__name__}"
        )
    # math.isnan would stop torch.compile(fullgraph=True), where a number may be a symbol.
    if number and level != level:
        raise ValueError("marching_cubes: level must be a number, got nan")
    if index_dtype not in (torch.int64, torch.int32):
        raise ValueError(
            f"marching_cubes: index_dtype must be torch.int64 or torch.int32, got {index_dtype}"
        )


def _unpack(
    grid: Grid | Tensor | npt.NDArray[np.floating[Any]],
) -> tuple[Tensor, Sequence[float], Sequence[float]]:
    if isinstance(grid, np.ndarray):
        # torch takes no negative strides and no foreign byte order, and warns about memory it may
        # not write.
        native = grid.dtype.newbyteorder("=")
        plain = grid.flags.writeable and all(stride >= 0 for stride in grid.strides)
        plain = plain and grid.dtype == native
        grid = torch.from_numpy(grid if plain else grid.astype(native, order="C"))
    if isinstance(grid, Tensor):
        return grid, [0.0] * 3, [1.0] * 3
    if not isinstance(grid, Grid):
        raise TypeError(
            "marching_cubes: grid must be a Grid, a BrickGrid, a tensor or an array, got "
            f"{type(grid).__name__}"
        )
    return grid.values, list(grid.lower), list(grid.spacing)


def _levels(level: float | Tensor, values: Tensor, batch: int) -> Tensor:
    """Return the level as a tensor of shape (B,) in the dtype that values are computed in."""
    dtype = torch.float64 if values.dtype == torch.float64 else torch.float32
    if not isinstance(level, Tensor):
        if torch.finfo(dtype).max < abs(level) < math.inf:
            raise ValueError(
                f"marching_cubes: level must fit {dtype} beside {values.dtype} values, got {level}"
            )
        return torch.full((batch,), float(level), dtype=dtype, device=values.device)
    if level.dtype != dtype:
        raise ValueError(
            f"marching_cubes: level must be {dtype} beside {values.dtype} values, got {level.dtype}"
        )
    return level.expand(batch) if level.dim() == 0 else level


def _fake(
    values: Tensor,
    level: Tensor,
    lower: list[float],
    spacing: list[float],
    close_boundary: bool,
    int32_faces: bool,
    with_edges: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    context = torch.library.get_ctx()
    vertex_count, face_count = context.new_dynamic_size(), context.new_dynamic_size()
    batch = values.shape[0] if values.dim() > 0 else 1
    return (
        level.new_empty((vertex_count, 3)),
        level.new_empty((face_count, 3), dtype=torch.int32 if int32_faces else torch.int64),
        level.new_empty((vertex_count if with_edges else 0,), dtype=torch.int64),
        level.new_empty((batch + 1,), dtype=torch.int64),
        level.new_empty((batch + 1,), dtype=torch.int64),
    )


def _fake_backward(
    grad_vertices: Tensor,
    values: Tensor,
    level: Tensor,
    edges: Tensor,
    vertex_offsets: Tensor,
    spacing: list[float],
    close_boundary: bool,
) -> tuple[Tensor, Tensor]:
    return level.new_empty(values.shape), torch.empty_like(level)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    values, level, _lower, spacing, close_boundary, _int32_faces, with_edges = inputs
    _vertices, _faces, edges, vertex_offsets, _face_offsets = output
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(values, level, edges, vertex_offsets)
    ctx.spacing, ctx.close_boundary, ctx.with_edges = spacing, close_boundary, with_edges


def _backward(ctx: Any, grad_vertices: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    if grad_vertices is None:
        return (None,) * 7
    if not ctx.with_edges:
        raise RuntimeError("marching_cubes: with_edges must be set where gradients are wanted")
    values, level, edges, vertex_offsets = ctx.saved_tensors
    grad_values, grad_level = torch.ops.diffiso.marching_cubes_backward(
        grad_vertices.contiguous(),
        values,
        level,
        edges,
        vertex_offsets,
        ctx.spacing,
        ctx.close_boundary,
    )
    return (
        grad_values.to(values.dtype) if ctx.needs_input_grad[0] else None,
        grad_level if ctx.needs_input_grad[1] else None,
        None,  # lower
        None,  # spacing
        None,  # close_boundary
        None,  # int32_faces
        None,  # with_edges
    )


torch.library.register_fake("diffiso::marching_cubes", _fake)
torch.library.register_fake("diffiso::marching_cubes_backward", _fake_backward)
torch.library.register_autograd("diffiso::marching_cubes", _backward, setup_context=_setup_context)
no_double_backward("marching_cubes")
