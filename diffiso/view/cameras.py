# SPDX-License-Identifier: Apache-2.0
"""Where the camera of a picture stands."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from diffiso.camera import Up
from diffiso.types import Grid
from diffiso.view._gridtrace import surface_points
from diffiso.view._raytrace import Array, Frame, single, unit


@dataclass(frozen=True)
class View:
    """Where the camera stands, in world coordinates and degrees.

    Attributes:
        azimuth: Angle around the up axis.
        elevation: Angle above the horizon.
        target: Point the camera looks at.
        distance: From the camera to the target.
        field_of_view: Opening angle of the picture's short side; 0 is orthographic, `distance / 2`
            high.
        up: The axis that points up in the picture.
    """

    azimuth: float = 30.0
    elevation: float = 20.0
    target: tuple[float, float, float] = (0.0, 0.0, 0.0)
    distance: float = 4.0
    field_of_view: float = 28.0
    up: Up = "y"

    def frame(self) -> Frame:
        """Return the camera's axes: right, up, and back towards the camera."""
        azimuth, elevation = math.radians(self.azimuth), math.radians(self.elevation)
        ring = math.cos(elevation)
        back = np.array([ring * math.sin(azimuth), math.sin(elevation), ring * math.cos(azimuth)])
        right = np.array([math.cos(azimuth), 0.0, -math.sin(azimuth)])
        if self.up == "z":
            back, right = back[[2, 0, 1]], right[[2, 0, 1]]
        return Frame(right, np.cross(back, right), back, 1 if self.up == "y" else 2)


def fit_view(
    points: torch.Tensor | NDArray[np.floating] | Grid,
    azimuth: float = 30.0,
    elevation: float = 20.0,
    *,
    field_of_view: float = 28.0,
    up: Up = "y",
    margin: float = 1.15,
) -> View:
    """Return the view that just holds all points in a square picture.

    Args:
        points: (P, 3) points in world coordinates, usually a mesh's vertices; or a grid, for those
            where its surface crosses its edges.
        azimuth: Angle around the up axis, in degrees.
        elevation: Angle above the horizon, in degrees.
        field_of_view: Opening angle in degrees, 0 for an orthographic picture.
        up: The axis that points up.
        margin: Free border; 1 touches the frame.

    Raises:
        ValueError: If there are no points, one is not finite, `up` is unknown, or a grid is a
            batch.
    """
    if up not in ("y", "z"):
        raise ValueError(f"fit_view: up must be 'y' or 'z', got {up!r}")
    if isinstance(points, Grid):
        points = surface_points("fit_view", points)
    array = points.detach().cpu().numpy() if isinstance(points, torch.Tensor) else points
    cloud = np.asarray(array, dtype=np.float64).reshape(-1, 3)
    if len(cloud) == 0:
        raise ValueError("fit_view: points must hold at least one point, got none")
    check_finite("fit_view: points", cloud)
    view = View(azimuth, elevation, field_of_view=field_of_view, up=up)
    frame = view.frame()
    axes = np.stack([frame.right, frame.up, frame.back])
    local = cloud @ axes.T
    middle = (local.min(axis=0) + local.max(axis=0)) / 2
    local -= middle
    reach = np.abs(local[:, :2]).max(axis=1) * margin
    if field_of_view > 0:
        distance = float((reach / math.tan(math.radians(field_of_view) / 2) + local[:, 2]).max())
    else:
        distance = 4 * float(reach.max())
    x, y, z = (float(value) for value in middle @ axes)
    return replace(view, target=(x, y, z), distance=max(distance, 1e-9))


def check_finite(name: str, points: NDArray[np.floating]) -> None:
    """Raise a ValueError that names the first point (P, 3) that is not finite."""
    bad = np.flatnonzero(~np.isfinite(points).all(axis=1))
    if len(bad):
        raise ValueError(f"{name} must be finite, got {points[bad[0]].tolist()} at {bad[0]}")


def camera_rays(view: View, frame: Frame, height: int, width: int) -> tuple[Array, Array]:
    """Return origins and unit directions through the centres of all pixels, row by row."""
    half = min(height, width) / 2
    x = single((np.arange(width) + 0.5 - width / 2) / half)[None, :, None]
    y = single((height / 2 - np.arange(height) - 0.5) / half)[:, None, None]
    right, up, back = single(frame.right), single(frame.up), single(frame.back)
    across = (x * right + y * up).reshape(-1, 3)
    eye = single(np.array(view.target) + view.distance * frame.back)
    if view.field_of_view > 0:
        slope = np.float32(math.tan(math.radians(view.field_of_view) / 2))
        directions = unit(across * slope - back)
        return np.broadcast_to(eye, directions.shape), directions
    reach = np.float32(view.distance / 4)
    return eye + across * reach, np.broadcast_to(-back, across.shape)
