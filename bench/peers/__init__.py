# SPDX-License-Identifier: Apache-2.0
"""Other people's ways to do the same, each at its fastest setting: which packages they are in.

Functions of these modules return contenders, or none where the package is missing or runs on
another device. Inputs are brought into the peer's form beforehand; grids are shared, not copied.
"""

import functools
import importlib
import importlib.metadata
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from bench.cases import Contender, Settings

SLOW_RUNS = 3


class Package(NamedTuple):
    """A package that may be there: its name, what to import, where it runs, how to install it."""

    name: str
    module: str
    device: str
    install: str
    needs: str = ""

    def has(self, module: str) -> bool:
        """Say whether a module is one of this package's, or our way to it."""
        top = self.module.partition(".")[0]
        return module == self.module or (top != "bench" and module.partition(".")[0] == top)


PACKAGES = (
    Package("vtk", "vtkmodules.vtkFiltersCore", "cpu", "pip install vtk"),
    Package("scikit-image", "skimage.measure", "cpu", "pip install scikit-image"),
    Package("PyMCubes", "mcubes", "cpu", "pip install PyMCubes"),
    Package("libigl", "igl", "cpu", "pip install libigl"),
    Package("warp-lang", "warp.geometry", "cpu", "pip install warp-lang"),
    Package(
        "mitsuba",
        "bench.peers.mitsuba_grid",
        "cpu",
        "pip install mitsuba",
        "LLVM's library from 17 on (Debian: libllvm19; DRJIT_LIBLLVM_PATH names it where it hides)",
    ),
    Package("deodr", "deodr.differentiable_renderer", "cpu", "pip install deodr"),
    Package("warp-lang", "warp.geometry", "cuda", "pip install warp-lang"),
    Package("diso", "diso", "cuda", "pip install --no-build-isolation diso"),
    Package("isoext", "isoext", "cuda", "pip install isoext"),
    Package("torchmcubes", "torchmcubes", "cuda", "from github.com/tatsy/torchmcubes"),
    Package("nvdiffrast", "nvdiffrast.torch", "cuda", "from github.com/NVlabs/nvdiffrast"),
    Package(
        "pytorch3d", "pytorch3d.renderer", "cuda", "from github.com/facebookresearch/pytorch3d"
    ),
    Package("drtk", "drtk", "cuda", "from github.com/facebookresearch/DRTK"),
)

_left_out: set[str] = set()  # names of packages


def choose(names: Sequence[str] | None, device: str = "cpu") -> None:
    """Leave out all packages but these; None takes all.

    Raises:
        ValueError: If one is not known, or does not run on this device.
    """
    known = {package.name for package in PACKAGES}
    here = {package.name for package in PACKAGES if package.device == device}
    for possible, rule in ((known, "be one of"), (here, f"run on {device}, as")):
        if unknown := sorted(set(names or ()) - possible):
            raise ValueError(
                f"PEER must {rule} {', '.join(sorted(possible))}, got {', '.join(unknown)}"
            )
    _left_out.clear()
    _left_out.update(set() if names is None else known - set(names))


def find(module: str) -> Any:
    """Return the module, or None where it is missing, or belongs to a package that is left out."""
    for package in PACKAGES:
        if package.name in _left_out and package.has(module):
            return None
    try:
        return importlib.import_module(module)
    except (ImportError, OSError):  # or a library that it needs
        return None


Make = Callable[..., list[Contender]]


def optional(make: Make) -> Make:
    """Let a peer that cannot be set up be one that fails, and is left out with what it said."""

    @functools.wraps(make)
    def made(*arguments: Any, **options: Any) -> list[Contender]:
        try:
            return make(*arguments, **options)
        except Exception as error:
            trouble = error

            def fail() -> None:
                raise trouble

            return [Contender(make.__name__, fail)]

    return made


def wanted(settings: Settings) -> list[Package]:
    """Return the packages for this device that were not left out."""
    here = [package for package in PACKAGES if package.device == settings.device.type]
    return [package for package in here if package.name not in _left_out]


def missing(settings: Settings) -> list[Package]:
    """Return those that are wanted, and not there."""
    return [package for package in wanted(settings) if find(package.module) is None]


def versions(settings: Settings) -> dict[str, str | None]:
    """Return the version of every peer that is wanted, None where it is missing."""
    return {package.name: version(package) for package in wanted(settings)}


def version(package: Package) -> str | None:
    if find(package.module) is None:
        return None
    try:
        return importlib.metadata.version(package.name)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
