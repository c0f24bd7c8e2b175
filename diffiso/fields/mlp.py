# SPDX-License-Identifier: Apache-2.0
"""The perceptron under the neural fields: skip layers, a code per shape, a sphere to start."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm as normalize_weight

Activation = Literal["relu", "softplus"]


class Mlp(nn.Module):
    """A perceptron from features of points, and a code for all points of a shape, to one number.

    A skip layer reads, beside the layer before it, features and code again; the layer before it is
    narrower by as many units, so that no layer has more than ``width`` inputs but the first.

    A layer that reads the code is split into a part for the points and a part for the code: the
    latter is computed once per shape, not once per point, and the code is never copied to the
    points. This equals concatenation.

    Args:
        features: Features per point.
        code_size: Numbers per code; 0 for no code.
        width: Units in each hidden layer.
        depth: Hidden layers.
        skips: Hidden layers, counted from 0, that read the input again.
        activation: ``"relu"`` or ``"softplus"``.
        beta: Sharpness of softplus.
        weight_norm: Learn direction and length of each hidden unit's weights apart.
        skip_scale: Factor on all inputs of a skip layer.

    Raises:
        ValueError: If a setting is not possible.
    """

    def __init__(
        self,
        features: int,
        code_size: int = 0,
        *,
        width: int,
        depth: int,
        skips: Sequence[int] = (),
        activation: Activation = "softplus",
        beta: float = 100.0,
        weight_norm: bool = False,
        skip_scale: float = 1.0,
    ) -> None:
        super().__init__()
        inputs = features + code_size
        check_mlp("Mlp", inputs, width, depth, skips, activation, beta)
        self.skips = frozenset(skips)
        self.activation = activation
        self.beta = beta
        self.skip_scale = skip_scale
        self.hidden = nn.ModuleList()
        for i in range(depth):
            units = width - inputs if i + 1 in self.skips else width
            layer = nn.Linear(width if i else inputs, units)
            self.hidden.append(normalize_weight(layer) if weight_norm else layer)
        self.last = nn.Linear(width, 1)

    def forward(
        self, features: Tensor, code: Tensor | None = None, *, dropout: float = 0.0
    ) -> Tensor:
        """Return values (..., P) for features (..., P, F).

        Args:
            features: (..., P, F), features of the points of each shape.
            code: (L,) for all points, or (..., L), one for each shape.
            dropout: Share of the hidden units to leave out.
        """
        hidden = self._last_units(features, code, dropout)
        return functional.linear(hidden, self.last.weight, self.last.bias)[..., 0]

    def _last_units(self, features: Tensor, code: Tensor | None, dropout: float) -> Tensor:
        hidden = features
        for i, layer in enumerate(self._hidden_layers()):
            weight = layer.weight  # once: under weight norm every reading computes it anew
            if i in self.skips:
                hidden = torch.cat([hidden, features], dim=-1)
                weight = self.skip_scale * weight if self.skip_scale != 1 else weight
            size = hidden.shape[-1]
            if code is not None and weight.shape[1] > size:
                offset = functional.linear(code, weight[:, size:], layer.bias)
                hidden = _linear(hidden, weight[:, :size], offset)
            else:
                hidden = functional.linear(hidden, weight, layer.bias)
            hidden = self._activate(hidden)
            if dropout > 0:
                hidden = functional.dropout(hidden, dropout)
        return hidden

    def _hidden_layers(self) -> list[nn.Linear]:
        return [cast(nn.Linear, layer) for layer in self.hidden]

    def _activate(self, hidden: Tensor) -> Tensor:
        if self.activation == "relu":
            return hidden.relu_()  # in place: nothing reads what a linear layer gave
        return functional.softplus(hidden, self.beta)

    @torch.no_grad()
    def start_as_sphere(self, radius: float, encode: Callable[[Tensor], Tensor]) -> None:
        """Set the weights so that the values are about the distance to a sphere around 0.

        The first three features must be the points; other features and the code have no weight at
        first. The hidden layers are drawn as in SAL and IGR. There all weights of the last layer
        are equal, and a narrow network's sphere has dents of a third of its radius; here they are
        fitted to the distance, by least squares that keep them near that, and dents are some
        hundredths.

        Args:
            radius: World units.
            encode: Gives the features (P, F) of points (P, 3).

        Source:
            Atzmon and Lipman, SAL, Theorem 1; Gropp et al., IGR, section 4.
        """
        layers = self._hidden_layers()
        inputs = layers[0].weight.shape[1]
        for i, layer in enumerate(layers):
            weight = torch.randn_like(layer.weight) * math.sqrt(2 / layer.weight.shape[0])
            point = 0
            if i in self.skips:
                # Hidden units and points are of equal length here: together sqrt(2) too long.
                weight /= math.sqrt(2) * self.skip_scale
                point = weight.shape[1] - inputs
            if i == 0 or i in self.skips:
                weight[:, point + 3 :] = 0
            _set_weight(layer, weight)
            nn.init.zeros_(layer.bias)
        self._fit_last_layer(radius, encode)

    def _fit_last_layer(self, radius: float, encode: Callable[[Tensor], Tensor]) -> None:
        width, inputs = self.last.weight.shape[1], self._hidden_layers()[0].weight.shape[1]
        draw = torch.Generator().manual_seed(0)
        count = max(2048, 8 * width)
        points = functional.normalize(torch.randn(count, 3, generator=draw, device=draw.device))
        points *= 2 * radius * torch.rand(count, 1, generator=draw, device=draw.device).sqrt()
        points = points.to(self.last.weight)
        features = encode(points)
        code_size = inputs - features.shape[1]
        code = points.new_zeros(code_size) if code_size else None
        units = self._last_units(features, code, dropout=0.0).double()
        wanted = points.norm(dim=1).double() - radius

        equal = torch.full_like(units[0], math.sqrt(math.pi / width))
        table = torch.cat([units, torch.ones_like(units[:, :1])], dim=1)
        missing = wanted - units @ equal
        normal = table.T @ table / count
        # A hundredth of the units' size: less lets weights grow, for dents that hardly shrink.
        penalty = torch.full_like(normal[0], 1e-2 * float(units.square().mean()) + 1e-12)
        penalty[-1] = 0.0  # the bias is free
        change = torch.linalg.solve(normal + penalty.diag(), table.T @ missing / count)
        self.last.weight.copy_(equal + change[:-1])
        self.last.bias.copy_(change[-1:])


def check_mlp(
    name: str,
    inputs: int,
    width: int,
    depth: int,
    skips: Sequence[int],
    activation: str,
    beta: float,
) -> None:
    """Raise a ValueError that begins with ``name`` unless an :class:`Mlp` can be so."""
    if depth < 1:
        raise ValueError(f"{name}: depth must be at least 1, got {depth}")
    if width < 1:
        raise ValueError(f"{name}: width must be at least 1, got {width}")
    if not all(1 <= i < depth for i in skips):
        raise ValueError(
            f"{name}: skips must be hidden layers from 1 to {depth - 1}, got {tuple(skips)}"
        )
    if skips and width <= inputs:
        raise ValueError(
            f"{name}: width must be above the {inputs} inputs that a skip layer reads again, "
            f"got {width}"
        )
    if activation not in ("relu", "softplus"):
        raise ValueError(f'{name}: activation must be "relu" or "softplus", got {activation!r}')
    if not 0 < beta < math.inf:
        raise ValueError(f"{name}: beta must be positive, got {beta}")


def _linear(hidden: Tensor, weight: Tensor, offset: Tensor) -> Tensor:
    """Return hidden (..., P, K) times weight (U, K), plus one offset (U,) or one a shape."""
    if offset.dim() == 1:
        return functional.linear(hidden, weight, offset)
    shapes = math.prod(offset.shape[:-1])
    product = torch.baddbmm(
        offset.reshape(shapes, 1, len(weight)),
        hidden.reshape(shapes, *hidden.shape[-2:]),
        weight.t().expand(shapes, -1, -1),
    )
    return product.view(*hidden.shape[:-1], len(weight))


def _set_weight(layer: nn.Linear, weight: Tensor) -> None:
    """Set a layer's weight, also where it is made of a direction and a length."""
    if nn.utils.parametrize.is_parametrized(layer, "weight"):
        layer.weight = weight
    else:
        layer.weight.copy_(weight)
