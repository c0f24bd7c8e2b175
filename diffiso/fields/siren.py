# SPDX-License-Identifier: Apache-2.0
"""A field made of sines (SIREN): smooth, and good at detail."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import cast

from torch import Tensor, nn
from torch.nn import functional


class Siren(nn.Module):
    """A perceptron with sines between its layers: a callable (P, 3) -> (P,).

    Args:
        width: Units in each hidden layer.
        depth: Hidden layers.
        frequency: The factor w0 before each sine; points should lie within [-1, 1]^3.

    Raises:
        ValueError: If a setting is not possible.

    Source:
        Sitzmann et al., Implicit Neural Representations with Periodic Activation Functions,
        section 3.2 and supplementary 1.5.

    Example:
        >>> import torch
        >>> Siren(32, 3)(torch.rand(5, 3)).shape
        torch.Size([5])
    """

    def __init__(self, width: int = 256, depth: int = 4, *, frequency: float = 30.0) -> None:
        super().__init__()
        if width < 1 or depth < 1:
            raise ValueError(f"Siren: width and depth must be positive, got {width} and {depth}")
        if not 0 < frequency < math.inf:
            raise ValueError(f"Siren: frequency must be positive, got {frequency}")
        self.frequency = frequency
        sizes = [3] + [width] * depth
        self.hidden = nn.ModuleList([nn.Linear(a, b) for a, b in pairwise(sizes)])
        self.last = nn.Linear(width, 1)
        for i, layer in enumerate([*self._hidden_layers(), self.last]):
            # At every depth alike, what enters a sine is then about normally distributed.
            inputs = layer.weight.shape[1]
            bound = 1 / inputs if i == 0 else math.sqrt(6 / inputs) / frequency
            nn.init.uniform_(layer.weight, -bound, bound)

    def forward(self, points: Tensor) -> Tensor:
        """Return values (..., P) at points (..., P, 3)."""
        factor, out = self.frequency, points
        for layer in self._hidden_layers():
            # The factor goes to the weights: they are fewer than the values they make.
            out = functional.linear(out, factor * layer.weight, factor * layer.bias).sin()
        return functional.linear(out, self.last.weight, self.last.bias)[..., 0]

    def _hidden_layers(self) -> list[nn.Linear]:
        return [cast(nn.Linear, layer) for layer in self.hidden]

    def extra_repr(self) -> str:
        """Return the settings for ``repr``."""
        return f"frequency={self.frequency}"
