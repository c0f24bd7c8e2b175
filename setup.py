# SPDX-License-Identifier: Apache-2.0
"""Build the extension `diffiso._C`: CPU ops always, CUDA ops where a toolkit is found.

One binary serves every torch from 2.11 on, with CUDA or without: it holds to torch's stable ABI,
links nothing of torch's CUDA libraries and brings its own static CUDA runtime. So `.cu` files are
compiled here by nvcc itself; torch's CUDAExtension would insist on a torch built with CUDA.

Environment:
    DIFFISO_CUDA: "auto" (default) builds CUDA kernels where nvcc is found, "on" insists on them,
        "off" builds none.
    DIFFISO_CUDA_ARCHS: compute capabilities, such as "90" or "80;90;120+PTX"; the default stands in
        tools/cuda_toolkit.py.
    CXX, MAX_JOBS: the C++ compiler, and how many of its processes may run at a time.
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import setuptools

sys.path.insert(0, str(Path(__file__).resolve().parent / "tools"))

import cuda_toolkit

ROOT = Path(__file__).resolve().parent

NEEDED = """
diffiso is built with the torch that will load it: {python} needs {what}. Install first, then build:
    pip install "torch>=2.11" numpy "setuptools>=77" pybind11 ninja
    pip install --no-build-isolation .
"""


def need(condition: bool, what: str) -> None:
    """Stop with what to install unless `condition` holds."""
    if not condition:
        sys.exit(NEEDED.format(python=sys.executable, what=what))


def major_minor(version: str) -> tuple[int, int]:
    """Return the first two numbers of a version."""
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


need(major_minor(setuptools.__version__) >= (77, 0), f"setuptools 77, has {setuptools.__version__}")

try:
    import ninja
    import pybind11
    import torch
    from torch.utils.cpp_extension import BuildExtension
except ModuleNotFoundError as missing:
    need(False, f"{missing.name}, which is not installed")
need(major_minor(torch.__version__) >= (2, 11), f"torch 2.11, has {torch.__version__}")

TORCH = Path(torch.__file__).parent
# torch's builder runs ninja by name; pip's copy is on the path only in an activated environment.
os.environ["PATH"] = os.pathsep.join([ninja.BIN_DIR, os.environ.get("PATH", "")])


def cuda_build() -> tuple[cuda_toolkit.Toolkit, list[str]] | None:
    """Return the toolkit and architectures to build kernels with, or None to build without."""
    choice = os.environ.get("DIFFISO_CUDA", "auto")
    if choice not in ("auto", "on", "off"):
        sys.exit(f'DIFFISO_CUDA must be "auto", "on" or "off", got {choice!r}')
    if choice == "off":
        return None
    try:
        toolkit = cuda_toolkit.find_toolkit()
    except cuda_toolkit.ToolkitError as error:
        if choice == "on":
            sys.exit(f"DIFFISO_CUDA=on: {error}")
        line = "*" * 100
        print(f"{line}\ndiffiso is built WITHOUT CUDA kernels: {error}\n{line}", file=sys.stderr)
        return None
    try:
        return toolkit, cuda_toolkit.choose_archs(toolkit, os.environ.get("DIFFISO_CUDA_ARCHS", ""))
    except cuda_toolkit.ToolkitError as error:
        sys.exit(str(error))


def write_if_changed(path: Path, text: str) -> None:
    """Write a file unless it already says so, for whoever looks at its time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file() or path.read_text() != text:
        path.write_text(text)


def ninja_path(path: Path | str) -> str:
    """Return a path as a ninja file spells it."""
    return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


