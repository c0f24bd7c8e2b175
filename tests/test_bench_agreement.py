# SPDX-License-Identifier: Apache-2.0
"""Wrong peers are found out: a time counts only beside outputs that agree."""

import numpy as np
import pytest
import torch

import diffiso
from bench import against, agreement, page, peers, results, scaling, table, timing
from bench.cases import Case, Contender, Growth, Settings, outputs_of_mesh, sphere
from diffiso import Mesh

SETTINGS = Settings(torch.device("cpu"), threads=1, runs=1)
MESH = diffiso.marching_cubes(sphere(24, torch.device("cpu")))


def judged(ours, theirs, outputs, **options):
    """The record of a case with one peer."""
    contenders = [
        Contender("diffiso", lambda: ours, outputs, "ours"),
        Contender("peer", lambda: theirs, outputs, **options),
    ]
    return timing.time_case(Case("a case", contenders, samples=1), SETTINGS)


def agrees(*arguments, **options):
    return table.agrees(judged(*arguments, **options)["contenders"][1])


def meshes(change):
    vertices, faces = change(MESH.vertices.clone(), MESH.faces)
    return Mesh(vertices, faces)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda v, f: (v, f), True),
        (lambda v, f: (v.flip(0), f), True),  # another order
        (lambda v, f: (v + 1e-6, f), True),  # rounding
        (lambda v, f: (v + 0.01, f), False),
        (lambda v, f: (v + 7.0, f), False),
        (lambda v, f: (v.flip(1) * torch.tensor([1.0, 1.0, 1.01]), f), False),
        (lambda v, f: (v, f[:-1]), False),
        (lambda v, f: (v[:-1], f), False),
        (lambda v, f: (v[:1].expand(len(v), 3), f), False),  # one of ours, again and again
        (lambda v, f: (v * torch.nan, f), False),
    ],
)
def test_meshes(change, expected):
    assert agrees(MESH, meshes(change), outputs_of_mesh) is expected


def tensors(name):
    return lambda value: {name: [value]}


@pytest.mark.parametrize(
    ("theirs", "expected"),
    [([1.0, 2.0], True), ([1.0, 2.1], False), ([1.0], False), ([1.0, torch.nan], False)],
)
def test_tensors(theirs, expected):
    ours = torch.tensor([1.0, 2.0])
    assert agrees(ours, torch.tensor(theirs), tensors("gradients")) is expected


@pytest.mark.parametrize(
    ("theirs", "expected"),
    [
        ([1.0, torch.inf], True),
        ([1.0005, torch.inf], True),
        ([1.01, torch.inf], False),
        ([1.0, 5.0], False),
        ([torch.inf, torch.inf], False),
    ],
)
def test_depths_of_rays(theirs, expected):
    ours = torch.tensor([1.0, torch.inf])
    assert agrees(ours, torch.tensor(theirs), tensors("t")) is expected


def test_arrays_of_numpy_are_outputs_too():
    assert agrees(np.ones(3), np.ones(3), tensors("x"))


def test_whoever_gives_nothing_to_compare_does_not_agree(tmp_path):
    def outputs(value):
        return {"first" if value is MESH else "second": [torch.zeros(1)]}

    record = judged(MESH, None, outputs)
    peer = record["contenders"][1]
    assert not table.agrees(peer)
    assert table.disagreement(peer) == "outputs: nothing to compare"
    assert table.rivals(record, record["contenders"][0]) == []
    results.write_json(record, tmp_path / "record.json")  # no NaN, no infinity


def test_nobody_agrees_with_one_that_failed():
    def fails():
        raise MemoryError

    contenders = [
        Contender("diffiso", fails, kind="ours"),
        Contender("peer", lambda: torch.zeros(1)),
    ]
    record = timing.time_case(Case("a case", contenders, samples=1), SETTINGS)
    assert not table.agrees(record["contenders"][0])
    assert list(against.ratios({"op": "op", "cases": [record]})) == []


def test_rivals_do_the_same_job():
    def contender(name, kind, like=None):
        return {"contender": name, "kind": kind, "like": like, "differences": [], "median": 1.0}

    case = {
        "case": "a case",
        "contenders": [
            contender("a", "ours"),
            contender("b", "ours", like="b"),
            contender("of a", "other"),
            contender("of b", "other", like="b"),
        ],
    }
    names = [[r["contender"] for r in table.rivals(case, each)] for each in case["contenders"][:2]]
    assert names == [["of a"], ["of b"]]
    pairs = [where[2:] for where, _ in against.ratios({"op": "op", "cases": [case]})]
    assert pairs == [("a", "of a"), ("b", "of b")]


# What fails outside the clock.


def test_a_peer_that_cannot_be_set_up_is_left_out():
    @peers.optional
    def broken(settings):
        raise RuntimeError("no context\nhere")

    (contender,) = broken(SETTINGS)
    contenders = [Contender("diffiso", lambda: torch.zeros(1), kind="ours"), contender]
    record = timing.time_case(Case("a case", contenders, samples=1), SETTINGS)
    assert record["left_out"] == {"broken": "RuntimeError: no context"}


def test_a_case_that_cannot_be_made_is_left_out(monkeypatch):
    def plan(name, settings):
        yield Case("first", [Contender("diffiso", lambda: torch.zeros(1), kind="ours")], samples=1)
        torch.empty(2**60)

    monkeypatch.setattr("bench.ops.plan", plan)
    record = results.measure("trace", SETTINGS, {}, {}, growth=False)
    assert [case["case"] for case in record["cases"]] == ["first"]
    assert record["left_out"]["after 1 cases"].startswith("not enough memory: ")
    assert results.failed([record]) == []


def test_a_size_that_cannot_be_made_is_left_out():
    def build(size):
        torch.empty(2 ** (60 * (size == 2)))
        return lambda: torch.zeros(size)

    record = scaling.measure(Growth("rows", [1, 2], build), SETTINGS)
    assert [point["size"] for point in record["points"]] == [1]
    assert record["slope"] is None
    assert record["left_out"]["2"].startswith("not enough memory")


def test_a_page_without_any_contender():
    def fails():
        raise RuntimeError("never")

    case = Case("a case", [Contender("diffiso", fails, kind="ours")], samples=1)
    assert page.bars(timing.time_case(case, SETTINGS)) == ""


def test_far_vertices_are_far():
    ours = torch.rand((500, 3), generator=torch.Generator().manual_seed(0))
    assert agreement.distance(ours, ours) == 0
    assert agreement.distance(ours + torch.tensor([0.0, 1e-5, 0.0]), ours) == pytest.approx(
        1e-5, rel=0.05
    )


def test_another_size_is_never_allowed():
    ours, theirs = torch.ones(100), torch.ones(99)
    assert not agrees(ours, theirs, tensors("gradients"), allowed={"gradients": 0.5})


@pytest.mark.parametrize("every", [2, 20])
def test_vertices_between_those_probed_at_even_steps_are_seen(every):
    # Whoever is wrong in a pattern is found out: 40,000 vertices, of which 2,000 are probed.
    ours = torch.rand((40_000, 3), generator=torch.Generator().manual_seed(0))
    theirs = ours.clone()
    theirs[1::every] += 1e-4
    assert agreement.distance(theirs, ours) > 5e-5
