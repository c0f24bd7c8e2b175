# SPDX-License-Identifier: Apache-2.0
"""Pictures and animations in and out of files, with pillow."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffiso.extras import require
from diffiso.io.files import StrPath, check_output, first_line, write_file

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")

Pixels = NDArray[np.uint8] | NDArray[np.floating] | Tensor


def load_image(path: StrPath) -> Tensor:
    """Return a picture as floats in [0, 1], row 0 on top.

    Args:
        path: PNG, JPEG, WebP, or what else pillow reads; grey, palette and 16-bit pictures too.

    Returns:
        (H, W, 3) red, green and blue, or (H, W, 4) with alpha where the file has it; float32 on
        the CPU, sRGB as in the file, alpha not multiplied in.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file cannot be read as a picture.
        ImportError: If the extra `pipelines` is not installed.

    Example:
        >>> load_image(save_image("grey.png", torch.full((4, 6, 3), 0.5))).shape
        torch.Size([4, 6, 3])
    """
    picture = _open(Path(path))
    alpha = "A" in picture.getbands() or "transparency" in picture.info
    # Of greys, pillow gives alpha to those of bytes and bits only.
    if picture.mode == "F" or picture.mode[0] == "I" or (picture.mode in ("1", "L") and not alpha):
        return _grey(picture)[..., None].expand(-1, -1, 3).contiguous()
    array = np.array(picture.convert("RGBA" if alpha else "RGB"))
    return torch.from_numpy(array).float() / 255


def load_mask(path: StrPath) -> Tensor:
    """Return what share of each pixel a picture covers, row 0 on top.

    Args:
        path: A picture: its alpha where it has one, else its brightness (white is covered).

    Returns:
        (H, W) float32 in [0, 1] on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file cannot be read as a picture, or shows colours and has no alpha.
        ImportError: If the extra `pipelines` is not installed.

    Example:
        >>> load_mask(save_image("mask.png", torch.eye(4))).sum()
        tensor(4.)
    """
    image = load_image(path)
    if image.shape[2] == 4:
        return image[..., 3].contiguous()
    spread = float((image.amax(dim=2) - image.amin(dim=2)).max())
    if spread > 0.1:  # JPEG tints grey by a few hundredths
        raise ValueError(
            f"{path}: a mask must be grey or have alpha, got channels up to {spread:.2f} apart"
        )
    return image.mean(dim=2)


def save_image(path: StrPath, image: Pixels, *, bits: Literal[8, 16] = 8) -> Path:
    """Write a picture as PNG, JPEG or WebP, after the name's suffix, and return the path.

    Args:
        path: File to write; its folder is made where needed.
        image: (H, W), (H, W, 3), or with alpha (H, W, 4, not in JPEG): bytes, or floats in [0, 1].
        bits: Of each number; 16 for measurements, which PNG holds of (H, W) floats.

    Raises:
        ValueError: If the suffix is unknown, or the picture's shape or dtype is another.
        OSError: If the file cannot be written.
        ImportError: If the extra `pipelines` is not installed.

    Example:
        >>> save_image("red.png", torch.tensor([1.0, 0.0, 0.0]).expand(8, 8, 3)).name
        'red.png'
    """
    path = check_output(path, (".png",) if bits == 16 else IMAGE_SUFFIXES)
    buffer = io.BytesIO()
    pixels = _numbers(image, "save_image", bits)
    suffix = path.suffix.lower()
    kind = {".jpg": "jpeg"}.get(suffix, suffix[1:])
    if kind == "jpeg" and pixels.shape[2:] == (4,):
        raise ValueError(f"{path}: JPEG cannot hold alpha, use .png or .webp")
    options: dict[str, Any] = {"optimize": True} if kind == "png" else {"quality": 92}
    require("PIL.Image").fromarray(pixels).save(buffer, format=kind, **options)
    return write_file(path, buffer.getvalue())


def save_gif(
    path: StrPath, frames: Sequence[Pixels], *, seconds: float = 0.08, colors: int = 256
) -> Path:
    """Write an animation that repeats for ever, and return the path.

    All frames share one palette, so that still parts do not flicker.

    Args:
        path: File to write, `.gif`; its folder is made where needed.
        frames: Pictures of one size, (H, W, 3) bytes or floats in [0, 1].
        seconds: How long each frame stays.
        colors: Size of the palette, at most 256; with 128 a file is about a fifth smaller.

    Raises:
        ValueError: If the suffix is not `.gif`, there are no frames, their sizes differ, `seconds`
            is not positive, or the palette's size is not from 2 to 256.
        OSError: If the file cannot be written.
        ImportError: If the extra `pipelines` is not installed.

    Example:
        >>> frames = [torch.full((8, 8, 3), k / 4) for k in range(5)]
        >>> save_gif("fade.gif", frames).name
        'fade.gif'
    """
    path = check_output(path, (".gif",))
    if not seconds > 0:
        raise ValueError(f"save_gif: seconds must be positive, got {seconds}")
    if not 2 <= colors <= 256:
        raise ValueError(f"save_gif: colors must be from 2 to 256, got {colors}")
    pictures = [_numbers(frame, "save_gif", 8) for frame in frames]
    sizes = sorted({picture.shape for picture in pictures})
    if len(sizes) != 1 or sizes[0][2:] != (3,):
        raise ValueError(
            f"save_gif: frames must be (H, W, 3), of one size and at least one, got {sizes}"
        )
    pillow = require("PIL.Image")
    every = max(1, len(pictures) // 6)
    palette = pillow.fromarray(np.concatenate(pictures[::every])).quantize(colors, kmeans=1)
    stills = [pillow.fromarray(picture).quantize(palette=palette) for picture in pictures]
    buffer = io.BytesIO()
    stills[0].save(
        buffer,
        format="gif",
        save_all=True,
        append_images=stills[1:],
        duration=round(1000 * seconds),
        loop=0,
    )
    return write_file(path, buffer.getvalue())


def _open(path: Path) -> Any:
    pillow, turn = require("PIL.Image"), require("PIL.ImageOps")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: image file not found")
    try:
        with pillow.open(path) as picture:
            return turn.exif_transpose(picture)
    except Exception as error:  # pillow's readers raise what their formats make them
        raise ValueError(f"{path}: cannot be read as a picture ({first_line(error)})") from error


def _grey(picture: Any) -> Tensor:
    """Return (H, W) in [0, 1] of a picture of bits, bytes, 16-bit numbers or floats."""
    if picture.mode in ("1", "L"):
        return torch.from_numpy(np.array(picture.convert("L"))).float() / 255
    values = torch.from_numpy(np.array(picture).astype(np.float32))
    return (values if picture.mode == "F" else values / 65535).clamp(0, 1)


def _numbers(image: Pixels, name: str, bits: int) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Return a picture as whole numbers of so many bits."""
    if isinstance(image, Tensor):
        image = image.detach().cpu()
        image = (image.float() if image.dtype == torch.bfloat16 else image).numpy()
    array = np.asarray(image)
    if bits not in (8, 16):
        raise ValueError(f"{name}: bits must be 8 or 16, got {bits}")
    if array.ndim not in (2, 3) or array.shape[2:] not in ((), (3,), (4,)) or array.size == 0:
        raise ValueError(f"{name}: image must be (H, W), (H, W, 3) or (H, W, 4), got {array.shape}")
    if bits == 16:
        if array.ndim != 2 or array.dtype.kind != "f":
            raise ValueError(
                f"{name}: image of 16 bits must be (H, W) floats in [0, 1], "
                f"got {array.shape} of {array.dtype}"
            )
        return np.asarray(65535 * np.nan_to_num(array).clip(0, 1) + 0.5, dtype=np.uint16)
    if array.dtype == np.uint8:
        return np.asarray(array, dtype=np.uint8)
    if array.dtype.kind != "f":
        raise ValueError(f"{name}: image must be bytes or floats in [0, 1], got {array.dtype}")
    return np.asarray(255 * np.nan_to_num(array).clip(0, 1) + 0.5, dtype=np.uint8)
