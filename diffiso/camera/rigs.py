# SPDX-License-Identifier: Apache-2.0
"""Camera positions that papers and data sets use."""

from __future__ import annotations

import math

import torch

from diffiso.camera._checks import Size
from diffiso.camera.camera import Camera, Up

# Directions to the cameras in the order of SDFDiff's published program: faces of a cube, its edges,
# its corners.
_CUBE = (
    *((0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 0, -1), (0, -1, 0), (-1, 0, 0)),
    *((1, 0, 1), (1, 1, 0), (0, 1, 1), (-1, 0, -1), (-1, -1, 0), (0, -1, -1)),
    *((-1, 0, 1), (-1, 1, 0), (0, -1, 1), (1, 0, -1), (1, -1, 0), (0, 1, -1)),
    *((1, 1, 1), (1, 1, -1), (1, -1, 1), (-1, 1, 1)),
    *((-1, -1, 1), (-1, 1, -1), (1, -1, -1), (-1, -1, -1)),
)


def sdfdiff_rig(
    size: Size = 256,
    *,
    distance: float = 5.0,
    field_of_view: float = 60.0,
    shift: float = 0.1,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Camera:
    """Return the 26 views of SDFDiff's multi-view reconstruction (Section 5.3 and Figure 1).

    Six faces, twelve edges and eight corners of a cube, seen from one distance towards the origin
    with +y up; the object's box is [-2, 2]^3. The two views along y are moved by ``shift`` in +x,
    where up would be along the view; they stand that little farther. Order and numbers are those of
    the published program; the paper prints none.

    Args:
        size: Height and width in pixels; one number for a square.
        distance: From the origin, world units.
        field_of_view: Opening angle of the picture's shorter side, degrees.
        shift: Along +x, of the views from above and below, world units.
        dtype: Of the cameras; torch's default if not given.
        device: Of the cameras.

    Raises:
        ValueError: If a number does not fit, as in :meth:`Camera.look_at`.

    Example:
        >>> from diffiso.camera import sdfdiff_rig
        >>> sdfdiff_rig(64).centers[:2]
        tensor([[0.0000, 0.0000, 5.0000],
                [0.1000, 5.0000, 0.0000]])
    """
    eyes = torch.tensor(_CUBE, dtype=torch.float64)
    eyes = distance * eyes / eyes.norm(dim=1, keepdim=True)
    eyes[[1, 4], 0] += shift
    rig = Camera.look_at(eyes, size=size, field_of_view=field_of_view)
    return rig.to(device=device, dtype=dtype or torch.get_default_dtype())


def ring_rig(
    count: int,
    elevation: float,
    distance: float,
    *,
    size: Size,
    field_of_view: float,
    up: Up = "y",
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Camera:
    """Return cameras evenly on a ring around the up axis, looking at the origin.

    The first stands at azimuth 0, the others follow counter-clockwise seen from above (see
    :meth:`Camera.orbit`). ``ring_rig(24, 36.87, 5.0)`` are the 24 views of SDFDiff's single-view
    reconstruction (height 3, distance 5), ``ring_rig(24, 30.0, 2.732)`` those of the ShapeNet
    renderings of Kato et al. 2018, each up to the first azimuth and the direction.

    Args:
        count: Number of cameras.
        elevation: Above the horizon, degrees.
        distance: From the origin, world units.
        size: Height and width in pixels; one number for a square.
        field_of_view: Opening angle of the picture's shorter side, degrees.
        up: The axis of the ring.
        dtype: Of the cameras; torch's default if not given.
        device: Of the cameras.

    Raises:
        ValueError: If ``count`` is not positive, or a number does not fit.

    Example:
        >>> from diffiso.camera import ring_rig
        >>> len(ring_rig(24, 36.87, 5.0, size=64, field_of_view=60.0))
        24
    """
    azimuths = torch.arange(_count("ring_rig", count), dtype=torch.float64) * (360 / count)
    rig = Camera.orbit(azimuths, elevation, distance, size=size, up=up, field_of_view=field_of_view)
    return rig.to(device=device, dtype=dtype or torch.get_default_dtype())


def fibonacci_rig(
    count: int,
    distance: float,
    *,
    size: Size,
    field_of_view: float,
    up: Up = "y",
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Camera:
    """Return cameras spread evenly over a sphere, looking at the origin.

    Heights are the middles of ``count`` equal slices, from the top down, and azimuths grow by the
    golden angle, so that every camera has nearly the same area of the sphere and none stands on the
    up axis (but a lone one stands on the horizon).

    Args:
        count: Number of cameras.
        distance: From the origin, world units.
        size: Height and width in pixels; one number for a square.
        field_of_view: Opening angle of the picture's shorter side, degrees.
        up: The axis that points up in the pictures.
        dtype: Of the cameras; torch's default if not given.
        device: Of the cameras.

    Raises:
        ValueError: If ``count`` is not positive, or a number does not fit.

    Example:
        >>> from diffiso.camera import fibonacci_rig
        >>> fibonacci_rig(100, 3.0, size=64, field_of_view=40.0).centers.mean(dim=0).norm() < 0.05
        tensor(True)
    """
    index = torch.arange(_count("fibonacci_rig", count), dtype=torch.float64)
    elevations = torch.asin(1 - (2 * index + 1) / count).rad2deg()
    azimuths = (index * (180 * (3 - math.sqrt(5)))) % 360
    rig = Camera.orbit(
        azimuths, elevations, distance, size=size, up=up, field_of_view=field_of_view
    )
    return rig.to(device=device, dtype=dtype or torch.get_default_dtype())


def _count(name: str, count: int) -> int:
    if type(count) is not int or count < 1:
        raise ValueError(f"{name}: count must be a positive int, got {count!r}")
    return count
