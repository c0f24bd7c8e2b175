# SPDX-License-Identifier: Apache-2.0
"""Files are looked at before anything is measured: nothing is lost, nothing measured in vain."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_bench_scaling import record

from bench import results
from bench.__main__ import main
from bench.cases import Settings

SETTINGS = Settings(torch.device("cpu"), threads=2, runs=1)


@pytest.fixture(autouse=True)
def nothing_measured(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("bench.results.measure", None)


def refused(*arguments):
    """What the command says when it ends with one line."""
    with pytest.raises(SystemExit) as failure:
        main(["trace", "--quick", "--threads", "2", *arguments])
    return str(failure.value)


def target(folder):
    about = results.about(SETTINGS, None)
    return results.path_of({**about, "op": "trace"}, Path(folder))


def test_a_device_that_is_a_file(tmp_path):
    target(tmp_path).parent.touch()
    said = refused("--json", str(tmp_path))
    assert f"--json: must be where files can be written, got {tmp_path}" in said


def test_a_target_that_is_a_folder(tmp_path):
    target(tmp_path).mkdir(parents=True)
    assert "--json: must be a file, got the folder" in refused("--json", str(tmp_path))


@pytest.mark.parametrize(
    "path", ["/proc/x.json", "x" * 245 + ".json", "x" * 300 + ".json", "/proc/x.html"]
)
def test_files_that_cannot_be_made(path, capsys, tmp_path):
    option = f"--{path.rpartition('.')[2]}"
    assert refused(option, path) == "2"
    assert f"{option}: must be where files can be written, got {path}" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("option", ["json", "html", "markdown", "kept", "against"])
def test_no_text_is_no_path(option, capsys):
    assert refused(f"--{option}", "") == "2"
    assert f"argument --{option}: must be a path, got ''" in capsys.readouterr().err


def test_folders_named_like_files_are_passed_over(tmp_path, capsys):
    (tmp_path / "x.json").mkdir()
    (tmp_path / "kept.json").write_text(json.dumps(record(1.0, 4.0)))
    main(["trace", "--markdown", str(tmp_path)])
    assert "sphere" in capsys.readouterr().out


def test_what_cannot_be_read_is_one_line(tmp_path, monkeypatch):
    def read(*_):
        raise PermissionError(13, "Permission denied", "kept.json")

    monkeypatch.setattr("bench.results.read", read)
    assert "Permission denied: 'kept.json'" in refused("--markdown", str(tmp_path))


@pytest.mark.parametrize(
    ("kept", "now", "taken"),
    [
        ("full", "quick", False),
        ("full", "smoke", False),
        ("quick", "smoke", False),
        ("quick", "quick", True),
        ("smoke", "quick", True),
        ("quick", "full", True),
    ],
)
@pytest.mark.parametrize("path", ["all.json", "folder"])
def test_fuller_results_are_not_replaced(kept, now, taken, path):
    made = record(1.0, 4.0)
    made["settings"] |= {"quick": kept == "quick", "smoke": kept == "smoke"}
    where = Path(path) if path == "all.json" else target(path)
    where.parent.mkdir(exist_ok=True, parents=True)
    where.write_text(json.dumps(made))
    about = results.about(replace(SETTINGS, quick=now == "quick", smoke=now == "smoke"), None)
    if taken:
        results.check_targets(Path(path), ["trace"], about)
        return
    message = f"--json: a {now} run must not replace a {kept} one, got .*{where.name}"
    with pytest.raises(ValueError, match=message):
        results.check_targets(Path(path), ["trace"], about)


def test_the_command_replaces_nothing_fuller():
    Path("all.json").write_text(json.dumps(record(1.0, 4.0)))
    assert "a quick run must not replace a full one, got all.json" in refused("--json", "all.json")
