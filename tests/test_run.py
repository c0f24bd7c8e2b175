# SPDX-License-Identifier: Apache-2.0
"""What every run shares: seeds, progress, checkpoints, reports."""

import dataclasses
import json
import math
import os
import pickle
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from diffiso import run
from diffiso.run import progress
from diffiso.run.report import plain

# Seeds.


def test_seeds_repeat():
    first = (run.seed_all(3), torch.rand(4), torch.rand(4, generator=run.seed_all(3)))
    second = (run.seed_all(3), torch.rand(4), torch.rand(4, generator=run.seed_all(3)))
    assert torch.equal(first[1], second[1])
    assert torch.equal(first[2], second[2])
    with pytest.raises(ValueError, match="seed must not be negative, got -1"):
        run.seed_all(-1)


def test_steps_choose_all_equally_often():
    drawn = [run.step_choice(26, 2, step, 7, 2) for step in range(13)]
    assert sorted(v for some in drawn for v in some) == [*range(26)]
    assert drawn == [run.step_choice(26, 2, step, 7, 2) for step in range(13)]
    assert drawn != [run.step_choice(26, 2, step, 8, 2) for step in range(13)]
    # Where two orders meet in a step nothing is there twice, and nothing is left out for long.
    longer = [run.step_choice(26, 4, step, 7, 2) for step in range(13)]
    assert all(len(set(some)) == len(some) for some in longer)
    assert {v for some in longer[:7] for v in some} == {*range(26)}
    assert run.step_choice(26, 26, 3, 0) == [*range(26)]


def test_step_generators_depend_on_seed_and_counters_alone():
    def draw(*numbers):
        return torch.rand(3, generator=run.step_generator(*numbers)).tolist()

    assert draw(1, 2, 3) == draw(1, 2, 3)
    places = [(0,), (1,), (0, 0), (0, 1), (1, 0), (0, 0, 0), (12, 3), (1, 23), (0, 2**40)]
    assert len({tuple(draw(*place)) for place in places}) == len(places)
    # Means of a thousand steps spread as independent ones: 1 / sqrt(12 * 1000) = 0.009.
    means = [torch.rand(1, generator=run.step_generator(5, k)).item() for k in range(1000)]
    assert abs(sum(means) / 1000 - 0.5) < 0.04
    assert 0 <= run.step_seed(5, 1) < 2**63
    with pytest.raises(ValueError, match=r"must not be negative, got \(0, -1\)"):
        run.step_generator(0, -1)


def test_threads_are_given_back():
    before = torch.get_num_threads()
    with run.cpu_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with run.cpu_threads(None):
        assert torch.get_num_threads() == before
    with pytest.raises(ValueError, match="count must be positive, got 0"), run.cpu_threads(0):
        pass


# Progress.


def test_track_yields_all_and_shows_a_bar_only_when_slow(monkeypatch, capsys):
    assert list(run.track(range(5), "counting")) == [0, 1, 2, 3, 4]
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert list(run.track(iter("abc"), "reading", total=3)) == ["a", "b", "c"]
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(progress, "_PATIENCE", -1.0)
    steps = run.track(range(3), "working slowly")
    for step in steps:
        steps.say(f"loss {step}.5")
    shown = capsys.readouterr().err
    assert "working slowly" in shown
    assert "loss 2.5" in shown


def test_progress_bar_shows_counts_only_when_slow(monkeypatch, capsys):
    with run.progress_bar("sampling") as progress:
        progress(1, 2)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr("diffiso.run.progress._PATIENCE", 0.0)
    with run.progress_bar("sampling") as progress:
        progress(1, 2)
        progress(3, 8)
        time.sleep(0.2)  # the bar draws itself ten times a second
    shown = capsys.readouterr().err
    assert "sampling" in shown
    assert "3/8" in shown


