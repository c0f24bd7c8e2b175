# SPDX-License-Identifier: Apache-2.0
"""A JSON report of what was done, with which settings, on what."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from diffiso.build_info import build_info
from diffiso.io import StrPath, write_file
from diffiso.run.hardware import hardware


class Report:
    """A record of one run, written as JSON: settings, versions, hardware, metrics, files and time.

    Args:
        command: What was run.
        settings: Its settings, a dataclass.

    Example:
        >>> @dataclasses.dataclass
        ... class Settings:
        ...     radius: float = 0.5
        >>> report = Report("measure", Settings())
        >>> report.metrics["volume"] = 0.52
        >>> report.write("measure.json").exists()
        True
    """

    def __init__(self, command: str, settings: Any) -> None:
        self.command = command
        self.settings = dataclasses.asdict(settings)
        self.metrics: dict[str, Any] = {}
        self.seconds: dict[str, float] = {}
        self.files: list[str] = []
        self._began = time.perf_counter()
        self._lap = self._began

    def lap(self, step: str) -> float:
        """Add the seconds since the last lap to the time of a step, and return them."""
        now = time.perf_counter()
        seconds, self._lap = now - self._lap, now
        self.seconds[step] = self.seconds.get(step, 0.0) + seconds
        return seconds

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return {
            "command": self.command,
            "settings": plain(self.settings),
            "metrics": plain(self.metrics),
            "seconds": self.seconds | {"total": time.perf_counter() - self._began},
            "files": [str(name) for name in self.files],
            "versions": build_info(),
            "hardware": hardware(),
        }

    def write(self, path: StrPath) -> Path:
        """Write the report and return its path.

        Raises:
            OSError: If the file cannot be written.
        """
        text = json.dumps(self.as_dict(), indent=2, allow_nan=False)
        return write_file(path, (text + "\n").encode())


def plain(value: Any) -> Any:
    """Return a value as what JSON can hold.

    Tensors and arrays become numbers or lists; dataclasses and named tuples dictionaries; NaN and
    infinities, for which JSON has no number, the words "nan", "inf" and "-inf"; paths and anything
    else their text.

    Example:
        >>> import torch
        >>> plain({"worst": torch.tensor([1.0, math.inf]), "file": Path("a.ply")})
        {'worst': [1.0, 'inf'], 'file': 'a.ply'}
    """
    if isinstance(value, Tensor):
        return plain(value.detach().cpu().tolist())
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain({f.name: getattr(value, f.name) for f in dataclasses.fields(value)})
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if value is None or isinstance(value, bool | int | str):
        return value
    return os.fspath(value) if isinstance(value, os.PathLike) else str(value)
