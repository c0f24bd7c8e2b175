# SPDX-License-Identifier: Apache-2.0
import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import diffiso
from diffiso import io, shapes
from diffiso.cli import main
from diffiso.fields import DecoderSettings
from diffiso.metrics import Frame
from diffiso.pipelines.auto_decoder import (
    AutoDecoder,
    EncodeSettings,
    SampleSettings,
    TrainSettings,
    encode,
    find_code,
    read_mesh_folder,
    train,
)
from diffiso.pipelines.auto_decoder.training import TrainState
from diffiso.run import load_checkpoint, save_checkpoint, write_settings
from diffiso.types import Mesh

TUBES = (0.15, 0.25, 0.35)


@pytest.fixture(scope="module")
def meshes(tmp_path_factory):
    """Three rings, away from the origin and of another size than the frame, and a ball."""
    folder = tmp_path_factory.mktemp("meshes")
    for tube in TUBES:
        ring = diffiso.isosurface(shapes.Torus(6.0, 10 * tube), -10.0, 10.0, 32)
        moved = Mesh(ring.vertices + torch.tensor([5.0, 0.0, 0.0]), ring.faces)
        io.save_mesh(folder / f"ring-{tube}.ply", moved)
    ball = diffiso.isosurface(shapes.Sphere(0.6), -1.0, 1.0, 24)
    (folder / "balls").mkdir()
    io.save_mesh(folder / "balls" / "ball.obj", ball)
    return folder


def quick(source, output, **changes):
    settings = TrainSettings(
        str(source),
        str(output),
        decoder=DecoderSettings(latent_size=4, width=32, depth=3, skips=(1,), weight_norm=False),
        samples=SampleSettings(2000),
        steps=120,
        shapes_per_batch=3,
        learning_rate=5e-3,
        points_per_shape=64,
        resolution=16,
        distance_samples=500,
        device="cpu",
    )
    return dataclasses.replace(settings, **changes)


def state_of(folder):
    return load_checkpoint(folder / "checkpoint.pt")


def flat(state, place=""):
    """Every tensor of a checkpoint by its place in it."""
    if isinstance(state, torch.Tensor):
        yield place, state
    elif isinstance(state, dict):
        for key, value in state.items():
            yield from flat(value, f"{place}/{key}")
    elif isinstance(state, list | tuple):
        for index, value in enumerate(state):
            yield from flat(value, f"{place}/{index}")


def assert_same_state(first, second):
    assert first["step"] == second["step"]
    assert first["history"] == second["history"]
    one, other = dict(flat(first)), dict(flat(second))
    assert one.keys() == other.keys()
    for place, tensor in one.items():
        assert torch.equal(tensor.to_dense(), other[place].to_dense()), place


# Runs.


def test_a_run_learns_and_reports(meshes, tmp_path, capsys):
    out = tmp_path / "run"
    settings = quick(meshes, out, steps=600, resolution=32)
    write_settings(tmp_path / "settings.json", settings)
    assert main(["train", str(meshes), "--settings", str(tmp_path / "settings.json")]) == 0
    report = json.loads((out / "report.json").read_text())
    assert report["settings"]["decoder"]["width"] == 32
    assert report["metrics"]["shapes"] == 4
    assert report["metrics"]["without_surface"] == 0
    # A 3 x 32 network in 600 steps: measured 1.1 %.
    assert report["metrics"]["mean_rms_share_of_side"] < 0.025
    losses = [loss for _, loss in report["metrics"]["losses"]]
    assert losses[-1] < 0.3 * losses[0]
    for name in ("loss.png", "shapes.png", "checkpoint.pt", "shapes/balls/ball.ply"):
        assert (out / name).is_file(), name
    # Meshes are written where the input was.
    ring = io.load_mesh(out / "shapes" / "ring-0.25.ply")
    middle = (ring.vertices.amin(dim=0) + ring.vertices.amax(dim=0)) / 2
    assert_close(middle, torch.tensor([5.0, 0.0, 0.0]).double(), rtol=0, atol=0.5)
    assert float(np.ptp(ring.vertices.numpy()[:, 0])) == pytest.approx(17.0, rel=0.1)
    assert "mean RMS" in capsys.readouterr().out

    model = AutoDecoder.load(out)
    # In its frame the ring's radius is 6 / (1.03 * 8.5).
    middle_and_tube = torch.tensor([[0.0, 0.0, 0.0], [6 / (1.03 * 8.5), 0.0, 0.0]])
    middle, tube = model.field("ring-0.25")(middle_and_tube).tolist()
    assert tube < -0.1
    assert middle > 0.1
    with pytest.raises(KeyError, match="shape must be one of"):
        model.field("cube")

    # A ring between those that were learned, found from its mesh.
    unseen = diffiso.isosurface(shapes.Torus(0.6, 0.2), -1.0, 1.0, 32)
    io.save_mesh(tmp_path / "unseen.ply", unseen)
    mesh = tmp_path / "unseen.ply"
    code = ["encode", str(out), str(mesh), "-o", str(tmp_path / "found.ply")]
    quickly = ["--steps", "150", "--points", "512", "--samples.count", "4000"]
    assert main([*code, *quickly, "--resolution", "24", "--distance-samples", "500"]) == 0
    found = json.loads((tmp_path / "found.json").read_text())["metrics"]
    assert len(found["code"]) == 4
    assert found["distance"]["rms_share_of_side"] < 0.03
    assert (tmp_path / "found.png").is_file()
    assert float(io.load_mesh(tmp_path / "found.ply").vertices.abs().max()) < 0.9


