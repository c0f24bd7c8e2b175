# SPDX-License-Identifier: Apache-2.0
"""The ops as modules that stand inside other people's models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from diffiso.camera import Camera
from diffiso.ops import (
    GridSample,
    Light,
    NarrowBand,
    Rendering,
    SoftRasterizing,
    SphereTracing,
    isosurface,
    marching_cubes,
    render,
    sample_grid,
    silhouette,
)
from diffiso.ops._field import MEMORY_BUDGET, Field
from diffiso.ops.isosurface import Band
from diffiso.ops.mesh_sdf import Law
from diffiso.ops.shade import Normals
from diffiso.ops.trace import HitLaw, Inside
from diffiso.types import Grid, Mesh, MeshBatch, as_vector3


class IsoSurface(nn.Module):
    """Field in, mesh with gradients out: :func:`diffiso.isosurface` with its settings kept.

    Args:
        lower: World position of the box's lower corner.
        upper: World position of its upper corner.
        resolution: Number of cells along each axis, or one for all.
        level: The level.
        law: ``"sdf"`` or ``"implicit"``, see :func:`diffiso.mesh_sdf`.
        close_boundary: Close the solid where it leaves the box.
        band: Sample only where the surface can be, see :func:`diffiso.isosurface`; every call by
            itself. "warm" estimates a bound in the first call and then follows the surface from
            call to call (:class:`diffiso.NarrowBand`), for one shape that changes step by step.
        memory_budget: Bytes the field's evaluation may take at a time.

    Example:
        >>> import torch, diffiso
        >>> surface = diffiso.layers.IsoSurface(-1, 1, 16)
        >>> surface(lambda p: p.norm(dim=1) - 0.5).vertices.shape[1]
        3
    """

    def __init__(
        self,
        lower: float | Sequence[float],
        upper: float | Sequence[float],
        resolution: int | Sequence[int],
        *,
        level: float = 0.0,
        law: Law = "sdf",
        close_boundary: bool = False,
        band: Band | Literal["warm"] | None = None,
        memory_budget: int = MEMORY_BUDGET,
    ) -> None:
        super().__init__()
        self.lower = as_vector3("IsoSurface: lower", lower)
        self.upper = as_vector3("IsoSurface: upper", upper)
        self.resolution = resolution
        self.level = level
        self.law: Law = law
        self.close_boundary = close_boundary
        self.memory_budget = memory_budget
        if isinstance(band, NarrowBand):
            raise ValueError(
                'IsoSurface: band must be a rule or "warm", got a NarrowBand, which has its own box'
            )
        self.band: Band | NarrowBand | None
        if band == "warm":
            self.band = NarrowBand(
                lower,
                upper,
                resolution,
                close_boundary=close_boundary,
                memory_budget=memory_budget,
            )
        else:
            self.band = band

    def forward(self, field: Field) -> Mesh:
        """Return the mesh of ``field``, a callable (P, 3) -> (P,)."""
        options: dict[str, Any] = {
            "level": self.level,
            "law": self.law,
            "close_boundary": self.close_boundary,
            "band": self.band,
        }
        if isinstance(self.band, NarrowBand):
            mesh = isosurface(field, **options)
        else:
            box = self.lower, self.upper, self.resolution
            mesh = isosurface(field, *box, memory_budget=self.memory_budget, **options)
        assert isinstance(mesh, Mesh)  # a callable gives one
        return mesh

    def extra_repr(self) -> str:
        """Return the settings for ``repr``."""
        return (
            f"{self.lower}, {self.upper}, {self.resolution}, level={self.level}, law={self.law!r}"
        )


class MarchingCubes(nn.Module):
    """Values in, mesh out: :func:`diffiso.marching_cubes` on a box.

    Args:
        lower: World position of the first node.
        upper: World position of the last node.
        level: The level.
        gradient: ``"linear"`` or ``"none"``.
        close_boundary: Close the solid where it leaves the box.

    Example:
        >>> import torch, diffiso
        >>> layer = diffiso.layers.MarchingCubes(-1, 1)
        >>> len(layer(torch.randn(2, 8, 8, 8)))
        2
    """

    def __init__(
        self,
        lower: float | Sequence[float] = -1.0,
        upper: float | Sequence[float] = 1.0,
        *,
        level: float = 0.0,
        gradient: Literal["linear", "none"] = "linear",
        close_boundary: bool = False,
    ) -> None:
        super().__init__()
        self.lower = as_vector3("MarchingCubes: lower", lower)
        self.upper = as_vector3("MarchingCubes: upper", upper)
        self.level = level
        self.gradient: Literal["linear", "none"] = gradient
        self.close_boundary = close_boundary

    def forward(self, values: Tensor) -> Mesh | MeshBatch:
        """Return the mesh of values (X, Y, Z), or the meshes of (B, X, Y, Z)."""
        return marching_cubes(
            Grid.from_bounds(values, self.lower, self.upper),
            self.level,
            gradient=self.gradient,
            close_boundary=self.close_boundary,
        )


class GridSampler(nn.Module):
    """A learnable grid as a field: points in, value and gradient out.

    Args:
        values: (X, Y, Z), the samples to start from; they become the parameter ``values``.
        lower: World position of the first node.
        upper: World position of the last node.

    Example:
        >>> import torch, diffiso
        >>> field = diffiso.layers.GridSampler(torch.zeros(4, 4, 4))
        >>> field(torch.rand(5, 3)).sdf.shape
        torch.Size([5])
    """

    def __init__(
        self,
        values: Tensor,
        lower: float | Sequence[float] = -1.0,
        upper: float | Sequence[float] = 1.0,
    ) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.as_tensor(values).detach().clone())
        self.lower = as_vector3("GridSampler: lower", lower)
        self.upper = as_vector3("GridSampler: upper", upper)

    @property
    def grid(self) -> Grid:
        """The samples with their bounds."""
        return Grid.from_bounds(self.values, self.lower, self.upper)

    def forward(self, points: Tensor) -> GridSample:
        """Return value (P,) and gradient (P, 3) at points (P, 3)."""
        return sample_grid(self.grid, points)


class SdfRenderer(nn.Module):
    """Values and cameras in, pictures out: :func:`diffiso.render` on a box, its settings kept.

    Args:
        lower: World position of the first node.
        upper: World position of the last node.
        size: Height and width of the pictures, or one number; by default the cameras'.
        light: By default at the camera. Its position becomes a buffer, or a parameter if it is one,
            ``light_position``.
        normals: ``"central"`` or ``"trilinear"``.
        law: ``"implicit"`` or ``"sdfdiff"``.
        min_cosine: Least cosine that the implicit law counts.
        ramp: Width of the outline's ramp in pixels; 0 for none.
        background: What shows where nothing covers it.
        method: ``"voxel"``, ``"sphere"`` or a :class:`diffiso.SphereTracing`.
        level: The level.
        near: Least depth.
        far: Greatest depth.
        inside: What a camera in the solid sees.

    Example:
        >>> import torch, diffiso
        >>> cameras = diffiso.Camera.orbit([0.0, 90.0], 0.0, 4.0, field_of_view=40.0, size=32)
        >>> renderer = diffiso.layers.SdfRenderer(-1, 1)
        >>> renderer(torch.ones(8, 8, 8), cameras).coverage.sum()
        tensor(0.)
    """

    def __init__(
        self,
        lower: float | Sequence[float] = -1.0,
        upper: float | Sequence[float] = 1.0,
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
    ) -> None:
        super().__init__()
        self.lower = as_vector3("SdfRenderer: lower", lower)
        self.upper = as_vector3("SdfRenderer: upper", upper)
        self.size = size
        light = light or Light()
        if isinstance(light.position, nn.Parameter):
            self.light_position = light.position
        else:
            self.register_buffer("light_position", light.position)
        self.light = replace(light, position=None)  # that stands above
        self.options: dict[str, Any] = {
            "normals": normals,
            "law": law,
            "min_cosine": min_cosine,
            "ramp": ramp,
            "background": background,
            "method": method,
            "level": level,
            "near": near,
            "far": far,
            "inside": inside,
        }

    def forward(self, values: Tensor, cameras: Camera) -> Rendering:
        """Return the pictures of values (X, Y, Z) or (B, X, Y, Z)."""
        grid = Grid.from_bounds(values, self.lower, self.upper)
        light = replace(self.light, position=self.light_position)
        return render(grid, cameras, self.size, light=light, **self.options)

    def extra_repr(self) -> str:
        """Return the settings for ``repr``."""
        given = {"light": self.light} | self.options
        options = ", ".join(f"{name}={value!r}" for name, value in given.items())
        return f"{self.lower}, {self.upper}, {self.size}, {options}"


class Silhouette(nn.Module):
    """Mesh and cameras in, coverage out: :func:`diffiso.silhouette` with its settings kept.

    Args:
        size: Height and width of the pictures, or one number; by default the cameras'.
        mode: ``"contour"``, ``"soft"`` or a :class:`diffiso.SoftRasterizing`.
        samples: Samples of a pixel.
        near: Least depth.

    Example:
        >>> import diffiso
        >>> ball = diffiso.isosurface(lambda p: p.norm(dim=1) - 0.5, -1, 1, 16)
        >>> cameras = diffiso.Camera.orbit([0.0, 90.0], 0.0, 4.0, field_of_view=40.0, size=32)
        >>> diffiso.layers.Silhouette(64)(ball, cameras).shape
        torch.Size([2, 64, 64])
    """

    def __init__(
        self,
        size: int | Sequence[int] | None = None,
        *,
        mode: Literal["contour", "soft"] | SoftRasterizing = "contour",
        samples: int = 16,
        near: float = 1e-3,
    ) -> None:
        super().__init__()
        self.size = size
        self.mode = mode
        self.samples = samples
        self.near = near

    def forward(self, mesh: Mesh | MeshBatch | tuple[Tensor, Tensor], cameras: Camera) -> Tensor:
        """Return the coverage (N, H, W) of a mesh, or of a batch of them."""
        return silhouette(
            mesh, cameras, self.size, mode=self.mode, samples=self.samples, near=self.near
        )
