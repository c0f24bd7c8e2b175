# SPDX-License-Identifier: Apache-2.0
"""The local derivative of SDFDiff: normals and diffuse light at hits, and coverage of pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from diffiso.ops._registration import call, no_double_backward, no_forward_mode
from diffiso.types import Grid, RayHits

Normals = Literal["central", "trilinear"]

_NORMALS = ("central", "trilinear")


@dataclass(frozen=True, eq=False)
class Light:
    """A point light.

    Attributes:
        position: (3,), or (N, 3) one for each camera (or grid); world units, differentiable. None
            puts it where each ray begins: at the camera.
        strength: What a surface gives back that faces it, at distance one.
        falloff: Whether that fades with the square of the distance.

    Raises:
        TypeError: If the position is no tensor.
        ValueError: If the strength is negative or not finite, or the position no (3,) or (N, 3).

    Example:
        >>> import torch, diffiso
        >>> diffiso.Light(torch.tensor([0.0, 4.0, 0.0]), strength=16.0, falloff=True).falloff
        True
    """

    position: Tensor | None = None
    strength: float = 1.0
    falloff: bool = False

    def __post_init__(self) -> None:
        """Check shape and strength."""
        if not 0 <= self.strength < math.inf:
            raise ValueError(f"Light: strength must not be negative, got {self.strength}")
        at = self.position
        if at is not None and not isinstance(at, Tensor):
            raise TypeError(f"Light: position must be a tensor, got {type(at).__name__}")
        if at is not None and (at.dim() not in (1, 2) or at.shape[-1] != 3 or at.numel() == 0):
            raise ValueError(f"Light: position must be (3,) or (N, 3), got {tuple(at.shape)}")


class Shading(NamedTuple):
    """What light makes of hits; (...) is the shape of the rays.

    Attributes:
        intensity: (...), strength times the cosine to the light (over the distance's square with
            falloff); 0 for misses and for surfaces that face away.
        normals: (..., 3), unit, towards the side that the ray comes from; 0 for misses, and where
            the field is flat.

    Example:
        >>> import torch, diffiso
        >>> plane = torch.arange(4.0).reshape(4, 1, 1).expand(4, 4, 4) - 1.25
        >>> ray = torch.tensor([[3.0, 1.5, 1.5]]), torch.tensor([[-1.0, 0.0, 0.0]])
        >>> diffiso.shade(plane, diffiso.trace(plane, *ray)).normals
        tensor([[1., 0., 0.]])
    """

    intensity: Tensor
    normals: Tensor


def shade(
    grid: Grid | Tensor,
    hits: RayHits,
    *,
    light: Light | None = None,
    normals: Normals = "central",
) -> Shading:
    """Return normals at hits and the diffuse light that they give back (SDFDiff, section 4).

    Differentiable once in the values, the rays and the light: directly, and through the hits'
    ``t``. Determinism as for :func:`trace`.

    Args:
        grid: What was traced.
        hits: What :func:`trace` returned for it.
        light: By default at the ray's origin, strength one, without falloff.
        normals: ``"central"``: central differences at the cell's eight nodes, interpolated, which
            takes samples of the 4 x 4 x 4 nodes around (the paper); one-sided at the box's border.
            ``"trilinear"``: the gradient of the field itself, which jumps from cell to cell. Where
            a sample that the first needs is not finite, the second stands in.

    Raises:
        TypeError: If ``grid`` is no grid.
        ValueError: If ``normals`` is unknown.
        RuntimeError: If shapes, dtypes or devices do not fit.

    Example:
        >>> import torch, diffiso
        >>> plane = torch.arange(4.0).reshape(4, 1, 1).expand(4, 4, 4) - 1.25
        >>> ray = torch.tensor([[3.0, 1.5, 1.5]]), torch.tensor([[-1.0, 0.0, 0.0]])
        >>> hits = diffiso.trace(plane, *ray)
        >>> diffiso.shade(plane, hits)
        Shading(intensity=tensor([1.]), normals=tensor([[1., 0., 0.]]))
    """
    box = _as_grid("shade", grid)
    if normals not in _NORMALS:
        raise ValueError(f"shade: normals must be 'central' or 'trilinear', got {normals!r}")
    light = light or Light()
    values = box.values
    at = values.new_empty(0, 3) if light.position is None else light.position.reshape(-1, 3)
    rays = _flat_rays("shade", values, hits)
    no_forward_mode("shade", values, hits.t, at)
    intensity, directions = call(
        torch.ops.diffiso.shade,
        _batch(values),
        *rays,
        hits.t.reshape(-1),
        hits.status.reshape(-1),
        hits.cell.reshape(-1),
        at.contiguous(),
        list(hits.size or []),
        list(box.lower),
        list(box.spacing),
        light.strength,
        light.falloff,
        normals == "central",
    )
    shape = hits.t.shape
    return Shading(intensity.view(shape), directions.view(*shape, 3))


def coverage(
    grid: Grid | Tensor,
    hits: RayHits,
    footprint: Tensor | float,
    *,
    level: float = 0.0,
    min_slope: float = 0.1,
) -> Tensor:
    """Return how much of each ray's pixel the solid covers, from 0 to 1.

    The field's least value m along the ray, over its slope g there, is how far outside the outline
    the ray passes; with half the pixel's width r at that depth the share is clamp(1/2 - m / (2 r
    g), 0, 1), so that an outline that moves changes pixels though no ray begins to hit.
    Differentiable once in values, rays and footprint: m and g directly (m stays a minimum, so that
    where it lies adds nothing to first order) and through the hits' ``closest_t``.

    Args:
        grid: What was traced.
        hits: What :func:`trace` returned for it, given a footprint that is no smaller.
        footprint: Half a pixel's width per unit of ``t``: a number, or one for each camera (or
            grid). A larger one widens the ramp, so that outlines that are far apart still feel
            each other.
        level: The level that was traced.
        min_slope: Least slope that counts, per world unit; 1 is a distance's. Tracing looks as far
            as 0.1, or the grid's own steepest slope, makes the ramp.

    Returns:
        (...), the shape of the rays.

    Raises:
        TypeError: If ``grid`` is no grid.
        ValueError: If the hits have no closest approach, or a number is out of its range.
        RuntimeError: If shapes, dtypes or devices do not fit.

    Example:
        >>> import torch, diffiso
        >>> plane = torch.arange(4.0).reshape(4, 1, 1).expand(4, 4, 4) - 1.25
        >>> ray = torch.tensor([[1.5, 1.5, -1.0]]), torch.tensor([[0.0, 0.0, 1.0]])
        >>> hits = diffiso.trace(plane, *ray, footprint=0.5)
        >>> diffiso.coverage(plane, hits, 0.5)
        tensor([0.2500])
    """
    box = _as_grid("coverage", grid)
    if hits.closest_t is None or hits.closest_cell is None:
        raise ValueError("coverage: hits must be traced with a footprint, got none")
    if not min_slope > 0:
        raise ValueError(f"coverage: min_slope must be positive, got {min_slope}")
    if not abs(level) < math.inf:
        raise ValueError(f"coverage: level must be finite, got {level}")
    values = box.values
    if not isinstance(footprint, Tensor):
        if not 0 < footprint < math.inf:
            raise ValueError(f"coverage: footprint must be positive, got {footprint}")
        footprint = values.new_full((1,), footprint)
    no_forward_mode("coverage", values, hits.closest_t, footprint)
    share: Tensor = call(
        torch.ops.diffiso.coverage,
        _batch(values),
        *_flat_rays("coverage", values, hits),
        hits.closest_t.reshape(-1),
        hits.closest_cell.reshape(-1),
        footprint.reshape(-1).contiguous(),
        list(hits.size or []),
        list(box.lower),
        list(box.spacing),
        level,
        min_slope,
    )
    return share.view(hits.t.shape)


def _as_grid(op: str, grid: Grid | Tensor) -> Grid:
    if isinstance(grid, Tensor):
        grid = Grid(grid)
    if not isinstance(grid, Grid):
        raise TypeError(f"{op}: grid must be a Grid or a tensor, got {type(grid).__name__}")
    return grid


def _batch(values: Tensor) -> Tensor:
    return (values[None] if values.dim() == 3 else values).contiguous()


def _flat_rays(op: str, values: Tensor, hits: RayHits) -> tuple[Tensor, Tensor]:
    if hits.size is not None:
        return hits.origins.contiguous(), hits.directions.contiguous()
    grids = values.shape[0] if values.dim() == 4 else 1
    if values.dim() == 4 and hits.t.shape[:1] != (grids,):
        raise ValueError(
            f"{op}: hits must be those of a batch of {grids} grids, got t of {tuple(hits.t.shape)}"
        )
    flat = (grids, hits.t.numel() // max(grids, 1), 3)
    return hits.origins.reshape(flat).contiguous(), hits.directions.reshape(flat).contiguous()


def _fake_shade(
    values: Tensor, origins: Tensor, directions: Tensor, t: Tensor, *rest: Any
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(t), t.new_empty(t.shape[0], 3)


def _fake_shade_backward(
    grad_intensity: Tensor | None,
    grad_normals: Tensor | None,
    values: Tensor,
    origins: Tensor,
    directions: Tensor,
    t: Tensor,
    status: Tensor,
    cell: Tensor,
    light: Tensor,
    *rest: Any,
) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(x) for x in (values, origins, directions, t, light))


def _setup_shade(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.options = inputs[7:]
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:7])


def _backward_shade(
    ctx: Any, grad_intensity: Tensor | None, grad_normals: Tensor | None
) -> tuple[Tensor | None, ...]:
    grads = torch.ops.diffiso.shade_backward(
        None if grad_intensity is None else grad_intensity.contiguous(),
        None if grad_normals is None else grad_normals.contiguous(),
        *ctx.saved_tensors,
        *ctx.options,
        ctx.needs_input_grad[1] or ctx.needs_input_grad[2],
        torch.are_deterministic_algorithms_enabled(),
    )
    values, origins, directions, t, light = (
        grad if ctx.needs_input_grad[k] else None
        for grad, k in zip(grads, (0, 1, 2, 3, 6), strict=True)
    )
    # Status and cell have none, nor what is no tensor.
    return (values, origins, directions, t, None, None, light, *[None] * 6)


def _fake_coverage(
    values: Tensor, origins: Tensor, directions: Tensor, closest_t: Tensor, *rest: Any
) -> Tensor:
    return torch.empty_like(closest_t)


def _fake_coverage_backward(
    grad_coverage: Tensor,
    values: Tensor,
    origins: Tensor,
    directions: Tensor,
    closest_t: Tensor,
    closest_cell: Tensor,
    footprint: Tensor,
    *rest: Any,
) -> tuple[Tensor, ...]:
    tensors = values, origins, directions, closest_t, footprint
    return tuple(torch.empty_like(x) for x in tensors)


def _setup_coverage(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.options = inputs[6:]
    ctx.save_for_backward(*inputs[:6])


def _backward_coverage(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    grads = torch.ops.diffiso.coverage_backward(
        grad.contiguous(),
        *ctx.saved_tensors,
        *ctx.options,
        ctx.needs_input_grad[1] or ctx.needs_input_grad[2],
        torch.are_deterministic_algorithms_enabled(),
    )
    values, origins, directions, t, footprint = (
        grad if ctx.needs_input_grad[k] else None
        for grad, k in zip(grads, (0, 1, 2, 3, 5), strict=True)
    )
    # The cell has none, nor what is no tensor.
    return (values, origins, directions, t, None, footprint, *[None] * 5)


torch.library.register_fake("diffiso::shade", _fake_shade)
torch.library.register_fake("diffiso::shade_backward", _fake_shade_backward)
torch.library.register_autograd("diffiso::shade", _backward_shade, setup_context=_setup_shade)
no_double_backward("shade")

torch.library.register_fake("diffiso::coverage", _fake_coverage)
torch.library.register_fake("diffiso::coverage_backward", _fake_coverage_backward)
torch.library.register_autograd(
    "diffiso::coverage", _backward_coverage, setup_context=_setup_coverage
)
no_double_backward("coverage")