def test_a_killed_run_goes_on_as_if_nothing_had_been(meshes, tmp_path):
    """SIGKILL at any moment: while samples are measured, between checkpoints, while one is made."""
    program = (
        "import sys; from diffiso.pipelines.auto_decoder import training, train, TrainSettings;"
        "from diffiso.run import read_settings; import torch;"
        "torch.set_num_threads(1); training._SAVE_EVERY = 0.0; training._RECORD_EVERY = 5;"
        "train(read_settings(TrainSettings, sys.argv[1]))"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for name in ("whole", "killed"):
        settings = quick(
            meshes,
            tmp_path / name,
            resume=True,
            steps=1500,
            code_norm=0.5,
            decoder=DecoderSettings(latent_size=4, width=32, depth=3, skips=(1,), dropout=0.2),
        )
        write_settings(tmp_path / f"{name}.json", settings)
    command = [sys.executable, "-c", program]
    whole = subprocess.Popen([*command, str(tmp_path / "whole.json")], env=environment)
    resumed = 0
    for seconds in (0.3, 0.8):
        run = subprocess.Popen([*command, str(tmp_path / "killed.json")], env=environment)
        folder = tmp_path / "killed"
        began = state_of(folder)["step"] if (folder / "checkpoint.pt").is_file() else 0
        while run.poll() is None and not (folder / "checkpoint.pt").is_file():
            time.sleep(0.02)
        time.sleep(seconds)
        run.send_signal(signal.SIGKILL)
        run.wait()
        resumed += began < state_of(folder)["step"] < 1500
    assert resumed > 0
    assert (
        subprocess.run([*command, str(tmp_path / "killed.json")], env=environment).returncode == 0
    )
    assert whole.wait() == 0
    assert state_of(tmp_path / "killed")["step"] == 1500
    assert_same_state(state_of(tmp_path / "whole"), state_of(tmp_path / "killed"))
    assert not list((tmp_path / "killed").glob(".*"))


def test_several_processes_match_one(meshes, tmp_path):
    for name in ("one", "more"):
        settings = quick(meshes, tmp_path / name, steps=60, points_per_shape=64)
        write_settings(tmp_path / f"{name}.json", settings)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    train_it = ["-m", "diffiso", "train", str(meshes), "--settings"]
    subprocess.run(
        [sys.executable, *train_it, str(tmp_path / "one.json")], env=environment, check=True
    )
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [sys.executable, *torchrun, *train_it, str(tmp_path / "more.json")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    one, more = state_of(tmp_path / "one"), state_of(tmp_path / "more")
    assert one["names"] == more["names"]
    for place, tensor in flat(one["model"]):
        other = dict(flat(more["model"]))[place]
        # Sums in another order, 6e-8 each, that Adam's division by small second moments magnifies
        # over 60 steps of at most 2e-3: measured 2e-6.
        assert_close(other, tensor, rtol=0, atol=5e-5)
    for (_, first), (_, second) in zip(one["history"], more["history"], strict=True):
        assert second == pytest.approx(first, rel=1e-4)
    # A run that cannot begin tells why, once.
    again = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert again.stderr.count("output must be a folder without a checkpoint") == 1


def test_a_second_run_does_not_overwrite_the_first(meshes, tmp_path):
    settings = quick(meshes, tmp_path / "run", steps=5)
    train(settings, say=lambda line: None)
    before = (tmp_path / "run" / "checkpoint.pt").read_bytes()
    with pytest.raises(ValueError, match=r"checkpoint\.pt: output must be a folder without"):
        train(settings)
    again = dataclasses.replace(settings, resume=True)
    with pytest.raises(ValueError, match=r"settings must be those .* got learning_rate 0\.005"):
        train(dataclasses.replace(again, learning_rate=1e-3), say=lambda line: None)
    other = DecoderSettings(latent_size=4, width=16, depth=3, skips=())
    with pytest.raises(
        ValueError, match="settings must be those of the run it resumes, got decoder"
    ):
        train(dataclasses.replace(again, decoder=other), say=lambda line: None)
    fewer = tmp_path / "fewer"
    fewer.mkdir()
    io.save_mesh(fewer / "ring-0.15.ply", io.load_mesh(meshes / "ring-0.15.ply"))
    with pytest.raises(ValueError, match=r"shapes must be those .* balls/ball, ring-0\.25"):
        train(dataclasses.replace(again, source=str(fewer)), say=lambda line: None)
    assert (tmp_path / "run" / "checkpoint.pt").read_bytes() == before
    # A finished run that is resumed has nothing left to learn, and reports again.
    result = train(again, say=lambda line: None)
    assert result is not None
    assert state_of(tmp_path / "run")["step"] == 5


def test_codes_keep_their_norm(meshes, tmp_path):
    settings = quick(meshes, tmp_path / "run", steps=20, code_norm=0.5, code_deviation=2.0)
    train(settings, say=lambda line: None)
    codes = state_of(tmp_path / "run")["model"]["codes.weight"]
    assert float(codes.norm(dim=1).max()) <= 0.5


def test_codes_outside_the_batch_rest(meshes, tmp_path):
    settings = quick(
        meshes, tmp_path / "run", steps=1, shapes_per_batch=1, code_norm=0.8, code_deviation=1.0
    )
    shapes = read_mesh_folder(meshes, say=lambda line: None).shapes
    before = TrainState.start(settings, shapes, torch.device("cpu")).model.codes.weight
    train(settings, say=lambda line: None)
    after = state_of(tmp_path / "run")["model"]["codes.weight"]
    assert int((before != after).any(dim=1).sum()) == 1


def test_encoding_brings_a_mesh_where_training_did(tmp_path):
    """A small ball beside the middle, learned as it lies there."""
    ball = diffiso.isosurface(shapes.Sphere(0.3, (0.4, 0.0, 0.0)), -1.0, 1.0, 48)
    mesh = io.save_mesh(tmp_path / "meshes" / "ball.ply", ball)
    settings = quick(tmp_path / "meshes", tmp_path / "run", normalize="none", steps=300)
    train(settings, say=lambda line: None)
    found = encode(
        EncodeSettings(
            str(tmp_path / "run"),
            str(mesh),
            str(tmp_path / "found.ply"),
            samples=SampleSettings(2000),
            steps=20,
            resolution=32,
            distance_samples=500,
            picture=False,
        ),
        say=lambda line: None,
    )
    assert found.result.shape.frame.scale == 1
    # The network's own distance from the ball: measured 0.008 of its side.
    assert found.result.distance.rms < 0.05 * found.result.distance.side


def test_finding_a_code_leaves_the_model_as_it_was(meshes, tmp_path):
    settings = DecoderSettings(latent_size=4, width=16, depth=2, skips=(), dropout=0.5)
    model = AutoDecoder(settings, ["one"], [Frame()]).train()
    samples = torch.rand(50, 4)
    given = EncodeSettings("run", "mesh", steps=2, points=8)
    code = find_code(model, samples, given)
    assert model.decoder.training
    # Nothing is left out in the search, which repeats.
    assert torch.equal(find_code(model, samples, given), code)


@pytest.mark.parametrize(("starts", "expected"), [(1, 0.0), (2, 3.0), (8, 3.0)])
def test_several_starts_leave_a_local_minimum(starts, expected, monkeypatch):
    settings = DecoderSettings(latent_size=1, width=8, depth=2, skips=())
    model = AutoDecoder(settings, ["near", "far"], [Frame()] * 2)
    model.codes.weight.data.copy_(torch.tensor([[0.1], [2.0]]))

    def valleys(points, code, dropout):
        """0.05 deep at 0, where the code nearby is better at first, and to the ground at 3."""
        height = torch.minimum(0.05 + 0.1 * code.abs(), 0.09 * (code - 3).abs())
        return height.expand(len(points))

    monkeypatch.setattr(model.decoder, "evaluate", valleys)
    samples = torch.zeros(50, 4)
    given = EncodeSettings(
        "run", "mesh", steps=160, points=8, learning_rate=0.1, code_penalty=0.0, starts=starts
    )
    assert float(find_code(model, samples, given)) == pytest.approx(expected, abs=0.02)


# Errors.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps must be positive, got 0"),
        ({"points_per_shape": 7}, "points_per_shape must be even, got 7"),
        ({"resolution": 1}, "resolution must be at least 2, got 1"),
        ({"learning_rate": math.nan}, "learning_rate must be finite, got nan"),
        ({"code_norm": 0.0}, "code_norm must be positive"),
        ({"schedule": "steps"}, "schedule must be"),
    ],
)
def test_impossible_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        TrainSettings("meshes", **changes)


