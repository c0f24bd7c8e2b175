# SPDX-License-Identifier: Apache-2.0
import importlib
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from topology import euler_number, is_closed_and_oriented

import diffiso
from diffiso import io, shapes
from diffiso.cli import main
from diffiso.commands import COMMANDS
from diffiso.metrics import surface_distance
from diffiso.pipelines.extract import ExtractSettings, extract, mesh_band
from diffiso.run.settings import each_setting
from diffiso.types import Mesh


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A closed mesh: the bunny where test data are at hand, else a procedural solid."""
    data = os.environ.get("DIFFISO_DATA")
    if data is not None:
        return Path(data) / "meshes" / "bunny.obj"
    mesh = diffiso.isosurface(shapes.gyroid_ball(), -1.0, 1.0, 48)
    return io.save_mesh(tmp_path_factory.mktemp("mesh") / "solid.obj", mesh)


@pytest.fixture
def torus(tmp_path):
    mesh = diffiso.isosurface(shapes.Torus(0.6, 0.25), -1.0, 1.0, 24)
    return io.save_mesh(tmp_path / "torus.ply", mesh)


@pytest.fixture
def volume(tmp_path):
    grid = diffiso.sample_field(
        shapes.Sphere(6.0, (8.0, 8.0, 2.0)), 0.0, (16, 16, 10), (16, 16, 10)
    )
    np.save(tmp_path / "volume.npy", grid.values.numpy().astype(np.float16))
    return tmp_path / "volume.npy"


# Extraction.


def test_extract_a_mesh(source, tmp_path, capsys):
    out = tmp_path / "new" / "surface.ply"
    assert main(["extract", str(source), "-o", str(out), "--resolution", "64"]) == 0
    mesh = io.load_mesh(out)
    assert is_closed_and_oriented(mesh.faces)
    reference = io.load_mesh(source)
    assert euler_number(mesh.faces) == euler_number(reference.faces)
    report = json.loads(out.with_suffix(".json").read_text())
    assert report["metrics"]["euler_number"] == euler_number(mesh.faces)
    assert report["metrics"]["open_edges"] == 0
    assert max(report["metrics"]["nodes"]) == 65
    # Linear interpolation on cells of 1/60 of the longest side: measured 6e-4 for the bunny.
    assert report["metrics"]["distance"]["rms_share_of_side"] < 1.5e-3
    assert report["versions"]["version"] == diffiso.__version__
    assert report["hardware"]["cores"] == os.cpu_count()
    assert report["settings"]["resolution"] == 64
    with Image.open(out.with_suffix(".png")) as image:
        assert image.size == (512, 512)
        assert np.asarray(image).std() > 10
    printed = capsys.readouterr().out
    assert "closed, Euler number" in printed
    assert "% of the longest side" in printed
    assert str(out) in printed
    assert sorted(p.name for p in out.parent.iterdir()) == [
        "surface.json",
        "surface.ply",
        "surface.png",
    ]


def test_finer_grids_come_closer(torus):
    mesh = io.load_mesh(torus)
    shape = shapes.MeshShape(mesh)
    distances = []
    for resolution in (24, 48):
        grid = mesh_band(shape, resolution)
        assert max(grid.nodes) == resolution + 1
        surface = diffiso.marching_cubes(grid)
        distances.append(surface_distance(surface, mesh, 20_000).rms)
    assert distances[1] < 0.6 * distances[0]


def test_levels_grow_and_shrink(torus, tmp_path):
    widths = []
    for level in (-0.1, 0.0, 0.1):
        out = tmp_path / "out.stl"
        settings = ExtractSettings(str(torus), str(out), 32, level, picture=False)
        result = extract(settings, say=lambda line: None)
        assert is_closed_and_oriented(result.mesh.faces)
        assert (result.distance is None) == (level != 0)
        widths.append(float(result.mesh.vertices[:, 2].max()))
    # The tube's radius is 0.25; cells are at most 0.08 wide.
    assert widths == pytest.approx([0.15, 0.25, 0.35], abs=0.01)


def test_extract_a_volume(volume, tmp_path, capsys):
    out = tmp_path / "cap.glb"
    assert main(["extract", str(volume), "-o", str(out), "--no-picture"]) == 0
    report = json.loads(out.with_suffix(".json").read_text())
    assert report["metrics"]["open_edges"] > 0
    assert "distance" not in report["metrics"]
    assert not out.with_suffix(".png").exists()
    assert "torch.float16" in capsys.readouterr().out
    assert main(["extract", str(volume), "-o", str(out), "--close-boundary", "--level", "0.5"]) == 0
    mesh = io.load_mesh(out)
    assert is_closed_and_oriented(mesh.faces)
    # A ball of radius 6.5 around (8, 8, 2), cut at z = 0; half precision has 2^-8 there.
    assert float(mesh.vertices[:, 2].min()) == 0
    assert float(mesh.vertices[:, 2].max()) == pytest.approx(8.5, abs=0.01)


# Errors: one line, exit code 2, nothing written.


def broken_files(folder, torus):
    mesh = io.load_mesh(torus)
    io.save_mesh(folder / "open.ply", Mesh(mesh.vertices, mesh.faces[5:]))
    (folder / "text.obj").write_text("no mesh\n")
    np.save(folder / "flat.npy", np.ones((4, 4)))
    np.save(folder / "ones.npy", np.ones((4, 4, 4)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.obj", "-o", "out.ply"], "none.obj: mesh file not found"),
        (["text.obj", "-o", "out.ply"], "text.obj: "),
        (["open.ply", "-o", "out.ply"], "open.ply: an inside needs a closed surface, got"),
        (["flat.npy", "-o", "out.ply"], "flat.npy: a volume must be (X, Y, Z)"),
        (["ones.npy", "-o", "out.ply"], "no surface at level 0, values run from 1 to 1"),
        (["ones.npy", "-o", "out.ply", "--resolution", "9"], "resolution is for meshes"),
        (["torus.ply", "-o", "out.txt"], "out.txt: name must end in .ply, .obj, .glb, .stl"),
        (["torus.ply", "-o", "torus.ply/out.ply"], "out.ply: cannot be written"),
        (["torus.ply", "-o", "out.ply", "--resolution", "4"], "resolution: must be above 4, got 4"),
        (["torus.ply", "-o", "out.ply", "--resolution", "99999"], "must fit the memory, got 99999"),
        (["torus.ply", "-o", "out.ply", "--level", "-9"], "no surface at level -9"),
        (["none.obj", "-o", "new/folder/out.ply"], "none.obj: mesh file not found"),
        (["torus.ply", "-o", "torus.ply"], "torus.ply: output must be another file than the input"),
    ],
)
def test_user_errors_are_one_line(torus, monkeypatch, capsys, arguments, message):
    folder = torus.parent
    broken_files(folder, torus)
    monkeypatch.chdir(folder)
    before = sorted(p.name for p in folder.iterdir())
    assert main(["extract", *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("diffiso: ")
    assert message in lines[0]
    assert sorted(p.name for p in folder.iterdir()) == before


def test_traceback_on_request(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError):
        main(["extract", "none.obj", "-o", "out.ply", "--traceback"])


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["extract", "a.obj"],
        ["extract", "a.obj", "-o", "b.ply", "--resolution", "0"],
        ["extract", "a.obj", "-o", "b.ply", "--level", "nan"],
        ["demo", "--seed", "-1"],
        ["sculpt"],
        ["extract", "a.obj", "-o", "b.ply", "--up", "x"],
        ["extract", "a.obj", "-o", "b.ply", "--resolution", "many"],
        ["extract", "a.obj", "-o", "b.ply", "--res", "64"],
        ["extract", "a.obj", "b.obj", "-o", "b.ply"],
        ["demo", "--fit.steps"],
        ["demo", "--threads", "0"],
        ["info", "--threads", "1"],
        ["info", "more"],
    ],
)
def test_wrong_usage_exits_with_two(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("usage: diffiso")
    assert len(lines) <= 3
    assert "error: " in lines[-1]


def test_usage_errors_name_setting_rule_and_value(capsys):
    for flags, message in (
        (["--resolution", "many"], "resolution must be a whole number or null, got 'many'"),
        (["--resolution", "0"], "resolution must be positive, got 0"),
        (["--up", "x"], "up must be one of y, z, got 'x'"),
        (["--level", "inf"], "level must be"),
        (["--seed", "9" * 20], f"seed must be below 2^63, got {'9' * 20}"),
        (["--threads", "abc"], "must be a positive whole number, got 'abc'"),
    ):
        with pytest.raises(SystemExit):
            main(["extract", "a.obj", "-o", "b.ply", *flags])
        assert message in capsys.readouterr().err


# Settings files.


def printed_settings(capsys, *arguments):
    assert main([*arguments, "--print-settings"]) == 0
    return json.loads(capsys.readouterr().out)


def test_flags_override_a_settings_file(tmp_path, capsys):
    path = tmp_path / "run.yaml"
    path.write_text("source: a.obj\noutput: a.ply\nlevel: 0.5\nclose_boundary: true\n")
    for order in (["--settings", str(path), "--level=1"], ["--level=1", "--settings", str(path)]):
        settings = printed_settings(capsys, "extract", *order)
        assert settings["source"] == "a.obj"
        assert settings["level"] == 1.0
        assert settings["close_boundary"] is True
        assert settings["up"] == "y"
    named = printed_settings(capsys, "extract", "b.obj", "--settings", str(path))
    assert named["source"] == "b.obj"


def test_a_report_repeats_its_run(torus, tmp_path, capsys):
    out = tmp_path / "first.ply"
    flags = ["--resolution", "20", "--no-picture", "--samples", "1000"]
    assert main(["extract", str(torus), "-o", str(out), *flags]) == 0
    first = json.loads(out.with_suffix(".json").read_text())
    again = tmp_path / "again.ply"
    report = str(out.with_suffix(".json"))
    assert main(["extract", "--settings", report, "-o", str(again)]) == 0
    second = json.loads(again.with_suffix(".json").read_text())
    assert second["settings"] == first["settings"] | {"output": str(again)}
    assert second["metrics"] == first["metrics"]
    assert again.read_bytes() == out.read_bytes()
    capsys.readouterr()
    assert main(["demo", "--settings", report]) == 2
    assert "settings must be those of demo, got a report of extract" in capsys.readouterr().err


def test_mistakes_in_a_settings_file_are_one_line(tmp_path, capsys):
    path = tmp_path / "run.json"
    for text, message in (
        ('{"levle": 1}', "run.json: there is no setting levle, did you mean level?"),
        ('{"level": "high"}', "run.json: level must be a number, got 'high'"),
        ("{", "run.json: cannot be read as JSON"),
    ):
        path.write_text(text)
        assert main(["extract", "a.obj", "-o", "b.ply", "--settings", str(path)]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert message in lines[0]


def test_presets_are_other_defaults(capsys):
    plain = printed_settings(capsys, "demo")
    quick = printed_settings(capsys, "demo", "--quick")
    assert quick["fit"]["steps"] < plain["fit"]["steps"]
    both = printed_settings(
        capsys, "demo", "--quick", "--fit.steps", "7", "--morph.target", "[1,2]"
    )
    assert both["fit"] == quick["fit"] | {"steps": 7}
    assert both["morph"] == quick["morph"] | {"target": [1.0, 2.0]}


def test_flags_may_have_underscores(capsys):
    flags = ["extract", "a_b.obj", "-o", "c_d.ply", "--close_boundary"]
    settings = printed_settings(capsys, *flags)
    assert settings["close_boundary"] is True
    assert (settings["source"], settings["output"]) == ("a_b.obj", "c_d.ply")


def test_a_missing_extra_is_a_user_error(torus, monkeypatch, capsys):
    def refuse(module):
        raise ImportError("trimesh is missing: pip install 'diffiso[pipelines]'")

    monkeypatch.setattr(io.meshes, "require", refuse)
    assert main(["extract", str(torus), "-o", str(torus.parent / "out.ply")]) == 2
    assert "pip install 'diffiso[pipelines]'" in capsys.readouterr().err


def test_too_little_memory_is_one_line(torus, monkeypatch, capsys):
    def refuse(path):
        raise MemoryError

    monkeypatch.setattr("diffiso.pipelines.extract.load_mesh", refuse)
    assert main(["extract", str(torus), "-o", str(torus.parent / "out.ply")]) == 1
    assert capsys.readouterr().err == "diffiso: out of memory\n"


def test_shapes_do_not_mix_with_those_of_another_run(tmp_path, capsys):
    make = ["shapes", "-o", str(tmp_path / "solids"), "--resolution", "16", "--count"]
    assert main([*make, "2"]) == 0
    assert main([*make, "1"]) == 2
    assert "no solids beside the 1 to make, got solid-001.ply" in capsys.readouterr().err
    assert main([*make, "2"]) == 0


# The command itself.


def test_help_teaches():
    command = [sys.executable, "-m", "diffiso", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "diffiso extract bunny.obj -o bunny.ply --resolution 256" in done.stdout
    assert "--settings FILE" in done.stdout
    for command in COMMANDS:
        assert f"\n  {command.name}  " in done.stdout
        assert command.summary in done.stdout
        for line, text in command.examples:
            assert f"diffiso {line}" in done.stdout
            assert text in done.stdout
    assert max(len(line) for line in done.stdout.splitlines()) <= 100


def test_help_imports_no_pipeline_and_no_optional_package():
    """So that it is there at once: torch is what it waits for."""
    program = """
