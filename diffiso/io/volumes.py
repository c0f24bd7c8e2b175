# SPDX-License-Identifier: Apache-2.0
"""Volumes: dense samples of a field in `.npy` files."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffiso.io.files import StrPath, check_output, first_line, write_file


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

    Example:
        >>> load_volume(save_volume("ramp.npy", torch.rand(4, 3, 2))).shape
        torch.Size([4, 3, 2])
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: volume file not found")
    array = load_array(path)
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


def save_volume(path: StrPath, values: Tensor | NDArray[np.floating]) -> Path:
    """Write samples (X, Y, Z) as a `.npy` file in their own dtype, and return the path.

    Args:
        path: File to write, `.npy`; its folder is made where needed.
        values: (X, Y, Z) float16, float32 or float64, two nodes or more along each axis; bfloat16,
            which the format does not have, is stored as float32.

    Raises:
        ValueError: If the suffix is not `.npy`, or the samples' shape or dtype is another.
        OSError: If the file cannot be written.

    Example:
        >>> save_volume("ball.npy", torch.linspace(-1, 1, 8).view(2, 2, 2)).name
        'ball.npy'
    """
    path = check_output(path, (".npy",))
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    array = np.asarray(values)
    if array.ndim != 3 or min(array.shape) < 2:
        raise ValueError(
            "save_volume: values must be (X, Y, Z) with two nodes or more each, "
            f"got {tuple(array.shape)}"
        )
    if array.dtype.kind != "f" or array.dtype.itemsize > 8:
        raise ValueError(
            f"save_volume: values must be float16, float32 or float64, got {array.dtype}"
        )
    return write_file(path, npy_bytes(array))


def load_array(path: Path) -> Any:
    """Return what a `.npy` or `.npz` file holds: an array, or a dictionary of arrays.

    Raises:
        ValueError: If it cannot be read, or holds anything but numbers.
    """
    kind = path.suffix.lower() if path.suffix.lower() in (".npy", ".npz") else ".npy"
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            return loaded if isinstance(loaded, np.ndarray) else dict(loaded)
    except Exception as error:  # a broken archive raises whatever zip and zlib raise
        raise ValueError(
            f"{path}: cannot be read as a {kind} array ({first_line(error)})"
        ) from error


def npy_bytes(array: NDArray[Any]) -> bytes:
    """Return an array in the `.npy` format."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


def npz_bytes(arrays: dict[str, Any]) -> bytes:
    """Return named arrays in the `.npz` format, uncompressed."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()
