# SPDX-License-Identifier: Apache-2.0
"""Triangle meshes in and out of files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffiso.extras import require
from diffiso.io.files import StrPath, check_output, first_line, write_file
from diffiso.io.volumes import load_array, npz_bytes
from diffiso.types import Mesh

MESH_SUFFIXES = (".ply", ".obj", ".glb", ".stl", ".npz")

_EXPORT_OPTIONS: dict[str, dict[str, Any]] = {
    ".ply": {"vertex_normal": True},
    ".obj": {"include_normals": True},
    ".glb": {"include_normals": True},
    ".stl": {},
}


def load_mesh(path: StrPath) -> Mesh:
    """Return the triangles of a mesh file (PLY, OBJ, GLB, STL, NPZ, and what else trimesh reads).

    Vertices that differ only in texture coordinates or normals are welded, as are vertices of equal
    position in formats that repeat them; the parts of a scene become one mesh; polygons become
    triangles. An `.npz` archive holds arrays `vertices` and `faces`, which are taken as they are.

    Args:
        path: File to read.

    Returns:
        A mesh with float64 vertices (NPZ: of the file's dtype) and int64 faces on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file cannot be read as a mesh, has no faces, vertices that are not
            finite, or faces of vertices that are not there.
        ImportError: If the extra `pipelines` is not installed (NPZ does without).

    Example:
        >>> from diffiso import shapes
        >>> torus = diffiso.isosurface(shapes.Torus(), -1.5, 1.5, 24)
        >>> mesh = load_mesh(save_mesh("torus.ply", torus))
        >>> len(mesh.faces) == len(torus.faces)
        True
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: mesh file not found")
    vertices, faces = _arrays(path) if path.suffix.lower() == ".npz" else _triangles(path)
    if len(faces) == 0:
        raise ValueError(f"{path}: a mesh must have faces, got none")
    if not np.isfinite(vertices).all():
        raise ValueError(f"{path}: vertices must be finite, got NaN or infinity")
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise ValueError(
            f"{path}: faces must name vertices below {len(vertices)}, "
            f"got {faces.min()} to {faces.max()}"
        )
    return Mesh(torch.from_numpy(vertices), torch.from_numpy(faces))


def save_mesh(
    path: StrPath, mesh: Mesh, *, colors: Tensor | NDArray[np.floating] | None = None
) -> Path:
    """Write a mesh as PLY, OBJ, GLB, STL or NPZ, after the name's suffix, and return the path.

    Vertex normals go along where the format has them, so that viewers shade smoothly.

    Args:
        path: File to write; its folder is made where needed.
        mesh: Triangles; vertices are stored in single precision except in OBJ (nine decimals, or
            nine digits of the mesh's size where that is below 1) and NPZ (as they are).
        colors: (V, 3) red, green and blue of each vertex, sRGB in [0, 1]; not in STL.

    Raises:
        ValueError: If the suffix is unknown, a vertex is not finite, GLB or STL is asked to hold an
            empty mesh, STL is asked to hold colours, or these are of another shape or range.
        OSError: If the file cannot be written.
        ImportError: If the extra `pipelines` is not installed (NPZ does without).

    Example:
        >>> from diffiso import shapes
        >>> ball = diffiso.isosurface(shapes.Sphere(0.8), -1, 1, 16)
        >>> save_mesh("ball.ply", ball, colors=ball.vertices.detach() / 2 + 0.5).name
        'ball.ply'
    """
    path = check_output(path, MESH_SUFFIXES)
    vertices, faces = mesh.numpy()
    bad = np.flatnonzero(~np.isfinite(vertices).all(axis=1))
    if len(bad):
        raise ValueError(
            f"{path}: vertices must be finite, got {vertices[bad[0]].tolist()} as vertex {bad[0]}"
        )
    suffix = path.suffix.lower()
    paint = None if colors is None else _checked_colors(colors, len(vertices))
    if suffix == ".npz":
        arrays = {"vertices": vertices, "faces": faces}
        return write_file(path, npz_bytes(arrays if paint is None else arrays | {"colors": paint}))
    trimesh = require("trimesh")
    if len(faces) == 0 and suffix in (".glb", ".stl"):
        raise ValueError(
            f"{path}: {suffix[1:].upper()} cannot hold an empty mesh, use .ply, .obj or .npz"
        )
    if paint is not None and suffix == ".stl":
        raise ValueError(f"{path}: STL cannot hold colours, use .ply, .obj, .glb or .npz")
    if paint is not None and suffix == ".glb":
        paint = _linear(paint)  # glTF 2.0, section 3.7.2.1: vertex colours are linear
    bytes_ = None if paint is None else (255 * paint + 0.5).astype(np.uint8)
    geometry = trimesh.Trimesh(vertices, faces, vertex_colors=bytes_, process=False)
    options = _EXPORT_OPTIONS[suffix] if len(faces) else {}
    if suffix == ".obj":
        options = options | {"digits": _decimals(vertices, 9)}
    data = geometry.export(file_type=suffix[1:], **options)
    return write_file(path, data.encode() if isinstance(data, str) else data)


def _triangles(path: Path) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    trimesh = require("trimesh")
    try:
        loaded = trimesh.load_mesh(path, process=False)
        faces = getattr(loaded, "faces", None)
        if faces is not None and len(faces) > 0 and np.isfinite(loaded.vertices).all():
            # Vertices are one within 1e-8, or within 1e-8 of the size of a mesh smaller than 1.
            digits = _decimals(loaded.vertices, 8)
            loaded.merge_vertices(merge_tex=True, merge_norm=True, digits_vertex=digits)
    except Exception as error:  # whatever the file makes trimesh stumble over
        raise ValueError(f"{path}: cannot be read as a mesh ({first_line(error)})") from error
    if faces is None:
        raise ValueError(f"{path}: a mesh must have faces, got none")
    return np.array(loaded.vertices, dtype=np.float64), np.array(loaded.faces, dtype=np.int64)


def _decimals(vertices: NDArray[np.floating], digits: int) -> int:
    """Return how many decimals hold so many digits of a mesh's size, and no fewer than these.

    Where positions would not fit 64-bit whole numbers then, as trimesh merges them, fewer do.
    """
    size = float(np.ptp(vertices, axis=0).max()) if len(vertices) else 0.0
    if not 0 < size < math.inf:
        return digits
    most = math.floor(18 - math.log10(np.abs(vertices).max()))
    return min(digits + max(0, math.ceil(-math.log10(size))), most)


def _arrays(path: Path) -> tuple[NDArray[Any], NDArray[np.int64]]:
    loaded = load_array(path)
    if not isinstance(loaded, dict) or not {"vertices", "faces"} <= set(loaded):
        held = sorted(loaded) if isinstance(loaded, dict) else "one array"
        raise ValueError(f"{path}: a mesh must be arrays 'vertices' and 'faces', got {held}")
    vertices, faces = loaded["vertices"], loaded["faces"]
    for name, array, kinds in (("vertices", vertices, "f"), ("faces", faces, "iu")):
        if array.ndim != 2 or array.shape[1] != 3 or array.dtype.kind not in kinds:
            wanted = "(V, 3) floats" if name == "vertices" else "(F, 3) integers"
            raise ValueError(f"{path}: {name} must be {wanted}, got {array.shape} of {array.dtype}")
    native = vertices.astype(vertices.dtype.newbyteorder("="))
    return native, faces.astype(np.int64)


def _checked_colors(colors: Tensor | NDArray[np.floating], count: int) -> NDArray[np.float32]:
    array = colors.detach().cpu().numpy() if isinstance(colors, Tensor) else np.asarray(colors)
    if array.shape != (count, 3) or array.dtype.kind != "f":
        raise ValueError(
            f"save_mesh: colors must be ({count}, 3) floats, one a vertex, "
            f"got {tuple(array.shape)} of {array.dtype}"
        )
    if len(array) and not (array.min() >= 0 and array.max() <= 1):
        raise ValueError(
            f"save_mesh: colors must lie in [0, 1], got {array.min():g} to {array.max():g}"
        )
    return array.astype(np.float32)


def _linear(color: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return linear light of sRGB values (IEC 61966-2-1)."""
    high = ((color + 0.055) / 1.055) ** 2.4
    return np.where(color <= 0.04045, color / 12.92, high).astype(np.float32)