def test_a_diverging_run_stops(meshes, tmp_path):
    settings = quick(meshes, tmp_path / "run", learning_rate=1e38, clamp=0.0)
    with pytest.raises(RuntimeError, match=r"the loss must stay finite, got (nan|inf) near step"):
        train(settings, say=lambda line: None)
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


def test_weights_that_are_not_finite_are_not_saved(meshes, tmp_path):
    """One step whose loss is finite, and whose update is not."""
    settings = quick(meshes, tmp_path / "run", steps=1, learning_rate=3e38)
    settings = dataclasses.replace(settings, code_learning_rate=1e38, schedule="halving")
    with pytest.raises(RuntimeError, match=r"weights must stay finite, got .* at step 1"):
        train(settings, say=lambda line: None)
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


def test_checkpoints_that_are_none(meshes, tmp_path):
    settings = quick(meshes, tmp_path / "run", steps=2)
    train(settings, say=lambda line: None)
    checkpoint = tmp_path / "run" / "checkpoint.pt"
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"checkpoint\.pt: .*cut short"):
        train(dataclasses.replace(settings, resume=True), say=lambda line: None)
    with pytest.raises(ValueError, match="cut short"):
        AutoDecoder.load(checkpoint)
    state = {"model": {}, "kind": "something else"}
    save_checkpoint(checkpoint, state)
    with pytest.raises(ValueError, match="must be a checkpoint of diffiso train, got another"):
        AutoDecoder.load(checkpoint)
    with pytest.raises(ValueError, match="must be a checkpoint of diffiso train, got another"):
        train(dataclasses.replace(settings, resume=True), say=lambda line: None)
    with pytest.raises(FileNotFoundError, match="checkpoint not found"):
        AutoDecoder.load(tmp_path)


