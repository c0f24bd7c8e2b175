# SPDX-License-Identifier: Apache-2.0
"""Spheres and tori as one family with a latent parameter: the shapes of MeshSDF, section 4.1."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffiso.shapes.csg import Shape
from diffiso.shapes.primitives import Torus


@dataclass(frozen=True, eq=False)
class SphereTorus(Shape):
    """A ball, a torus, or what lies between: a torus around z with latent (major, minor).

    `(0, r)` is a ball of radius r; from `major > minor` on the solid has a hole, and its surface's
    Euler number goes from 2 to 0. Exact for balls and for tori with a hole; between them exact
    outside, inside a bound.

    Attributes:
        latent: (2,) tensor: the radius of the ring and that of the tube, world units.

    Example:
        >>> latent = torch.tensor([0.5, 0.2], requires_grad=True)
        >>> SphereTorus(latent)(torch.tensor([[0.5, 0.0, 0.0]]))
        tensor([-0.2000], grad_fn=<SubBackward0>)
    """

    latent: Tensor

    def __post_init__(self) -> None:
        """Check the latent parameter.

        Raises:
            ValueError: If its shape is not (2,).
        """
        if tuple(self.latent.shape) != (2,):
            raise ValueError(f"SphereTorus: latent must be (2,), got {tuple(self.latent.shape)}")

    @property
    def euler_number(self) -> int:
        """Return V - E + F of the surface: 2 for a sphere, 0 for a torus with a hole."""
        major, minor = self.latent.tolist()
        return 0 if major > minor else 2

    def _field(self, points: Tensor) -> Tensor:
        return Torus(self.latent[0], self.latent[1])(points)


def spheres_and_tori(count: int, generator: torch.Generator | None = None) -> list[SphereTorus]:
    """Return `count` spheres followed by `count` tori with drawn radii, all within [-1, 1]^3.

    Sphere radii lie in [0.35, 0.75], ring radii in [0.45, 0.60], tube radii in [0.15, 0.28]; each
    range is parted into `count` strata with one draw in each (Latin hypercube), so that few shapes
    cover the family.

    Args:
        count: How many of either.
        generator: Source of the draws.

    Raises:
        ValueError: If `count` is not positive.
    """
    if count < 1:
        raise ValueError(f"spheres_and_tori: count must be positive, got {count}")
    strata = torch.stack([torch.randperm(count, generator=generator) for _ in range(3)])
    sphere, major, minor = (strata + torch.rand(3, count, generator=generator)) / count
    spheres = torch.stack([torch.zeros(count), 0.35 + 0.40 * sphere], dim=1)
    tori = torch.stack([0.45 + 0.15 * major, 0.15 + 0.13 * minor], dim=1)
    return [SphereTorus(latent) for latent in torch.cat([spheres, tori])]
