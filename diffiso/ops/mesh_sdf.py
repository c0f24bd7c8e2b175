# SPDX-License-Identifier: Apache-2.0
"""Surface points that carry gradients to the field they lie on (MeshSDF)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from diffiso.ops._registration import no_double_backward
from diffiso.types import Grid

Field = Callable[[Tensor], Tensor]
Law = Literal["sdf", "implicit"]


def mesh_sdf(
    field: Field | Grid,
    vertices: Tensor,
    *,
    law: Law = "sdf",
    level: float | Tensor = 0.0,
    vertex_offsets: Tensor | None = None,
) -> Tensor:
    """Return surface points, unmoved, that carry gradients to the field they lie on.

    When a field f rises by ds at a surface point, the surface retreats there by ds along its normal
    n. ``law="sdf"`` is MeshSDF's Eq. 3, dv/ds = -n, exact where |grad f| = 1; elsewhere it is wrong
    by the factor |grad f|. ``law="implicit"`` is exact for every field: -n / |grad f|. Normals are
    detached. Where the gradient of f vanishes, a point passes nothing on.

    Differentiable in whatever the field closes over (a latent code, weights), in the values of a
    grid, and in ``level``; not in ``vertices``, whose own history ends here. On CUDA the gradient
    of a grid's values uses atomics, unless ``torch.use_deterministic_algorithms(True)`` asks for a
    fixed order.

    Args:
        field: A callable (P, 3) -> (P,) made of torch operations, or a :class:`Grid` (float32,
            float64).
        vertices: (V, 3), world units, for instance of :func:`marching_cubes`.
        law: ``"sdf"`` or ``"implicit"``.
        level: The level the vertices were extracted at.
        vertex_offsets: (B + 1,), int64, for a batch of grids: grid b owns vertices ``offsets[b]``
            to ``offsets[b + 1]``.

    Returns:
        (V, 3), equal to ``vertices``.

    Raises:
        ValueError: If ``law`` is none of those above, or the field returns another shape than (V,).
        RuntimeError: If the field is not differentiable in its points, or tensors do not fit.

    Source:
        Remelli et al., MeshSDF, Theorem 1 and Algorithm 2.

    Example:
        >>> import torch, diffiso
        >>> radius = torch.tensor(0.5, requires_grad=True)
        >>> point = torch.tensor([[0.5, 0.0, 0.0]])
        >>> on_sphere = diffiso.mesh_sdf(lambda p: p.norm(dim=1) - radius, point)
        >>> on_sphere[0, 0].backward()
        >>> radius.grad
        tensor(1.)
    """
    check_law(law)
    vertices = vertices.detach()
    if isinstance(field, Grid):
        return _attach_to_grid(field, vertices, law, level, vertex_offsets)
    if not torch.is_grad_enabled():
        return vertices
    value, gradient = value_and_gradient(field, vertices)
    return vertices - _retreat(gradient, law) * _only_gradient(value - level)[:, None]


def check_law(law: str) -> None:
    """Raise unless ``law`` is one of the two."""
    if law not in ("sdf", "implicit"):
        raise ValueError(f'mesh_sdf: law must be "sdf" or "implicit", got {law!r}')


def value_and_gradient(field: Field, points: Tensor) -> tuple[Tensor, Tensor]:
    """Return a field's value (P,), attached to the field, and its detached gradient (P, 3).

    A field that closes over nothing with a gradient gives a detached value.
    Without points the value still belongs to the field: its gradient is a zero, not nothing, so
    that distributed ranks stay in step when one of them has no surface.
    """
    empty = points.shape[0] == 0
    at = points.new_zeros((1, 3)) if empty else points.detach()
    at.requires_grad_(True)
    with torch.enable_grad():
        value = check_field_values(field(at), at)
    if not value.requires_grad:
        raise RuntimeError("mesh_sdf: field must be differentiable in its points, got a constant")
    (gradient,) = torch.autograd.grad(value.sum(), at, retain_graph=True, allow_unused=True)
    if gradient is None:
        raise RuntimeError("mesh_sdf: field must be differentiable in its points, got a constant")
    if not _has_other_leaves(value, at):
        value = value.detach()
    return (value[:0], gradient[:0]) if empty else (value, gradient)


def _has_other_leaves(value: Tensor, points: Tensor) -> bool:
    """Return whether anything but ``points`` would receive a gradient from ``value``."""
    seen: set[Any] = set()
    waiting: list[Any] = [value.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None and leaf is not points:
            return True
        waiting.extend(following for following, _ in node.next_functions)
    return False


def check_field_values(value: Any, points: Tensor) -> Tensor:
    """Return what a field gave if it is one floating number a point, else raise."""
    if not isinstance(value, Tensor):
        raise TypeError(f"field: must return a tensor, got {type(value).__name__}")
    if value.shape != points.shape[:1]:
        raise ValueError(
            f"field: must return (P,) for points (P, 3), here ({points.shape[0]},), "
            f"got {tuple(value.shape)}"
        )
    if not value.is_floating_point():
        raise ValueError(f"field: must return floating numbers, got {value.dtype}")
    if value.device != points.device:
        raise ValueError(f"field: must return values on {points.device}, got {value.device}")
    return value


def _retreat(gradient: Tensor, law: Law) -> Tensor:
    """Return where a surface point moves when the field falls by one: n or n / |grad f|."""
    norm = gradient.norm(dim=-1, keepdim=True)
    direction = gradient / (norm if law == "sdf" else norm * norm)
    return torch.where(norm > 0, direction, torch.zeros_like(direction))


def _only_gradient(value: Tensor) -> Tensor:
    """Return zeros that pass gradients on to ``value``."""
    return value - value.detach()


def _attach_to_grid(
    grid: Grid,
    vertices: Tensor,
    law: Law,
    level: float | Tensor,
    vertex_offsets: Tensor | None,
) -> Tensor:
    values = grid.values if grid.values.dim() == 4 else grid.values[None]
    if vertex_offsets is None:
        if values.shape[0] != 1:
            raise ValueError(
                f"mesh_sdf: vertex_offsets must be given for a batch of grids, got None beside "
                f"values {tuple(values.shape)}"
            )
        vertex_offsets = torch.tensor([0, vertices.shape[0]], device=vertices.device)
    attached: Tensor = torch.ops.diffiso.mesh_sdf(
        values.contiguous(),
        vertices.contiguous(),
        vertex_offsets,
        list(grid.lower),
        list(grid.spacing),
        law == "implicit",
    )
    if not (isinstance(level, Tensor) and level.requires_grad and torch.is_grad_enabled()):
        return attached
    owner = torch.bucketize(
        torch.arange(vertices.shape[0], device=vertices.device), vertex_offsets[1:-1], right=True
    )
    gradient = torch.zeros_like(vertices)
    for b in range(values.shape[0]):
        mine = owner == b
        gradient[mine] = torch.ops.diffiso.sample_grid(
            values[b : b + 1].detach(), vertices[mine][None], list(grid.lower), list(grid.spacing)
        )[1][0]
    return (
        attached
        + _retreat(gradient, law) * _only_gradient(level.expand(len(values))[owner])[:, None]
    )


def _fake(
    values: Tensor,
    vertices: Tensor,
    vertex_offsets: Tensor,
    lower: list[float],
    spacing: list[float],
    implicit: bool,
) -> Tensor:
    return torch.empty_like(vertices)


def _fake_backward(
    grad_vertices: Tensor,
    values: Tensor,
    vertices: Tensor,
    vertex_offsets: Tensor,
    lower: list[float],
    spacing: list[float],
    implicit: bool,
    deterministic: bool,
) -> Tensor:
    return torch.empty_like(values)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    values, vertices, vertex_offsets, ctx.lower, ctx.spacing, ctx.implicit = inputs
    ctx.save_for_backward(values, vertices, vertex_offsets)


def _backward(ctx: Any, grad_vertices: Tensor) -> tuple[Tensor | None, ...]:
    values, vertices, vertex_offsets = ctx.saved_tensors
    grad_values = None
    if ctx.needs_input_grad[0]:
        grad_values = torch.ops.diffiso.mesh_sdf_backward(
            grad_vertices.contiguous(),
            values,
            vertices,
            vertex_offsets,
            ctx.lower,
            ctx.spacing,
            ctx.implicit,
            torch.are_deterministic_algorithms_enabled(),
        )
    return (
        grad_values,
        None,  # vertices: the op's output replaces their history
        None,  # vertex_offsets
        None,  # lower
        None,  # spacing
        None,  # implicit
    )


torch.library.register_fake("diffiso::mesh_sdf", _fake)
torch.library.register_fake("diffiso::mesh_sdf_backward", _fake_backward)
torch.library.register_autograd("diffiso::mesh_sdf", _backward, setup_context=_setup_context)
no_double_backward("mesh_sdf")
