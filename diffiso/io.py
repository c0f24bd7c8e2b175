# SPDX-License-Identifier: Apache-2.0
"""Meshes, volumes and pictures in and out of files.

Files are written under a temporary name and renamed when complete: there is never half a file.
Errors name the file. Meshes need trimesh and pictures pillow, both in the extra `pipelines`.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffiso.extras import require
from diffiso.types import Mesh

MESH_SUFFIXES = (".ply", ".obj", ".glb", ".stl")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")

_EXPORT_OPTIONS: dict[str, dict[str, Any]] = {
    ".ply": {"vertex_normal": True},
    ".obj": {"include_normals": True, "digits": 9},
    ".glb": {"include_normals": True},
    ".stl": {},
}

StrPath = str | os.PathLike[str]


def load_mesh(path: StrPath) -> Mesh:
    """Return the triangles of a mesh file (PLY, OBJ, GLB, STL and what else trimesh reads).

    Vertices that differ only in texture coordinates or normals are welded, as are vertices of equal
    position in formats that repeat them; the parts of a scene become one mesh; polygons become
    triangles.

    Args:
        path: File to read.

    Returns:
        A mesh with float64 vertices and int64 faces on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file cannot be read as a mesh, has no faces or vertices that are not
            finite.
        ImportError: If the extra `pipelines` is not installed.
    """
    path = Path(path)
    trimesh = require("trimesh")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: mesh file not found")
    try:
        loaded = trimesh.load_mesh(path, process=False)
    except Exception as error:
        raise ValueError(f"{path}: cannot be read as a mesh ({_first_line(error)})") from error
    faces = getattr(loaded, "faces", None)
    if faces is None or len(faces) == 0:
        raise ValueError(f"{path}: a mesh must have faces, got none")
    if not np.isfinite(loaded.vertices).all():
        raise ValueError(f"{path}: vertices must be finite, got NaN or infinity")
    loaded.merge_vertices(merge_tex=True, merge_norm=True)
    return Mesh(
        torch.from_numpy(np.array(loaded.vertices, dtype=np.float64)),
        torch.from_numpy(np.array(loaded.faces, dtype=np.int64)),
    )


def save_mesh(path: StrPath, mesh: Mesh) -> Path:
    """Write a mesh as PLY, OBJ, GLB or STL, after the name's suffix, and return the path.

    Vertex normals go along where the format has them, so that viewers shade smoothly.

    Args:
        path: File to write; its folder is made where needed.
        mesh: Triangles; vertices are stored in single precision except in OBJ.

    Raises:
        ValueError: If the suffix is unknown, or GLB or STL is asked to hold an empty mesh.
        OSError: If the file cannot be written.
        ImportError: If the extra `pipelines` is not installed.
    """
    path = check_output(path, MESH_SUFFIXES)
    trimesh = require("trimesh")
    vertices, faces = mesh.numpy()
    suffix = path.suffix.lower()
    if len(faces) == 0 and suffix in (".glb", ".stl"):
        raise ValueError(
            f"{path}: {suffix[1:].upper()} cannot hold an empty mesh, use .ply or .obj"
        )
    geometry = trimesh.Trimesh(vertices, faces, process=False)
    data = geometry.export(file_type=suffix[1:], **(_EXPORT_OPTIONS[suffix] if len(faces) else {}))
    return write_file(path, data.encode() if isinstance(data, str) else data)


def load_volume(path: StrPath) -> Tensor:
    """Return the samples of a `.npy` file as a tensor (X, Y, Z).

    Args:
        path: File that holds a floating point array of rank 3, at least two nodes along each axis.
            NaN marks an absent sample, infinities are numbers.

    Returns:
        The samples in the file's own dtype, on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no such array, or has no finite sample.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: volume file not found")
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(
            f"{path}: cannot be read as a .npy array ({_first_line(error)})"
        ) from error
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{path}: a volume must be one array, got an archive of several")
    if array.ndim != 3 or min(array.shape) < 2:
        raise ValueError(
            f"{path}: a volume must be (X, Y, Z) with two nodes or more each, got {array.shape}"
        )
    if array.dtype.kind != "f" or array.dtype.itemsize > 8:
        raise ValueError(f"{path}: a volume must be float16, float32 or float64, got {array.dtype}")
    if not np.isfinite(array).any():
        raise ValueError(f"{path}: a volume must have finite samples, got none")
    native = array.astype(array.dtype.newbyteorder("="), order="C", copy=False)
    return torch.from_numpy(np.require(native, requirements=["C", "W"]))