import sys
from diffiso.cli import main
try:
    main(["--help"])
except SystemExit:
    pass
heavy = {"scipy", "trimesh", "igl", "PIL", "rich", "jsonargparse", "matplotlib", "embreex"}
found = sorted(name for name in sys.modules if name in heavy or "diffiso.pipelines." in name)
print(found, file=sys.stderr)
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"


def test_the_core_alone_tells_what_is_missing():
    program = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"jsonargparse", "docstring_parser", "yaml", "trimesh", "PIL"}:
            raise ImportError(name)

sys.meta_path.insert(0, Refuse())
from diffiso.cli import main
assert main(["info"]) == 0
assert main(["extract", "a.obj", "-o", "b.ply"]) == 2
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["version"] == diffiso.__version__
    expected = "diffiso: jsonargparse is missing: pip install 'diffiso[pipelines]'\n"
    assert done.stderr == expected


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_command_explains_every_setting(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command.name, "--help"])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    cls = getattr(importlib.import_module(f"diffiso.pipelines.{command.module}"), command.settings)
    for setting in each_setting(cls):
        assert setting.help, f"{setting.key} has no line under Attributes:"
        assert " ".join(setting.help.rstrip(".").split()) in text
        assert setting.flag in text or setting.key in command.positional
    for line, _ in command.examples:
        assert f"diffiso {line}" in text


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_examples_in_the_help_are_valid(command, tmp_path, monkeypatch, capsys):
    for line, _ in command.examples:
        assert main([*shlex.split(line), "--print-settings"]) == 0
        assert json.loads(capsys.readouterr().out)


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"diffiso {diffiso.__version__}\n"


def test_info_is_json(capsys):
    assert main(["info"]) == 0
    assert json.loads(capsys.readouterr().out)["version"] == diffiso.__version__
