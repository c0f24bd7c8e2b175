# SPDX-License-Identifier: Apache-2.0
"""diffiso refine: codes that follow silhouettes and surfaces, on the command line and resumed."""

import dataclasses
import json

import pytest
import torch
from conftest import assert_close
from refinements import CENTER, make_folder, quick, quiet, write_solid

from diffiso import Camera, Mesh, isosurface
from diffiso.cli import main
from diffiso.metrics import Frame
from diffiso.pipelines.mesh_sdf import RefineSettings, refine
from diffiso.pipelines.mesh_sdf.targets import SurfaceTarget, after, moved
from diffiso.run import load_checkpoint, write_settings


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("refine"))


# What it is for.


@pytest.mark.parametrize("target", ["views", "between.ply"])
@pytest.mark.parametrize("law", ["sdf", "implicit"])
def test_a_code_follows_its_target(folder, tmp_path, target, law):
    settings = quick(folder, tmp_path / "out.ply", target, law=law)
    found = refine(settings, quiet)
    first, last = found.state.history[0], found.state.history[-1]
    assert last.l1 < 0.35 * first.l1
    assert found.state.best_loss <= last.loss
    report = json.loads(found.report.read_text())
    # From the solid as it came: the network's own error is some 2 %.
    assert report["metrics"]["distance"]["rms_share_of_side"] < 0.05
    lower, upper = found.mesh.vertices.amin(dim=0), found.mesh.vertices.amax(dim=0)
    assert_close((lower + upper) / 2, torch.tensor(CENTER).double(), factor=2e13)  # 0.07
    height = float((upper - lower)[1] / (upper - lower)[0])
    assert height == pytest.approx(0.6, abs=0.07)
    assert len(report["metrics"]["steps"]) == 30
    assert all(step["queries"] > 1000 for step in report["metrics"]["steps"])


def test_a_code_follows_rays(folder, tmp_path):
    settings = quick(folder, tmp_path / "out.ply", renderer="rays")
    found = refine(settings, quiet)
    first, last = found.state.history[0], found.state.history[-1]
    assert last.l1 < 0.5 * first.l1
    assert last.faces == 0
    lower, upper = found.mesh.vertices.amin(dim=0), found.mesh.vertices.amax(dim=0)
    assert float((upper - lower)[1] / (upper - lower)[0]) == pytest.approx(0.6, abs=0.07)


def test_starts_from_the_nearest_shape(folder, tmp_path, capsys):
    squeezed = torch.tensor([1.0, 0.75, 1.0])
    write_solid(tmp_path / "target.ply", lambda p: (p / squeezed).norm(dim=1) * 0.5 - 0.45)
    settings = quick(
        folder, tmp_path / "out.ply", tmp_path / "target.ply", start_shape=None, steps=1
    )
    refine(settings)
    assert "start     tall" in capsys.readouterr().out


def test_command_line_writes_everything(folder, tmp_path, capsys):
    out = tmp_path / "out.ply"
    settings = quick(folder, out, picture=True, frames=3, steps=4)
    write_settings(tmp_path / "settings.json", settings)
    given = [str(folder / "run"), str(folder / "views"), "--settings"]
    assert main(["refine", *given, str(tmp_path / "settings.json")]) == 0
    printed = capsys.readouterr().out
    for name in ("out.ply", "out.pt", "out-loss.png", "out.png", "out.gif", "out.json"):
        assert name in printed
        assert (tmp_path / name).stat().st_size > 100
    assert "refined   loss" in printed


def test_best_and_last(folder, tmp_path):
    """Steps that are too long overshoot: the best code is another one."""
    settings = quick(folder, tmp_path / "last.ply", learning_rate=0.3, steps=12)
    last = refine(settings, quiet)
    best = refine(
        dataclasses.replace(settings, output=str(tmp_path / "best.ply"), keep="best"), quiet
    )
    losses = [step.loss for step in best.state.history]
    assert torch.equal(best.code, best.state.codes[losses.index(min(losses))])
    assert not torch.equal(best.code, last.code)


