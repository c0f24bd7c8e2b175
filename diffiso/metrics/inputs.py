# SPDX-License-Identifier: Apache-2.0
"""What metrics demand of clouds and meshes, said once."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffiso.types import Mesh


def check_clouds(function: str, **clouds: Tensor) -> None:
    """Refuse clouds that are empty, not (P, 3), not finite, or differ in dtype or device.

    Args:
        function: What errors begin with.
        clouds: Tensors by the name of the argument.

    Raises:
        ValueError: If one of them cannot be used.
    """
    for name, cloud in clouds.items():
        if cloud.dim() != 2 or cloud.shape[1] != 3:
            raise ValueError(f"{function}: {name} must be (P, 3), got {tuple(cloud.shape)}")
        if len(cloud) == 0:
            raise ValueError(f"{function}: {name} must hold at least one point, got none")
        if cloud.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"{function}: {name} must be float32 or float64, got {cloud.dtype}")
    for what in ("dtype", "device"):
        kinds = [str(getattr(cloud, what)) for cloud in clouds.values()]
        if len(set(kinds)) > 1:
            raise ValueError(
                f"{function}: {' and '.join(clouds)} must have one {what}, "
                f"got {' and '.join(kinds)}"
            )
    for name, cloud in clouds.items():
        bad = int((~cloud.isfinite()).any(dim=1).sum())
        if bad:
            raise ValueError(f"{function}: {name} must be finite, got {bad} points that are not")


def checked_mesh(function: str, name: str, mesh: Mesh) -> Mesh:
    """Return a mesh in float64 and detached, if it has an area that can be measured.

    Args:
        function: What errors begin with.
        name: What errors call the mesh.
        mesh: Triangles; stays on its device.

    Raises:
        ValueError: If there are no faces, vertices are not finite, indices are out of range, or
            the faces have no area.
    """
    if len(mesh.faces) == 0:
        raise ValueError(f"{function}: {name} must have faces, got none")
    low, high = int(mesh.faces.min()), int(mesh.faces.max())
    if low < 0 or high >= len(mesh.vertices):
        raise ValueError(
            f"{function}: {name}'s faces must index its {len(mesh.vertices)} vertices, "
            f"got indices from {low} to {high}"
        )
    vertices = mesh.vertices.detach().double()
    bad = int((~vertices.isfinite()).any(dim=1).sum())
    if bad:
        raise ValueError(f"{function}: {name} must have finite vertices, got {bad} that are not")
    checked = Mesh(vertices, mesh.faces)
    area = float(checked.area())
    if not 0 < area < math.inf:
        raise ValueError(
            f"{function}: {name} must have a finite area, "
            f"got {len(mesh.faces)} faces of {area:g} in all"
        )
    return checked


def check_count(function: str, count: int, name: str = "count") -> None:
    """Refuse a number that is not positive.

    Raises:
        ValueError: If it is below one.
    """
    if count < 1:
        raise ValueError(f"{function}: {name} must be positive, got {count}")
