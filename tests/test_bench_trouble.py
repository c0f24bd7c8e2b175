# SPDX-License-Identifier: Apache-2.0
"""What must not go unseen: failures, wrong outputs, and what cannot be compared."""

import json
from dataclasses import replace

import pytest
import torch
from test_bench_scaling import record

from bench import against, cases, ops, results, table
from bench.__main__ import main
from bench.cases import Case, Settings

SMOKE = Settings(torch.device("cpu"), threads=2, runs=1, smoke=True)


def test_our_own_lines_are_named_after_us():
    names = {each.name for case in ops.cases("overhead", SMOKE) for each in case.contenders}
    broken = {"case": "a case", "left_out": dict.fromkeys(names, "OSError: no")}
    record = {"op": "overhead", "cases": [broken], "left_out": {}, "growth": []}
    failed = {line.split(", ", 2)[2] for line in results.failed([record])}
    yardsticks = {name for name in names if name.startswith(("torch.exp", "grid_sample"))}
    assert failed == {f"{name}: OSError: no" for name in names - yardsticks}
    assert len(failed) == 11


def test_missing_data_is_said_and_no_failure(monkeypatch):
    def nothing(*_, **__):
        return iter(())

    monkeypatch.setattr("bench.ops.silhouette.meshes", nothing)
    monkeypatch.setenv("DIFFISO_DATA", "/nowhere")
    found = results.measure("silhouette", replace(SMOKE, smoke=False), {}, {}, growth=False)
    rule = "DIFFISO_DATA must name a folder with meshes/bunny.obj"
    assert found["left_out"] == {"bunny": f"no data: {rule}, got /nowhere"}
    assert results.failed([found]) == []
    monkeypatch.delenv("DIFFISO_DATA")
    (left_out,) = ops.plan("silhouette", replace(SMOKE, smoke=False))
    assert left_out.why == f"no data: {rule}, got none"
    assert list(ops.plan("silhouette", SMOKE)) == []


@pytest.mark.parametrize("name", [name for name in ops.OPS if name != "overhead"])
def test_ops_beyond_memory_are_left_out(name, monkeypatch):
    monkeypatch.setattr(cases, "free_memory", lambda device: 2e7)
    monkeypatch.setattr(ops.OPS[name], "cases", None)
    monkeypatch.setattr(ops.OPS[name], "growths", None)
    for settings in (replace(SMOKE, smoke=False), replace(SMOKE, smoke=False, quick=True)):
        found = results.measure(name, settings, {}, {}, growth=True)
        assert found["left_out"].keys() == {"all cases", "all growing sizes"}
        assert all(why.startswith("not enough memory: it") for why in found["left_out"].values())
        assert results.failed([found]) == []


def test_tiny_sizes_need_no_memory(monkeypatch):
    monkeypatch.setattr(cases, "free_memory", lambda device: 0)
    assert all(isinstance(each, Case) for each in ops.plan("mesh_sdf", SMOKE))
    assert next(ops.growths("mesh_sdf", SMOKE)).over == "nodes along an axis"


