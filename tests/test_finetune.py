# SPDX-License-Identifier: Apache-2.0
"""diffiso finetune: weights that follow the distance of their meshes."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch

import diffiso
from diffiso import io
from diffiso.cli import main
from diffiso.fields import DecoderSettings
from diffiso.pipelines.auto_decoder import AutoDecoder, SampleSettings, TrainSettings, train
from diffiso.pipelines.mesh_sdf import FinetuneSettings, finetune
from diffiso.run import load_checkpoint, save_checkpoint, write_settings


def quiet(line):
    pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A network that knows two squeezed balls, and then had all its surfaces moved inwards."""
    root = tmp_path_factory.mktemp("finetune")
    (root / "solids").mkdir()
    for name, height in (("flat", 0.5), ("tall", 0.9)):
        squeezed = torch.tensor([1.0, height, 1.0])
        mesh = diffiso.isosurface(
            lambda p, s=squeezed: (p / s).norm(dim=1) * 0.5 - 0.45, -1.0, 1.0, 32
        )
        io.save_mesh(root / "solids" / f"{name}.ply", mesh)
    decoder = DecoderSettings(
        latent_size=2, width=24, depth=3, skips=(), activation="softplus", beta=20.0,
        weight_norm=False,
    )  # fmt: skip
    settings = TrainSettings(
        str(root / "solids"), str(root / "run"), decoder=decoder, samples=SampleSettings(4000),
        steps=300, learning_rate=1e-2, points_per_shape=128, resolution=12, distance_samples=500,
        device="cpu",
    )  # fmt: skip
    train(settings, quiet)
    lifted(root / "run", root / "moved.pt", 0.06)
    lifted(root / "run", root / "gone.pt", 5.0)
    return root


def lifted(run, path, by):
    """Write the same network with a field that is higher everywhere."""
    state, model = load_checkpoint(run / "checkpoint.pt"), AutoDecoder.load(run)
    with torch.no_grad():
        [p for p in model.decoder.parameters() if p.shape == (1,)][-1].add_(by)
    save_checkpoint(path, state | {"model": model.state_dict()})


def quick(folder, output, **changes):
    settings = FinetuneSettings(
        str(folder / "moved.pt"),
        str(folder / "solids"),
        output=str(output),
        steps=60,
        shapes_per_step=2,
        learning_rate=3e-3,
        surface_points=300,
        resolution=16,
        distance_samples=2000,
        device="cpu",
    )
    return dataclasses.replace(settings, **changes)


@pytest.mark.parametrize("metric", ["surface", "chamfer"])
@pytest.mark.parametrize("law", ["sdf", "implicit"])
def test_meshes_come_nearer(folder, tmp_path, metric, law):
    found = finetune(quick(folder, tmp_path / "out", metric=metric, law=law), quiet)
    for before, after in zip(found.before, found.after, strict=True):
        assert before.distance.rms > 0.03
        # Cells are an eighth wide; what is left is the network's own error.
        assert after.distance.rms < 0.5 * before.distance.rms
    report = json.loads(found.report.read_text())
    means = [report["metrics"][when]["mean_rms_share_of_side"] for when in ("before", "after")]
    assert means[1] < 0.5 * means[0]
    losses = [loss for _, loss in report["metrics"]["losses"]]
    assert len(losses) == 60
    assert sum(losses[-5:]) < sum(losses[:5])


def test_signed_distances_bring_back_what_meshes_cannot(folder, tmp_path):
    beyond = {"reach": 0.01, "samples": SampleSettings(4000)}  # surfaces are 0.06 away
    found = finetune(quick(folder, tmp_path / "meshes", **beyond), quiet)
    assert all(result.distance.rms > 0.03 for result in found.after)
    found = finetune(quick(folder, tmp_path / "both", sdf_weight=0.1, **beyond), quiet)
    assert all(result.distance.rms < 0.015 for result in found.after)
    assert len(list((tmp_path / "both" / "samples").iterdir())) == 2
    assert not (tmp_path / "meshes" / "samples").exists()


def test_codes_at_rest_stay(folder, tmp_path):
    settings = quick(folder, tmp_path / "rest", code_learning_rate=0.0, steps=3)
    rest = finetune(settings, quiet)
    start = AutoDecoder.load(folder / "moved.pt").codes.weight
    assert torch.equal(rest.model.codes.weight, start)
    moved = finetune(quick(folder, tmp_path / "moved", steps=3), quiet)
    assert not torch.equal(moved.model.codes.weight, start)


def test_command_line_writes_a_run_folder(folder, tmp_path, capsys):
    settings = quick(folder, tmp_path / "out", steps=3)
    write_settings(tmp_path / "settings.json", settings)
    given = [settings.checkpoint, settings.source, "--settings", str(tmp_path / "settings.json")]
    assert main(["finetune", *given]) == 0
    printed = capsys.readouterr().out
    assert "before    2 shapes, mean RMS" in printed
    assert "after     2 shapes, mean RMS" in printed
    for name in ("checkpoint.pt", "loss.png", "shapes.png", "report.json", "shapes/flat.ply"):
        assert (tmp_path / "out" / name).stat().st_size > 100
    assert AutoDecoder.load(tmp_path / "out").names == ["flat", "tall"]


