# SPDX-License-Identifier: Apache-2.0
"""Compile the CUDA kernels with g++ for the SIMT harness, and print where the library lies.

The sources are ``csrc/cuda/*.cu`` and ``csrc/ops.cpp`` as they are; ``include/simt.h`` says how a
C++ compiler reads them. Only what changed since the last build is compiled.
"""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from torch.utils.cpp_extension import TORCH_LIB_PATH, include_paths

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build" / "simt"
LIBRARY = BUILD / "libdiffiso_simt.so"
CXX = "g++"  # whatever builds the package: run.py preloads the libraries of this one
# Object sizes are address sanitizer's own subject, and its reports say more.
SANITIZE = [
    "-fsanitize=address,undefined",
    "-fno-sanitize=object-size",
    "-fno-sanitize-recover=all",
]
FLAGS = [
    *("-std=c++20", "-O1", "-g1", "-fPIC", "-fvisibility=hidden", "-fno-omit-frame-pointer"),
    *("-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"),
    *SANITIZE,
]


def sources() -> list[Path]:
    """List what goes into the library."""
    kernels = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
    return [*kernels, ROOT / "csrc" / "ops.cpp", *sorted(HERE.glob("*.cu")), *HERE.glob("*.cpp")]


def is_current(target: Path, dependencies: list[Path]) -> bool:
    """Tell whether a file is newer than all it was made from."""
    if not target.exists():
        return False
    made = target.stat().st_mtime
    return all(path.exists() and path.stat().st_mtime <= made for path in dependencies)


def dependencies_of(target: Path) -> list[Path]:
    """Read the headers that the compiler listed beside an object file."""
    listing = target.with_suffix(".d")
    if not listing.exists():
        return [target.parent / "never built"]
    words = listing.read_text().replace("\\\n", " ").split(": ", 1)[1].split()
    return [ROOT / word for word in words]


def compile_source(source: Path) -> Path:
    """Compile one file unless its object is current."""
    target = BUILD / f"{source.name}.o"
    if is_current(target, [*dependencies_of(target), Path(__file__)]):
        return target
    system = [flag for folder in include_paths() for flag in ("-isystem", folder)]
    command = [CXX, *FLAGS, "-I", str(HERE / "include"), "-I", "csrc", *system]
    command += ["-include", "simt.h", "-MD", "-x", "c++", "-c", str(source.relative_to(ROOT))]
    subprocess.run([*command, "-o", str(target)], cwd=ROOT, check=True)
    return target


def build() -> Path:
    """Build the library and return its path."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_source, sources()))
    if not is_current(LIBRARY, objects):
        command = [CXX, "-shared", *SANITIZE, *map(str, objects), "-o", str(LIBRARY)]
        command += ["-L", TORCH_LIB_PATH, "-ltorch_cpu", f"-Wl,-rpath,{TORCH_LIB_PATH}"]
        subprocess.run(command, check=True)
    return LIBRARY


if __name__ == "__main__":
    print(build())
