# SPDX-License-Identifier: Apache-2.0
"""The benchmarks run, compare like with like, and write what they say they write."""

import json
import re
import subprocess
import sys
import weakref
from pathlib import Path

import fields
import pytest
import torch
from conftest import assert_close

from bench import cases, memory, ops, peers, results, table, timing, units
from bench.__main__ import announce, main
from bench.cases import Case, Contender, Floor, Settings
from bench.ops import mesh_sdf

ROOT = Path(__file__).parent.parent
SMOKE = Settings(torch.device("cpu"), threads=2, runs=1, smoke=True)
TIMES = {"median", "min", "max", "runs"}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The records of a smoke run in a process of its own."""
    directory = tmp_path_factory.mktemp("results")
    command = [sys.executable, "-m", "bench", "marching_cubes", "overhead", "--smoke", "--json"]
    finished = subprocess.run(
        [*command, str(directory)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    records = {path.stem: json.loads(path.read_text()) for path in directory.glob("*/*.json")}
    return directory, records, finished.stdout


# The runner.


def test_each_op_leaves_one_file(written):
    _, records, printed = written
    assert set(records) == {"marching_cubes", "overhead"}
    assert "diffiso, int32 faces, edges" in printed


def test_records_tell_where_they_come_from(written):
    for op, record in written[1].items():
        assert record["op"] == op
        assert record["left_out"] == {}
        expected = {"device", "threads", "runs", "smoke", "quick", "peers"}
        assert record["settings"].keys() == expected
        assert record["settings"]["smoke"] is True
        assert record["settings"]["peers"] is None
        assert record["environment"].keys() == {"diffiso", "peers", "hardware"}
        assert record["environment"]["diffiso"]["torch_version"] == torch.__version__
        assert record["environment"]["hardware"]["processor"]


def test_records_of_cases_are_whole(written):
    for record in written[1].values():
        assert record["cases"]
        for case in record["cases"]:
            bound, contenders = case["bound"], case["contenders"]
            assert case["left_out"] == {}
            assert contenders[0]["kind"] == "ours"
            assert contenders[0]["ratio"] == 1
            for each in contenders:
                assert each.keys() > TIMES
                assert 0 < each["min"] <= each["median"] <= each["max"]
                if bound is not None:
                    assert bound["bytes"] > 0
                    assert each["share_of_bound"] == bound["median"] / each["median"]
                if "scratch_bytes" in each:
                    per_sample = each["scratch_bytes"] / case["samples"]
                    assert each["scratch_bytes_per_sample"] == per_sample
                    assert each["peak_bytes"] >= each["scratch_bytes"]


def test_contenders_find_the_same_surface(written):
    for case in written[1]["marching_cubes"]["cases"]:
        found = {each["contender"]: each["outputs"] for each in case["contenders"]}
        assert len({outputs["vertices"] for outputs in found.values()}) == 1, found
        assert all(("edges" in outputs) == ("edges" in name) for name, outputs in found.items())


def test_memory_and_first_calls_were_measured_for_everybody(written):
    for case in written[1]["marching_cubes"]["cases"]:
        for each in case["contenders"]:
            assert {"scratch_bytes", "peak_bytes", "fresh", "reused"} < each.keys()
            assert min(each["fresh"], each["reused"], each["first_call"]) > 0


def test_markdown_comes_from_the_files(written, capsys):
    directory, records, _ = written
    main(["marching_cubes", "--markdown", str(directory)])
    printed = capsys.readouterr().out
    for case in records["marching_cubes"]["cases"]:
        assert case["case"] in printed
    assert "| :-- | --: |" in printed
    assert "overhead" not in printed


def test_list_names_every_op(capsys):
    main(["--list"])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(ops.OPS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["marching"], "OP must be one of marching_cubes, .*, got marching"),
        (["--peers", "vtk", "vtc"], "--peers: PEER must be one of .*warp-lang, got vtc"),
        (["--device", "tpu"], "argument --device: invalid choice: 'tpu'"),
        (["--peers", "vtk", "diso"], "--peers: PEER must run on cpu, as .*vtk.*, got diso"),
        (["--threads", "0"], "--threads must be positive, got 0"),
        (["--threads", "1025"], "--threads must be at most 1024, got 1025"),
        (["--runs", "-1"], "--runs must be positive, got -1"),
        (
            ["--markdown", "nowhere"],
            "--markdown must be a file or a folder that is there, got nowhere",
        ),
    ],
)
def test_bad_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert re.search(message, " ".join(capsys.readouterr().err.split()))


# The clock.


def test_contenders_alternate_and_outputs_are_freed():
    order, alive = [], weakref.WeakSet()

    class Output(torch.Tensor):
        pass

    def contender(name, runs=None):
        def run():
            assert not alive
            order.append(name)
            output = torch.zeros(3).as_subclass(Output)
            alive.add(output)
            return output

        return Contender(name, run, kind="ours", runs=runs)

    case = Case("alternation", [contender("a"), contender("b"), contender("c", runs=1)], samples=1)
    record = timing.time_case(case, Settings(torch.device("cpu"), threads=1, runs=3))
    assert "".join(order) == "abc" + "cba" + "ab" + "ba"
    assert [each["runs"] for each in record["contenders"]] == [3, 3, 1]
    assert record["bound"] is None


def test_floor_counts_every_byte():
    read, written = torch.zeros(5, 3, dtype=torch.float16), torch.zeros(7, dtype=torch.float64)
    floor = Floor([read], [written])
    assert floor.bytes == 30 + 56
    for run in floor.passes().values():
        assert len(run()) == 2


def test_scratch_is_what_a_call_holds_beside_its_outputs():
    size = 2**24

    def run():
        scratch = torch.ones(2 * size)
        return scratch[:size] + 1

    found = memory.memory_on_cpu(Contender("double", run))
    # The counters of a process are good to some pages a thread; the size is far above those.
    assert found["scratch_bytes"] == pytest.approx(2 * size * 4, rel=0.05)
    assert found["peak_bytes"] == pytest.approx(3 * size * 4, rel=0.05)


def test_pages_are_fresh_or_used_before():
    code = """
