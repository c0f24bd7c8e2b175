# SPDX-License-Identifier: Apache-2.0
"""Compile every CUDA kernel for one architecture, warnings as errors, and show what it takes.

Prints registers, shared memory and spills of each kernel as the assembler reports them, and fails
where a kernel spills: what does not fit in registers goes through memory, unseen. Needs no GPU, and
ends with one line and success where there is no CUDA toolkit.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from cuda_toolkit import NoToolkitError, Toolkit, compile_flags, find_toolkit

ROOT = Path(__file__).resolve().parent.parent

# One kernel in the assembler's report; `properties` comes before the line of registers.
KERNEL = re.compile(
    r"Compiling entry function '(?P<name>\w+)'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)


@dataclass(frozen=True)
class Kernel:
    """What one kernel takes, per thread but for the block's shared memory; sizes in bytes."""

    file: str
    name: str
    registers: int
    shared: int
    stack: int
    spills: int


def parse_report(file: str, report: str) -> list[Kernel]:
    """Return the kernels in what `nvcc -Xptxas -v` printed."""
    kernels = []
    for match in KERNEL.finditer(report):
        shared = re.search(r"(\d+) bytes smem", match["rest"])
        kernels.append(
            Kernel(
                file,
                match["name"],
                int(match["registers"]),
                int(shared[1]) if shared else 0,
                int(match["stack"]),
                int(match["stores"]) + int(match["loads"]),
            )
        )
    return kernels


def compile_one(toolkit: Toolkit, source: Path, arch: str) -> tuple[int, str]:
    """Compile one file; return the exit status and what nvcc printed."""
    flags = compile_flags([arch], Path(torch.__file__).parent / "include")
    with tempfile.TemporaryDirectory() as folder:
        strict = ["-Werror", "all-warnings", "-Xcompiler", "-Wall", "-Xptxas", "-v"]
        command = [toolkit.nvcc, *flags, *strict, "-c", source, "-o", Path(folder) / "kernel.o"]
        done = subprocess.run(
            command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    return done.returncode, done.stdout


def demangle(names: list[str]) -> list[str]:
    """Return C++ names without arguments and namespaces, cut to fit a line."""
    try:
        done = subprocess.run(
            ["c++filt", "-p"], input="\n".join(names), capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return names
    noise = r"\(anonymous namespace\)::|diffiso::|\bvoid |CUB_\w+::detail::"
    plain = re.sub(noise, "", done.stdout)
    return [name if len(name) <= 60 else f"{name[:57]}..." for name in plain.splitlines()]


def print_table(kernels: list[Kernel]) -> None:
    """Print one line for each kernel."""
    print(f"{'file':28} {'kernel':60} {'registers':>9} {'shared':>7} {'stack':>6} {'spills':>6}")
    for kernel, name in zip(kernels, demangle([k.name for k in kernels]), strict=True):
        sizes = f"{kernel.registers:9} {kernel.shared:7} {kernel.stack:6} {kernel.spills:6}"
        print(f"{kernel.file:28} {name:60} {sizes}")


def main() -> int:
    """Compile, print the table, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="90", help="compute capability, such as 90 (default)")
    arch = parser.parse_args().arch
    try:
        toolkit = find_toolkit()
    except NoToolkitError as error:
        print(f"check_cuda: nothing compiled: {error}")
        return 0
    sources = sorted(path.relative_to(ROOT) for path in ROOT.glob("csrc/cuda/*.cu"))
    kernels, failed = [], []
    with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)) as pool:
        done = pool.map(lambda source: compile_one(toolkit, source, arch), sources)
        for source, (status, report) in zip(sources, done, strict=True):
            if status != 0:
                print(report, file=sys.stderr)
                failed.append(f"{source} does not compile without warnings")
                continue
            found = parse_report(source.name, report)
            if not found:
                failed.append(f"{source} has no kernel that this script can read about")
            kernels += found
    print_table(kernels)
    failed += [f"{kernel.name} spills {kernel.spills} bytes" for kernel in kernels if kernel.spills]
    for line in failed:
        print(f"check_cuda: {line}", file=sys.stderr)
    compiled = f"{len(kernels)} kernels in {len(sources)} files"
    print(f"check_cuda: {compiled} for sm_{arch}, nvcc {toolkit.version}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
