# SPDX-License-Identifier: Apache-2.0
"""Scratch memory of calls on the CPU: how far the resident set rises, beside the outputs.

Runs as a process of its own, `python -m bench.memory`, which the benchmark starts before it takes
times. Every op first runs at tiny sizes, so that code is loaded and threads stand; then each call
is framed by resetting the kernel's peak counter and reading it again, good to about a megabyte. The
child's malloc gets a fixed threshold from which blocks come from the kernel and go back to it: with
glibc's sliding one, freed pages stay resident, the next call finds them, and its growth looks too
small.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from bench import ops
from bench.cases import Contender, Settings
from bench.timing import bytes_of

MMAP_THRESHOLD = 2**12  # bytes
RESET_PEAK = Path("/proc/self/clear_refs")

Scratch = dict[tuple[str, str, str], int]
"""Bytes by op, case and contender."""


def measure(names: Sequence[str], settings: Settings) -> Scratch:
    """Return the scratch of every contender of the ops, from a fresh process; nothing off Linux."""
    if not names or not os.access(RESET_PEAK, os.W_OK):
        return {}
    task = {"ops": list(names), "threads": settings.threads, "smoke": settings.smoke}
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(MMAP_THRESHOLD)}
    child = subprocess.run(
        [sys.executable, "-m", "bench.memory", json.dumps(task)],
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    found = json.loads(child.stdout.splitlines()[-1])
    return {(op, case, contender): scratch for op, case, contender, scratch in found}


def resident(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status: must have {key}")


def scratch_of(contender: Contender) -> int:
    RESET_PEAK.write_text("5")
    before = resident("VmRSS")
    result = contender.run()
    growth = resident("VmHWM") - before
    return max(growth - bytes_of(contender.outputs(result)), 0)


def main() -> None:
    task = json.loads(sys.argv[1])
    torch.set_num_threads(task["threads"])
    tiny = Settings(torch.device("cpu"), task["threads"], smoke=True)
    full = Settings(torch.device("cpu"), task["threads"], smoke=task["smoke"])
    found = []
    for op in task["ops"]:
        for case in ops.OPS[op](tiny):
            for contender in case.contenders:
                contender.run()
        for case in ops.OPS[op](full):
            for contender in case.contenders:
                found.append((op, case.name, contender.name, scratch_of(contender)))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