import torch
from bench import memory

def faults():
    return int(open("/proc/self/stat").read().split()[9])

def run():
    return torch.ones(2**20)

for options in (memory.FRESH, memory.REUSED, memory.FRESH):
    assert memory.set_heap(options)
    run()
    before = faults()
    for _ in range(10):
        run()
    print(faults() - before)
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    first, reused, second = (int(line) for line in done.stdout.split())
    # 4 MB ten times: every page of 4 kB is given out anew, or none (huge pages take fewer faults).
    assert min(first, second) >= 20
    assert reused < min(first, second) / 4


def test_who_fails_is_left_out_and_said():
    def fails():
        raise OSError("no such thing\nhere")

    def starves():
        return torch.empty(2**60)

    settings = Settings(torch.device("cpu"), threads=1, runs=2)
    contenders = [
        Contender("diffiso", lambda: torch.zeros(3), kind="ours"),
        Contender("peer", fails),
        Contender("diffiso, large", starves, kind="ours"),
        Contender("diffiso, broken", fails, kind="ours"),
    ]
    record = timing.time_case(Case("a case", contenders, samples=1), settings)
    assert [each["contender"] for each in record["contenders"]] == ["diffiso"]
    assert record["left_out"]["peer"] == "OSError: no such thing"
    assert record["left_out"]["diffiso, large"].startswith("not enough memory")
    assert "left out: peer: OSError: no such thing" in table.left_out(record)
    # Peers may fail, and memory may lack; we may not.
    failed = results.failed([{"op": "op", "cases": [record], "left_out": {}, "growth": []}])
    assert failed == ["op, a case, diffiso, broken: OSError: no such thing"]


def test_cases_beyond_memory_are_left_out(monkeypatch):
    monkeypatch.setattr(cases, "free_memory", lambda device: 1e5)
    plan = list(ops.plan("marching_cubes", SMOKE))
    left_out = {each.name: each.why for each in plan if not isinstance(each, Case)}
    assert (
        left_out["sphere 24^3 float32"]
        == "not enough memory: it needs about 166 kB, 100 kB are free"
    )
    assert any(isinstance(each, Case) for each in plan)


# The table.


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(1.234, "1.23 s"), (0.0123, "12.3 ms"), (4.567e-4, "457 us"), (2e-9, "2.00 ns")],
)
def test_durations(seconds, expected):
    assert units.duration(seconds) == expected