def test_track_prints_lines_where_asked(capsys):
    steps = run.track(range(90, 100), "descending", start=90, total=100, every=0.0)
    for step in steps:
        steps.say(f"loss {step}")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert lines[0].startswith("descending: 91 of 100, loss 90, 0:0")
    assert lines[-1] == "descending: 100 of 100, loss 99, 0:00 left"
    assert list(run.track(range(3), "quick", every=60.0)) == [0, 1, 2]
    assert capsys.readouterr().err == ""
    list(run.track(iter([1]), "of unknown length", every=0.0))
    assert capsys.readouterr().err == "of unknown length: 1\n"
    with pytest.raises(ValueError, match="every must not be negative, got -1"):
        run.track([], "nothing", every=-1)


def test_track_tells_hours_when_it_takes_them():
    assert progress._clock(59.6) == "1:00"
    assert progress._clock(3 * 3600 + 62) == "3:01:02"


# Reports.


def test_reports_hold_settings_and_times(tmp_path):
    @dataclasses.dataclass
    class Settings:
        radius: float = 0.5

    report = run.Report("measure", Settings())
    report.metrics["volume"] = torch.tensor(0.5)
    report.metrics["worst"] = math.nan
    report.lap("work")
    report.lap("work")
    read = json.loads(report.write(tmp_path / "report.json").read_text())
    assert read["settings"] == {"radius": 0.5}
    assert read["metrics"] == {"volume": 0.5, "worst": "nan"}
    assert 0 <= read["seconds"]["work"] <= read["seconds"]["total"]
    assert read["versions"]["torch_version"] == torch.__version__
    assert read["hardware"]["threads"] == torch.get_num_threads()


def test_reports_hold_plain_data_only():
    @dataclasses.dataclass
    class Distance:
        rms: float
        steps: tuple[int, ...]

    mixed = {
        1: np.float32(0.5), "a": Distance(-math.inf, (1, 2)), "b": {Path("x.ply")}, "c": None,
        "d": np.arange(2), "e": [True, torch.eye(2)], "f": torch.float16,
    }  # fmt: skip
    assert plain(mixed) == {
        "1": 0.5, "a": {"rms": "-inf", "steps": [1, 2]}, "b": ["x.ply"], "c": None, "d": [0, 1],
        "e": [True, [[1.0, 0.0], [0.0, 1.0]]], "f": "torch.float16",
    }  # fmt: skip


# Checkpoints.


