# SPDX-License-Identifier: Apache-2.0
"""What calls take beside their usual time: the first one, memory, and pages fresh or used before.

Runs as a process of its own for each op, `python -m bench.memory`, which the benchmark starts
before it takes times. There everybody first runs at tiny sizes: that is the first call, with
libraries to load, threads to start and kernels to compile; what several share, the first of them
pays. Then each contender runs at full size in turn,

- framed by resetting the peak counter of the kernel, or of torch's allocator, and reading it again.
  On the CPU malloc gets a fixed threshold from which blocks come from the kernel and go back to it:
  with glibc's sliding one, freed pages stay resident, the next call finds them, and its growth
  looks too small. Good to about a megabyte;
- a few times with all larger blocks fresh from the system, and a few times with those of the call
  before: on the CPU by telling glibc to keep what is freed, on a GPU by emptying torch's cache
  before each call, or not.
"""

import ctypes
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from bench import ops, peers
from bench.cases import Case, Contender, Settings
from bench.timing import Record, bytes_of, clock_of, count

THRESHOLD = 2**12  # bytes, when memory is counted
RUNS = 3
RESET_PEAK = Path("/proc/self/clear_refs")

Found = dict[tuple[str, str], Record]
"""What was found of an op, by case and contender."""

# Parameters of glibc's mallopt.
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
FRESH = {MMAP_THRESHOLD: 2**17, MMAP_MAX: 2**16, TRIM_THRESHOLD: 2**17}
REUSED = {MMAP_MAX: 0, TRIM_THRESHOLD: 2**31 - 1}
COUNTED = FRESH | {MMAP_THRESHOLD: THRESHOLD}


def measure(op: str, settings: Settings, chosen_peers: Sequence[str] | None = None) -> Found:
    """Return what a fresh process found of every contender of an op.

    Nothing off Linux, or where it did not come to its end: an op that runs out of memory is killed.
    """
    if settings.on_cpu and not os.access(RESET_PEAK, os.W_OK):
        print("memory is not measured: it takes Linux's /proc/self/clear_refs")
        return {}
    task = {
        "op": op,
        "device": settings.device.type,
        "threads": settings.threads,
        "smoke": settings.smoke,
        "peers": chosen_peers,
    }
    # One heap for all threads: glibc gives nothing back of what lies free on top of the others.
    malloc = {"MALLOC_MMAP_THRESHOLD_": str(THRESHOLD), "MALLOC_ARENA_MAX": "1"}
    environment = {**os.environ, **malloc}
    child = subprocess.run(
        [sys.executable, "-m", "bench.memory", json.dumps(task)],
        env=environment,
        stdout=subprocess.PIPE,
        check=False,
        text=True,
    )
    if child.returncode != 0:
        print(f"memory of {op} is not measured: its process ended with {child.returncode}")
        return {}
    found = json.loads(child.stdout.splitlines()[-1])
    return {(case, contender): record for case, contender, record in found}


def resident(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status: must have {key}")


def memory_on_cpu(contender: Contender) -> Record:
    """Return how far a call makes the process grow, and by how much more than by its outputs."""
    RESET_PEAK.write_text("5")
    before = resident("VmRSS")
    result = contender.run()
    growth = max(resident("VmHWM") - before, 0)
    outputs = bytes_of(contender.outputs(result))
    return {"peak_bytes": growth, "scratch_bytes": max(growth - outputs, 0)}


def memory_on_gpu(contender: Contender) -> Record:
    """Return the same of torch's allocator, and how much less the device has left after the call.

    The last is all that can be said of peers that bring an allocator of their own.
    """
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    left, before = torch.cuda.mem_get_info()[0], torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    result = contender.run()
    torch.cuda.synchronize()
    growth = torch.cuda.max_memory_allocated() - before
    held = left - torch.cuda.mem_get_info()[0]
    found: Record = {"device_bytes": max(held, 0)}
    if contender.through_torch:
        scratch = max(growth - bytes_of(contender.outputs(result)), 0)
        found |= {"peak_bytes": growth, "scratch_bytes": scratch}
    return found


def set_heap(options: dict[int, int]) -> bool:
    """Tell glibc where blocks come from, and to give back what is free; false where there is none.

    What is free would be used again whatever the options are.
    """
    library = ctypes.CDLL(None)
    mallopt, trim = (getattr(library, name, None) for name in ("mallopt", "malloc_trim"))
    if mallopt is None or trim is None or not all(mallopt(*option) for option in options.items()):
        return False
    trim(0)
    return True


def seconds(
    contender: Contender, calls: int, settings: Settings, prepare: Callable[[], None]
) -> float:
    """Return the median of a few runs after one that does not count."""
    clock, times = clock_of(settings), []
    for _ in range(1 + min(RUNS, contender.runs or RUNS)):
        prepare()
        time, result = clock(contender.run, calls)
        count(contender.outputs(result))
        del result
        times.append(time)
    return statistics.median(times[1:])


def pages(contender: Contender, calls: int, settings: Settings) -> Record:
    """Return the times of calls with fresh memory and with memory that was used before."""
    if not settings.on_cpu:
        return {
            "fresh": seconds(contender, calls, settings, torch.cuda.empty_cache),
            "reused": seconds(contender, calls, settings, lambda: None),
        }
    found = {}
    for name, options in (("fresh", FRESH), ("reused", REUSED)):
        if set_heap(options):
            found[name] = seconds(contender, calls, settings, lambda: None)
    return found


def look(case: Case, contender: Contender, settings: Settings) -> Record:
    """Return all that is found of a contender; nothing of one that cannot run."""
    try:
        set_heap(COUNTED)  # the call shall not find what making the case has left
        found = (memory_on_cpu if settings.on_cpu else memory_on_gpu)(contender)
        return found | pages(contender, case.calls, settings)
    except Exception:
        return {}


def first_call(contender: Contender, settings: Settings) -> float | None:
    try:
        return clock_of(settings)(contender.run, 1)[0]
    except Exception:
        return None


def main() -> None:
    task = json.loads(sys.argv[1])
    torch.set_num_threads(task["threads"])
    peers.choose(task["peers"], task["device"])
    device = torch.device(task["device"])
    tiny = Settings(device, task["threads"], smoke=True)
    full = Settings(device, task["threads"], smoke=task["smoke"])
    number = torch.ones(1, requires_grad=True)
    torch.autograd.grad(number, number, torch.ones(1))  # imports sympy, for whoever comes first
    found: list[tuple[str, str, Record]] = []
    first: dict[str, Any] = {}
    for case in ops.cases(task["op"], tiny):
        for contender in case.contenders:
            first.setdefault(contender.name, first_call(contender, tiny))
    for case in ops.cases(task["op"], full):
        for contender in case.contenders:
            record = {"first_call": first.get(contender.name)}
            found.append((case.name, contender.name, record | look(case, contender, full)))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
