# SPDX-License-Identifier: Apache-2.0
"""Pictures of a grid's surface, differentiable in the grid and the cameras."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from diffiso.camera import Camera
from diffiso.ops.shade import Light, Normals, coverage, shade
from diffiso.ops.trace import HitLaw, Inside, SphereTracing, trace
from diffiso.types import Grid, RayHits


@dataclass(frozen=True, eq=False)
class Rendering:
    """Pictures of N cameras, row 0 on top.

    Attributes:
        intensity: (N, H, W), the light that the surface gives back, 0 where there is none.
        coverage: (N, H, W), the share of each pixel that the solid covers.
        depth: (N, H, W), world units along the camera's z axis, +inf where nothing is hit.
        normals: (N, H, W, 3), unit vectors in the world, 0 where there is no surface.
        hits: What :func:`trace` found.
        background: What shows where nothing covers it.

    Example:
        >>> import torch, diffiso
        >>> cameras = diffiso.Camera.orbit(0.0, 0.0, 4.0, field_of_view=40.0, size=32)
        >>> nothing = diffiso.render(torch.ones(4, 4, 4), cameras, background=0.5)
        >>> nothing.image.unique(), nothing.color().shape
        (tensor([0.5000]), torch.Size([1, 32, 32, 3]))
    """

    intensity: Tensor
    coverage: Tensor
    depth: Tensor
    normals: Tensor
    hits: RayHits
    background: float = 0.0

    @property
    def image(self) -> Tensor:
        """(N, H, W): the light of what covers each pixel, before the background."""
        return self.coverage * self.intensity + (1 - self.coverage) * self.background

    def color(self, albedo: Tensor | Sequence[float] = (1.0, 1.0, 1.0)) -> Tensor:
        """Return pictures (N, H, W, 3) of a surface with this albedo, (3,), differentiable.

        Raises:
            ValueError: If the albedo has another shape.
        """
        tint = torch.as_tensor(albedo, dtype=self.intensity.dtype, device=self.intensity.device)
        if tint.shape != (3,):
            raise ValueError(f"Rendering.color: albedo must be (3,), got {tuple(tint.shape)}")
        share = self.coverage[..., None]
        return share * self.intensity[..., None] * tint + (1 - share) * self.background


def render(
    grid: Grid | Tensor,
    cameras: Camera,
    size: int | Sequence[int] | None = None,
    *,
    light: Light | None = None,
    normals: Normals = "central",
    law: HitLaw = "implicit",
    min_cosine: float = 0.01,
    ramp: float = 1.0,
    background: float = 0.0,
    method: Literal["voxel", "sphere"] | SphereTracing = "voxel",
    level: float = 0.0,
    near: float = 0.0,
    far: float = math.inf,
    inside: Inside = "exit",
) -> Rendering:
    """Return shaded pictures of a grid's surface (SDFDiff, section 4), with soft outlines.

    One ray a pixel, through its centre. At outlines the coverage of the pixel follows how closely
    the ray passes (:func:`coverage`), so that masks and pictures are smooth in the grid's values:
    an image loss sees the outline move. A ray that begins in the solid and never leaves it has no
    hit and infinite depth; with a ramp its pixel is covered, without one it is not. Differentiable
    once in values, cameras and light.

    Args:
        grid: A :class:`Grid`, or its values (X, Y, Z) or (B, X, Y, Z) in index coordinates.
        cameras: N cameras; of a batch of B grids each is seen by N / B of them, in their order.
        size: Height and width of the pictures, or one number for a square; by default the cameras'.
        light: By default at the camera, strength one, without falloff.
        normals: ``"central"`` or ``"trilinear"``, see :func:`shade`.
        law: ``"implicit"`` or ``"sdfdiff"``, see :func:`trace`.
        min_cosine: See :func:`trace`.
        ramp: Width of the outline's ramp in pixels; 0 leaves pixels hit or not, without gradient.
        background: What shows where nothing covers it.
        method: ``"voxel"``, ``"sphere"`` or a :class:`SphereTracing`, see :func:`trace`.
        level: The level.
        near: Least depth.
        far: Greatest depth.
        inside: What a camera in the solid sees, see :func:`trace`.

    Raises:
        TypeError: If grid or cameras are none.
        ValueError: If an option is out of its range.
        RuntimeError: If shapes, dtypes or devices do not fit.

    Example:
        >>> import diffiso
        >>> ball = diffiso.sample_field(lambda p: p.norm(dim=1) - 0.5, -1, 1, 32)
        >>> cameras = diffiso.Camera.orbit([0.0, 90.0], 20.0, 3.0, field_of_view=40.0, size=64)
        >>> pictures = diffiso.render(ball, cameras)
        >>> pictures.image.shape, pictures.hits.hit.float().mean() > 0.1
        (torch.Size([2, 64, 64]), tensor(True))
    """
    if not isinstance(cameras, Camera):
        raise TypeError(f"render: cameras must be a Camera, got {type(cameras).__name__}")
    if not 0 <= ramp < math.inf:
        raise ValueError(f"render: ramp must not be negative, got {ramp}")
    if not abs(background) < math.inf:
        raise ValueError(f"render: background must be finite, got {background}")
    if size is not None:
        cameras = cameras.resized(size)
    # Half a pixel at depth one, by the mean of its width and height.
    footprint = (ramp / 4) * (1 / cameras.focal).sum(dim=1)
    hits = trace(
        grid,
        cameras=cameras,
        method=method,
        level=level,
        near=near,
        far=far,
        inside=inside,
        law=law,
        min_cosine=min_cosine,
        capture=False,
        footprint=footprint if ramp > 0 else None,
    )
    seen = hits
    if ramp > 0:
        share = coverage(grid, hits, footprint, level=level)
        assert hits.closest_t is not None
        assert hits.closest_cell is not None
        # What is seen of a pixel that is covered in part, but not at its centre.
        beside = (hits.cell < 0) & (share > 0)
        seen = replace(
            hits,
            t=torch.where(beside, hits.closest_t, hits.t),
            cell=torch.where(beside, hits.closest_cell, hits.cell),
        )
    else:
        share = hits.hit.to(hits.t.dtype)
    shading = shade(grid, seen, light=light, normals=normals)
    return Rendering(shading.intensity, share, hits.t, shading.normals, hits, background)
