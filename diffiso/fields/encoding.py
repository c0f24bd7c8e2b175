# SPDX-License-Identifier: Apache-2.0
"""Positions as waves of rising frequency, so that a small network sees detail."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class PositionalEncoding(nn.Module):
    """Points in, sines and cosines of them out; no parameters.

    Frequency k has period 2 / 2^k world units, so that the lowest one tells any two points of the
    box [-1, 1]^3 apart but opposite faces.

    Args:
        frequencies: How many; 0 hands the points on as they are.
        raw: Put the points themselves before the waves.

    Raises:
        ValueError: If their number is negative, or there is neither a frequency nor the points.

    Source:
        Mildenhall et al., NeRF, Eq. 4.

    Example:
        >>> encoding = PositionalEncoding(2)
        >>> encoding(torch.tensor([[0.5, 0.0, 0.0]])).shape[1] == encoding.size == 3 + 2 * 2 * 3
        True
    """

    def __init__(self, frequencies: int, *, raw: bool = True) -> None:
        super().__init__()
        if frequencies < 0:
            raise ValueError(
                f"PositionalEncoding: frequencies must not be negative, got {frequencies}"
            )
        if frequencies == 0 and not raw:
            raise ValueError("PositionalEncoding: without a frequency, raw must be true")
        self.frequencies = frequencies
        self.raw = raw

    @property
    def size(self) -> int:
        """Features per point."""
        return 3 * (2 * self.frequencies + self.raw)

    def forward(self, points: Tensor) -> Tensor:
        """Return features (..., size) of points (..., 3): the points, sines, cosines."""
        if self.frequencies == 0:
            return points
        angles = torch.cat([points * (math.pi * 2**k) for k in range(self.frequencies)], dim=-1)
        waves = [angles.sin(), angles.cos()]
        return torch.cat([points, *waves] if self.raw else waves, dim=-1)

    def extra_repr(self) -> str:
        """Return the settings for ``repr``."""
        return f"{self.frequencies}, raw={self.raw}"
