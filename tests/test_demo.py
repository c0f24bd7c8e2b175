# SPDX-License-Identifier: Apache-2.0
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from topology import euler_number, is_closed_and_oriented

import diffiso
from diffiso import io, shapes
from diffiso.cli import main
from diffiso.metrics import surface_distance
from diffiso.pipelines.demo import DemoSettings
from diffiso.pipelines.fit import FitSettings, extract_field, fit_field
from diffiso.pipelines.morph import learn_family, turn_sphere_into_torus
from diffiso.run import cpu_threads, seed_all


@pytest.fixture(autouse=True)
def _one_thread():
    """The networks are small: where cores are shared, more threads wait more than they work."""
    with cpu_threads(1):
        yield


def test_demo_command(tmp_path, capsys):
    """The main job from end to end, coarse: files, report, and a sphere that became a torus."""
    out = tmp_path / "demo"
    assert main(["demo", "--quick", "-o", str(out)]) == 0
    report = json.loads((out / "report.json").read_text())
    numbers = report["metrics"]["morph"]["euler_numbers"]
    assert (numbers[0], numbers[-1]) == (2, 0)
    torus = io.load_mesh(out / "torus.ply")
    assert is_closed_and_oriented(torus.faces)
    assert euler_number(torus.faces) == 0
    # Measured between 0.004 and 0.022 over eight seeds; the ring's radius is 0.52.
    assert report["metrics"]["morph"]["distance"]["rms"] < 0.05
    losses = report["metrics"]["morph"]["losses"]
    assert losses[-1] < 0.05 * losses[0]
    assert report["metrics"]["fit"]["distance"]["rms_share_of_side"] < 0.01
    assert len(io.load_mesh(out / "neural.glb").faces) == report["metrics"]["fit"]["faces"]
    with Image.open(out / "demo.png") as sheet:
        assert sheet.width > 4 * 120
        assert np.asarray(sheet).std() > 10
    with Image.open(out / "morph.gif") as animation:
        assert animation.n_frames > 4
    printed = capsys.readouterr().out
    assert "Euler number 2 to 0" in printed
    for name in report["files"]:
        assert name.rsplit("/", 1)[-1] in printed


def test_demo_refuses_an_open_mesh_before_any_work(tmp_path, capsys):
    (tmp_path / "sheet.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    out = str(tmp_path / "out")
    assert main(["demo", "--quick", "--mesh", str(tmp_path / "sheet.obj"), "-o", out]) == 2
    assert "sheet.obj: an inside needs a closed surface, got 3 open" in capsys.readouterr().err


@pytest.mark.parametrize(("seed", "loss"), [(1, "surface"), (2, "surface"), (1, "silhouette")])
def test_other_seeds_make_a_torus_too(seed, loss):
    settings = replace(DemoSettings.quick().morph, loss=loss, view_size=64)
    generator = seed_all(seed)
    history = turn_sphere_into_torus(learn_family(settings, generator), settings, generator)
    assert history[0].euler_number == 2
    assert history[-1].euler_number == 0


def test_fit_follows_a_mesh_in_its_own_units(generator):
    torch.manual_seed(0)
    mesh = diffiso.isosurface(
        shapes.Torus(60.0, 25.0, (100.0, 0.0, 0.0)), (0, -100, -40), (200, 100, 40), 32
    )
    settings = FitSettings(steps=60, batch=2048, samples=10_000, resolution=32)
    neural = extract_field(fit_field(shapes.MeshShape(mesh), settings, generator), 32)
    assert is_closed_and_oriented(neural.faces)
    distance = surface_distance(neural, mesh, 5000, generator)
    # Cells are 5.8 wide.
    assert distance.rms < 2.0
