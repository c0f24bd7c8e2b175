# SPDX-License-Identifier: Apache-2.0
"""Runs every CUDA kernel on the CPU, under address sanitizer; see tests/simt/include/simt.h."""

import subprocess
import sys
from pathlib import Path

import pytest

RUNNER = Path(__file__).parent / "simt" / "run.py"


@pytest.mark.slow
def test_cuda_kernels_agree_with_the_cpu() -> None:
    finished = subprocess.run([sys.executable, str(RUNNER), "-q"], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr
