# SPDX-License-Identifier: Apache-2.0
"""The two small neural fields of the demonstration."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional


class FeatureGridField(nn.Module):
    """A signed distance field for one shape: feature grids, read by a small network.

    Works in world units inside a cube; the features are continued as constants outside.

    Args:
        center: Middle of the cube, world coordinates.
        half_size: Half its side, world units.
        resolutions: Nodes along each axis of each feature grid.
        channels: Features per node.
        width: Units in each of the two hidden layers.
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
        self.register_buffer("center", torch.tensor([float(x) for x in center]))
        self.half_size = half_size
        self.grids = nn.ParameterList(
            [nn.Parameter(0.01 * torch.randn(1, channels, n, n, n)) for n in resolutions]
        )
        self.decoder = _mlp(3 + channels * len(resolutions), width, 2, beta=100.0)

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
        out: Tensor = self.decoder(torch.cat([local, *features], dim=-1))
        return out[..., 0] * self.half_size


class LatentDecoder(nn.Module):
    """A field for a family of shapes, steered by a latent code (DeepSDF's auto-decoder).

    Args:
        latent_size: Length of a code.
        width: Units in each hidden layer.
        depth: Hidden layers.
    """

    def __init__(self, latent_size: int, *, width: int = 64, depth: int = 4) -> None:
        super().__init__()
        self.layers = _mlp(3 + latent_size, width, depth, beta=50.0)

    def forward(self, code: Tensor, points: Tensor) -> Tensor:
        """Return field values (..., P) at points (..., P, 3) for codes (..., latent_size)."""
        codes = code[..., None, :].expand(*points.shape[:-1], -1)
        out: Tensor = self.layers(torch.cat([points, codes], dim=-1))
        return out[..., 0]


def _mlp(inputs: int, width: int, depth: int, beta: float) -> nn.Sequential:
    sizes = [inputs] + [width] * depth
    layers: list[nn.Module] = []
    for size, following in pairwise(sizes):
        layers += [nn.Linear(size, following), nn.Softplus(beta=beta)]
    return nn.Sequential(*layers, nn.Linear(width, 1))
