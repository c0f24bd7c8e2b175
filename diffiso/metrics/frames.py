# SPDX-License-Identifier: Apache-2.0
"""The frames that scores are stated in: fitted to the reference, applied to both surfaces."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from diffiso.types import Mesh, Vector3

FrameName = Literal["unit_sphere", "unit_cube", "given"]


@dataclass(frozen=True)
class Frame:
    """A shift and a scale: `(points - center) * scale`.

    Attributes:
        center: What becomes the origin, world units.
        scale: Frame units in a world unit.
    """

    center: Vector3 = (0.0, 0.0, 0.0)
    scale: float = 1.0

    def points(self, points: Tensor) -> Tensor:
        """Return points (P, 3) in this frame."""
        return (points - points.new_tensor(self.center)) * self.scale

    def mesh(self, mesh: Mesh) -> Mesh:
        """Return a mesh in this frame."""
        return Mesh(self.points(mesh.vertices), mesh.faces)

    def inverse(self) -> Frame:
        """Return the way back."""
        x, y, z = (-self.scale * c for c in self.center)
        return Frame((x, y, z), 1 / self.scale)


def fit_frame(reference: Mesh | Tensor, name: FrameName) -> Frame:
    """Return the frame of a reference, to be applied to everything that is compared with it.

    Args:
        reference: A mesh, of which only vertices that faces use count, or points (P, 3).
        name: `"unit_sphere"` puts the middle of the bounding box at the origin and the farthest
            point at distance 1 (MeshSDF; DeepSDF's buffer of 3 % is left out). `"unit_cube"` puts
            it there too and makes the longest side 1, so that all lies in [-0.5, 0.5]^3
            (Neural-Pull, Points2Surf, Pix3D; a cube elsewhere gives equal scores). `"given"`
            leaves coordinates as they are (LGCL: metres).

    Raises:
        ValueError: If the name is unknown, or the reference has no extent or is not finite.

    Example:
        >>> fit_frame(torch.tensor([[0.0, 0.0, 0.0], [4.0, 2.0, 0.0]]), "unit_cube")
        Frame(center=(2.0, 1.0, 0.0), scale=0.25)
    """
    if name not in get_args(FrameName):
        raise ValueError(f"fit_frame: name must be {', '.join(get_args(FrameName))}, got {name!r}")
    if name == "given":
        return Frame()
    points = used_vertices(reference) if isinstance(reference, Mesh) else reference.detach()
    if points.dim() != 2 or points.shape[1] != 3 or len(points) == 0:
        raise ValueError(f"fit_frame: reference must be (P, 3), got {tuple(points.shape)}")
    lower, upper = bounds(points.double())
    middle = (lower + upper) / 2
    if name == "unit_cube":
        size = float((upper - lower).max())
    else:
        size = float((points.double() - middle).norm(dim=1).max())
    if not 0 < size < math.inf:
        raise ValueError(f"fit_frame: reference must have a finite extent, got {size:g}")
    x, y, z = middle.tolist()
    return Frame((x, y, z), 1 / size)


def used_vertices(mesh: Mesh) -> Tensor:
    """Return the vertices (U, 3) that faces use, each once, detached."""
    used = torch.zeros(len(mesh.vertices), dtype=torch.bool, device=mesh.vertices.device)
    used[mesh.faces.flatten().long()] = True
    return mesh.vertices.detach()[used]


def bounds(points: Tensor) -> tuple[Tensor, Tensor]:
    """Return the lower and upper corner (3,) of the bounding box of points (P, 3)."""
    return points.amin(dim=0), points.amax(dim=0)