def save_image(path: StrPath, image: NDArray[np.uint8] | Tensor) -> Path:
    """Write a picture as PNG, JPEG or WebP, after the name's suffix, and return the path.

    Args:
        path: File to write; its folder is made where needed.
        image: (H, W, 3) bytes, or floats in [0, 1].

    Raises:
        ValueError: If the suffix is unknown, or the picture's shape or dtype is another.
        OSError: If the file cannot be written.
        ImportError: If the extra `pipelines` is not installed.
    """
    path = check_output(path, IMAGE_SUFFIXES)
    buffer = io.BytesIO()
    picture = require("PIL.Image").fromarray(_bytes(image, "save_image"))
    kind = {".jpg": "jpeg", ".jpeg": "jpeg"}.get(path.suffix.lower(), path.suffix.lower()[1:])
    picture.save(buffer, format=kind, **({"quality": 92} if kind != "png" else {"optimize": True}))
    return write_file(path, buffer.getvalue())


def save_gif(
    path: StrPath, frames: Sequence[NDArray[np.uint8] | Tensor], *, seconds: float = 0.08
) -> Path:
    """Write an animation that repeats for ever, and return the path.

    All frames share one palette, so that still parts do not flicker.

    Args:
        path: File to write, `.gif`; its folder is made where needed.
        frames: Pictures of one size, (H, W, 3) bytes or floats in [0, 1].
        seconds: How long each frame stays.

    Raises:
        ValueError: If the suffix is not `.gif`, there are no frames, or their sizes differ.
        OSError: If the file cannot be written.
        ImportError: If the extra `pipelines` is not installed.
    """
    path = check_output(path, (".gif",))
    pictures = [_bytes(frame, "save_gif") for frame in frames]
    sizes = sorted({picture.shape[:2] for picture in pictures})
    if len(sizes) != 1:
        raise ValueError(f"save_gif: frames must be of one size and at least one, got {sizes}")
    pillow = require("PIL.Image")
    every = max(1, len(pictures) // 6)
    colors = pillow.fromarray(np.concatenate(pictures[::every])).quantize(256, kmeans=1)
    stills = [pillow.fromarray(picture).quantize(palette=colors) for picture in pictures]
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


def check_output(path: StrPath, suffixes: Sequence[str] = ()) -> Path:
    """Return a path that can be written, its folder made; call it before the work starts.

    Args:
        path: File to be written later.
        suffixes: Endings allowed, lower case with the dot; none allows all.

    Raises:
        ValueError: If the suffix is not among those allowed.
        OSError: If the path is a folder, or its folder cannot be made or written.
    """
    path = Path(path)
    if suffixes and path.suffix.lower() not in suffixes:
        raise ValueError(
            f"{path}: name must end in {', '.join(suffixes)}, got {path.suffix or 'no suffix'!r}"
        )
    if path.is_dir():
        raise IsADirectoryError(f"{path}: output must be a file, got a folder")
    probe = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OSError(f"{path}: cannot be written ({error.strerror or error})") from error
    return path


def write_file(path: StrPath, data: bytes) -> Path:
    """Write a whole file or none: under a temporary name first, then renamed.

    Raises:
        OSError: If the file cannot be written; what stood there before is untouched.
    """
    path = Path(path)
    temporary = _temporary(path)
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(f"{path}: cannot be written ({error.strerror or error})") from error
    return path


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def _bytes(image: NDArray[np.uint8] | Tensor, name: str) -> NDArray[np.uint8]:
    array = image.detach().cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)
    if array.ndim != 3 or array.shape[2] != 3 or array.size == 0:
        raise ValueError(f"{name}: image must be (H, W, 3), got {array.shape}")
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind != "f":
        raise ValueError(f"{name}: image must be bytes or floats in [0, 1], got {array.dtype}")
    return (255 * array.clip(0, 1) + 0.5).astype(np.uint8)


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
