# SPDX-License-Identifier: Apache-2.0
"""Fields that live on grids: samples to learn, or features read by a small network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffiso.fields.mlp import Mlp
from diffiso.ops import GridSample, sample_grid
from diffiso.types import BrickGrid, Grid


class _SampledField(nn.Module):
    """A field that interpolates the samples of its ``grid``; its state holds the bounds too."""

    lower: tuple[float, float, float]
    spacing: tuple[float, float, float]

    @property
    def grid(self) -> Grid | BrickGrid:
        """The samples with their bounds, attached to the parameter."""
        raise NotImplementedError

    def forward(self, points: Tensor) -> Tensor:
        """Return values (P,) at points (P, 3), both in world units."""
        return self.sample(points).sdf

    def sample(self, points: Tensor) -> GridSample:
        """Return value (P,) and gradient (P, 3) at points (P, 3), both differentiable once."""
        return sample_grid(self.grid, points)

    def get_extra_state(self) -> Tensor:
        """Return lower corner and spacing (2, 3), float64: samples in another box would lie."""
        return torch.tensor([self.lower, self.spacing], dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        """Take the bounds that belong to the samples that are loaded."""
        (x, y, z), (dx, dy, dz) = state.tolist()
        self.lower, self.spacing = (x, y, z), (dx, dy, dz)


def _check_dtype(name: str, dtype: torch.dtype) -> None:
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"{name}: values must be float32 or float64, got {dtype}")


class GridField(_SampledField):
    """A grid of samples to learn, interpolated: a callable (P, 3) -> (P,).

    Interpolation as :func:`diffiso.sample_grid`, also outside the box. Values are differentiable
    once; for losses on the field's gradient use :meth:`sample`, whose gradient is an output.

    Args:
        grid: The samples (X, Y, Z) to start from; a copy of them becomes the parameter ``values``.

    Raises:
        ValueError: If the grid is a batch, has fewer than 2 nodes along an axis, or is neither
            float32 nor float64.

    Example:
        >>> import diffiso
        >>> start = diffiso.sample_field(lambda p: p.norm(dim=1) - 0.5, -1, 1, 16)
        >>> field = GridField(start)
        >>> diffiso.isosurface(field, -1, 1, 16).vertices.requires_grad
        True
    """

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        shape = tuple(grid.values.shape)
        if len(shape) != 3 or min(shape) < 2:
            raise ValueError(
                f"GridField: values must be (X, Y, Z), 2 nodes or more each, got {shape}"
            )
        _check_dtype("GridField", grid.values.dtype)
        self.values = nn.Parameter(grid.values.detach().clone())
        self.lower = grid.lower
        self.spacing = grid.spacing

    @property
    def grid(self) -> Grid:
        """The samples with their bounds, attached to the parameter."""
        return Grid(self.values, self.lower, self.spacing)

    def extra_repr(self) -> str:
        """Return the bounds for ``repr``."""
        return f"{tuple(self.values.shape)}, lower={self.lower}, spacing={self.spacing}"


class BrickField(_SampledField):
    """Samples to learn where they matter, interpolated: a callable (P, 3) -> (P,).

    As :class:`GridField`, with memory for the bricks alone. A cell with an absent node is NaN, and
    stays so however long the field learns.

    Args:
        grid: The bricks to start from; a copy of their values becomes the parameter ``values``.

    Raises:
        ValueError: If values are neither float32 nor float64.

    Example:
        >>> import diffiso
        >>> band = diffiso.NarrowBand(-1, 1, 64, lipschitz=1.0)
        >>> field = BrickField(band.sample(lambda p: p.norm(dim=1) - 0.5))
        >>> diffiso.isosurface(field.grid).vertices.requires_grad
        True
    """

    values: Tensor
    table: Tensor
    coordinates: Tensor

    def __init__(self, grid: BrickGrid) -> None:
        super().__init__()
        _check_dtype("BrickField", grid.values.dtype)
        self.values = nn.Parameter(grid.values.detach().clone())
        self.register_buffer("table", grid.table.clone())
        self.register_buffer("coordinates", grid.coordinates.clone())
        self.nodes = grid.nodes
        self.lower = grid.lower
        self.spacing = grid.spacing

    @property
    def grid(self) -> BrickGrid:
        """The bricks with their bounds, attached to the parameter."""
        return BrickGrid(
            self.values, self.table, self.coordinates, self.nodes, self.lower, self.spacing
        )

    def extra_repr(self) -> str:
        """Return the number of bricks and the bounds for ``repr``."""
        return (
            f"{len(self.values)} bricks, nodes={self.nodes}, lower={self.lower}, "
            f"spacing={self.spacing}"
        )


class FeatureGridField(nn.Module):
    """A signed distance field for one shape: feature grids, read by a small network.

    Works in world units inside a cube; the features are continued as constants outside.
    Differentiable once: torch's grid sampling has no second derivative.

    Args:
        center: Middle of the cube, world coordinates.
        half_size: Half its side, world units.
        resolutions: Nodes along each axis of each feature grid.
        channels: Features per node.
        width: Units in each of the two hidden layers.

    Raises:
        ValueError: If a setting is not possible.

    Example:
        >>> FeatureGridField(resolutions=(4, 8))(torch.rand(5, 3)).shape
        torch.Size([5])
    """

    center: Tensor

    def __init__(
        self,
        center: Sequence[float] = (0.0, 0.0, 0.0),
        half_size: float = 1.0,
        *,
        resolutions: Sequence[int] = (16, 32, 64),
        channels: int = 4,
        width: int = 64,
    ) -> None:
        super().__init__()
        if not 0 < half_size < float("inf"):
            raise ValueError(f"FeatureGridField: half_size must be positive, got {half_size}")
        if len(resolutions) == 0 or min(resolutions) < 2:
            raise ValueError(
                f"FeatureGridField: resolutions must be 2 nodes or more each, "
                f"got {tuple(resolutions)}"
            )
        if channels < 1:
            raise ValueError(f"FeatureGridField: channels must be at least 1, got {channels}")
        self.register_buffer("center", torch.tensor([float(x) for x in center]))
        self.half_size = half_size
        self.grids = nn.ParameterList(
            [nn.Parameter(0.01 * torch.randn(1, channels, n, n, n)) for n in resolutions]
        )
        self.decoder = Mlp(3 + channels * len(resolutions), width=width, depth=2)

    def forward(self, points: Tensor) -> Tensor:
        """Return signed distances (P,) at points (P, 3), both in world units."""
        local = (points - self.center) / self.half_size
        where = local.flip(-1)[None, :, None, None]
        features = [
            functional.grid_sample(grid, where, align_corners=True, padding_mode="border")[
                0, :, :, 0, 0
            ].T
            for grid in self.grids
        ]
        values: Tensor = self.decoder(torch.cat([local, *features], dim=-1))
        return values * self.half_size
