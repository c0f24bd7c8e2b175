# SPDX-License-Identifier: Apache-2.0
"""diffiso refine: codes that follow silhouettes and surfaces, on the command line and resumed."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import assert_close

import diffiso
from diffiso import Camera, io, shapes
from diffiso.cli import main
from diffiso.fields import DecoderSettings
from diffiso.metrics import Frame
from diffiso.pipelines.auto_decoder import AutoDecoder, SampleSettings, TrainSettings, train
from diffiso.pipelines.mesh_sdf import RefineSettings, refine
from diffiso.pipelines.mesh_sdf.targets import after, moved
from diffiso.pipelines.sdfdiff import ViewsSettings, make_views
from diffiso.run import load_checkpoint, save_checkpoint, write_settings

CENTER, SIZE = (5.0, -2.0, 1.0), 3.0


def quiet(line):
    pass


def write_solid(path, solid):
    """Away from the origin and of another size than the network's frame."""
    mesh = diffiso.isosurface(solid, -1.0, 1.0, 32)
    io.save_mesh(path, diffiso.Mesh(SIZE * mesh.vertices + torch.tensor(CENTER), mesh.faces))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A network that knows two balls that were squeezed, a solid between them, and its views."""
    root = tmp_path_factory.mktemp("refine")
    for name, height in (("flat", 0.45), ("between", 0.6), ("tall", 0.8)):
        place = root / ("solids" if name != "between" else ".")
        place.mkdir(exist_ok=True)
        squeezed = torch.tensor([1.0, height, 1.0])
        write_solid(place / f"{name}.ply", lambda p, s=squeezed: (p / s).norm(dim=1) * 0.5 - 0.45)
    settings = TrainSettings(
        str(root / "solids"),
        str(root / "run"),
        decoder=DecoderSettings(
            latent_size=2, width=24, depth=3, skips=(), activation="softplus", beta=20.0,
            weight_norm=False,
        ),
        samples=SampleSettings(4000),
        steps=300,
        learning_rate=1e-2,
        points_per_shape=128,
        resolution=12,
        distance_samples=500,
        device="cpu",
    )  # fmt: skip
    train(settings, quiet)
    views = ViewsSettings(
        str(root / "between.ply"), str(root / "views"), rig="ring", count=3, size=48
    )
    make_views(views, quiet)
    return root


def quick(folder, output, target="views", **changes):
    settings = RefineSettings(
        str(folder / "run"),
        str(folder / target),
        output=str(output),
        reference=str(folder / "between.ply") if target == "views" else None,
        start_shape="flat",
        steps=30,
        learning_rate=0.03,
        resolution=20,
        refresh_every=10,
        surface_points=500,
        samples=2000,
        picture=False,
    )
    return dataclasses.replace(settings, **changes)


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


# Stopping and going on.


def test_resumed_equals_unbroken(folder, tmp_path):
    whole = refine(quick(folder, tmp_path / "whole.ply"), quiet)
    part = quick(folder, tmp_path / "part.ply", steps=20)
    refine(part, quiet)
    with pytest.raises(ValueError, match=r"part\.pt: output must be without the checkpoint"):
        refine(part, quiet)
    resumed = refine(dataclasses.replace(part, resume=True, steps=30), quiet)
    assert torch.equal(resumed.code, whole.code)
    for one, other in zip(resumed.state.history, whole.state.history, strict=True):
        assert one[:6] == other[:6]
    assert (tmp_path / "part.ply").read_bytes() == (tmp_path / "whole.ply").read_bytes()


def test_a_run_that_was_killed_goes_on(folder, tmp_path, monkeypatch):
    """From the last step at which the field is sampled anew, to the same result."""
    whole = refine(quick(folder, tmp_path / "whole.ply"), quiet)
    module = sys.modules["diffiso.pipelines.mesh_sdf.refinement"]
    kept = module._descend

    def killed(*arguments):
        if arguments[-1] == 17:
            raise KeyboardInterrupt
        return kept(*arguments)

    part = quick(folder, tmp_path / "part.ply")
    with monkeypatch.context() as patch:
        patch.setattr(module, "_descend", killed)
        with pytest.raises(KeyboardInterrupt):
            refine(part, quiet)
    assert len(load_checkpoint(tmp_path / "part.pt")["history"]) == 10
    resumed = refine(dataclasses.replace(part, resume=True), quiet)
    assert torch.equal(resumed.code, whole.code)
    assert torch.equal(torch.stack(resumed.state.codes), torch.stack(whole.state.codes))


def test_only_the_same_run_is_resumed(folder, tmp_path):
    settings = quick(folder, tmp_path / "out.ply", steps=2)
    refine(settings, quiet)
    again = dataclasses.replace(settings, resume=True)
    with pytest.raises(ValueError, match=r"settings must be those .* got learning_rate 0\.03"):
        refine(dataclasses.replace(again, learning_rate=0.1), quiet)
    state = load_checkpoint(tmp_path / "out.pt")
    save_checkpoint(tmp_path / "out.pt", state | {"digest": "another"})
    with pytest.raises(ValueError, match="network and target must be those of the run"):
        refine(again, quiet)


def lifted(folder, tmp_path):
    """The same network with a field that is positive everywhere."""
    state = load_checkpoint(folder / "run" / "checkpoint.pt")
    model = AutoDecoder.load(folder / "run")
    with torch.no_grad():
        [p for p in model.decoder.parameters() if p.shape == (1,)][-1].add_(5.0)
    save_checkpoint(tmp_path / "lifted.pt", state | {"model": model.state_dict()})
    return str(tmp_path / "lifted.pt")


def test_a_surface_that_vanished_is_reported(folder, tmp_path):
    settings = quick(folder, tmp_path / "out.ply", checkpoint=lifted(folder, tmp_path))
    with pytest.raises(RuntimeError, match=r"vanished \(its field is [3-9.]+ to [0-9.]+ in"):
        refine(settings, quiet)
    assert load_checkpoint(tmp_path / "out.pt")["kind"] == "refine"


def launched(arguments, **options):
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [sys.executable, *torchrun, "-m", "diffiso", "refine", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, **options)


def test_several_processes_match_one(folder, tmp_path):
    one = refine(quick(folder, tmp_path / "one.ply", steps=8), quiet)
    write_settings(tmp_path / "more.json", quick(folder, tmp_path / "more.ply", steps=8))
    given = [str(folder / "run"), str(folder / "views"), "--settings", str(tmp_path / "more.json")]
    done = launched(given)
    assert done.returncode == 0, done.stderr
    more = load_checkpoint(tmp_path / "more.pt")
    # Sums over views in another order, 6e-8 each.
    torch.testing.assert_close(more["code"], one.state.code, rtol=0, atol=1e-4)
    assert [r[1] for r in more["history"]] == pytest.approx(
        [r.loss for r in one.state.history], rel=1e-3
    )
    # Where it cannot go on, all stop, and one tells why.
    lost = quick(folder, tmp_path / "lost.ply", checkpoint=lifted(folder, tmp_path))
    write_settings(tmp_path / "lost.json", lost)
    given = [lost.checkpoint, lost.target, "--settings", str(tmp_path / "lost.json")]
    failed = launched(given, timeout=120)
    assert failed.returncode != 0
    assert "the surface vanished (its field is" in failed.stderr
    assert "at step 0" in failed.stderr


@pytest.mark.parametrize("target", ["one view", "between.ply"])
def test_more_processes_than_views_and_surfaces(folder, tmp_path, target):
    """One view for two processes; and distances that both see, of points of their own."""
    if target == "one view":
        make_views(
            ViewsSettings(
                str(folder / "between.ply"), str(tmp_path / "views"), rig="ring", count=1, size=48
            ),
            quiet,
        )
        settings = quick(folder, tmp_path / "more.ply", tmp_path / "views", steps=3)
        settings = dataclasses.replace(settings, reference=str(folder / "between.ply"))
    else:
        settings = quick(folder, tmp_path / "more.ply", target, steps=3)
    write_settings(tmp_path / "more.json", settings)
    given = [settings.checkpoint, settings.target, "--settings", str(tmp_path / "more.json")]
    done = launched(given)
    assert done.returncode == 0, done.stderr
    steps = json.loads((tmp_path / "more.json").read_text())["metrics"]["steps"]
    one = refine(dataclasses.replace(settings, output=str(tmp_path / "one.ply")), quiet)
    for step, alone in zip(steps, one.state.history, strict=True):
        # Points of the surfaces differ from run to run: by chance, some percent.
        close = 1e-3 if target == "one view" else 0.2
        assert step["loss"] == pytest.approx(alone.loss, rel=close)
        assert step["l1"] == pytest.approx(alone.l1, rel=close)
        if target != "one view":
            assert step["l1"] == pytest.approx(step["l2"] ** 0.5, rel=0.1)


@pytest.mark.cuda
@pytest.mark.parametrize(
    "change", [{}, {"renderer": "rays"}, {"mode": "soft"}, {"target": "between.ply"}]
)
def test_runs_on_a_gpu(folder, tmp_path, change):
    change = dict(change)
    target = change.pop("target", "views")
    found = refine(quick(folder, tmp_path / "out.ply", target, device="cuda", **change), quiet)
    assert found.state.history[-1].l1 < 0.5 * found.state.history[0].l1


def test_what_vanishes_later_can_be_written(folder, tmp_path):
    """What is saved is the last code with a surface, and fewer steps end there."""
    settings = quick(folder, tmp_path / "far.ply", learning_rate=50.0, resolution=12)
    with pytest.raises(RuntimeError, match=r"the surface vanished \(.*\) at step [1-9]") as caught:
        refine(settings, quiet)
    step = int(str(caught.value).rsplit(" ", 1)[1])
    kept = load_checkpoint(tmp_path / "far.pt")
    assert len(kept["history"]) == len(kept["codes"]) == step - 1
    assert float(kept["code"].norm()) < 40 * step
    if step == 1:
        assert kept["optimizer"] == {}
    else:
        found = refine(dataclasses.replace(settings, resume=True, steps=step - 1), quiet)
        assert len(found.mesh.faces) > 0


def test_a_moved_network_can_be_resumed(folder, tmp_path):
    whole = quick(folder, tmp_path / "whole.ply", steps=10)
    refine(dataclasses.replace(whole, steps=5), quiet)
    shutil.copytree(folder / "run", tmp_path / "elsewhere")
    moved = dataclasses.replace(whole, checkpoint=str(tmp_path / "elsewhere"), resume=True)
    assert refine(moved, quiet).state.step == 10


def test_views_that_see_nothing_of_the_box(folder, tmp_path):
    (tmp_path / "given").mkdir()
    far = diffiso.isosurface(shapes.Sphere(0.5), -1.0, 1.0, 16)
    far = diffiso.Mesh(far.vertices + 100.0, far.faces)
    io.save_mesh(tmp_path / "given" / "far.ply", far)
    settings = quick(folder, tmp_path / "out.ply", reference=str(tmp_path / "given" / "far.ply"))
    with pytest.raises(ValueError, match="cameras must see the network's unit sphere"):
        refine(settings, quiet)
    settings = dataclasses.replace(settings, reference=None)
    with pytest.raises(ValueError, match=r"reference must name the mesh .*, got a box of -2 to 2"):
        refine(settings, quiet)
    assert [path.name for path in tmp_path.iterdir()] == ["given"]


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