def compile_kernels(toolkit: cuda_toolkit.Toolkit, archs: list[str], folder: Path) -> list[Path]:
    """Compile csrc/cuda/*.cu where they or their headers changed; return the objects."""
    sources = sorted(path.relative_to(ROOT) for path in ROOT.glob("csrc/cuda/*.cu"))
    jobs = int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)
    threads = max(1, jobs // max(1, len(sources)))  # of one nvcc, over architectures
    flags = [
        *cuda_toolkit.compile_flags(archs, TORCH / "include"),
        *cuda_toolkit.compression_flags(toolkit),
        "-lineinfo",
    ]
    nvcc = shlex.join([str(toolkit.nvcc), *flags, "--threads", str(threads)])
    objects = {source: folder / f"{source.stem}.o" for source in sources}
    lines = [
        f"builddir = {ninja_path(folder)}",
        "rule nvcc",
        f"  command = {nvcc.replace('$', '$$')} -MD -MF $out.d -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        *(f"build {ninja_path(objects[source])}: nvcc {ninja_path(source)}" for source in sources),
    ]
    write_if_changed(folder / "build.ninja", "\n".join(lines) + "\n")
    print(f"nvcc {toolkit.version} compiles {len(sources)} files for {' '.join(archs)}", flush=True)
    command = ["ninja", "-f", str(folder / "build.ninja"), "-j", str(jobs)]
    if subprocess.run(command, cwd=ROOT, check=False).returncode != 0:
        sys.exit("diffiso: the CUDA kernels did not compile; DIFFISO_CUDA=off builds without them")
    return list(objects.values())


class Build(BuildExtension):
    """Builds the extension, CUDA objects first."""

    def finalize_options(self) -> None:
        """Settle the folder for objects: one that stays, where pip takes a new one each time."""
        super().finalize_options()
        built_for = [self.plat_name, sys.implementation.cache_tag, f"torch-{torch.__version__}"]
        self.build_temp = f"build/temp.{'-'.join(built_for)}"

    def build_extensions(self) -> None:
        """Compile the kernels, note what was built for `_C.build_info()`, and build the rest."""
        (extension,) = self.extensions
        generated = ROOT / self.build_temp / "generated"
        cuda = cuda_build()
        if cuda:
            toolkit, archs = cuda
            objects = compile_kernels(toolkit, archs, ROOT / self.build_temp / "cuda")
            extension.extra_objects = [str(path) for path in objects]
            # The runtime's symbols stay inside: a CUDA torch brings a copy of its own.
            extension.extra_link_args += ["-Wl,--exclude-libs,ALL", str(toolkit.runtime)]
            extension.extra_link_args += ["-ldl", "-lrt", "-lpthread"]
            extension.depends += extension.extra_objects
        facts = {
            "CUDA_VERSION": cuda[0].version if cuda else "",
            "CUDA_ARCHS": " ".join(cuda[1]) if cuda else "",
            "TORCH_VERSION": torch.__version__,
        }
        header = "".join(f'#define DIFFISO_{name} "{value}"\n' for name, value in facts.items())
        write_if_changed(generated / "build_config.h", header)
        extension.include_dirs.append(str(generated))
        extension.depends.append(str(generated / "build_config.h"))
        super().build_extensions()


def extension() -> setuptools.Extension:
    """Return the extension as it is without CUDA."""
    sources = [path for pattern in ("*.cpp", "cpu/*.cpp") for path in ROOT.glob(f"csrc/{pattern}")]
    headers = [path for suffix in ("h", "inl") for path in ROOT.glob(f"csrc/**/*.{suffix}")]
    return setuptools.Extension(
        "diffiso._C",
        sources=sorted(str(path.relative_to(ROOT)) for path in sources),
        depends=sorted(str(path.relative_to(ROOT)) for path in headers),
        include_dirs=[str(ROOT / "csrc")],
        library_dirs=[str(TORCH / "lib")],
        libraries=["torch_cpu"],
        extra_compile_args=[
            *("-std=c++20", "-O3", "-g0", "-ffp-contract=off", "-fno-trapping-math"),
            *("-fvisibility=hidden", "-Wall", "-Wextra"),
            # pybind11's headers before the copy that torch carries, which refuses the stable ABI.
            *("-isystem", pybind11.get_include(), "-isystem", str(TORCH / "include")),
            *(f"-ffile-prefix-map={ROOT}/=", f"-ffile-prefix-map={TORCH / 'include'}/="),
        ],
        language="c++",
    )


setuptools.setup(ext_modules=[extension()], cmdclass={"build_ext": Build})
