# SPDX-License-Identifier: Apache-2.0
"""The package as a whole: what it imports, what it says about itself, which way its parts look."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import diffiso

ROOT = Path(__file__).parent.parent
SOURCE_ENDINGS = (".py", ".pyi", ".h", ".cuh", ".cpp", ".cu", ".inl", ".sh", ".toml", ".cff")
SOURCE_NAMES = ("Makefile", "CMakeLists.txt", "run")
DOCUMENT_ENDINGS = (".md", ".yaml", ".yml", ".json", ".in")


def files():
    """Every file of the project that a person wrote."""
    found = [p for p in ROOT.iterdir() if p.is_file()]
    for room in (".ci", "bench", "csrc", "diffiso", "docs", "examples", "tests", "tools"):
        for path in sorted((ROOT / room).rglob("*")):
            parts = path.relative_to(ROOT).parts
            if path.is_file() and not {"build", "__pycache__"} & set(parts):
                found.append(path)
    return found


def python_files():
    return sorted((ROOT / "diffiso").rglob("*.py"))


# Importing.


def test_import_needs_torch_and_numpy_only():
    """No optional package, no network and no CUDA: each is made to fail before the import."""
    program = """
import sys, socket

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in OPTIONAL:
            raise ImportError(f"{name} is optional and was imported")

OPTIONAL = {"trimesh", "skimage", "igl", "scipy", "imageio", "PIL", "rich", "matplotlib", "vtk",
            "tqdm", "mcubes", "pytest", "embreex", "jsonargparse", "yaml", "docstring_parser"}
sys.meta_path.insert(0, Refuse())
def offline(*arguments, **options):
    raise OSError("no network")
