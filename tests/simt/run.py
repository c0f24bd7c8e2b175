# SPDX-License-Identifier: Apache-2.0
"""Build the SIMT harness and run its tests under address sanitizer.

``python tests/simt/run.py [arguments of pytest]``. The sanitizer must be in the process from its
start, and so must the C++ library whose exceptions it watches: hence the child process, and files
named ``check_*.py``, which a plain pytest passes by.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from build import CXX, HERE, ROOT, build

SANITIZER_OPTIONS = {
    # Python itself frees little at its end. Fresh memory is filled, so that reading it shows.
    "ASAN_OPTIONS": "detect_leaks=0:max_malloc_fill_size=1073741824:malloc_fill_byte=190",
    "UBSAN_OPTIONS": "print_stacktrace=1",
}


def runtime_library(name: str) -> str:
    """Ask the compiler where one of its libraries lies."""
    command = [CXX, f"-print-file-name={name}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def environment(library: Path) -> dict[str, str]:
    """Return the environment in which the library can be loaded into Python."""
    preload = [runtime_library("libasan.so"), runtime_library("libstdc++.so.6")]
    return {
        **os.environ,
        **SANITIZER_OPTIONS,
        "LD_PRELOAD": " ".join(preload),
        "DIFFISO_SIMT_LIBRARY": str(library),
    }


def main(arguments: list[str]) -> int:
    """Build, then run pytest on this folder, or on what the arguments name."""
    names_tests = any(Path(word.split("::")[0]).exists() for word in arguments)
    targets = [] if names_tests else [str(HERE)]
    pytest = [sys.executable, "-m", "pytest", "-o", "python_files=check_*.py"]
    command = [*pytest, "-p", "no:cacheprovider", *arguments, *targets]
    return subprocess.run(command, cwd=ROOT, env=environment(build())).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