# Errors.


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"start_shape": "cube"}, ValueError, "start_shape must be one of"),
        ({"target": "nowhere.ply", "reference": None}, FileNotFoundError, "nowhere.ply"),
        ({"checkpoint": "nowhere"}, FileNotFoundError, "nowhere"),
        ({"reference": "nowhere.obj"}, FileNotFoundError, "nowhere.obj"),
        ({"output": "out.txt"}, ValueError, "out.txt"),
    ],
)
def test_errors(folder, tmp_path, monkeypatch, change, error, message):
    monkeypatch.chdir(tmp_path)
    settings = dataclasses.replace(quick(folder, tmp_path / "out.ply"), **change)
    with pytest.raises(error, match=message):
        refine(settings, quiet)
    assert not (tmp_path / "out.ply").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps must be positive"),
        ({"learning_rate": -1.0}, "learning_rate must be positive"),
        ({"resolution": 1}, "resolution must be 2 to 4096, got 1"),
        ({"resolution": 10**8}, "resolution must be 2 to 4096, got 100000000"),
        ({"norm": "l3"}, "norm must be"),
        ({"code_penalty": -1.0}, "code_penalty must not be negative"),
    ],
)
def test_settings_errors(change, message):
    with pytest.raises(ValueError, match=message):
        RefineSettings("run", "views", **change)


def test_a_reference_goes_with_views_only(folder, tmp_path):
    settings = quick(folder, tmp_path / "out.ply", "between.ply", reference="other.ply")
    with pytest.raises(ValueError, match="reference must be left out where the target is a mesh"):
        refine(settings, quiet)


# Frames.


def test_rays_go_with_views_only(folder, tmp_path):
    settings = quick(folder, tmp_path / "out.ply", "between.ply", renderer="rays")
    with pytest.raises(ValueError, match="target must be a folder of pictures where the renderer"):
        refine(settings, quiet)


def test_frames_follow_each_other():
    points = torch.randn(5, 3, dtype=torch.float64)
    first, second = Frame((1.0, 2.0, -3.0), 0.5), Frame((0.25, -1.0, 4.0), 3.0)
    assert_close(after(second, first).points(points), second.points(first.points(points)), 10)


def test_moved_cameras_see_the_same():
    frame = Frame((1.0, 2.0, -3.0), 0.5)
    cameras = Camera.orbit([0.0, 130.0], 20.0, 5.0, focal=30.0, size=16, dtype=torch.float64)
    points = torch.randn(9, 3, dtype=torch.float64)
    seen = moved(cameras, frame).project(frame.points(points))
    assert_close(seen.pixels, cameras.project(points).pixels, 100)
    assert_close(seen.depth, 0.5 * cameras.project(points).depth, 100)


def test_presets():
    paper = RefineSettings.paper("run", "views")
    assert (paper.steps, paper.norm, paper.keep, paper.law) == (400, "l1", "best", "sdf")
    official = RefineSettings.official("run", "views", steps=7)
    assert (official.steps, official.norm, official.resolution) == (7, "l2", 64)


def test_the_penalty_is_that_of_the_squared_norm(folder, tmp_path):
    """One step of plain descent cannot be seen through Adam; its first moment can."""
    found = {}
    for weight in (0.0, 0.3):
        settings = quick(folder, tmp_path / f"{weight}.ply", code_penalty=weight, steps=1)
        refine(settings, quiet)
        found[weight] = load_checkpoint(tmp_path / f"{weight}.pt")
    moments = {weight: state["optimizer"]["exp_avg"] for weight, state in found.items()}
    start = found[0.0]["codes"][0]
    # Adam's first moment is a tenth of the gradient after one step.
    torch.testing.assert_close(moments[0.3] - moments[0.0], 0.1 * 2 * 0.3 * start)


def test_soft_and_smaller_silhouettes(folder, tmp_path):
    settings = quick(folder, tmp_path / "soft.ply", mode="soft", size=24, norm="l2")
    found = refine(settings, quiet)
    first, last = found.state.history[0], found.state.history[-1]
    assert last.l1 < 0.6 * first.l1
    assert first.loss == pytest.approx(first.l2)


def test_reach_of_a_surface_bounds_what_pulls():
    mesh = isosurface(lambda p: p.norm(dim=1) - 0.5, -1, 1, 16)
    far = isosurface(lambda p: p.norm(dim=1) - 0.9, -1, 1, 16)
    points = mesh.vertices.requires_grad_()
    loss = SurfaceTarget(far, 500, reach=0.1).loss(Mesh(points, mesh.faces), 0)
    # All of it lies further away than that, both ways.
    assert loss.l2 == pytest.approx(2 * 0.1**2)
    assert not torch.autograd.grad(loss.value, points)[0].any()
