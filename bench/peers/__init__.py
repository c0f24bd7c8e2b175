# SPDX-License-Identifier: Apache-2.0
"""Other people's ways to do the same, each at its fastest setting: which packages they are in.

Functions of these modules return contenders, or none where the package is missing or runs on
another device. Inputs are brought into the peer's form beforehand; grids are shared, not copied.
"""

import importlib
import importlib.metadata
from typing import Any, NamedTuple

from bench.cases import Settings

SLOW_RUNS = 3


class Package(NamedTuple):
    """A package that may be there: its name to install and to import, and where it runs."""

    name: str
    module: str
    device: str
    needs: str = ""


PACKAGES = (
    Package("vtk", "vtkmodules.vtkFiltersCore", "cpu"),
    Package("scikit-image", "skimage.measure", "cpu"),
    Package("PyMCubes", "mcubes", "cpu"),
    Package("libigl", "igl", "cpu"),
    Package("warp-lang", "warp.geometry", "cpu"),
    Package(
        "mitsuba",
        "bench.peers.mitsuba_grid",
        "cpu",
        "LLVM's library (Debian: libllvm19; DRJIT_LIBLLVM_PATH names one in an unusual place)",
    ),
    Package("deodr", "deodr.differentiable_renderer", "cpu"),
    Package("warp-lang", "warp.geometry", "cuda"),
    Package("diso", "diso", "cuda"),
    Package("isoext", "isoext", "cuda"),
    Package("torchmcubes", "torchmcubes", "cuda"),
    Package("nvdiffrast", "nvdiffrast.torch", "cuda"),
    Package("pytorch3d", "pytorch3d.renderer", "cuda"),
    Package("drtk", "drtk", "cuda"),
)


def find(module: str) -> Any:
    """Return the module, or None."""
    try:
        return importlib.import_module(module)
    except ImportError:
        return None


def versions(settings: Settings) -> dict[str, str | None]:
    """Return the version of every peer for this device, None where it is missing."""
    return {
        package.name: importlib.metadata.version(package.name) if find(package.module) else None
        for package in PACKAGES
        if package.device == settings.device.type
    }
