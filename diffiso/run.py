# SPDX-License-Identifier: Apache-2.0
"""What every run shares: seeds, a progress bar, and a JSON report of what was done on what."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import platform
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from pathlib import Path
from typing import Any, TypeVar

import torch

from diffiso.build_info import build_info
from diffiso.extras import available, require
from diffiso.io import StrPath, write_file

Item = TypeVar("Item")

_PATIENCE = 2.0  # seconds of work before a progress bar shows


def seed_all(seed: int) -> torch.Generator:
    """Seed torch's global generator and return a torch generator of the same seed.

    Args:
        seed: A non-negative integer.

    Raises:
        ValueError: If the seed is negative.
    """
    if seed < 0:
        raise ValueError(f"seed_all: seed must not be negative, got {seed}")
    torch.manual_seed(seed)
    return torch.Generator().manual_seed(seed)


@contextlib.contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Let torch use so many CPU threads within a `with` block; None leaves its choice.

    Raises:
        ValueError: If the count is not positive.
    """
    before = torch.get_num_threads()
    if count is not None:
        if count < 1:
            raise ValueError(f"cpu_threads: count must be positive, got {count}")
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def track(items: Iterable[Item], what: str, total: int | None = None) -> Iterator[Item]:
    """Yield items, with a progress bar on stderr once that has taken two seconds.

    No bar where stderr is not a terminal or the extra `pipelines` is not installed.

    Args:
        items: What to go through.
        what: What is being done, in a few words.
        total: How many items; by default their length where they have one.
    """
    total = len(items) if total is None and isinstance(items, Sized) else total
    if not (sys.stderr.isatty() and available("rich")):
        yield from items
        return
    progress = require("rich.progress")
    console = require("rich.console").Console(stderr=True)
    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
    )
    bar = progress.Progress(*columns, console=console, transient=True)
    task, shown, began = bar.add_task(what, total=total), False, time.perf_counter()
    try:
        for done, item in enumerate(items, start=1):
            yield item
            bar.update(task, completed=done)
            if not shown and time.perf_counter() - began > _PATIENCE:
                bar.start()
                shown = True
    finally:
        bar.stop()


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
        """Record, and return, the seconds since the last lap as the time of a step."""
        now = time.perf_counter()
        self.seconds[step] = now - self._lap
        self._lap = now
        return self.seconds[step]

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return {
            "command": self.command,
            "settings": self.settings,
            "metrics": self.metrics,
            "seconds": self.seconds | {"total": time.perf_counter() - self._began},
            "files": self.files,
            "versions": build_info(),
            "hardware": hardware(),
        }

    def write(self, path: StrPath) -> Path:
        """Write the report and return its path.

        Raises:
            OSError: If the file cannot be written.
        """
        text = json.dumps(self.as_dict(), indent=2, default=str)
        return write_file(path, (text + "\n").encode())


def hardware() -> dict[str, Any]:
    """Return what the run ran on: processor, cores, threads, memory in GiB, CUDA devices."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else range(0)
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(memory_bytes() / 2**30, 1),
        "cuda_devices": [torch.cuda.get_device_name(index) for index in devices],
        "system": platform.platform(),
    }


def _processor() -> str:
    table = Path("/proc/cpuinfo")
    if table.is_file():
        for line in table.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def memory_bytes() -> int:
    """Return the machine's memory in bytes, 0 where it is unknown."""
    if "SC_PHYS_PAGES" not in os.sysconf_names:
        return 0
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
