# SPDX-License-Identifier: Apache-2.0
"""A field for one shape that starts as a sphere (SAL, IGR, Neural-Pull)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from diffiso.fields.encoding import PositionalEncoding
from diffiso.fields.mlp import Activation, Mlp, check_mlp


class GeometricField(nn.Module):
    """IGR's network: a callable (P, 3) -> (P,), at first about the distance to a sphere.

    With softplus it has second derivatives everywhere, so that losses on its gradient train it;
    with relu those losses still reach the weights.

    Args:
        width: Units in each hidden layer.
        depth: Hidden layers.
        skips: Hidden layers, counted from 0, that read the points again.
        activation: ``"relu"`` or ``"softplus"``.
        beta: Sharpness of softplus.
        radius: Radius of the sphere to start from, world units.
        frequencies: Frequencies of the positional encoding beside the points; 0 for none.
        weight_norm: Learn direction and length of each hidden unit's weights apart.

    Raises:
        ValueError: If a setting is not possible.

    Source:
        Gropp et al., IGR, section 4 and supplementary.

    Example:
        >>> import diffiso
        >>> field = diffiso.fields.GeometricField(64, 4, skips=(2,), radius=0.5)
        >>> mesh = diffiso.isosurface(field, -1, 1, 16)
        >>> bool((mesh.vertices.norm(dim=1).mean() - 0.5).abs() < 0.05)
        True
    """

    def __init__(
        self,
        width: int = 512,
        depth: int = 8,
        *,
        skips: Sequence[int] = (4,),
        activation: Activation = "softplus",
        beta: float = 100.0,
        radius: float = 1.0,
        frequencies: int = 0,
        weight_norm: bool = False,
    ) -> None:
        super().__init__()
        if not 0 < radius < float("inf"):
            raise ValueError(f"GeometricField: radius must be positive, got {radius}")
        self.encoding = PositionalEncoding(frequencies)
        check_mlp("GeometricField", self.encoding.size, width, depth, skips, activation, beta)
        self.mlp = Mlp(
            self.encoding.size,
            width=width,
            depth=depth,
            skips=skips,
            activation=activation,
            beta=beta,
            weight_norm=weight_norm,
            skip_scale=0.5**0.5,
        )
        self.mlp.start_as_sphere(radius, self.encoding)

    def forward(self, points: Tensor) -> Tensor:
        """Return values (..., P) at points (..., P, 3), both in world units."""
        values: Tensor = self.mlp(self.encoding(points))
        return values
