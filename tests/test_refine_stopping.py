# SPDX-License-Identifier: Apache-2.0
"""diffiso refine: stopped, gone on with, shared by processes, and where surfaces vanish."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from refinements import lifted, make_folder, quick, quiet

import diffiso
from diffiso import io, shapes
from diffiso.pipelines.mesh_sdf import refine
from diffiso.pipelines.sdfdiff import ViewsSettings, make_views
from diffiso.run import load_checkpoint, save_checkpoint, write_settings


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("refine"))


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


def test_processes_that_would_start_elsewhere_start_together(folder, tmp_path):
    """One view shows the flat solid, the other the tall one: half of each is nearest to none."""
    for name in ("flat", "tall"):
        solid = str(folder / "solids" / f"{name}.ply")
        ring = ViewsSettings(solid, str(tmp_path / name), rig="ring", count=2, size=48)
        make_views(ring, quiet)
    frames = json.loads((tmp_path / "flat" / "transforms.json").read_text())["frames"]
    mask = frames[1]["mask_path"]
    shutil.copy(tmp_path / "tall" / mask, tmp_path / "flat" / mask)
    settings = quick(folder, tmp_path / "more.ply", tmp_path / "flat", steps=8, start_shape=None)
    settings = dataclasses.replace(settings, reference=str(folder / "between.ply"))
    write_settings(tmp_path / "more.json", settings)
    given = [settings.checkpoint, settings.target, "--settings", str(tmp_path / "more.json")]
    done = launched(given)
    assert done.returncode == 0, done.stderr
    one = refine(dataclasses.replace(settings, output=str(tmp_path / "one.ply")), quiet)
    more = load_checkpoint(tmp_path / "more.pt")
    torch.testing.assert_close(more["codes"][0], one.state.codes[0], rtol=0, atol=0)
    torch.testing.assert_close(more["code"], one.state.code, rtol=0, atol=1e-4)
    module = sys.modules["diffiso.pipelines.mesh_sdf.refine"]
    model = module.AutoDecoder.load(settings.checkpoint)
    target = module.load_target(settings, model).target
    alone = module.Processes(0, 1, torch.device("cpu"))
    starts = [module._best_start(model, target.part(rank, 2), alone) for rank in range(2)]
    assert starts == ["flat", "tall"]


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


def test_what_vanishes_in_the_last_step_is_found(folder, tmp_path):
    settings = quick(folder, tmp_path / "far.ply", learning_rate=50.0, resolution=12, steps=1)
    with pytest.raises(RuntimeError, match=r"the surface vanished \(its field is .*\) at step 1"):
        refine(settings, quiet)
    kept = load_checkpoint(tmp_path / "far.pt")
    assert kept["history"] == kept["codes"] == []
    assert float(kept["code"].norm()) < 40
    assert not (tmp_path / "far.ply").exists()


def test_rays_go_back_to_the_last_surface_that_was_looked_for(folder, tmp_path, monkeypatch):
    """Which is looked for every ten steps; from there on fewer steps end well."""
    settings = quick(folder, tmp_path / "far.ply", renderer="rays", steps=14, resolution=12)
    module = sys.modules["diffiso.pipelines.mesh_sdf.refinement"]
    found = module._has_surface
    with monkeypatch.context() as patch:
        gone = iter([True, True, False, False])  # at steps 0 and 10, and in the end
        patch.setattr(module, "_has_surface", lambda *_: next(gone))
        with pytest.raises(RuntimeError, match=r"the surface vanished \(.*\) at step 14"):
            refine(settings, quiet)
    kept = load_checkpoint(tmp_path / "far.pt")
    assert len(kept["history"]) == len(kept["codes"]) == 10
    whole = refine(dataclasses.replace(settings, output=str(tmp_path / "ten.ply"), steps=10), quiet)
    assert torch.equal(kept["code"], whole.state.code)
    again = refine(dataclasses.replace(settings, resume=True, steps=12), quiet)
    assert again.state.step == 12
    assert found(module.AutoDecoder.load(settings.checkpoint), again.code, settings)


def test_the_last_code_may_be_the_best(folder, tmp_path):
    settings = quick(folder, tmp_path / "out.ply", steps=3, keep="best")
    found = refine(settings, quiet)
    assert found.state.best_loss < min(record.loss for record in found.state.history)
    assert torch.equal(found.state.best, found.state.code)
    assert torch.equal(found.code, found.state.code)


def test_steps_that_were_taken_are_not_taken_back(folder, tmp_path):
    settings = quick(folder, tmp_path / "out.ply", steps=3)
    refine(settings, quiet)
    with pytest.raises(ValueError, match=r"steps must be at least those .* taken, 3, got 2"):
        refine(dataclasses.replace(settings, resume=True, steps=2), quiet)


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
