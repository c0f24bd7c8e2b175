# SPDX-License-Identifier: Apache-2.0
"""Find a CUDA toolkit, say how `.cu` files are compiled: shared by setup.py and check_cuda.py."""

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# pip's toolkit. Asked for by this name, its parts are of one version, and of the version of a CUDA
# torch that is installed already; asked for one by one, they are of any, and do not compile.
PIP_INSTALL = 'pip install "cuda-toolkit[nvcc,crt,nvvm,cccl,cudart]"'

# Machine code for each generation in use, from Turing to Blackwell (100 and 120, which nvcc knows
# from CUDA 12.8 on); it also runs on younger processors of the same major number (86 on 89, 100 on
# 103, 120 on 121). PTX of the newest is added for processors to come. Each costs about three
# seconds and 0.6 MB a file.
DEFAULT_ARCHS = (75, 80, 86, 90, 100, 120)

# What every kernel is compiled with. No contraction, on the device or in host code: a fused
# multiply-add rounds once where the CPU path rounds twice, and ties would fall differently.
FLAGS = ["-std=c++20", "-O3", "-fmad=false", "--expt-relaxed-constexpr"]
HOST_FLAGS = ["-fPIC", "-fvisibility=hidden", "-ffp-contract=off"]

# Needs what a kernel needs: the runtime's headers, CUB, and a host compiler that nvcc accepts.
PROBE = "#include <cub/version.cuh>\n__global__ void probe() {}\n"


class ToolkitError(RuntimeError):
    """A toolkit is too old or broken; the message says what to do."""


class NoToolkitError(ToolkitError):
    """There is no toolkit."""


@dataclass(frozen=True)
class Toolkit:
    """A CUDA toolkit that compiles.

    Attributes:
        nvcc: the compiler driver.
        version: nvcc's version, such as "13.0.88".
        archs: compute capabilities it compiles for, such as 90 for 9.0.
        runtime: the static CUDA runtime library.
    """

    nvcc: Path
    version: str
    archs: tuple[int, ...]
    runtime: Path


def pip_folders(pattern: str) -> list[Path]:
    """Return what pip's packages of NVIDIA hold under a pattern, newest generation first."""
    nvidia = importlib.util.find_spec("nvidia")
    folders = nvidia.submodule_search_locations or () if nvidia else ()
    return [path for folder in folders for path in sorted(Path(folder).glob(pattern), reverse=True)]


def nvcc_candidates() -> Iterator[Path]:
    """Yield where nvcc may be: the user's word, the path, pip's packages, the usual place."""
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if home := os.environ.get(variable):
            yield Path(home) / "bin" / "nvcc"
    if on_path := shutil.which("nvcc"):
        yield Path(on_path)
    yield from pip_folders("cu*/bin/nvcc")
    yield Path("/usr/local/cuda/bin/nvcc")


def find_toolkit() -> Toolkit:
    """Return the first CUDA toolkit found, proved by compiling a kernel.

    Raises:
        NoToolkitError: none is found.
        ToolkitError: the one found does not work.
    """
    nvcc = next((path for path in nvcc_candidates() if path.is_file()), None)
    if nvcc is None:
        if pip_folders("cuda_nvcc"):  # ptxas and headers without nvcc itself
            raise NoToolkitError(
                "no nvcc found: pip's packages of CUDA 12 hold none; install a CUDA toolkit from "
                "NVIDIA or the distribution, and name its folder in CUDA_HOME"
            )
        raise NoToolkitError(f"no nvcc found; install a CUDA toolkit, or: {PIP_INSTALL}")
    version = re.search(r"\bV([\d.]+)", ask(nvcc, "--version"))
    if version is None:
        raise ToolkitError(f"{nvcc} does not tell its version")
    if generation(version[1]) < 12:
        raise ToolkitError(
            f"{nvcc} must be of CUDA 12 or newer, for C++20, got {version[1]}; name a newer "
            f"toolkit's folder in CUDA_HOME, or: {PIP_INSTALL}"
        )
    codes = re.findall(r"sm_(\d+)\b", ask(nvcc, "--list-gpu-code"))
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "probe.cu"
        source.write_text(PROBE)
        ask(nvcc, *FLAGS, *host_compiler(), "-c", source, "-o", source.with_suffix(".o"))
    return Toolkit(nvcc, version[1], tuple(sorted(map(int, codes))), static_runtime(nvcc))


