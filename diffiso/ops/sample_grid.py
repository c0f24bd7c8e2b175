# SPDX-License-Identifier: Apache-2.0
"""Trilinear samples of a grid, dense or sparse: value and gradient, with gradients to both."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from diffiso.ops._registration import call, no_double_backward, no_forward_mode
from diffiso.types import BrickGrid, Grid


class GridSample(NamedTuple):
    """Value and gradient of a grid's field at points.

    Attributes:
        sdf: (P,) or (B, P), the interpolated value.
        gradient: (P, 3) or (B, P, 3), its derivative in the point, per world unit.
    """

    sdf: Tensor
    gradient: Tensor


def sample_grid(grid: Grid | BrickGrid | Tensor, points: Tensor) -> GridSample:
    """Return the trilinearly interpolated value and gradient of a grid at points.

    A point on a face between cells belongs to the cell of the lower index rounded down, the last
    node to the last cell; this decides the gradient there. Outside the box the field is continued
    by the value at the box's nearest point plus the distance to it, and the gradient is the
    derivative of that. A NaN coordinate gives NaN, and so does a cell with a sample that is not
    finite, or with a node that a :class:`BrickGrid` does not have.

    Both outputs are differentiable in the values and in the points (once). On CUDA the gradient of
    the values uses atomics; under ``torch.use_deterministic_algorithms(True)`` it sums in the order
    of the points, as the CPU always does. In a :class:`BrickGrid` absent samples and what is stored
    beyond the box receive zeros.

    Args:
        grid: A :class:`Grid`, or its values (X, Y, Z) or (B, X, Y, Z) in index coordinates; or a
            :class:`BrickGrid`; float32 or float64.
        points: (P, 3), or (B, P, 3) for a batch of grids; world units, dtype and device of the
            values.

    Returns:
        ``sdf`` (P,) and ``gradient`` (P, 3), with a leading B for a batch.

    Raises:
        TypeError: If ``grid`` is none of those above.
        RuntimeError: If shapes, dtypes or devices do not fit.

    Example:
        >>> import torch, diffiso
        >>> plane = torch.arange(4.0).reshape(4, 1, 1).expand(4, 4, 4)
        >>> diffiso.sample_grid(plane, torch.tensor([[1.5, 0.5, 0.5]]))
        GridSample(sdf=tensor([1.5000]), gradient=tensor([[1., 0., 0.]]))
    """
    if isinstance(grid, Tensor):
        grid = Grid(grid)
    if not isinstance(grid, Grid | BrickGrid):
        raise TypeError(
            f"sample_grid: grid must be a Grid, a BrickGrid or a tensor, got {type(grid).__name__}"
        )
    values = grid.values
    no_forward_mode("sample_grid", values, points)
    if isinstance(grid, BrickGrid):
        return GridSample(
            *call(
                torch.ops.diffiso.sample_bricks,
                values.contiguous(),
                grid.table.contiguous(),
                grid.coordinates.contiguous(),
                points.contiguous(),
                list(grid.nodes),
                list(grid.lower),
                list(grid.spacing),
            )
        )
    single = values.dim() == 3
    if single:
        values, points = values[None], points[None]
    sdf, gradient = call(
        torch.ops.diffiso.sample_grid,
        values.contiguous(),
        points.contiguous(),
        list(grid.lower),
        list(grid.spacing),
    )
    return GridSample(sdf[0], gradient[0]) if single else GridSample(sdf, gradient)


def _fake(
    values: Tensor, points: Tensor, lower: list[float], spacing: list[float]
) -> tuple[Tensor, Tensor]:
    return points.new_empty(points.shape[:2]), torch.empty_like(points)


def _fake_backward(
    grad_sdf: Tensor | None,
    grad_gradient: Tensor | None,
    values: Tensor,
    points: Tensor,
    lower: list[float],
    spacing: list[float],
    deterministic: bool,
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(values), torch.empty_like(points)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    values, points, ctx.lower, ctx.spacing = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(values, points)


def _backward(
    ctx: Any, grad_sdf: Tensor | None, grad_gradient: Tensor | None
) -> tuple[Tensor | None, ...]:
    values, points = ctx.saved_tensors
    grad_values, grad_points = torch.ops.diffiso.sample_grid_backward(
        None if grad_sdf is None else grad_sdf.contiguous(),
        None if grad_gradient is None else grad_gradient.contiguous(),
        values,
        points,
        ctx.lower,
        ctx.spacing,
        torch.are_deterministic_algorithms_enabled(),
    )
    return (
        grad_values if ctx.needs_input_grad[0] else None,
        grad_points if ctx.needs_input_grad[1] else None,
        None,  # lower
        None,  # spacing
    )


def _fake_bricks(
    values: Tensor,
    table: Tensor,
    coordinates: Tensor,
    points: Tensor,
    nodes: list[int],
    lower: list[float],
    spacing: list[float],
) -> tuple[Tensor, Tensor]:
    return points.new_empty(points.shape[:1]), torch.empty_like(points)


def _fake_bricks_backward(
    grad_sdf: Tensor | None,
    grad_gradient: Tensor | None,
    values: Tensor,
    table: Tensor,
    coordinates: Tensor,
    points: Tensor,
    nodes: list[int],
    lower: list[float],
    spacing: list[float],
    deterministic: bool,
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(values), torch.empty_like(points)


def _setup_context_bricks(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.nodes, ctx.lower, ctx.spacing = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors)


def _backward_bricks(
    ctx: Any, grad_sdf: Tensor | None, grad_gradient: Tensor | None
) -> tuple[Tensor | None, ...]:
    grad_values, grad_points = torch.ops.diffiso.sample_bricks_backward(
        None if grad_sdf is None else grad_sdf.contiguous(),
        None if grad_gradient is None else grad_gradient.contiguous(),
        *ctx.saved_tensors,
        ctx.nodes,
        ctx.lower,
        ctx.spacing,
        torch.are_deterministic_algorithms_enabled(),
    )
    return (
        grad_values if ctx.needs_input_grad[0] else None,
        None,  # table
        None,  # coordinates
        grad_points if ctx.needs_input_grad[3] else None,
        None,  # nodes
        None,  # lower
        None,  # spacing
    )


torch.library.register_fake("diffiso::sample_grid", _fake)
torch.library.register_fake("diffiso::sample_grid_backward", _fake_backward)
torch.library.register_autograd("diffiso::sample_grid", _backward, setup_context=_setup_context)
no_double_backward("sample_grid")

torch.library.register_fake("diffiso::sample_bricks", _fake_bricks)
torch.library.register_fake("diffiso::sample_bricks_backward", _fake_bricks_backward)
torch.library.register_autograd(
    "diffiso::sample_bricks", _backward_bricks, setup_context=_setup_context_bricks
)
no_double_backward("sample_bricks")