def test_resumed_equals_unbroken(folder, tmp_path):
    both = {"sdf_weight": 0.1, "samples": SampleSettings(4000)}
    whole = quick(folder, tmp_path / "whole", steps=8, refresh_every=3, **both)
    finetune(whole, quiet)

    class Stopped(Exception):
        pass

    part = dataclasses.replace(whole, output=str(tmp_path / "part"))
    count = 0

    def stop_in_the_middle(*args):
        nonlocal count
        count += 1
        if count > 8:  # two shapes a step
            raise Stopped
        return kept(*args)

    module = sys.modules["diffiso.pipelines.mesh_sdf.finetune"]
    kept = module._distance
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_distance", stop_in_the_middle)
        with pytest.raises(Stopped):
            finetune(part, quiet)
    with pytest.raises(ValueError, match="output must be a folder without a checkpoint"):
        finetune(part, quiet)
    with pytest.raises(ValueError, match="settings must be those of the run"):
        finetune(dataclasses.replace(part, resume=True, law="sdf"), quiet)
    finetune(dataclasses.replace(part, resume=True), quiet)
    states = [load_checkpoint(tmp_path / name / "checkpoint.pt") for name in ("whole", "part")]
    assert states[0]["history"] == states[1]["history"]
    for key, value in states[0]["model"].items():
        assert torch.equal(states[1]["model"][key], value)


def launched(settings, path):
    write_settings(path, settings)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    given = [settings.checkpoint, settings.source, "--settings", str(path)]
    command = [sys.executable, *torchrun, "-m", "diffiso", "finetune", *given]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)


def test_several_processes_match_one(folder, tmp_path):
    both = {"steps": 6, "sdf_weight": 0.1, "samples": SampleSettings(4000)}
    finetune(quick(folder, tmp_path / "one", **both), quiet)
    done = launched(quick(folder, tmp_path / "more", **both), tmp_path / "more.json")
    assert done.returncode == 0, done.stderr
    one, more = (load_checkpoint(tmp_path / name / "checkpoint.pt") for name in ("one", "more"))
    for key, value in one["model"].items():
        # Sums over shapes in another order, 6e-8 each, that Adam magnifies where they are small.
        torch.testing.assert_close(more["model"][key], value, rtol=0, atol=1e-4)
    # Where a surface is gone all stop, and one tells which and when.
    gone = quick(folder, tmp_path / "gone", checkpoint=str(folder / "gone.pt"))
    failed = launched(gone, tmp_path / "gone.json")
    assert failed.returncode != 0
    assert "vanished (its field is" in failed.stderr
    assert "at step 0" in failed.stderr
    assert load_checkpoint(tmp_path / "gone" / "checkpoint.pt")["history"] == []


def test_a_surface_that_vanished_is_reported(folder, tmp_path):
    settings = quick(folder, tmp_path / "out", checkpoint=str(folder / "gone.pt"))
    message = r"the surface of (flat|tall) vanished \(its field is [0-9.]+ to [0-9.]+ in the box\)"
    with pytest.raises(RuntimeError, match=message):
        finetune(settings, quiet)
    assert load_checkpoint(tmp_path / "out" / "checkpoint.pt")["kind"] == "finetune"


def test_errors(folder, tmp_path):
    (tmp_path / "few").mkdir()
    io.save_mesh(tmp_path / "few" / "flat.ply", io.load_mesh(folder / "solids" / "flat.ply"))
    settings = quick(folder, tmp_path / "out")
    with pytest.raises(ValueError, match=r"source must hold the 2 shapes .* none named tall"):
        finetune(dataclasses.replace(settings, source=str(tmp_path / "few")), quiet)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        finetune(dataclasses.replace(settings, checkpoint="nowhere"), quiet)
    inner = str(folder / "solids" / "out")
    with pytest.raises(ValueError, match="output must lie outside the source"):
        finetune(dataclasses.replace(settings, output=inner), quiet)
    for name, value in (("learning_rate", 0.0), ("sdf_points", 0), ("sdf_weight", -1.0)):
        with pytest.raises(ValueError, match=f"{name} must"):
            FinetuneSettings("run", "solids", **{name: value})


def test_resumes_the_same_network_only(folder, tmp_path):
    settings = quick(folder, tmp_path / "out", steps=2)
    finetune(settings, quiet)
    lifted(folder / "run", tmp_path / "other.pt", 0.01)
    other = dataclasses.replace(settings, checkpoint=str(tmp_path / "other.pt"), resume=True)
    with pytest.raises(ValueError, match="network and shapes must be those of the run it resumes"):
        finetune(other, quiet)


def test_does_not_write_over_what_it_reads(folder, tmp_path):
    shutil.copytree(folder / "solids", tmp_path / "out" / "shapes")
    settings = quick(folder, tmp_path / "out", source=str(tmp_path / "out" / "shapes"), steps=2)
    with pytest.raises(ValueError, match=r"output must lie outside the source.*write none of them"):
        finetune(settings, quiet)
