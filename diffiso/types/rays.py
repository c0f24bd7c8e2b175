# SPDX-License-Identifier: Apache-2.0
"""What tracing rays through a grid gives."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor


class RayStatus(IntEnum):
    """How a ray ended, as in csrc/core/rays.h.

    Example:
        >>> import torch, diffiso
        >>> ray = torch.tensor([[1.5, 1.5, 1.5]]), torch.zeros(1, 3)
        >>> diffiso.RayStatus(int(diffiso.trace(torch.ones(4, 4, 4), *ray).status))
        <RayStatus.INVALID: 5>
    """

    MISS = 0
    """It hit nothing."""
    HIT = 1
    """It entered the solid from outside."""
    EXIT = 2
    """It began inside, and the hit is where it left."""
    START = 3
    """It began inside, and the hit is its beginning (``inside="start"``)."""
    UNFINISHED = 4
    """Sphere tracing took all its steps without an end."""
    INVALID = 5
    """Its origin or direction is not finite, or the direction zero."""


@dataclass(frozen=True, eq=False)
class RayHits:
    """Where rays met the surface of a grid's field.

    (...) stands for the shape of the rays: (P,) or (B, P), or (N, H, W) for those of cameras.

    Attributes:
        t: (...), along the ray in units of its direction (for cameras: depth), +inf for a miss;
            differentiable in values and rays.
        status: (...), uint8: a :class:`RayStatus` each.
        cell: (...), int64: flat index, within the values (B, X, Y, Z), of the lower node of the
            cell that was hit; -1 for none.
        fraction: (..., 3), the hit's place within its cell, 0 to 1; None if not captured.
        samples: (..., 8), the values at the cell's corners 4 dx + 2 dy + dz, differentiable in the
            values; zeros for a miss; None if not captured.
        origins: The rays, as they were traced: (..., 3), or (N, 3) for cameras.
        directions: (..., 3), or for cameras matrices (N, 3, 3): the direction through a pixel is
            the matrix times its centre (x, y, 1).
        size: Height and width of the pictures, or None for rays given one by one.
        closest_t: (...), where the ray comes closest to the surface, as far as its pixel reaches:
            at the field's least value; +inf where it does not come so near. Differentiable. None
            without a footprint.
        closest_cell: (...), the cell of that, as ``cell``.
        closest_kind: (...), uint8, what holds it there: 1 a minimum of the field, 2 to 4 a face of
            the cell across x, y or z, 5 an end of the ray within the box; 0 for none.

    Example:
        >>> import torch, diffiso
        >>> plane = torch.arange(4.0).reshape(4, 1, 1).expand(4, 4, 4) - 1.25
        >>> ray = torch.tensor([[3.0, 1.5, 1.5]]), torch.tensor([[-1.0, 0.0, 0.0]])
        >>> hits = diffiso.trace(plane, *ray)
        >>> hits.points(), hits.samples[:, :4]
        (tensor([[1.2500, 1.5000, 1.5000]]), tensor([[-0.2500, -0.2500, -0.2500, -0.2500]]))
    """

    t: Tensor
    status: Tensor
    cell: Tensor
    fraction: Tensor | None
    samples: Tensor | None
    origins: Tensor
    directions: Tensor
    size: tuple[int, int] | None = None
    closest_t: Tensor | None = None
    closest_cell: Tensor | None = None
    closest_kind: Tensor | None = None

    @property
    def hit(self) -> Tensor:
        """(...), bool: whether the ray has a hit."""
        return self.cell >= 0

    def rays(self) -> tuple[Tensor, Tensor]:
        """Return origins and directions of all rays, (..., 3) each; differentiable."""
        if self.size is None:
            return self.origins, self.directions
        height, width = self.size
        x = torch.arange(width, dtype=self.t.dtype, device=self.t.device) + 0.5
        y = torch.arange(height, dtype=self.t.dtype, device=self.t.device)[:, None, None] + 0.5
        across, down, ahead = self.directions[:, None, None].unbind(-1)
        directions = across * x[:, None] + (down * y + ahead)
        return self.origins[:, None, None].expand_as(directions), directions

    def points(self) -> Tensor:
        """Return the hit points (..., 3), world units, NaN for misses; differentiable."""
        origins, directions = self.rays()
        hit = self.hit[..., None]
        t = torch.where(hit, self.t[..., None], 0.0)
        return torch.where(hit, origins + t * directions, torch.nan)
