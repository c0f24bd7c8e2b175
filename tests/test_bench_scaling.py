# SPDX-License-Identifier: Apache-2.0
"""How times grow is followed, and a run is held against another one."""

import json

import pytest
import torch

from bench import against, ops, page, scaling, table
from bench.__main__ import main
from bench.cases import Growth, Settings, over_threads

SMOKE = Settings(torch.device("cpu"), threads=2, runs=1, smoke=True)


def points(sizes, times):
    return [
        {"size": size, "median": time, "min": time, "max": time}
        for size, time in zip(sizes, times, strict=True)
    ]


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.5])
def test_slope_is_the_exponent(exponent):
    sizes = [16, 32, 64, 128]
    assert scaling.slope(points(sizes, [3 * n**exponent for n in sizes])) == pytest.approx(exponent)


def test_slope_is_that_of_the_larger_half():
    # What a call costs at least would hide how it grows.
    assert scaling.slope(points([1, 2, 4, 8], [1.0, 1.0, 4.0, 32.0])) == pytest.approx(3.0)
    assert scaling.slope(points([1], [1.0])) is None


def test_growth_measures_every_size_and_says_what_failed():
    def build(size):
        def run():
            if size == 4:
                raise MemoryError
            return torch.zeros(size)

        return run

    record = scaling.measure(Growth("rows", [1, 2, 4], build), SMOKE)
    assert [point["size"] for point in record["points"]] == [1, 2]
    assert record["left_out"] == {"4": "not enough memory: "}
    assert "left out: 4: not enough memory: " in table.left_out(record)


@pytest.mark.parametrize("name", [name for name in ops.OPS if name != "overhead"])
def test_every_op_is_followed(name):
    growths = list(ops.growths(name, SMOKE))
    assert growths[-1].over == "threads"
    assert growths[-1].sizes == [1, 2]
    assert len({growth.over for growth in growths}) == len(growths)
    for growth in growths:
        assert list(growth.sizes) == sorted(set(growth.sizes))
        growth.build(growth.sizes[0])()


def test_threads_are_set_and_put_back():
    torch.set_num_threads(2)
    (growth,) = over_threads(torch.get_num_threads, SMOKE)
    assert [growth.build(size)() for size in growth.sizes] == [1, 2]
    assert torch.get_num_threads() == 2
    assert list(over_threads(torch.get_num_threads, Settings(torch.device("cpu"), threads=1))) == []


# Against kept results.


def record(ours, peer, *, case="sphere", op="trace", agrees=True, growth=()):
    difference = {"name": "t", "kind": "share", "value": 1.0, "allowed": 0.0, "agrees": agrees}

    def contender(name, kind, median):
        return {
            "contender": name, "kind": kind, "median": median, "min": median, "max": median,
            "runs": 3, "ratio": median / ours, "share_of_bound": None, "outputs": {},
            "differences": [difference] * (kind == "other"),
        }  # fmt: skip

    contenders = [contender("diffiso", "ours", ours), contender("peer", "other", peer)]
    hardware = {"processor": "Some CPU", "cores": 2, "gpu": None, "gpu_memory_bytes": None}
    info = {"version": "0.1.0", "simd": "avx2", "torch_version": "2.13.0"}
    return {
        "op": op,
        "settings": {"device": "cpu", "threads": 2, "runs": 3, "smoke": False, "quick": False},
        "environment": {"diffiso": info, "peers": {}, "hardware": hardware},
        "cases": [
            {
                "case": case, "unit": "ray", "samples": 1, "calls": 1, "bound": None,
                "contenders": contenders, "left_out": {},
            }
        ],
        "left_out": {},
        "growth": list(growth),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("now", "worse"),
    [
        (record(1.0, 4.0), False),
        (record(10.0, 40.0), False),  # a slower machine is one for both
        (record(1.2, 4.0), False),
        (record(1.3, 4.0), True),
        (record(0.5, 1.5), True),  # faster than before, but the peer more so
    ],
)
def test_ratios_decide_not_times(now, worse):
    (found,) = against.compare([now], [record(1.0, 4.0)], margin=0.25)
    assert found.worse is worse


def test_what_is_gone_is_said():
    alone = record(1.0, 4.0)
    del alone["cases"][0]["contenders"][1]
    (found,) = against.compare([alone], [record(1.0, 4.0)], margin=0.25)
    assert found.now is None
    assert not found.worse
    assert "gone" in against.rows([found])[1]
    assert against.compare([record(1.0, 4.0)], [record(1.0, 4.0, case="torus")], 0.25) == []


def test_command_fails_where_a_ratio_is_worse(tmp_path, monkeypatch, capsys):
    kept = tmp_path / "kept.json"
    kept.write_text(json.dumps([record(1.0, 4.0)]))
    measured = record(2.0, 4.0)
    monkeypatch.setattr("bench.results.measure", lambda *_, **__: measured)
    monkeypatch.setattr("bench.memory.measure", lambda *_: {})
    with pytest.raises(SystemExit) as failure:
        main(["trace", "--quick", "--against", str(kept)])
    assert "worse: trace, sphere: diffiso takes 0.500 of the time of peer" in str(failure.value)
    assert "time / peer, kept" in capsys.readouterr().out
    main(["trace", "--quick", "--against", str(kept), "--margin", "1.1"])
    kept.write_text(json.dumps(record(1.0, 4.0, case="torus")))
    with pytest.raises(SystemExit, match=r"must share a case, a peer, .* with this run, got none"):
        main(["trace", "--quick", "--against", str(kept)])


@pytest.mark.parametrize("text", ["", "{", "[3]", '{"op": 3}', "[[]]"])
def test_foreign_files_are_refused(text, tmp_path):
    (tmp_path / "kept.json").write_text(text)
    with pytest.raises(SystemExit, match=r"kept\.json: must be results of python -m bench, got"):
        main(["trace", "--against", str(tmp_path / "kept.json")])


@pytest.mark.parametrize("margin", ["-0.1", "nan", "inf"])
def test_bad_margins(margin, capsys):
    with pytest.raises(SystemExit):
        main(["--margin", margin])
    assert "--margin must be at least 0" in capsys.readouterr().err


def test_growth_is_shown():
    growth = {
        "over": "rays", "slope": 0.97, "left_out": {"64": "not enough memory: "},
        "points": points([16, 32], [1e-3, 1.9e-3]),
    }  # fmt: skip
    shown = record(1.0, 4.0, growth=[growth])
    for text in (table.console(shown), table.markdown([shown]), page.page([shown])):
        assert "as rays^0.97" in text
        assert "1.90 ms" in text
    assert page.page([shown]).count("<img") == 2
