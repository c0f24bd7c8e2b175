# SPDX-License-Identifier: Apache-2.0
"""Marching cubes on a sparse grid: what :func:`marching_cubes` calls for a :class:`BrickGrid`."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from diffiso.ops._registration import call, no_double_backward, no_forward_mode
from diffiso.types import BrickGrid, Mesh


def surface_of_bricks(
    grid: BrickGrid,
    level: Tensor,
    gradient: Literal["linear", "none"],
    index_dtype: torch.dtype,
    return_edges: bool,
) -> Mesh:
    """Return the mesh of a sparse grid's level set; arguments are those of :func:`marching_cubes`.

    Args:
        grid: The bricks.
        level: (1,), in the dtype that the values are computed in.
        gradient: ``"linear"``, or ``"none"`` for detached vertices.
        index_dtype: ``torch.int64`` or ``torch.int32``.
        return_edges: Whether to give the grid edge of each vertex.

    Raises:
        RuntimeError: If shapes, dtypes or devices do not fit, or the level is NaN.
    """
    values = grid.values
    no_forward_mode("marching_cubes", values, level)
    if gradient == "none":
        values, level = values.detach(), level.detach()
    attached = torch.is_grad_enabled() and (values.requires_grad or level.requires_grad)
    vertices, faces, edges = call(
        torch.ops.diffiso.marching_cubes_bricks,
        values.contiguous(),
        grid.table.contiguous(),
        grid.coordinates.contiguous(),
        level.contiguous(),
        grid.nodes,
        grid.lower,
        grid.spacing,
        index_dtype == torch.int32,
        return_edges or attached,
    )
    return Mesh(vertices, faces, edges if return_edges else None)


def _fake(
    values: Tensor,
    table: Tensor,
    coordinates: Tensor,
    level: Tensor,
    nodes: list[int],
    lower: list[float],
    spacing: list[float],
    int32_faces: bool,
    with_edges: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    context = torch.library.get_ctx()
    vertex_count, face_count = context.new_dynamic_size(), context.new_dynamic_size()
    return (
        level.new_empty((vertex_count, 3)),
        level.new_empty((face_count, 3), dtype=torch.int32 if int32_faces else torch.int64),
        level.new_empty((vertex_count if with_edges else 0,), dtype=torch.int64),
    )


def _fake_backward(
    grad_vertices: Tensor,
    values: Tensor,
    table: Tensor,
    coordinates: Tensor,
    level: Tensor,
    edges: Tensor,
    nodes: list[int],
    spacing: list[float],
) -> tuple[Tensor, Tensor]:
    return level.new_empty(values.shape), torch.empty_like(level)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    values, table, coordinates, level, nodes, _lower, spacing, _int32_faces, with_edges = inputs
    _vertices, _faces, edges = output
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(values, table, coordinates, level, edges)
    ctx.nodes, ctx.spacing, ctx.with_edges = nodes, spacing, with_edges


def _backward(ctx: Any, grad_vertices: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    if grad_vertices is None:
        return (None,) * 9
    if not ctx.with_edges:
        raise RuntimeError("marching_cubes: with_edges must be set where gradients are wanted")
    values, table, coordinates, level, edges = ctx.saved_tensors
    grad_values, grad_level = torch.ops.diffiso.marching_cubes_bricks_backward(
        grad_vertices.contiguous(),
        values,
        table,
        coordinates,
        level,
        edges,
        ctx.nodes,
        ctx.spacing,
    )
    return (
        grad_values.to(values.dtype) if ctx.needs_input_grad[0] else None,
        None,  # table
        None,  # coordinates
        grad_level if ctx.needs_input_grad[3] else None,
        None,  # nodes
        None,  # lower
        None,  # spacing
        None,  # int32_faces
        None,  # with_edges
    )


torch.library.register_fake("diffiso::marching_cubes_bricks", _fake)
torch.library.register_fake("diffiso::marching_cubes_bricks_backward", _fake_backward)
torch.library.register_autograd(
    "diffiso::marching_cubes_bricks", _backward, setup_context=_setup_context
)
no_double_backward("marching_cubes_bricks")
