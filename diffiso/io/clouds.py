# SPDX-License-Identifier: Apache-2.0
"""Point clouds, with or without normals, in and out of files; numpy is all it takes."""

from __future__ import annotations

import io
import re
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffiso.io.files import StrPath, check_output, first_line, write_file
from diffiso.io.volumes import load_array, npy_bytes, npz_bytes

CLOUD_SUFFIXES = (".xyz", ".ply", ".npy", ".npz")

Array = NDArray[Any]

_PLY_TYPES = {
    b"char": "i1", b"uchar": "u1", b"short": "i2", b"ushort": "u2", b"int": "i4", b"uint": "u4",
    b"float": "f4", b"double": "f8", b"int8": "i1", b"uint8": "u1", b"int16": "i2",
    b"uint16": "u2", b"int32": "i4", b"uint32": "u4", b"float32": "f4", b"float64": "f8",
}  # fmt: skip
_PLY_ORDERS = {b"ascii": "", b"binary_little_endian": "<", b"binary_big_endian": ">"}


class PointCloud(NamedTuple):
    """Points on a surface.

    Attributes:
        points: (P, 3), world units.
        normals: (P, 3), as the file has them, or None.
    """

    points: Tensor
    normals: Tensor | None = None


def load_cloud(path: StrPath) -> PointCloud:
    """Return the points of a file, and their normals where it has them.

    Args:
        path: `.xyz` (text: `x y z` or `x y z nx ny nz` a line, parted by spaces or by commas;
            `#` begins a comment), `.ply` (its vertices; faces are passed over), `.npy` (an array
            (P, 3) or (P, 6)) or `.npz` (arrays `points` and perhaps `normals`).

    Returns:
        Points and normals of the file's own floating dtype (text: float64) on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the suffix is unknown, or the file cannot be read, is cut short, has no
            points, or numbers that are not finite.

    Example:
        >>> cloud = PointCloud(torch.rand(100, 3))
        >>> load_cloud(save_cloud("scan.ply", cloud)).points.shape
        torch.Size([100, 3])
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: point file not found")
    readers = {".xyz": _read_text, ".ply": _read_ply, ".npy": _read_array, ".npz": _read_array}
    if path.suffix.lower() not in readers:
        raise ValueError(
            f"{path}: name must end in {', '.join(CLOUD_SUFFIXES)}, "
            f"got {path.suffix or 'no suffix'!r}"
        )
    points, normals = readers[path.suffix.lower()](path)
    if len(points) == 0:
        raise ValueError(f"{path}: a cloud must have points, got none")
    for name, array in (("points", points), ("normals", normals)):
        if array is not None and not np.isfinite(array).all():
            raise ValueError(f"{path}: {name} must be finite, got NaN or infinity")
    return PointCloud(_tensor(points), None if normals is None else _tensor(normals))


def save_cloud(path: StrPath, cloud: PointCloud | Tensor) -> Path:
    """Write points, and normals where there are any, without loss, and return the path.

    Args:
        path: `.xyz`, `.ply`, `.npy` or `.npz`; its folder is made where needed.
        cloud: The points, (P, 3) float32 or float64, with or without normals of the same shape.

    Raises:
        ValueError: If the suffix is unknown, shapes or dtypes are others, or numbers not finite.
        OSError: If the file cannot be written.

    Example:
        >>> save_cloud("points.xyz", torch.rand(8, 3)).name
        'points.xyz'
    """
    path = check_output(path, CLOUD_SUFFIXES)
    points, normals = cloud if isinstance(cloud, PointCloud) else (cloud, None)
    arrays = [part.detach().cpu().numpy() for part in (points, normals) if part is not None]
    for name, array in zip(("points", "normals"), arrays, strict=False):
        if array.ndim != 2 or array.shape[1] != 3 or array.dtype not in (np.float32, np.float64):
            raise ValueError(
                f"save_cloud: {name} must be (P, 3) of float32 or float64, "
                f"got {array.shape} of {array.dtype}"
            )
        bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
        if len(bad):
            raise ValueError(
                f"{path}: {name} must be finite, got {array[bad[0]].tolist()} in row {bad[0]}"
            )
        if array.shape != arrays[0].shape:
            raise ValueError(
                "save_cloud: normals must be one a point, "
                f"got {len(array)} for {len(arrays[0])} points"
            )
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return write_file(path, npz_bytes(dict(zip(("points", "normals"), arrays, strict=False))))
    table = np.concatenate(arrays, axis=1)
    if suffix == ".npy":
        return write_file(path, npy_bytes(table))
    return write_file(path, _text(table) if suffix == ".xyz" else _ply(table))


def _tensor(array: Array) -> Tensor:
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))


def _split(path: Path, table: Array) -> tuple[Array, Array | None]:
    if table.ndim != 2 or table.shape[1] not in (3, 6) or table.dtype.kind != "f":
        raise ValueError(
            f"{path}: a cloud must be floats (P, 3) or, with normals, (P, 6), "
            f"got {table.shape} of {table.dtype}"
        )
    return table[:, :3], table[:, 3:] if table.shape[1] == 6 else None


def _read_text(path: Path) -> tuple[Array, Array | None]:
    try:
        text = path.read_text()
        for number, line in enumerate(text.splitlines() if "," in text else [], start=1):
            # Decimal commas would make two numbers of one.
            parts = line.partition("#")[0].strip().split(",")
            if len(parts) > 1 and any(len(part.split()) > 1 for part in parts):
                raise ValueError(f"commas or spaces must part numbers, got both in line {number}")
        lines = io.StringIO(text.replace(",", " "))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of an empty file
            table = np.loadtxt(lines, dtype=np.float64, ndmin=2)
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: cannot be read as points ({first_line(error)})") from error
    return _split(path, table if table.size else np.zeros((0, 3)))


def _read_array(path: Path) -> tuple[Array, Array | None]:
    loaded = load_array(path)
    if not isinstance(loaded, dict):
        return _split(path, loaded)
    if "points" not in loaded:
        raise ValueError(f"{path}: a cloud must be arrays 'points' and 'normals', got {[*loaded]}")
    points, normals = loaded["points"], loaded.get("normals")
    for name, array in (("points", points), ("normals", normals)):
        if array is not None and (array.shape != (len(points), 3) or array.dtype.kind != "f"):
            raise ValueError(
                f"{path}: {name} must be (P, 3) floats, got {array.shape} of {array.dtype}"
            )
    return points, normals


def _read_ply(path: Path) -> tuple[Array, Array | None]:
    """Read the vertices of a PLY file (Turk, The PLY Polygon File Format), text or binary."""
    data = path.read_bytes()
    end = re.search(rb"[\r\n]end_header(\r\n|\r|\n|$)", data)  # a line: comments may name it
    head, body = (data[: end.start()], data[end.end() :]) if end else (data, b"")
    try:
        form, count, columns = _ply_vertices([line.split() for line in head.splitlines()])
    except (ValueError, LookupError) as error:
        raise ValueError(f"{path}: cannot be read as PLY (broken header)") from error
    if not {"x", "y", "z"} <= set(columns):
        raise ValueError(f"{path}: vertices must have x, y and z, got {', '.join(columns)}")
    read = _ply_text if form == b"ascii" else _ply_binary
    try:
        rows = read(body, count, np.dtype([*columns.items()]))
    except ValueError as error:
        raise ValueError(f"{path}: cannot be read as points ({first_line(error)})") from error
    if len(rows) < count:
        raise ValueError(f"{path}: the file is cut short, {len(rows)} of {count} points are there")

    def stack(*names: str) -> Array:
        return np.stack([np.asarray(rows[name]) for name in names], axis=1)

    normals = ("nx", "ny", "nz")
    return stack("x", "y", "z"), stack(*normals) if set(normals) <= set(columns) else None


def _ply_vertices(lines: list[list[bytes]]) -> tuple[bytes, int, dict[str, np.dtype[Any]]]:
    """Return format, number and properties of the vertices, the first element of the file."""
    form = next((words[1] for words in lines if words[:1] == [b"format"]), b"")
    first, *others = [k for k, words in enumerate(lines) if words[:1] == [b"element"]]
    _, name, count = lines[first]
    if lines[0] != [b"ply"] or name != b"vertex" or int(count) < 0:
        raise ValueError
    properties = [
        w for w in lines[first + 1 : others[0] if others else None] if w[0] == b"property"
    ]
    order = _PLY_ORDERS[form]
    columns = {name.decode(): np.dtype(order + _PLY_TYPES[kind]) for _, kind, name in properties}
    return form, int(count), columns


def _ply_binary(body: bytes, count: int, row: np.dtype[Any]) -> Array:
    return np.frombuffer(body, row, min(count, len(body) // row.itemsize))


def _ply_text(body: bytes, count: int, row: np.dtype[Any]) -> Array:
    lines = [tuple(line.split()) for line in body.splitlines() if line.strip()][:count]
    return np.array([words for words in lines if len(words) == len(row.names or ())], dtype=row)


def _text(table: Array) -> bytes:
    buffer = io.BytesIO()
    # As many digits as tell any two numbers of the dtype apart.
    np.savetxt(buffer, table, fmt="%.9g" if table.dtype == np.float32 else "%.17g")
    return buffer.getvalue()


def _ply(table: Array) -> bytes:
    kind = "float" if table.dtype == np.float32 else "double"
    names = ("x", "y", "z", "nx", "ny", "nz")[: table.shape[1]]
    header = [
        "ply",
        "format binary_little_endian 1.0",
        f"element vertex {len(table)}",
        *(f"property {kind} {name}" for name in names),
        "end_header\n",
    ]
    return "\n".join(header).encode() + table.astype(table.dtype.newbyteorder("<")).tobytes()
