# SPDX-License-Identifier: Apache-2.0
"""Cameras in and out of files: the `transforms.json` of NeRF data sets."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from diffiso.camera import Camera
from diffiso.extras import require
from diffiso.io.files import StrPath, check_output, first_line, write_file


class CameraFile(NamedTuple):
    """Cameras and the pictures they took.

    Attributes:
        cameras: One per frame, in the file's order.
        images: The frames' ``file_path`` as the file has them: relative to its folder, and without
            an ending in NeRF's synthetic data set.
    """

    cameras: Camera
    images: tuple[str, ...]


def load_cameras(
    path: StrPath,
    size: int | Sequence[int] | None = None,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> CameraFile:
    """Return the cameras of a `transforms.json` (NeRF, Instant-NGP, Nerfstudio).

    Axes, units and keys are those of :meth:`diffiso.camera.Camera.from_nerf`.

    Args:
        path: File to read.
        size: Height and width of the pictures where the file has no ``h`` and ``w``; by default
            those of the first picture, which needs the extra `pipelines`.
        dtype: Of the cameras; torch's default if not given.
        device: Of the cameras.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no such JSON; the message names file and key.

    Example:
        >>> from diffiso.camera import ring_rig
        >>> cameras = ring_rig(2, 20.0, 4.0, size=64, field_of_view=40.0)
        >>> path = save_cameras("transforms.json", cameras, ["0.png", "1.png"])
        >>> load_cameras(path).images
        ('0.png', '1.png')
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: camera file not found")
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: cannot be read as JSON ({first_line(error)})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: must hold a JSON object, got {type(content).__name__}")
    try:
        images = _images(content)
        if size is None and not _has_size(content):
            size = _picture_size(path, images[0])
        return CameraFile(Camera.from_nerf(content, size, dtype=dtype, device=device), images)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def save_cameras(
    path: StrPath,
    cameras: Camera,
    images: Sequence[str],
    *,
    masks: Sequence[str] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Write cameras as a `transforms.json`, whole or not at all, and return the path.

    Args:
        path: File to write, ending in `.json`; its folder is made where needed.
        cameras: Their numbers are written in full: reading them back gives the same to the dtype's
            rounding.
        images: One file name per camera, relative to the file's folder.
        masks: Likewise the pictures' masks, as ``mask_path`` (Nerfstudio's key).
        extra: What else to write at the top, as JSON can hold it; no key that cameras have.

    Raises:
        ValueError: If the ending is another, there is not one image or mask per camera, or an extra
            key is taken.
        OSError: If the file cannot be written.

    Example:
        >>> from diffiso.camera import sdfdiff_rig
        >>> path = save_cameras("rig.json", sdfdiff_rig(64), [f"{i}.png" for i in range(26)])
        >>> len(load_cameras(path).cameras)
        26
    """
    path = check_output(path, (".json",))
    content = cameras.to_nerf(images)
    if masks is not None:
        if len(masks) != len(cameras):
            raise ValueError(
                f"save_cameras: masks must be one per camera, got {len(masks)} for {len(cameras)}"
            )
        for frame, mask in zip(content["frames"], masks, strict=True):
            frame["mask_path"] = mask
    taken = content.keys() & (extra or {}).keys()
    if taken:
        raise ValueError(
            f"save_cameras: extra must have other keys, got {', '.join(sorted(taken))}"
        )
    text = json.dumps({**(extra or {}), **content}, indent=1, allow_nan=False)
    return write_file(path, f"{text}\n".encode())


def _images(content: dict[str, Any]) -> tuple[str, ...]:
    frames = content.get("frames")
    if not isinstance(frames, list) or not frames:
        raise ValueError("frames must be a list of at least one")
    for index, frame in enumerate(frames):
        name = frame.get("file_path") if isinstance(frame, dict) else None
        if not isinstance(name, str):
            raise ValueError(f"frames[{index}].file_path must be text, got {name!r}")
    return tuple(frame["file_path"] for frame in frames)


def _has_size(content: dict[str, Any]) -> bool:
    return all({"w", "h"} <= {**content, **frame}.keys() for frame in content["frames"])


def _picture_size(path: Path, image: str) -> tuple[int, int]:
    """Return the size of a picture beside the file, whose name may lack its `.png`."""
    for picture in (path.parent / image, path.parent / f"{image}.png"):
        if picture.is_file():
            break
    else:
        raise ValueError(
            f"w and h must be given, in the file or as size, got none, and no picture {image}"
        )
    try:
        with require("PIL.Image").open(picture) as opened:
            width, height = opened.size
    except OSError as error:
        raise ValueError(f"{picture} cannot be read as a picture") from error
    return height, width
