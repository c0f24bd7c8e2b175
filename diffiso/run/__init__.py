# SPDX-License-Identifier: Apache-2.0
"""What every run shares: seeds, settings, progress, checkpoints, processes, and a report."""

from diffiso.run.checkpoint import (
    check_resumed,
    load_checkpoint,
    load_weights,
    save_checkpoint,
)
from diffiso.run.hardware import cpu_threads, hardware, memory_bytes
from diffiso.run.processes import Processes, ProcessStopped, is_first, processes
from diffiso.run.progress import Track, progress_bar, track
from diffiso.run.random import seed_all, step_choice, step_generator, step_seed
from diffiso.run.report import Report
from diffiso.run.settings import (
    add_settings,
    check_settings,
    read_settings,
    settings_from,
    write_settings,
)

__all__ = [
    "ProcessStopped",
    "Processes",
    "Report",
    "Track",
    "add_settings",
    "check_resumed",
    "check_settings",
    "cpu_threads",
    "hardware",
    "is_first",
    "load_checkpoint",
    "load_weights",
    "memory_bytes",
    "processes",
    "progress_bar",
    "read_settings",
    "save_checkpoint",
    "seed_all",
    "settings_from",
    "step_choice",
    "step_generator",
    "step_seed",
    "track",
    "write_settings",
]
