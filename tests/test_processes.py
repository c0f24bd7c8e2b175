# SPDX-License-Identifier: Apache-2.0
"""One process, or several under torchrun."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from diffiso import run


def test_one_process_needs_no_partner():
    with run.processes("cpu") as world:
        assert (world.rank, world.size, world.is_first) == (0, 1, True)
        assert world.any(True)
        assert not world.any(False)
        assert world.share("word") == "word"
        assert torch.equal(world.mean(torch.ones(2)), torch.ones(2))
        weights = [torch.ones(2, 3, requires_grad=True), torch.ones(4, requires_grad=True)]
        (3 * weights[0]).sum().backward()
        world.mean_gradients(weights)
        assert torch.equal(weights[0].grad, torch.full((2, 3), 3.0))
        assert torch.equal(weights[1].grad, torch.zeros(4))
        world.agree(True)
        with pytest.raises(RuntimeError, match="the surface vanished"):
            world.agree(False, "the surface vanished")
        with pytest.raises(KeyError), world.together():
            raise KeyError("name")
    assert run.is_first()


def test_processes_refuse_what_is_not_there(monkeypatch):
    with pytest.raises(ValueError, match="device must be 'auto', 'cpu' or 'cuda', got 'tpu'"):
        run.processes("tpu").__enter__()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="needs a GPU for each of 1 processes, got 0"):
        run.processes("cuda").__enter__()
    monkeypatch.setenv("LOCAL_RANK", "first")
    with pytest.raises(ValueError, match="LOCAL_RANK must be a number, got 'first'"):
        run.processes("cpu").__enter__()


PAIR = """
import sys, torch
from pathlib import Path
from diffiso.run import ProcessStopped, processes, track

def main(how):
    with processes("cpu", timeout=60.0) as world:
        world.say(f"{world.size} processes")
        mean = world.mean(torch.tensor([1.0, 3.0]) * world.rank)
        assert torch.equal(mean, torch.tensor([0.5, 1.5]))
        values = torch.full((3,), float(world.rank), dtype=torch.float64)
        world.broadcast([values])
        assert (values == 0).all()
        assert world.share({"rank": world.rank}) == {"rank": 0}
        weights = [torch.ones(2, 3, requires_grad=True), torch.ones(4, requires_grad=True)]
        (weights[world.rank].square().sum()).backward()  # each process has one gradient of two
        world.mean_gradients(iter(weights))
        assert torch.equal(weights[0].grad, torch.ones(2, 3))
        assert torch.equal(weights[1].grad, torch.ones(4))
        assert world.any(world.rank == 1) and not world.any(False)
        world.agree(True)
        if how == "apart" and world.rank == 1:
            raise ValueError("the surface vanished")
        if how == "together":
            try:
                with world.together():
                    if world.rank == 1:
                        raise ValueError("the surface vanished")
            except ProcessStopped as stop:
                world.say(f"saved, for {stop}")
                raise
        world.mean(torch.ones(1))
    with processes("cpu") as world:  # a second run in the same processes
        world.say("again " + str(world.any(world.rank == 1)))
        torch.optim.Adam([torch.ones(1)])  # imports what would hold the group
    # One of gloo's threads left at the end of Python may abort the process.
    threads = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    assert not [name for name in threads if "gloo" in name], threads

try:
    main(sys.argv[1])
except ValueError as error:
    sys.exit(f"told: {error}")
"""


@pytest.mark.parametrize("how", ["fine", "apart", "together"])
def test_processes_end_together_and_tell_once(tmp_path, how):
    script = tmp_path / "pair.py"
    script.write_text(PAIR)
    launch = ["torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(Path(__file__).parent.parent)
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", *launch, str(script), how],
        capture_output=True,
        text=True,
        env=environment,
        timeout=100,
    )
    lines = done.stdout.splitlines()
    assert lines[0] == "2 processes"
    if how == "fine":
        assert done.returncode == 0, done.stderr
        assert lines[1:] == ["again True"]
        return
    assert done.returncode != 0
    assert done.stderr.count("told: the surface vanished") == 1
    assert "Traceback" not in done.stderr.split("told:")[0]
    # Well below the 60 seconds after which a waiting process gives up by itself.
    assert time.monotonic() - began < 45
    told = ["saved, for the surface vanished (in process 1 of 2)"]
    assert lines[1:] == (told if how == "together" else [])
