# SPDX-License-Identifier: Apache-2.0
"""Surface points that carry gradients to the field they lie on (MeshSDF)."""

from __future__ import annotations

from typing import Any, Literal, NoReturn

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from diffiso.ops._field import (
    MEMORY_BUDGET,
    Field,
    check_differentiable,
    check_field_values,
    leaves_of,
    value_and_gradient,
)
from diffiso.ops._registration import call, no_double_backward, no_forward_mode
from diffiso.ops.sample_grid import sample_grid
from diffiso.types import BrickGrid, Grid

Law = Literal["sdf", "implicit"]


def mesh_sdf(
    field: Field | Grid | BrickGrid,
    vertices: Tensor,
    *,
    law: Law = "sdf",
    level: float | Tensor = 0.0,
    vertex_offsets: Tensor | None = None,
    memory_budget: int = MEMORY_BUDGET,
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
        field: A callable (P, 3) -> (P,) made of torch operations, or a :class:`Grid` or
            :class:`BrickGrid` (float32, float64).
        vertices: (V, 3), world units, for instance of :func:`marching_cubes`.
        law: ``"sdf"`` or ``"implicit"``.
        level: The level the vertices were extracted at.
        vertex_offsets: (B + 1,), int64, for a batch of grids: grid b owns vertices ``offsets[b]``
            to ``offsets[b + 1]``.
        memory_budget: Bytes that a callable's graph may take, about. Where that of all vertices
            would take more they are evaluated in chunks, which the backward evaluates once more.

    Returns:
        (V, 3), equal to ``vertices``.

    Raises:
        ValueError: If ``law`` is none of those above, the field returns another shape than (V,), or
            offsets do not go with the field.
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
    if vertex_offsets is not None:
        raise ValueError(
            "mesh_sdf: vertex_offsets must be None unless field is a Grid, "
            f"got {tuple(vertex_offsets.shape)} beside a {type(field).__name__}"
        )
    if isinstance(field, BrickGrid):
        return _attach_to_bricks(field, vertices, law, level)
    return attach_to_field(field, vertices, law, level, vertices.dtype, memory_budget)


def attach_to_field(
    field: Field,
    vertices: Tensor,
    law: Law,
    level: float | Tensor,
    dtype: torch.dtype,
    memory_budget: int = MEMORY_BUDGET,
) -> Tensor:
    """Return vertices attached to a callable, which is evaluated at them in ``dtype``."""
    if not torch.is_grad_enabled():
        return vertices
    if vertices.shape[0] == 0:
        return _attach_nothing(field, vertices, level, dtype)
    value, gradient = value_and_gradient(field, vertices.to(dtype), memory_budget)
    return _attach(vertices, value - level, _retreat(gradient, law))


def _attach(vertices: Tensor, value: Tensor, direction: Tensor) -> Tensor:
    """Return vertices that pass gradients on to the value of f at them, by ``direction``."""
    attached: Tensor = _Attach.apply(vertices, value, direction)
    return attached


class _Attach(torch.autograd.Function):
    """Hands vertices on as they are; in the backward, f receives -dL/dv . dv (Algorithm 2)."""

    @staticmethod
    def forward(ctx: Any, vertices: Tensor, value: Tensor, direction: Tensor) -> Tensor:
        ctx.save_for_backward(direction)
        ctx.value_dtype = value.dtype
        return vertices.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, None]:
        (direction,) = ctx.saved_tensors
        along = (grad.detach() * direction.to(grad.dtype)).sum(dim=1)
        pulled = (-along).to(ctx.value_dtype)
        if torch.is_grad_enabled():  # somebody builds a graph of this backward
            pulled = _RefuseSecond.apply(pulled.requires_grad_())
        return grad if ctx.needs_input_grad[0] else None, pulled, None


class _RefuseSecond(torch.autograd.Function):
    """Makes a second derivative an error: normals are constants here, and it would be wrong."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> NoReturn:
        raise RuntimeError("mesh_sdf: second derivatives (double backward) are not supported")


class _AttachNothing(torch.autograd.Function):
    """Belongs to some leaves and gives each of them a zero."""

    @staticmethod
    def forward(ctx: Any, vertices: Tensor, *leaves: Tensor) -> Tensor:
        ctx.save_for_backward(*leaves)
        return vertices.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, *(torch.zeros_like(leaf) for leaf in ctx.saved_tensors)


def _attach_nothing(
    field: Field, vertices: Tensor, level: float | Tensor, dtype: torch.dtype
) -> Tensor:
    """Return empty vertices that give a zero to all that the field closes over.

    A zero, not nothing: distributed ranks stay in step when one of them has no surface. The field
    is asked once, to see what it closes over, but not differentiated: it may be singular there.
    """
    at = vertices.new_zeros((1, 3), dtype=dtype, requires_grad=True)
    leaves = leaves_of(check_field_values(field(at), at) - level)
    check_differentiable(any(leaf is at for leaf in leaves))
    others = [leaf for leaf in leaves if leaf is not at]
    if not others:
        return vertices
    attached: Tensor = _AttachNothing.apply(vertices, *others)
    return attached


def check_law(law: str) -> None:
    """Raise unless ``law`` is one of the two."""
    if law not in ("sdf", "implicit"):
        raise ValueError(f'mesh_sdf: law must be "sdf" or "implicit", got {law!r}')


def _retreat(gradient: Tensor, law: Law) -> Tensor:
    """Return where a surface point moves when the field falls by one: n or n / |grad f|.

    Zero where the gradient vanishes or is not finite. Scaled first: squares overflow early.
    """
    largest = gradient.abs().amax(dim=-1, keepdim=True)
    scaled = gradient / largest
    norm = scaled.norm(dim=-1, keepdim=True)
    direction = scaled / norm if law == "sdf" else scaled / norm / norm / largest
    known = (largest > 0) & direction.isfinite().all(dim=-1, keepdim=True)
    return torch.where(known, direction, torch.zeros_like(direction))


def _attach_to_grid(
    grid: Grid,
    vertices: Tensor,
    law: Law,
    level: float | Tensor,
    vertex_offsets: Tensor | None,
) -> Tensor:
    values = grid.values if grid.values.dim() == 4 else grid.values[None]
    no_forward_mode("mesh_sdf", values)
    if vertex_offsets is None:
        if values.shape[0] != 1:
            raise ValueError(
                f"mesh_sdf: vertex_offsets must be given for a batch of grids, got None beside "
                f"values {tuple(values.shape)}"
            )
        vertex_offsets = torch.tensor([0, vertices.shape[0]], device=vertices.device)
    attached: Tensor = call(
        torch.ops.diffiso.mesh_sdf,
        values.contiguous(),
        vertices.contiguous(),
        vertex_offsets.contiguous(),
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
    level_of = -level.expand(len(values))[owner]
    return _attach(attached, level_of, _retreat(gradient, law))


def _attach_to_bricks(grid: BrickGrid, vertices: Tensor, law: Law, level: float | Tensor) -> Tensor:
    no_forward_mode("mesh_sdf", grid.values)
    sample = sample_grid(grid, vertices)
    return _attach(vertices, sample.sdf - level, _retreat(sample.gradient.detach(), law))


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