def test_outputs_that_cannot_be_written_are_found_first(meshes, tmp_path):
    (tmp_path / "file").write_text("in the way\n")
    with pytest.raises(OSError, match="file"):
        train(quick(meshes, tmp_path / "file" / "run"))
    run = tmp_path / "run"
    (run / "loss.png").mkdir(parents=True)
    with pytest.raises(IsADirectoryError, match=r"loss\.png: output must be a file"):
        train(quick(meshes, run))
    (run / "loss.png").rmdir()
    (run / "shapes").write_text("in the way\n")
    with pytest.raises(NotADirectoryError, match="shapes: output must be a folder"):
        train(quick(meshes, run))
    for inside in (meshes, meshes / "run", meshes / "balls" / ".." / "run"):
        with pytest.raises(ValueError, match="output must lie outside the source"):
            train(quick(meshes, inside))
    with pytest.raises(FileNotFoundError, match="folder of meshes not found"):
        train(quick(tmp_path / "none", tmp_path / "new"))
    assert not (tmp_path / "new").exists()
    ball = str(meshes / "balls" / "ball.obj")
    with pytest.raises(ValueError, match="output must be another file than the input"):
        encode(EncodeSettings(str(tmp_path), ball, ball))
    with pytest.raises(ValueError, match="name must end in"):
        encode(EncodeSettings(str(tmp_path), str(meshes), str(tmp_path / "out.txt")))