socket.socket.connect = offline
import torch, diffiso, diffiso.layers, diffiso.reference
values = torch.ones(3, 3, 3)
values[1, 1, 1] = -1
assert len(diffiso.marching_cubes(values).faces) == 8
assert not torch.cuda.is_initialized()
"""
    environment = {"CUDA_VISIBLE_DEVICES": "", "PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, check=True)


def test_every_public_name_exists():
    assert len(set(diffiso.__all__)) == len(diffiso.__all__)
    for name in diffiso.__all__:
        assert hasattr(diffiso, name), name
    expected = {
        "Grid", "Mesh", "MeshBatch", "GridSample", "build_info", "isosurface", "marching_cubes",
        "mesh_sdf", "sample_field", "sample_grid",
    }  # fmt: skip
    assert expected <= set(diffiso.__all__)


def test_version_is_the_one_of_the_project():
    project = (ROOT / "pyproject.toml").read_text()
    assert f'version = "{diffiso.__version__}"' in project


def test_build_info():
    info = diffiso.build_info()
    assert isinstance(info["cuda"], bool)
    assert bool(info["cuda_archs"]) == info["cuda"]
    assert (info["cuda_version"] is not None) == info["cuda"]
    assert (info["minimum_driver"] is not None) == info["cuda"]
    assert re.match(r"\d+\.\d+", info["built_with_torch"])
    assert info["torch_version"] == torch.__version__
    assert info["version"] == diffiso.__version__
    assert info["compiler"]


def test_ops_have_a_kernel_a_fake_and_a_backward():
    names = re.findall(r'"(\w+)\(Tensor', (ROOT / "csrc" / "ops.cpp").read_text())
    assert {"marching_cubes", "sample_grid", "mesh_sdf"} <= set(names)
    for name in names:
        qualified = f"diffiso::{name}"
        assert torch._C._dispatch_has_kernel_for_dispatch_key(qualified, "CPU"), name
        assert torch._library.simple_registry.singleton.find(qualified).fake_impl.kernel, name
        if name.startswith("narrow_band_"):  # chooses nodes: not differentiable
            continue
        has_autograd = torch._C._dispatch_has_kernel_for_dispatch_key(qualified, "Autograd")
        assert has_autograd or name.endswith("_backward"), name
        if not name.endswith("_backward"):
            assert f"{name}_backward" in names


# Direction of imports: _C, geometry <- types, camera <- ops <- layers, losses <- fields <-
# pipelines <- cli.

RANKS = {
    "_C": 0, "geometry": 0, "build_info": 1, "types": 1, "extras": 1, "camera": 1, "reference": 2,
    "ops": 2, "proximity": 2, "layers": 3,
    "losses": 3, "fields": 4, "pipelines": 6, "cli": 7, "__main__": 8, "__init__": 9,
}  # fmt: skip
# Rooms beside that line: they may use ops and each other, and only pipelines and the command
# may use them.
BESIDE = 5


def room(path):
    parts = path.relative_to(ROOT / "diffiso").with_suffix("").parts
    return parts[0]


def imported_rooms(path):
    package = ("diffiso", *path.relative_to(ROOT / "diffiso").parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            start = ".".join(part for part in (base, node.module) if part)
            names = [f"{start}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "diffiso" and len(parts) > 1 and parts[1] != "__version__":
                known = (ROOT / "diffiso" / parts[1]).is_dir() or parts[1] == "_C"
                known = known or (ROOT / "diffiso" / f"{parts[1]}.py").is_file()
                yield parts[1] if known else "__init__"


def test_python_imports_run_one_way():
    for path in python_files():
        for other in imported_rooms(path):
            rank, below = RANKS.get(room(path), BESIDE), RANKS.get(other, BESIDE)
            same = other == room(path) or rank == below == BESIDE
            assert same or below < rank, f"{path.relative_to(ROOT)} imports {other}"


def test_reference_imports_torch_and_the_tables_only():
    for path in (ROOT / "diffiso" / "reference").glob("*.py"):
        tree = ast.parse(path.read_text())
        modules = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        modules |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        outside = {m.split(".")[0] for m in modules} - set(sys.stdlib_module_names)
        assert outside <= {"torch", "diffiso"}
        assert set(imported_rooms(path)) <= {"_C", "reference"}


ALLOWED_INCLUDES = {
    "core": {"core"},
    "common": {"core", "common"},
    "cpu": {"core", "common", "cpu"},
    "cuda": {"core", "common", "cuda"},
}


@pytest.mark.parametrize("folder", sorted(ALLOWED_INCLUDES))
def test_includes_run_one_way(folder):
    sources = [p for p in (ROOT / "csrc" / folder).iterdir() if p.is_file()]
    assert sources
    for path in sources:
        for quoted in re.findall(r'#include "([^"]+)"', path.read_text()):
            start = quoted.split("/")[0] if "/" in quoted else folder
            assert start in ALLOWED_INCLUDES[folder], f"{path.name} includes {quoted}"


def test_only_one_header_names_the_torch_api():
    for path in (ROOT / "csrc").rglob("*"):
        if not path.is_file():
            continue
        text = path.read_text()
        if path.relative_to(ROOT / "csrc").parts[0] == "core":
            assert "torch" not in text, path.name
        if path.parts[-2:] != ("common", "torch.h"):
            assert "#include <torch/" not in text, path.name
            assert "#include <ATen" not in text, path.name


# What every file must and must not hold.


def test_every_source_begins_with_its_licence():
    for path in files():
        if path.suffix in SOURCE_ENDINGS or path.name in SOURCE_NAMES:
            head = path.read_text().splitlines()[:2]
            assert any("SPDX-License-Identifier: Apache-2.0" in line for line in head), path


def test_no_machine_paths():
    # Spelled in pieces, so that this file does not hold them either.
    places = [f"/{name}/" for name in ("work", "home", "root", "Users", "tmp")]
    for path in files():
        if path.suffix in (*SOURCE_ENDINGS, *DOCUMENT_ENDINGS) or path.name in SOURCE_NAMES:
            text = path.read_text()
            for place in places:
                assert not re.search(rf"(?<![\w.]){place}", text), f"{path.name} names {place}"


def test_no_file_is_longer_than_it_can_be_read():
    for path in files():
        if path.suffix in (".py", ".h", ".cuh", ".cpp", ".cu", ".inl"):
            assert len(path.read_text().splitlines()) <= 400, path.name
