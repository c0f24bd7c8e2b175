# SPDX-License-Identifier: Apache-2.0
"""What a run has at hand: processor, threads, memory, GPUs."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch


@contextlib.contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Let torch use so many CPU threads within a `with` block; None leaves its choice.

    Raises:
        ValueError: If the count is not positive.

    Example:
        >>> with cpu_threads(1):
        ...     torch.get_num_threads()
        1
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
