# SPDX-License-Identifier: Apache-2.0
"""What the compiled part was built with, and what it runs with."""

import platform

import numpy
import torch

from diffiso import _C, __version__

# Oldest Linux driver that a static CUDA runtime of each generation starts on, from the release
# notes of the CUDA toolkit ("minor version compatibility").
MINIMUM_DRIVER = {12: "525.60.13", 13: "580.65.06"}


def build_info() -> dict[str, object]:
    """Return what this installation was built with and runs with.

    Returns:
        In use: `version` of diffiso, `python_version`, `torch_version`, `numpy_version`, and
        `torch_cuda_version`, which torch was built with, or None. Of the binary:
        `built_with_torch`; `compiler`; `simd`, the instruction set its CPU loops take on this
        processor; `cuda`, whether it holds CUDA kernels, and if so `cuda_version` of its own
        runtime, `cuda_archs` (compute capabilities, such as "90", with "+PTX" where younger ones
        are served too) and `minimum_driver`, the oldest NVIDIA driver that runs them.

    Example:
        >>> import diffiso
        >>> diffiso.build_info()["cuda"] in (True, False)
        True
    """
    built = _C.build_info()
    cuda_version = built["cuda_version"]
    generation = int(cuda_version.split(".")[0]) if cuda_version else None
    return {
        "version": __version__,
        "python_version": platform.python_version(),
        "torch_version": torch.__version__,
        "torch_cuda_version": torch.version.cuda,
        "numpy_version": numpy.__version__,
        **built,
        "minimum_driver": MINIMUM_DRIVER.get(generation) if generation else None,
    }
