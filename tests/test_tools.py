# SPDX-License-Identifier: Apache-2.0
"""What is run beside the library: on GPUs, and over documents."""

import subprocess
from pathlib import Path

import pytest

from tools import gpu_smoke, readme_numbers

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"


def test_smoke_run_for_gpus_runs_on_the_cpu(capsys):
    gpu_smoke.main("cpu")
    assert "every op ran" in capsys.readouterr().out


def test_readme_has_the_figures_of_the_kept_results():
    assert readme_numbers.rewritten(README.read_text()) == README.read_text()


def test_figures_are_put_between_their_comments(monkeypatch):
    monkeypatch.setattr(readme_numbers, "PASSAGES", {"one": lambda: "1 ms", "two": lambda: "2 ms"})
    text = "a\n<!-- one -->\nold\n<!-- end -->\nb\n<!-- two -->\n<!-- end -->\nc\n"
    expected = "a\n<!-- one -->\n1 ms\n<!-- end -->\nb\n<!-- two -->\n2 ms\n<!-- end -->\nc\n"
    assert readme_numbers.rewritten(text) == expected
    assert readme_numbers.rewritten(expected) == expected
    with pytest.raises(ValueError, match="must have the passages one, two, got one, three"):
        readme_numbers.rewritten(text.replace("two", "three"))


@pytest.mark.parametrize(
    ("share", "digits", "expected"),
    [(0.00058617, 2, "0.059%"), (0.03, 2, "3%"), (0.0014462, 3, "0.145%"), (0.0302, 2, "3%")],
)
def test_percent(share, digits, expected):
    assert readme_numbers.percent(share, digits) == expected


def test_figures_that_disagree_are_not_quoted(monkeypatch):
    contender = {"contender": "peer", "differences": [{"agrees": False}]}
    record = {"cases": [{"case": "sphere", "contenders": [contender]}]}
    monkeypatch.setattr(readme_numbers, "read", lambda path: record)
    with pytest.raises(ValueError, match="trace, sphere: peer must agree to be quoted"):
        readme_numbers.case("trace", "sphere")


@pytest.mark.parametrize(
    ("kind", "outputs", "quoted"),
    [
        ("other", {"vertices": 3, "faces": 2}, True),
        ("ours", {"vertices": 3, "faces": 2, "edges": 3}, True),
        ("other", {"vertices": 3, "faces": 1}, False),
        ("ours", {"vertices": 4}, False),
        ("other", {"points": 3}, False),
        ("part", {"vertices": 4}, True),
    ],
)
def test_what_was_not_compared_must_be_as_many(monkeypatch, kind, outputs, quoted):
    first = {"contender": "diffiso", "kind": "ours", "outputs": {"vertices": 3, "faces": 2}}
    older = {"contender": "older", "kind": kind, "outputs": outputs}
    record = {"cases": [{"case": "sphere", "contenders": [first, older]}]}
    monkeypatch.setattr(readme_numbers, "read", lambda path: record)
    if quoted:
        assert readme_numbers.case("trace", "sphere")["older"] == older
        return
    with pytest.raises(ValueError, match="trace, sphere: older must agree to be quoted"):
        readme_numbers.case("trace", "sphere")


def gpu_check(directory, python):
    command = ["bash", str(ROOT / "tools" / "gpu_check.sh"), str(directory)]
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": str(python)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_gpu_check_refuses_what_it_cannot_write_to(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder" / ".writable").mkdir(parents=True)
    for name in ("file", "folder"):
        done = gpu_check(tmp_path / name, "false")
        assert done.returncode == 2
        assert f"must be a folder that can be written, got {tmp_path / name}" in done.stderr


def test_gpu_check_fails_where_a_log_cannot_be_written(tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 0\n")
    python.chmod(0o755)
    out = tmp_path / "out"
    assert gpu_check(out, python).returncode == 0
    (out / "bench.log").unlink()
    (out / "bench.log").mkdir()
    done = gpu_check(out, python)
    assert done.returncode == 1
    assert "gpu_check: failed: bench" in done.stderr