# The contenders do the same job.


def test_fields():
    device = torch.device("cpu")
    near = {"rtol": 0, "atol": 1e-5}
    expected = fields.sample(fields.sphere(0.7), (9, 9, 9), dtype=torch.float32)
    torch.testing.assert_close(cases.sphere(9, device), expected, **near)
    bounds = ((-7.9,) * 3, (7.9,) * 3)
    expected = fields.sample(fields.gyroid, (9, 9, 9), *bounds, dtype=torch.float32)
    torch.testing.assert_close(cases.gyroid(9, device), expected, **near)


def test_without_peers_only_ours_and_the_reference_run(monkeypatch):
    for package in peers.PACKAGES:
        monkeypatch.setitem(sys.modules, package.module, None)
    assert set(peers.versions(SMOKE).values()) == {None}
    for case in ops.cases("marching_cubes", SMOKE):
        others = {each.name for each in case.contenders if each.kind != "ours"}
        assert others <= {"pure-torch reference"}


def test_missing_peers_are_said_with_how_to_get_them(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "igl", None)
    announce(SMOKE)
    assert "left out, not installed: libigl (pip install libigl)" in capsys.readouterr().out


def test_peers_can_be_chosen():
    try:
        peers.choose(["PyMCubes"])
        assert peers.versions(SMOKE).keys() == {"PyMCubes"}
        first = next(iter(ops.cases("marching_cubes", SMOKE)))
        assert {each.name for each in first.contenders if each.kind != "ours"} == {"PyMCubes"}
        peers.choose([])
        assert peers.find("bench.peers.mitsuba_grid") is None
        assert peers.find("vtkmodules.util.numpy_support") is None
        assert peers.find("bench.peers.rays") is not None
        assert peers.versions(SMOKE) == {}
    finally:
        peers.choose(None)


def test_backward_contenders_agree():
    for case in ops.cases("marching_cubes_backward", SMOKE):
        gradients = {}
        for each in case.contenders:
            result = each.run()
            values = result if isinstance(result, torch.Tensor) else result[0]
            gradients[each.name] = values.flatten()
        for gradient in gradients.values():
            # Differences of close samples, squared: relative to the largest.
            expected = gradients["diffiso"]
            scale = expected.abs().max()
            assert_close(gradient / scale, expected / scale)


def test_sampling_contenders_agree():
    for case in ops.cases("sample_grid", SMOKE):
        first, *others = [each for each in case.contenders if each.kind != "part"]
        ours, ours_of_points = first.run()
        for other in others:
            theirs, theirs_of_points = other.run()
            if other.name.startswith("grid_sample"):  # counts z, y, x
                theirs_of_points = theirs_of_points.flip(-1)
            assert_close(theirs, ours)
            # A difference of samples over a spacing of 2/15, so that it is 8 times as inexact.
            assert_close(theirs_of_points, ours_of_points, factor=8)


def test_mesh_sdf_contenders_agree():
    # With a power of two of cells torch's coordinates find the nodes again exactly, and no vertex
    # lies on the box: at cell faces the two would choose different cells.
    values = cases.sphere(17, torch.device("cpu"))
    for law in mesh_sdf.LAWS:
        case = mesh_sdf.case("sphere", values, law, 2, with_reference=True)
        assert len(case.contenders) == 4
        expected, *others = [each.run() for each in case.contenders]
        for found in others:
            assert_close(found, expected)


def test_isosurface_contenders_agree():
    (case,) = ops.cases("isosurface", SMOKE)
    ours, theirs = [each.run() for each in case.contenders if each.kind != "part"]
    for name in ("vertices", "faces"):
        assert len(ours[name][0]) == len(theirs[name][0])
    for expected, found in zip(ours["gradients"], theirs["gradients"], strict=True):
        assert_close(found, expected)


def test_result_files_are_named_after_the_machine():
    hardware = {"processor": "Some CPU (R) 42", "gpu": None}
    record = {"op": "x", "settings": {"threads": 2}, "environment": {"hardware": hardware}}
    assert results.path_of(record, Path("d")) == Path("d/some-cpu-r-42-2-threads/x.json")
