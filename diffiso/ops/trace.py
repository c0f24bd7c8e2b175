# SPDX-License-Identifier: Apache-2.0
"""Rays through a grid: where they hit its surface, and where they come closest."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from diffiso.camera import Camera
from diffiso.ops._registration import call, no_double_backward, no_forward_mode
from diffiso.types import Grid, RayHits

Inside = Literal["exit", "start", "ignore"]
HitLaw = Literal["implicit", "sdfdiff"]

_INSIDE = ("exit", "start", "ignore")  # as InsideRule in csrc/core/trace.h
_LAWS = ("implicit", "sdfdiff")


@dataclass(frozen=True)
class SphereTracing:
    """Sphere tracing (Hart 1996), as SDFDiff uses it (section 4): for distance fields.

    A ray steps as far as the field's value until that is at most ``tolerance + footprint * t``.

    Attributes:
        tolerance: World units.
        footprint: World units per unit of ``t``: the official code of SDFDiff lets it grow with
            the pixel.
        max_steps: Rays that take more end as ``RayStatus.UNFINISHED``.
        lipschitz: The most that the field changes per world unit. A field that is steeper may be
            stepped through: trilinear samples of an exact distance reach the square root of 3.
            None takes the bound of the grid (of all grids of a batch): the root of the sum of
            squares of its greatest differences.
        refine: Find the crossing itself from there, where there is one within two cells; otherwise
            the hit is one more step ahead, the paper's p = s + f(s) v, and the samples are those
            around p.

    Raises:
        ValueError: If a number is out of its range.

    Example:
        >>> import torch, diffiso
        >>> plane = torch.arange(4.0).reshape(4, 1, 1).expand(4, 4, 4) - 1.25
        >>> ray = torch.tensor([[3.0, 1.5, 1.5]]), torch.tensor([[-1.0, 0.0, 0.0]])
        >>> diffiso.trace(plane, *ray, method=diffiso.SphereTracing(tolerance=1e-3)).t
        tensor([1.7500])
    """

    tolerance: float = 1e-4
    footprint: float = 0.0
    max_steps: int = 1000
    lipschitz: float | None = 1.0
    refine: bool = True

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("tolerance", "footprint"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ValueError(f"SphereTracing: {name} must not be negative, got {value}")
        if type(self.max_steps) is not int or self.max_steps < 1:
            raise ValueError(
                f"SphereTracing: max_steps must be a positive int, got {self.max_steps!r}"
            )
        if self.lipschitz is not None and not 0 < self.lipschitz < math.inf:
            raise ValueError(f"SphereTracing: lipschitz must be positive, got {self.lipschitz}")

    def numbers(self) -> list[float]:
        """Return what the op takes."""
        bound = 0.0 if self.lipschitz is None else self.lipschitz
        return [self.tolerance, self.footprint, float(self.max_steps), bound, float(self.refine)]


def trace(
    grid: Grid | Tensor,
    origins: Tensor | None = None,
    directions: Tensor | None = None,
    *,
    cameras: Camera | None = None,
    method: Literal["voxel", "sphere"] | SphereTracing = "voxel",
    level: float = 0.0,
    near: float = 0.0,
    far: float = math.inf,
    inside: Inside = "exit",
    law: HitLaw = "implicit",
    min_cosine: float = 0.01,
    capture: bool = True,
    footprint: Tensor | float | None = None,
) -> RayHits:
    """Return where rays meet the surface of a grid's trilinear field.

    A hit is the first point, from ``near`` to ``far`` and within the box, where the field turns
    from outside (at or above the level) to inside (below); a zero that is only touched is none.
    Cells with a sample that is not finite are gaps. ``method="voxel"`` finds it for any field,
    distance or not: it solves the cubic along the ray in every cell that the surface passes.

    The tracing itself is not differentiated (SDFDiff, section 4): ``t`` moves with the field at the
    hit, and so with the eight samples around it and with the ray. Differentiable once, in values,
    origins, directions and cameras. On CUDA the gradient of the values uses atomics, and sums in a
    fixed order under ``torch.use_deterministic_algorithms(True)``, as the CPU always does.

    Args:
        grid: A :class:`Grid`, or its values (X, Y, Z) or (B, X, Y, Z) in index coordinates;
            float32 or float64.
        origins: (..., 3), or (B, ..., 3) for a batch of grids; world units.
        directions: As origins, of any length but zero.
        cameras: Instead of rays: those through all pixel centres, made on the way, with directions
            of depth one. All see the one grid; of a batch of B, each is seen by as many cameras, in
            their order.
        method: ``"voxel"``; ``"sphere"`` or a :class:`SphereTracing` for the paper's tracer.
        level: The level.
        near: Where rays begin, in units of ``t``; not negative where there is a footprint.
        far: Where they end.
        inside: What a ray hits that is inside where it first meets the field (in the box, or behind
            a gap): ``"exit"`` where it leaves the solid, ``"start"`` that first point (behind a gap
            only by the voxel method) and is constant in everything, ``"ignore"`` what it enters
            later.
        law: How the hit moves. ``"implicit"``: as the level set does, dt = -df / (grad f . d);
            ``"sdfdiff"``: as the paper's p = s + f(s) v, dt = df / |d|.
        min_cosine: The least that the cosine between gradient and ray counts in the implicit law,
            whose derivative grows without bound where rays graze. Smaller is more exact: 0.1 takes
            a few hundredths of what moves a picture, 0.01 about a thousandth.
        capture: Also return ``fraction`` and ``samples``.
        footprint: Half a pixel's width per unit of ``t``, a number or one for each camera (or
            grid): where a ray's pixel may touch the surface, its closest approach is found, for
            :func:`coverage`. None finds none.

    Returns:
        :class:`RayHits`, of the shape of the rays or (N, H, W).

    Raises:
        TypeError: If ``grid`` or ``cameras`` is none, or rays are no tensors.
        ValueError: If an option is unknown, ``near`` is beyond ``far``, a footprint negative, or
            not either rays or cameras are given. A ray without a direction, or with a number that
            is not finite, is no error: it is ``RayStatus.INVALID``.
        RuntimeError: If shapes, dtypes or devices do not fit.

    Example:
        >>> import torch, diffiso
        >>> plane = torch.arange(4.0).reshape(4, 1, 1).expand(4, 4, 4) - 1.25
        >>> ray = torch.tensor([[3.0, 1.5, 1.5]]), torch.tensor([[-2.0, 0.0, 0.0]])
        >>> hits = diffiso.trace(plane, *ray)
        >>> hits.t, hits.points()
        (tensor([0.8750]), tensor([[1.2500, 1.5000, 1.5000]]))
    """
    if isinstance(grid, Tensor):
        grid = Grid(grid)
    if not isinstance(grid, Grid):
        raise TypeError(f"trace: grid must be a Grid or a tensor, got {type(grid).__name__}")
    _check_options(inside, law, near, far, level)
    if not 0 < min_cosine <= 1:
        raise ValueError(f"trace: min_cosine must be above 0 and at most 1, got {min_cosine}")
    sphere = _sphere(method)
    values = grid.values
    single = values.dim() == 3
    rays = _rays(values, origins, directions, cameras)
    no_forward_mode("trace", values, rays.origins, rays.directions)
    widths = _footprint(footprint, values)
    if footprint is not None and near < 0:
        raise ValueError(f"trace: near must not be negative with a footprint, got {near}")
    t, status, cell, fraction, samples, closest_t, closest_cell, closest_kind = call(
        torch.ops.diffiso.trace,
        (values[None] if single else values).contiguous(),
        rays.flat_origins,
        rays.flat_directions,
        widths.detach(),
        rays.size,
        list(grid.lower),
        list(grid.spacing),
        level,
        near,
        far,
        _INSIDE.index(inside),
        sphere,
        law == "sdfdiff",
        min_cosine,
        capture,
    )
    shape = rays.shape
    return RayHits(
        t=t.view(shape),
        status=status.view(shape),
        cell=cell.view(shape),
        fraction=fraction.detach().view(*shape, 3) if capture else None,
        samples=samples.view(*shape, 8) if capture else None,
        origins=rays.origins,
        directions=rays.directions,
        size=(rays.size[0], rays.size[1]) if rays.size else None,
        closest_t=None if footprint is None else closest_t.view(shape),
        closest_cell=None if footprint is None else closest_cell.view(shape),
        closest_kind=None if footprint is None else closest_kind.view(shape),
    )


@dataclass(frozen=True)
class _Rays:
    """Rays as the op takes them, and the shape of what it gives."""

    origins: Tensor
    directions: Tensor
    flat_origins: Tensor
    flat_directions: Tensor
    size: list[int]
    shape: tuple[int, ...]


def _rays(
    values: Tensor, origins: Tensor | None, directions: Tensor | None, cameras: Camera | None
) -> _Rays:
    given = origins is not None and directions is not None
    if given == (cameras is not None) or (origins is None) != (directions is None):
        raise ValueError("trace: either origins and directions or cameras must be given")
    if cameras is not None:
        if not isinstance(cameras, Camera):
            raise TypeError(f"trace: cameras must be a Camera, got {type(cameras).__name__}")
        centers, matrices = cameras.centers, pixel_matrices(cameras)
        flat = centers.contiguous(), matrices.contiguous()
        return _Rays(centers, matrices, *flat, list(cameras.size), (len(cameras), *cameras.size))
    for name, tensor in (("origins", origins), ("directions", directions)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"trace: {name} must be a tensor, got {type(tensor).__name__}")
    assert origins is not None
    assert directions is not None
    if origins.dim() < 1 or origins.shape[-1] != 3 or directions.shape != origins.shape:
        raise ValueError(
            "trace: origins and directions must be (..., 3), of one shape, got "
            f"{tuple(origins.shape)} and {tuple(directions.shape)}"
        )
    grids = values.shape[0] if values.dim() == 4 else 1
    if values.dim() == 4 and (origins.dim() < 2 or origins.shape[0] != grids):
        raise ValueError(
            f"trace: origins must be ({grids}, ..., 3) with the batch of the grid, got "
            f"{tuple(origins.shape)}"
        )
    shape = tuple(origins.shape[:-1])
    rows = (grids, math.prod(shape) // max(grids, 1), 3)
    flat = origins.reshape(rows).contiguous(), directions.reshape(rows).contiguous()
    return _Rays(origins, directions, *flat, [], shape)


def pixel_matrices(cameras: Camera) -> Tensor:
    """Return (N, 3, 3): times (x, y, 1) the direction, of depth one, through pixel (x, y)."""
    right, below, forward = cameras.rotation.unbind(1)
    across, down = right / cameras.focal[:, :1], below / cameras.focal[:, 1:]
    middle = cameras.principal[:, :1] * across + cameras.principal[:, 1:] * down
    return torch.stack([across, down, forward - middle], dim=2)


def _check_options(inside: str, law: str, near: float, far: float, level: float) -> None:
    for name, value, known in (("inside", inside, _INSIDE), ("law", law, _LAWS)):
        if value not in known:
            choices = ", ".join(f"{k!r}" for k in known)
            raise ValueError(f"trace: {name} must be one of {choices}, got {value!r}")
    if not abs(near) < math.inf:
        raise ValueError(f"trace: near must be finite, got {near}")
    if not far > near:
        raise ValueError(f"trace: far must be beyond near, got {far} and {near}")
    if not abs(level) < math.inf:
        raise ValueError(f"trace: level must be finite, got {level}")


def _sphere(method: str | SphereTracing) -> list[float]:
    if isinstance(method, SphereTracing):
        return method.numbers()
    if method == "sphere":
        return SphereTracing().numbers()
    if method != "voxel":
        raise ValueError(
            f"trace: method must be 'voxel', 'sphere' or a SphereTracing, got {method!r}"
        )
    return []


def _footprint(footprint: Tensor | float | None, values: Tensor) -> Tensor:
    if footprint is None:
        return values.new_empty(0)
    if isinstance(footprint, Tensor):
        if footprint.numel() == 0:
            raise ValueError("trace: footprint must have at least one number, got none")
        return footprint.reshape(-1).contiguous()
    if not 0 <= footprint < math.inf:
        raise ValueError(f"trace: footprint must not be negative, got {footprint}")
    return values.new_full((1,), footprint)


def _fake(
    values: Tensor,
    origins: Tensor,
    directions: Tensor,
    footprint: Tensor,
    size: list[int],
    lower: list[float],
    spacing: list[float],
    level: float,
    near: float,
    far: float,
    inside: int,
    sphere: list[float],
    sdfdiff_law: bool,
    min_cosine: float,
    capture: bool,
) -> tuple[Tensor, ...]:
    count = origins.shape[0] * (size[0] * size[1] if size else origins.shape[1])
    captured, closest = count if capture else 0, count if footprint.shape[0] else 0
    return (
        values.new_empty(count),
        values.new_empty(count, dtype=torch.uint8),
        values.new_empty(count, dtype=torch.int64),
        values.new_empty(captured, 3),
        values.new_empty(captured, 8),
        values.new_empty(closest),
        values.new_empty(closest, dtype=torch.int64),
        values.new_empty(closest, dtype=torch.uint8),
    )


def _fake_backward(
    grad_t: Tensor | None,
    grad_samples: Tensor | None,
    grad_closest_t: Tensor | None,
    values: Tensor,
    origins: Tensor,
    directions: Tensor,
    *rest: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(values), torch.empty_like(origins), torch.empty_like(directions)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    values, origins, directions, _, ctx.size, ctx.lower, ctx.spacing = inputs[:7]
    ctx.law = inputs[12:14]
    t, status, cell, _, _, closest_t, closest_cell, closest_kind = output
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(
        values, origins, directions, t, status, cell, closest_t, closest_cell, closest_kind
    )


def _backward(
    ctx: Any,
    grad_t: Tensor | None,
    grad_status: None,
    grad_cell: None,
    grad_fraction: Tensor | None,
    grad_samples: Tensor | None,
    grad_closest_t: Tensor | None,
    grad_closest_cell: None,
    grad_closest_kind: None,
) -> tuple[Tensor | None, ...]:
    grad_values, grad_origins, grad_directions = torch.ops.diffiso.trace_backward(
        *(None if g is None else g.contiguous() for g in (grad_t, grad_samples, grad_closest_t)),
        *ctx.saved_tensors,
        ctx.size,
        ctx.lower,
        ctx.spacing,
        *ctx.law,
        ctx.needs_input_grad[1] or ctx.needs_input_grad[2],
        torch.are_deterministic_algorithms_enabled(),
    )
    return (
        grad_values if ctx.needs_input_grad[0] else None,
        grad_origins if ctx.needs_input_grad[1] else None,
        grad_directions if ctx.needs_input_grad[2] else None,
        *[None] * 12,  # footprint and all that is no tensor
    )


torch.library.register_fake("diffiso::trace", _fake)
torch.library.register_fake("diffiso::trace_backward", _fake_backward)
torch.library.register_autograd("diffiso::trace", _backward, setup_context=_setup_context)
no_double_backward("trace")
