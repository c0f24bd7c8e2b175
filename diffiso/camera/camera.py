# SPDX-License-Identifier: Apache-2.0
"""The camera class of the library."""

from __future__ import annotations

import math
from typing import Literal, Self

import torch
from torch import Tensor

from diffiso.camera._checks import (
    Failure,
    Number,
    Size,
    as_size,
    as_tensors,
    check_alike,
    finite,
    positive,
    refuse,
)
from diffiso.camera.conventions import Conventions
from diffiso.camera.nerf import NerfTransforms

Up = Literal["y", "z"]

_UP = {"y": (0.0, 1.0, 0.0), "z": (0.0, 0.0, 1.0)}


class Camera(Conventions, NerfTransforms):
    """A batch of pinhole cameras, with pictures of one size.

    Axes as OpenCV's: x right, y down, z forward (right-handed); ``x_camera = R x_world + t`` for
    columns. A point of depth z appears at ``(fx x / z + cx, fy y / z + cy)``, in pixels from the
    upper left corner of the picture, so that the first pixel's centre is (0.5, 0.5) and row 0 is on
    top. There are no near and far planes and no lens distortion.

    Everything is differentiable in ``rotation``, ``translation``, ``focal`` and ``principal``;
    values are checked when a camera is made, which waits for the device. A learnable pose is made a
    rotation matrix outside (from a quaternion or an axis and angle) and a camera anew each step.
    A tensor for one camera goes with any number: one focal length for all views, say.

    Attributes:
        rotation: R, (N, 3, 3), float32 or float64: orthogonal to within 1e-4, determinant +1.
        translation: t, (N, 3), world units.
        focal: fx and fy, (N, 2), pixels, positive.
        principal: cx and cy, (N, 2), pixels; it may lie outside the picture.
        size: Height and width of the pictures, pixels.

    Raises:
        TypeError: If a tensor is none.
        ValueError: If a shape, dtype or device does not fit, or a value breaks its rule.

    Example:
        >>> import torch
        >>> from diffiso.camera import Camera
        >>> cameras = Camera.orbit([0.0, 90.0], 20.0, 4.0, field_of_view=40.0, size=(48, 64))
        >>> cameras.project(torch.zeros(1, 3)).depth
        tensor([[4.],
                [4.]])
        >>> cameras.rays().directions.shape
        torch.Size([2, 48, 64, 3])
    """

    @classmethod
    def look_at(
        cls,
        eye: Number,
        target: Number = (0.0, 0.0, 0.0),
        up: Up | Number = "y",
        *,
        size: Size,
        field_of_view: Number | None = None,
        focal: Number | None = None,
        principal: Number | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Self:
        """Return cameras that stand at ``eye`` and have ``target`` in the middle of the picture.

        Differentiable in all tensors.

        Args:
            eye: Positions, (3,) or (N, 3), world units.
            target: (3,) or (N, 3).
            up: ``"y"``, ``"z"`` or a direction, (3,) or (N, 3): what points up in the picture; not
                along the view.
            size: Height and width in pixels; one number for a square.
            field_of_view: Opening angle of the picture's shorter side in degrees: of its height
                (``fovy`` in OpenGL) unless it is taller than wide. A number or (N,). This or
                ``focal``.
            focal: Focal length in pixels: a number or (N,), or (N, 2) for fx and fy.
            principal: cx and cy in pixels, (2,) or (N, 2); by default the picture's middle. Off it,
                the target appears there.
            dtype: Of the cameras; by default that of the first tensor given, else torch's default.
            device: Likewise.

        Raises:
            ValueError: If eye and target are one point, ``up`` is along the view or zero, or an
                angle, focal length or number of cameras does not fit.

        Example:
            >>> from diffiso.camera import Camera
            >>> Camera.look_at((0.0, 0.0, 2.0), field_of_view=60.0, size=64).centers
            tensor([[0., 0., 2.]])
        """
        name = "Camera.look_at"
        shape = as_size(f"{name}: size", size)
        lens = _lens_arguments(name, field_of_view, focal, principal)
        upward: Number = _axis(name, up) if isinstance(up, str) else up
        given = as_tensors(name, dtype, device, eye=eye, target=target, up=upward, **lens)
        eyes, targets, ups = (
            _vectors(name, key, given.pop(key)) for key in ("eye", "target", "up")
        )
        lens_focal, center = _lens(name, shape, **given)
        count = check_alike(
            name, eye=eyes, target=targets, up=ups, focal=lens_focal, principal=center
        )
        points = {"eye": eyes, "target": targets, "up": ups}
        refuse([finite(f"{name}: {key}", point) for key, point in points.items()])
        eyes, targets, ups = (point.expand(count, 3) for point in points.values())
        view = targets - eyes
        side = torch.linalg.cross(view, ups)
        _refuse_degenerate(name, eyes, view, side, ups)
        forward = view / torch.linalg.vector_norm(view, dim=1, keepdim=True)
        right = side / torch.linalg.vector_norm(side, dim=1, keepdim=True)
        turn = torch.stack([right, torch.linalg.cross(forward, right), forward], dim=1)
        offset = -(turn * eyes[:, None]).sum(dim=2)
        return cls(turn, offset, lens_focal, center, shape)

    @classmethod
    def orbit(
        cls,
        azimuth: Number,
        elevation: Number,
        distance: Number,
        *,
        size: Size,
        target: Number = (0.0, 0.0, 0.0),
        up: Up = "y",
        field_of_view: Number | None = None,
        focal: Number | None = None,
        principal: Number | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Self:
        """Return cameras around ``target``, by the angles of :class:`diffiso.view.View`.

        Azimuth 0 stands on the +z axis for ``up="y"`` (on +x for ``"z"``) and grows towards +x
        (+y), counter-clockwise seen from above; elevation is the angle above the horizon. At 90
        degrees of elevation there is no degeneracy: the picture's up is where the camera came from.
        Differentiable in all tensors.

        Args:
            azimuth: Degrees, a number or (N,).
            elevation: Degrees, a number or (N,).
            distance: From the camera to the target, positive, a number or (N,), world units.
            size: Height and width in pixels; one number for a square.
            target: (3,) or (N, 3), world units.
            up: The axis that points up in the picture.
            field_of_view: Opening angle of the picture's shorter side in degrees. This or
                ``focal``.
            focal: Focal length in pixels: a number or (N,), or (N, 2) for fx and fy.
            principal: cx and cy in pixels, (2,) or (N, 2); by default the picture's middle.
            dtype: Of the cameras; by default that of the first tensor given, else torch's default.
            device: Likewise.

        Raises:
            ValueError: If ``up`` is unknown, the distance is not positive, or an angle, focal
                length or number of cameras does not fit.

        Example:
            >>> from diffiso.camera import Camera
            >>> Camera.orbit([0.0, 90.0], 0.0, 3.0, focal=80.0, size=64).centers[:, 0].round()
            tensor([0., 3.])
        """
        name = "Camera.orbit"
        shape = as_size(f"{name}: size", size)
        _axis(name, up)
        lens = _lens_arguments(name, field_of_view, focal, principal)
        given = as_tensors(
            name,
            dtype,
            device,
            azimuth=azimuth,
            elevation=elevation,
            distance=distance,
            target=target,
            **lens,
        )
        turns, rises, radii = (
            _numbers(name, key, given.pop(key)) for key in ("azimuth", "elevation", "distance")
        )
        targets = _vectors(name, "target", given.pop("target"))
        lens_focal, center = _lens(name, shape, **given)
        count = check_alike(
            name,
            azimuth=turns,
            elevation=rises,
            distance=radii,
            target=targets,
            focal=lens_focal,
            principal=center,
        )
        refuse(
            [
                finite(f"{name}: azimuth", turns),
                finite(f"{name}: elevation", rises),
                positive(f"{name}: distance", radii[:, None]),
                finite(f"{name}: target", targets),
            ]
        )
        turns, rises = turns.deg2rad().expand(count), rises.deg2rad().expand(count)
        ring, zero = rises.cos(), torch.zeros_like(turns)
        forward = -torch.stack([ring * turns.sin(), rises.sin(), ring * turns.cos()], dim=1)
        right = torch.stack([turns.cos(), zero, -turns.sin()], dim=1)
        if up == "z":
            forward, right = forward[:, [2, 0, 1]], right[:, [2, 0, 1]]
        turn = torch.stack([right, torch.linalg.cross(forward, right), forward], dim=1)
        # The target lies straight ahead, so that its distance is the depth.
        ahead = radii[:, None] * radii.new_tensor([0.0, 0.0, 1.0])
        return cls(turn, ahead - (turn * targets[:, None]).sum(dim=2), lens_focal, center, shape)


def _axis(name: str, up: str) -> tuple[float, float, float]:
    if up not in _UP:
        raise ValueError(f"{name}: up must be 'y' or 'z', got {up!r}")
    return _UP[up]


def _lens_arguments(
    name: str, field_of_view: Number | None, focal: Number | None, principal: Number | None
) -> dict[str, Number]:
    if (field_of_view is None) == (focal is None):
        got = "none" if focal is None else "both"
        raise ValueError(f"{name}: one of field_of_view and focal must be given, got {got}")
    given = {"field_of_view": field_of_view, "focal": focal, "principal": principal}
    return {key: value for key, value in given.items() if value is not None}


def _lens(
    name: str,
    size: tuple[int, int],
    *,
    field_of_view: Tensor | None = None,
    focal: Tensor | None = None,
    principal: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return focal lengths and principal points, both (N, 2), in pixels."""
    height, width = size
    if field_of_view is not None:
        angles = _numbers(name, "field_of_view", field_of_view)
        inside = (angles.detach() > 0) & (angles.detach() < 180)
        refuse(
            [
                Failure(
                    ~inside,
                    lambda i: (
                        f"{name}: field_of_view must be above 0 and below 180 degrees, got "
                        f"{float(angles[i])} in camera {i}"
                    ),
                )
            ]
        )
        focal = min(size) / 2 / (angles.deg2rad() / 2).tan()
    assert focal is not None  # one of the two is given
    lengths = focal if focal.dim() == 2 else _numbers(name, "focal", focal)[:, None].expand(-1, 2)
    if lengths.shape[1:] != (2,) or lengths.shape[0] == 0:
        raise ValueError(
            f"{name}: focal must be a number, (N,) or (N, 2), got {tuple(focal.shape)}"
        )
    refuse([positive(f"{name}: focal", lengths)])
    if principal is None:
        return lengths, lengths.new_tensor([[width / 2, height / 2]])
    centers = principal[None] if principal.dim() == 1 else principal
    if centers.dim() != 2 or centers.shape[1] != 2 or centers.shape[0] == 0:
        raise ValueError(f"{name}: principal must be (2,) or (N, 2), got {tuple(principal.shape)}")
    refuse([finite(f"{name}: principal", centers)])
    return lengths, centers


def _numbers(name: str, key: str, values: Tensor) -> Tensor:
    if values.dim() > 1 or values.numel() == 0:
        raise ValueError(f"{name}: {key} must be a number or (N,), got {tuple(values.shape)}")
    return values.reshape(-1)


def _vectors(name: str, key: str, values: Tensor) -> Tensor:
    if values.dim() not in (1, 2) or values.shape[-1] != 3 or values.numel() == 0:
        raise ValueError(f"{name}: {key} must be (3,) or (N, 3), got {tuple(values.shape)}")
    return values.reshape(-1, 3)


def _refuse_degenerate(name: str, eyes: Tensor, view: Tensor, side: Tensor, ups: Tensor) -> None:
    """Raise where a view or its right-hand side has no direction left in the dtype's digits."""
    rounding = torch.finfo(view.dtype).eps
    length, across, upward, far = (
        torch.linalg.vector_norm(v.detach(), dim=1) for v in (view, side, ups, eyes)
    )
    refuse(
        [
            Failure(
                length <= 8 * rounding * far,
                lambda i: (
                    f"{name}: target must not be at eye, got {eyes[i].tolist()} for both "
                    f"in camera {i}"
                ),
            ),
            Failure(
                across <= math.sqrt(rounding) * length * upward,
                lambda i: (
                    f"{name}: up must not be zero or along the view, got "
                    f"{ups[i].tolist()} for the view {view[i].tolist()} in camera {i}: choose "
                    "another axis, or use orbit"
                ),
            ),
        ]
    )
