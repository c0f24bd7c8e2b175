# SPDX-License-Identifier: Apache-2.0
"""What the build asks of an nvcc, by its version. A script stands in for nvcc and answers alike."""

from types import SimpleNamespace

import pytest

from tools import cuda_toolkit

# Compute capabilities that nvcc lists, by its version.
KNOWN = {
    "12.0.140": (50, 52, 53, 60, 61, 62, 70, 72, 75, 80, 86, 87, 89, 90),
    "12.4.131": (50, 52, 53, 60, 61, 62, 70, 72, 75, 80, 86, 87, 89, 90),
    "12.9.86": (50, 52, 53, 60, 61, 62, 70, 72, 75, 80, 86, 87, 89, 90, 100, 101, 103, 120, 121),
    "13.0.88": (75, 80, 86, 87, 88, 89, 90, 100, 103, 110, 120, 121),
}


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Lay out a toolkit of some version, and point CUDA_HOME at it."""

    def lay_out(version, archs=(90,), answer=None):
        listed = "\n".join(f"sm_{arch}" for arch in archs)
        release = ".".join(version.split(".")[:2])
        answer = answer or f"Cuda compilation tools, release {release}, V{version}"
        script = f"""#!/bin/sh
case "$1" in
  --version) echo "{answer}" ;;
  --list-gpu-code) echo "{listed}" ;;
  --dryrun) echo "#$ TOP={tmp_path}" ;;
esac
"""
        (tmp_path / "bin").mkdir()
        (tmp_path / "lib64").mkdir()
        (tmp_path / "lib64" / "libcudart_static.a").touch()
        nvcc = tmp_path / "bin" / "nvcc"
        nvcc.write_text(script)
        nvcc.chmod(0o755)
        monkeypatch.setenv("CUDA_HOME", str(tmp_path))
        return nvcc

    return lay_out


@pytest.mark.parametrize(
    ("version", "default"),
    [
        ("12.0.140", ["75", "80", "86", "90+PTX"]),
        ("12.4.131", ["75", "80", "86", "90+PTX"]),
        ("12.9.86", ["75", "80", "86", "90", "100", "120+PTX"]),
        ("13.0.88", ["75", "80", "86", "90", "100", "120+PTX"]),
    ],
)
def test_default_architectures_are_those_that_nvcc_knows(version, default, install, tmp_path):
    nvcc = install(version, KNOWN[version])
    toolkit = cuda_toolkit.find_toolkit()
    assert (toolkit.nvcc, toolkit.version, toolkit.archs) == (nvcc, version, KNOWN[version])
    assert toolkit.runtime == (tmp_path / "lib64" / "libcudart_static.a").resolve()
    assert cuda_toolkit.choose_archs(toolkit, "") == default


# nvcc 12.4 stops at --compress-mode; 12.9 would take it, but not every driver that it serves.
@pytest.mark.parametrize(
    ("version", "flags"),
    [
        ("12.0.140", ["-Xfatbin=-compress-all"]),
        ("12.4.131", ["-Xfatbin=-compress-all"]),
        ("12.9.86", ["-Xfatbin=-compress-all"]),
        ("13.0.88", ["--compress-mode=size"]),
    ],
)
def test_compression_is_one_that_nvcc_and_its_drivers_know(version, flags, install):
    install(version, KNOWN[version])
    assert cuda_toolkit.compression_flags(cuda_toolkit.find_toolkit()) == flags


def test_chosen_architectures(install):
    install("12.4.131", KNOWN["12.4.131"])
    toolkit = cuda_toolkit.find_toolkit()
    assert cuda_toolkit.choose_archs(toolkit, "8.0; 9.0+PTX") == ["80", "90+PTX"]
    message = r"what nvcc 12\.4\.131 compiles for \(.*89, 90\), .* got '120'"
    with pytest.raises(cuda_toolkit.ToolkitError, match=message):
        cuda_toolkit.choose_archs(toolkit, "90;120")


def test_architecture_flags():
    machine_code = "-gencode=arch=compute_80,code=sm_80"
    newest = ["-gencode=arch=compute_90,code=sm_90", "-gencode=arch=compute_90,code=compute_90"]
    assert cuda_toolkit.arch_flags(["80", "90+PTX"]) == [machine_code, *newest]


def test_an_old_nvcc_is_refused(install):
    install("11.8.89")
    with pytest.raises(cuda_toolkit.ToolkitError, match=r"CUDA 12 or newer, .* got 11\.8\.89"):
        cuda_toolkit.find_toolkit()


def test_an_nvcc_without_a_version_is_refused(install):
    install("", answer="something else")
    with pytest.raises(cuda_toolkit.ToolkitError, match="does not tell its version"):
        cuda_toolkit.find_toolkit()


@pytest.fixture
def pip_packages(tmp_path, monkeypatch):
    """A folder that stands for pip's `nvidia`."""
    monkeypatch.setattr(
        cuda_toolkit.importlib.util,
        "find_spec",
        lambda name: SimpleNamespace(submodule_search_locations=[str(tmp_path)]),
    )
    return tmp_path


@pytest.mark.parametrize(
    ("part", "message"),
    [("cuda_nvcc", "packages of CUDA 12 hold none"), ("cuda_runtime", "install .* pip install")],
)
def test_no_nvcc(part, message, pip_packages, monkeypatch):
    """Pip's packages of CUDA 12 bring the assembler in `nvidia/cuda_nvcc`, but no nvcc."""
    (pip_packages / part / "bin").mkdir(parents=True)
    monkeypatch.setattr(cuda_toolkit, "nvcc_candidates", lambda: iter(()))
    with pytest.raises(cuda_toolkit.NoToolkitError, match=message):
        cuda_toolkit.find_toolkit()


def test_nvcc_of_pip_is_found_newest_generation_first(pip_packages, monkeypatch):
    for name in ("cu13", "cu14"):
        (pip_packages / name / "bin").mkdir(parents=True)
        (pip_packages / name / "bin" / "nvcc").touch()
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PATH", "")
    *found, usual = cuda_toolkit.nvcc_candidates()
    assert found == [pip_packages / name / "bin" / "nvcc" for name in ("cu14", "cu13")]
    assert str(usual) == "/usr/local/cuda/bin/nvcc"
