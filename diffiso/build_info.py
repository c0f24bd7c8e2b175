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
        `diffiso`, `python`, `torch`, `numpy`: versions in use; `torch_cuda`: the CUDA version that
        torch was built with, or None; `built_with_torch`, `compiler`: what compiled the extension;
        `cuda`: whether it holds CUDA kernels, and if so `cuda_version` of its own runtime,
        `cuda_archs` (compute capabilities, such as "90", with "+PTX" where younger ones are served
        too) and `minimum_driver` (the oldest NVIDIA driver that runs them).

    Example:
        >>> import diffiso
        >>> diffiso.build_info()["cuda"] in (True, False)
        True
    """
    built = _C.build_info()
    version = built["cuda_version"]
    return {
        "diffiso": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "numpy": numpy.__version__,
        "built_with_torch": built["torch_version"],
        "compiler": built["compiler"],
        "cuda": built["cuda"],
        "cuda_version": version,
        "cuda_archs": built["cuda_archs"],
        "minimum_driver": MINIMUM_DRIVER.get(int(version.split(".")[0])) if version else None,
    }