def make_state(step=3):
    model = nn.Linear(4, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    return {
        "step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict(),
        "history": [(1, 0.5), (2, 0.25)], "name": "torus", "best": None,
    }  # fmt: skip


def test_checkpoints_return_what_was_saved(tmp_path):
    state = make_state() | {"code": nn.Parameter(torch.ones(2))}
    loaded = run.load_checkpoint(run.save_checkpoint(tmp_path / "run.pt", state))
    assert loaded.keys() == state.keys()
    assert loaded["history"] == state["history"]
    assert torch.equal(loaded["model"]["weight"], state["model"]["weight"])
    model = nn.Linear(4, 2)
    torch.optim.Adam(model.parameters()).load_state_dict(loaded["optimizer"])
    run.load_weights(model, loaded["model"], "run.pt")
    assert torch.equal(model.weight, state["model"]["weight"])


# Saves again and again, in a child that is killed at a random moment; 2 MB take some milliseconds.
KILLED = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from diffiso.run import load_checkpoint, save_checkpoint

torch.set_num_threads(1)
path, left_over = Path(sys.argv[1]), 0
chance = random.Random(0)
save_checkpoint(path, {"step": 0, "data": torch.zeros(500_000)})
for attempt in range(40):
    child = os.fork()
    if child == 0:
        step = load_checkpoint(path)["step"]
        while True:
            step += 1
            save_checkpoint(path, {"step": step, "data": torch.full((500_000,), float(step))})
    time.sleep(0.02 + chance.uniform(0, 0.02))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    left_over += len(list(path.parent.iterdir())) - 1
    state = load_checkpoint(path)
    assert (state["data"] == state["step"]).all() and len(state["data"]) == 500_000
    assert len(list(path.parent.iterdir())) <= 2, "what killed runs left piles up"
save_checkpoint(path, {"step": load_checkpoint(path)["step"]})
print(left_over, state["step"], [p.name for p in path.parent.iterdir()])
"""


def test_checkpoints_are_whole_after_a_kill_at_any_moment(tmp_path):
    command = [sys.executable, "-c", KILLED, str(tmp_path / "run.pt")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    left_over, step, names = done.stdout.split(maxsplit=2)
    assert int(left_over) > 0, "no kill fell into a write: the test shows nothing"
    assert int(step) > 0
    assert names.strip() == "['run.pt']"


def test_checkpoints_cut_short_or_damaged_are_refused(tmp_path):
    state = make_state()
    path = run.save_checkpoint(tmp_path / "run.pt", state)
    data = path.read_bytes()
    for length in (0, 1, 2, 100, len(data) // 2, len(data) - 100, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"run\.pt: not a whole checkpoint of diffiso: cut"):
            run.load_checkpoint(path)
    place = data.index(state["model"]["weight"].numpy().tobytes())
    path.write_bytes(data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :])
    with pytest.raises(ValueError, match=r"run\.pt: not a whole checkpoint"):
        run.load_checkpoint(path)


def test_foreign_files_are_refused(tmp_path):
    path = tmp_path / "foreign.pt"
    with pytest.raises(FileNotFoundError, match=r"foreign\.pt: checkpoint not found"):
        run.load_checkpoint(path)
    path.write_bytes(pickle.dumps({"step": 1}))
    with pytest.raises(ValueError, match=r"foreign\.pt: not a whole checkpoint"):
        run.load_checkpoint(path)
    torch.save({"weight": torch.ones(3)}, path)
    with pytest.raises(ValueError, match="not a checkpoint of diffiso, but another file of torch"):
        run.load_checkpoint(path)

    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "trapped"),)

    torch.save({"diffiso_checkpoint": 1, "state": {"step": Trap()}}, path)
    with pytest.raises(ValueError, match="a checkpoint must hold data only, got other objects"):
        run.load_checkpoint(path)
    assert not (tmp_path / "trapped").exists()
    torch.save({"diffiso_checkpoint": 99, "state": {}}, path)
    with pytest.raises(ValueError, match="format must be 1, got 99"):
        run.load_checkpoint(path)


class OtherTensor(torch.Tensor):
    pass


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": {"b": [Path("x")]}}, r"state\['a'\]\['b'\]\[0\] must be a tensor, .* got PosixPath"),
        ({"a": np.float64(1)}, r"state\['a'\] must be .* got float64"),
        ({("a", Path("b")): 1}, r"a key of state\[1\] must be .* got PosixPath"),
        ({"a": defaultdict(list)}, r"state\['a'\] must be .* got defaultdict"),
        ({"a": torch.ones(2).as_subclass(OtherTensor)}, r"state\['a'\] .* got OtherTensor"),
    ],
)
def test_only_data_are_saved(tmp_path, state, message):
    with pytest.raises(TypeError, match=message):
        run.save_checkpoint(tmp_path / "run.pt", state)
    assert list(tmp_path.iterdir()) == []


def test_weights_of_another_architecture_are_named():
    narrow, wide = nn.Linear(3, 1), nn.Linear(4, 1)
    with pytest.raises(ValueError, match=r"a\.pt: of another .* Linear: weight must be \(1, 3\)"):
        run.load_weights(narrow, wide.state_dict(), "a.pt")
    deep = nn.Sequential(nn.Linear(3, 1))
    with pytest.raises(ValueError, match=r"without weight, bias; with 0\.weight, 0\.bias"):
        run.load_weights(narrow, deep.state_dict(), "a.pt")
