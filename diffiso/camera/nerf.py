# SPDX-License-Identifier: Apache-2.0
"""Cameras as NeRF data sets write them: the content of a `transforms.json`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch

from diffiso.camera._checks import FIXED_TOLERANCE, ROTATION_TOLERANCE, Size, as_size
from diffiso.camera.pinhole import Pinhole

_PINHOLE_MODELS = (
    "PINHOLE",
    "SIMPLE_PINHOLE",
    "PERSPECTIVE",
    "SIMPLE_RADIAL",
    "RADIAL",
    "OPENCV",
    "FULL_OPENCV",
)
_DISTORTION = ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2")


class NerfTransforms(Pinhole):
    """The part of :class:`diffiso.camera.Camera` that reads and writes NeRF's dictionaries."""

    @classmethod
    def from_nerf(
        cls,
        transforms: Mapping[str, Any],
        size: Size | None = None,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Self:
        """Return the cameras of a parsed `transforms.json` (NeRF, Instant-NGP, Nerfstudio).

        ``transform_matrix`` is camera to world with camera axes x right, y up, z back: Blender's
        ``matrix_world``. Poses are taken as they stand, in the file's own world (z up in Blender
        and Nerfstudio). Intrinsics are ``fl_x``, ``fl_y``, ``cx``, ``cy`` in pixels with the first
        pixel's centre at 0.5, or ``camera_angle_x`` in radians across the picture's width (and
        ``camera_angle_y``); those of a frame go before those of the whole file, focal lengths
        before angles. Without ``fl_y`` or ``camera_angle_y`` pixels are square; without ``cx`` and
        ``cy`` the centre is the picture's. NeRF's first code shot its rays through pixel corners;
        here, as in its successors, they go through centres.

        Args:
            transforms: The dictionary; `diffiso.io.cameras` reads it from a file.
            size: Height and width in pixels where the dictionary has no ``h`` and ``w``, as in
                NeRF's synthetic data set; one number for a square.
            dtype: Of the cameras; torch's default if not given.
            device: Of the cameras.

        Raises:
            ValueError: If a key is missing or breaks its rule, lenses are distorted, or frames
                differ in size; the message names the key.

        Example:
            >>> from diffiso.camera import Camera
            >>> pose = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 4], [0, 0, 0, 1]]
            >>> frames = [{"file_path": "r_0", "transform_matrix": pose}]
            >>> Camera.from_nerf({"camera_angle_x": 0.69, "frames": frames}, 800).centers
            tensor([[0., 0., 4.]])
        """
        frames = transforms.get("frames") if isinstance(transforms, Mapping) else None
        if not isinstance(frames, list) or not frames:
            raise ValueError(
                f"{_NAME}: frames must be a list of at least one, got {_brief(frames)}"
            )
        read = [_Frame(transforms, frame, index) for index, frame in enumerate(frames)]
        shape = read[0].size(size)
        for frame in read[1:]:
            if frame.size(size) != shape:
                raise ValueError(
                    f"{_NAME}: h and w must be the same for all frames (read others apart), got "
                    f"{shape} in frames[0] and {frame.size(size)} in {frame.label}"
                )
        numbers = [frame.intrinsics(shape) for frame in read]
        options: dict[str, Any] = {
            "dtype": dtype or torch.get_default_dtype(),
            "device": device,
        }
        # The inverse in double precision, whatever the cameras' own.
        poses = torch.tensor([frame.pose() for frame in read], dtype=torch.float64)
        turn = poses[:, :3, :3].transpose(1, 2) * poses.new_tensor([1.0, -1.0, -1.0])[:, None]
        offset = -(turn * poses[:, None, :3, 3]).sum(dim=2)
        return cls(
            turn.to(**options),
            offset.to(**options),
            torch.tensor([(fx, fy) for fx, fy, _, _ in numbers], **options),
            torch.tensor([(cx, cy) for _, _, cx, cy in numbers], **options),
            shape,
        )

    def to_nerf(self, images: Sequence[str] | None = None) -> dict[str, Any]:
        """Return a dictionary that `json.dumps` turns into a `transforms.json`.

        Axes and units as in ``from_nerf``. Intrinsics that all cameras share stand at the top,
        others in the frames. ``camera_angle_x`` goes along only where it says everything: square
        pixels and a centred principal point.

        Args:
            images: One file name per camera, as ``file_path``; without, frames have none.

        Raises:
            ValueError: If there is not one image per camera.

        Example:
            >>> from diffiso.camera import Camera
            >>> camera = Camera.orbit(0, 0, 3, focal=80.0, size=64)
            >>> camera.to_nerf(["front.png"])["frames"][0]["transform_matrix"][2]
            [0.0, 0.0, 1.0, 3.0]
        """
        if images is not None and len(images) != len(self):
            raise ValueError(
                f"Camera.to_nerf: images must be one per camera, got {len(images)} for {len(self)}"
            )
        height, width = self.size
        lenses = [
            _lens(fx, fy, cx, cy, height, width)
            for (fx, fy), (cx, cy) in zip(self.focal.tolist(), self.principal.tolist(), strict=True)
        ]
        poses = self.camera_to_world.detach() * self.focal.new_tensor([1.0, -1.0, -1.0, 1.0])
        # Adding zero turns -0 into 0, for readers of the file.
        matrices = (poses + 0.0).tolist()
        shared = all(lens == lenses[0] for lens in lenses)
        frames = [
            {
                **({} if images is None else {"file_path": str(images[i])}),
                **({} if shared else lenses[i]),
                "transform_matrix": matrices[i],
            }
            for i in range(len(self))
        ]
        top = {"camera_model": "PINHOLE", "w": width, "h": height}
        return {**top, **(lenses[0] if shared else {}), "frames": frames}


_NAME = "Camera.from_nerf"


class _Frame:
    """One frame's keys, with those of the whole file behind them."""

    def __init__(self, top: Mapping[str, Any], frame: Any, index: int) -> None:
        self.label = f"frames[{index}]"
        if not isinstance(frame, Mapping):
            raise ValueError(f"{_NAME}: {self.label} must be an object, got {_brief(frame)}")
        self.layers = [(f"{self.label}.", frame), ("", top)]
        _, model = self.find("camera_model")
        if model is not None and model not in _PINHOLE_MODELS:
            raise ValueError(
                f"{_NAME}: camera_model must be one of {', '.join(_PINHOLE_MODELS)}, got {model!r}"
            )
        for key in _DISTORTION:
            where, bend = self.find(key)
            if bend:
                raise ValueError(
                    f"{_NAME}: {where}{key} must be 0 (no lens distortion: undistort the images "
                    f"and their intrinsics first), got {bend!r}"
                )

    def find(self, key: str) -> tuple[str, Any]:
        """Return where a key stands and its value, or None."""
        for where, layer in self.layers:
            if layer.get(key) is not None:
                return where, layer[key]
        return "", None

    def size(self, default: Size | None) -> tuple[int, int]:
        """Return height and width."""
        sides = [self.number(key, positive=True) for key in ("h", "w")]
        if sides[0] is None or sides[1] is None:
            if default is None:
                raise ValueError(
                    f"{_NAME}: w and h must be given, in the file or as size, got none"
                )
            return as_size(f"{_NAME}: size", default)
        if not all(side is not None and side.is_integer() for side in sides):
            raise ValueError(
                f"{_NAME}: w and h must be whole numbers, got {sides[1]} and {sides[0]}"
            )
        given = int(sides[0]), int(sides[1])
        if default is not None and as_size(f"{_NAME}: size", default) != given:
            raise ValueError(
                f"{_NAME}: size must be as h and w say (then use `resized`), got {default} for "
                f"{given}"
            )
        return given

    def intrinsics(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """Return fx, fy, cx and cy in pixels."""
        height, width = size
        fx = self.focal("x", width)
        if fx is None:
            raise ValueError(
                f"{_NAME}: fl_x or camera_angle_x must be given, got none for {self.label}"
            )
        fy = self.focal("y", height)
        cx, cy = self.number("cx"), self.number("cy")
        return (
            fx,
            fx if fy is None else fy,
            width / 2 if cx is None else cx,
            height / 2 if cy is None else cy,
        )

    def focal(self, axis: str, side: int) -> float | None:
        """Return a focal length from the frame's own keys, else from the file's."""
        for layer in self.layers:
            length = self.number(f"fl_{axis}", positive=True, layers=[layer])
            if length is not None:
                return length
            angle = self.number(f"camera_angle_{axis}", positive=True, layers=[layer])
            if angle is not None:
                if angle >= math.pi:
                    raise ValueError(
                        f"{_NAME}: {layer[0]}camera_angle_{axis} must be radians below pi, "
                        f"got {angle}"
                    )
                return side / 2 / math.tan(angle / 2)
        return None

    def number(
        self,
        key: str,
        *,
        positive: bool = False,
        layers: list[tuple[str, Mapping[str, Any]]] | None = None,
    ) -> float | None:
        """Return a number, or None where there is none."""
        for where, layer in self.layers if layers is None else layers:
            value = layer.get(key)
            if value is None:
                continue
            fits = _is_number(value) and (value > 0 or not positive)
            if not fits:
                rule = "a positive number" if positive else "a finite number"
                raise ValueError(f"{_NAME}: {where}{key} must be {rule}, got {_brief(value)}")
            return float(value)
        return None

    def pose(self) -> list[list[float]]:
        """Return the first three rows of the camera-to-world matrix."""
        name = f"{_NAME}: {self.label}.transform_matrix"
        rows: Any = self.layers[0][1].get("transform_matrix")
        fits = isinstance(rows, list) and len(rows) in (3, 4)
        if not fits or not all(isinstance(row, list) and len(row) == 4 for row in rows):
            raise ValueError(f"{name} must be 4 rows of 4 numbers, got {_brief(rows)}")
        if not all(_is_number(value) for row in rows for value in row):
            raise ValueError(f"{name} must hold finite numbers, got {_brief(rows)}")
        for last in rows[3:]:
            apart = max(abs(x - y) for x, y in zip(last, (0, 0, 0, 1), strict=True))
            if apart > FIXED_TOLERANCE:
                raise ValueError(f"{name} must end in the row 0, 0, 0, 1, got {last}")
        (a, b, c), (d, e, f), (g, h, i) = (row[:3] for row in rows[:3])
        columns = ((a, d, g), (b, e, h), (c, f, i))
        for k, left in enumerate(columns):
            for m, right in enumerate(columns):
                dot = sum(p * q for p, q in zip(left, right, strict=True))
                if abs(dot - (k == m)) > ROTATION_TOLERANCE:
                    raise ValueError(
                        f"{name} must hold a rotation without scale (columns of length 1 at right "
                        f"angles), got {dot:.6g} where {int(k == m)} should be"
                    )
        if a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g) < 0:
            raise ValueError(f"{name} must hold a rotation, got a reflection (determinant -1)")
        return [[float(value) for value in row] for row in rows[:3]]


def _lens(fx: float, fy: float, cx: float, cy: float, height: int, width: int) -> dict[str, float]:
    lens = {"fl_x": fx, "fl_y": fy, "cx": cx, "cy": cy}
    if fx == fy and (cx, cy) == (width / 2, height / 2):
        lens["camera_angle_x"] = 2 * math.atan(width / 2 / fx)
    return lens


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and type(value) is not bool and math.isfinite(value)


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