def generation(version: str) -> int:
    """Return the first number of a version: drivers serve all toolkits that share it."""
    return int(version.split(".")[0])


def static_runtime(nvcc: Path) -> Path:
    """Return the static CUDA runtime beside `nvcc`, which may be a wrapper script elsewhere."""
    plan = ask(nvcc, "--dryrun", "-x", "cu", os.devnull)  # says where nvcc looks; runs nothing
    root = re.search(r"^#\$ TOP=(.*)$", plan, re.MULTILINE)
    libraries = re.search(r"^#\$ LIBRARIES=(.*)$", plan, re.MULTILINE)
    folders = [flag[2:] for flag in shlex.split(libraries[1])] if libraries else []
    if root:
        folders += [f"{root[1].strip()}/{name}" for name in ("lib64", "lib")]
    for folder in folders:
        library = Path(folder) / "libcudart_static.a"
        if library.is_file():
            return library.resolve()
    raise ToolkitError(
        f"{nvcc} has no libcudart_static.a beside it; install the development files of the CUDA "
        f"runtime, or: {PIP_INSTALL}"
    )


def ask(nvcc: Path, *arguments: str | Path) -> str:
    """Run nvcc and return what it prints.

    Raises:
        ToolkitError: it fails; with the end of what it printed.
    """
    done = subprocess.run(
        [nvcc, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode != 0:
        raise ToolkitError(f"{nvcc} does not work: {done.stdout.strip()[-1000:]}")
    return done.stdout


def host_compiler() -> list[str]:
    """Return the flags that make nvcc use the C++ compiler named by CXX, without a launcher."""
    words = shlex.split(os.environ.get("CXX", ""))
    return ["-ccbin", words[-1]] if words else []


def choose_archs(toolkit: Toolkit, wanted: str) -> list[str]:
    """Return what to compile for, such as ["80", "90", "120+PTX"].

    Args:
        toolkit: the toolkit that compiles.
        wanted: compute capabilities apart by spaces, commas or semicolons, each as 90 or 9.0, with
            "+PTX" behind where code for processors to come is wanted; empty: `DEFAULT_ARCHS` as far
            as the toolkit knows them, and PTX of the newest.

    Raises:
        ToolkitError: a capability that is no number or that the toolkit does not know.
    """
    if not wanted:
        known = [str(arch) for arch in DEFAULT_ARCHS if arch in toolkit.archs]
        return [*known[:-1], f"{known[-1]}+PTX"]
    chosen = []
    for name in re.split(r"[\s,;]+", wanted.strip()):
        match = re.fullmatch(r"(\d+)\.?(\d)(\+PTX)?", name)
        if match is None or int(match[1] + match[2]) not in toolkit.archs:
            known = ", ".join(map(str, toolkit.archs))
            raise ToolkitError(
                f"DIFFISO_CUDA_ARCHS must name what nvcc {toolkit.version} compiles for ({known}), "
                f"each with or without +PTX, got {name!r}"
            )
        chosen.append(match[1] + match[2] + (match[3] or ""))
    return chosen


def arch_flags(archs: list[str]) -> list[str]:
    """Return nvcc's flags for what `choose_archs` returned."""
    flags = []
    for name in archs:
        arch = name.removesuffix("+PTX")
        flags.append(f"-gencode=arch=compute_{arch},code=sm_{arch}")
        if name != arch:
            flags.append(f"-gencode=arch=compute_{arch},code=compute_{arch}")
    return flags


def compression_flags(toolkit: Toolkit) -> list[str]:
    """Return nvcc's flags that shrink machine code to a third (CUDA 12) or a quarter (CUDA 13)."""
    if generation(toolkit.version) >= 13:
        return ["--compress-mode=size"]
    # nvcc knows that mode from 12.8 on, but drivers that CUDA 12 still serves may not unpack it.
    return ["-Xfatbin=-compress-all"]


def compile_flags(archs: list[str], torch_include: Path) -> list[str]:
    """Return nvcc's flags for a kernel file, to be run in the root of the project.

    Source paths are given relative to that root, so that messages of the binary carry no other.
    """
    host = [flag for option in HOST_FLAGS for flag in ("-Xcompiler", option)]
    prefix = ["-Xcompiler", f"-ffile-prefix-map={torch_include}/="]
    includes = ["-Icsrc", "-isystem", str(torch_include)]
    return [*FLAGS, *arch_flags(archs), *host, *prefix, *host_compiler(), *includes]