@pytest.mark.parametrize("arguments", [["--markdown"], ["--html", "page.html", "--kept"]])
def test_results_of_other_ops_are_not_shown(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kept.json").write_text(json.dumps(record(1.0, 4.0, op="trace")))
    with pytest.raises(SystemExit, match=r"kept\.json: must hold results of shade, got others"):
        main(["shade", *arguments, "kept.json"])
    assert not (tmp_path / "page.html").exists()


# Outputs.


def wrong(agreeing, **settings):
    """A record whose contenders, after the first, agree or not: "ours", or others."""
    made = record(1.0, 4.0)
    first, peer = made["cases"][0]["contenders"]
    made["settings"] |= settings
    made["cases"][0]["contenders"] = [first] + [
        peer
        | {"contender": name, "kind": name.split()[0]}
        | {"differences": [peer["differences"][0] | {"agrees": agrees}]}
        for name, agrees in agreeing.items()
    ]
    return made


def test_whoever_differs_is_faster_than_nobody():
    case = wrong({"ours, wrong": False, "other": True})["cases"][0]
    first, wrong_one, peer = case["contenders"]
    wrong_one["kind"] = "ours"
    assert table.rivals(case, first) == [peer]
    assert table.rivals(case, wrong_one) == []


@pytest.mark.parametrize(
    ("agreeing", "settings", "lines"),
    [
        ({"ours a": True, "other b": True}, {}, []),
        ({"ours a": False}, {}, ["trace, sphere, ours a: t: share 1, allowed 0"]),
        ({"ours a": False}, {"smoke": True}, ["trace, sphere, ours a: t: share 1, allowed 0"]),
        ({"part a": False}, {}, []),
        ({"other a": False, "other b": True}, {}, []),
        (
            {"other a": False, "other b": False, "ours c": True},
            {},
            ["trace, sphere: other a, other b: none agrees with diffiso"],
        ),
        ({"other a": False}, {"smoke": True}, []),
    ],
)
def test_wrong_outputs_are_trouble(agreeing, settings, lines):
    assert results.wrong([wrong(agreeing, **settings)]) == lines


def test_nobody_is_wrong_beside_one_that_did_not_run():
    made = wrong({"ours a": False, "other b": False})
    nothing = {"name": "outputs", "kind": "nothing to compare", "value": None, "allowed": 0.0}
    made["cases"][0]["left_out"] = {"diffiso": "not enough memory: "}
    for each in made["cases"][0]["contenders"]:
        each["differences"] = [nothing | {"agrees": False}]
    assert results.wrong([made]) == []


def test_the_command_fails_where_ours_differs(monkeypatch):
    made = wrong({"ours a": False})
    monkeypatch.setattr("bench.results.measure", lambda *_, **__: made)
    with pytest.raises(SystemExit, match="differs: trace, sphere, ours a: t: share 1, allowed 0"):
        main(["trace", "--quick"])


def test_pairs_that_no_longer_agree_are_trouble(tmp_path):
    compared = against.compare([record(1.0, 4.0, agrees=False)], [record(1.0, 4.0)], margin=0.25)
    assert against.trouble(compared, tmp_path) == [
        "no longer agrees: trace, sphere: diffiso and peer"
    ]
    assert "differs" in against.rows(compared)[1]


# Kept results of several machines.


def kept_on(processor, **settings):
    made = record(1.0, 4.0)
    made["environment"]["hardware"]["processor"] = processor
    made["settings"] |= settings
    return made


@pytest.mark.parametrize(
    ("kept", "expected"),
    [
        ([kept_on("A"), kept_on("B")], "A"),
        ([kept_on("B"), kept_on("A")], "A"),
        ([kept_on("B")], "B"),
        ([kept_on("B"), kept_on("C", threads=4), kept_on("C", device="cuda")], "B"),
    ],
)
def test_kept_results_are_of_one_machine(kept, expected, tmp_path):
    (found,) = against.chosen(kept, kept_on("A"), tmp_path)
    assert found["environment"]["hardware"]["processor"] == expected


def without_pairs():
    return record(1.0, 4.0, agrees=False)


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        (
            [kept_on("B"), kept_on("C")],
            "must be of one machine, or of this one, got B, 2 threads and C, 2 threads",
        ),
        ([kept_on("B", threads=4)], "must share a case, a peer, the device and the threads"),
        ([without_pairs()], "must share a case, a peer, the device and the threads"),
        ([], "must share a case, a peer, the device and the threads"),
    ],
)
def test_what_cannot_be_compared_is_said_before_anything_runs(kept, message, tmp_path, monkeypatch):
    monkeypatch.setattr("bench.results.measure", None)
    kept = kept or [record(1.0, 4.0, op="shade")]
    for each in kept:
        (tmp_path / f"{kept.index(each)}.json").write_text(json.dumps(each))
    with pytest.raises(SystemExit, match=f"--against {tmp_path}: .*{message}"):
        main(["trace", "--quick", "--threads", "2", "--against", str(tmp_path)])


@pytest.mark.parametrize("name", ["device", "threads"])
def test_records_without_settings_are_refused(name, tmp_path):
    made = record(1.0, 4.0)
    del made["settings"][name]
    made["environment"]["hardware"]["gpu"] = "Some GPU"  # whose name needs no threads
    (tmp_path / "kept.json").write_text(json.dumps(made))
    with pytest.raises(ValueError, match=r"kept\.json: must be results of python -m bench, got"):
        results.read(tmp_path, ["trace"])
