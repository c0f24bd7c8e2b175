# SPDX-License-Identifier: Apache-2.0
"""Reconstruction from views: the loop, and the command."""

import dataclasses
import importlib
import json

import pytest
import torch
from reconstructions import BOX, make_torus, quiet

import diffiso
from diffiso import io, shapes
from diffiso.cli import main
from diffiso.pipelines.sdfdiff import (
    OptimizerSettings,
    ReconstructSettings,
    ScheduleSettings,
    first_state,
    levels,
    load_views,
    read_views,
    reconstruct,
    results,
)

loop = importlib.import_module("diffiso.pipelines.sdfdiff.optimize")


@pytest.fixture(scope="module")
def torus(tmp_path_factory):
    return make_torus(tmp_path_factory.mktemp("torus"), 64, size=32)


def short(torus, output, **changes):
    """Settings of a run of some seconds, to 16 nodes."""
    chosen = {
        "nodes": (8, 16),
        "schedule": ScheduleSettings(steps=(30, 40), views=6),
        "picture": False,
        "samples": 2000,
        "reference": str(torus / "torus.ply"),
    }
    return ReconstructSettings(str(torus / "views"), str(output), **(chosen | changes))


# Reconstruction.


def test_the_hull_holds_the_solid_and_has_its_hole(torus):
    views = load_views(torus / "views")
    hull = levels.visual_hull(views, BOX, 24)
    points = levels.node_positions(hull)
    mesh = views.frame.mesh(io.load_mesh(torus / "torus.ply"))
    true = shapes.MeshShape(mesh)(points.reshape(-1, 3).double()).view(hull.values.shape)
    # Masks know an outline to about half of a pixel of 0.18 at the middle.
    assert hull.values[true < -0.1].max() < 0
    assert (hull.values - true).max() < 0.15
    assert hull.values[12, 12, 12] > 0.1
    surface = diffiso.marching_cubes(hull)
    assert surface.euler_number() == 0


def test_a_torus_from_colors_and_masks(torus, tmp_path, monkeypatch):
    monkeypatch.setattr(results, "_FRAMES", 3)
    settings = short(torus, tmp_path / "out.ply", picture=True)
    found = reconstruct(settings, quiet)
    start = first_state(settings, *read_views(settings)).grid
    assert found.mesh.euler_number() == 0
    assert found.mesh.open_edge_count() == 0
    # Cells of 0.27 in a solid 3.6 wide; measured 0.012 and 0.003, from 0.05 and 0.02 at the start.
    assert found.scores["hausdorff_side"].value < 0.02
    assert found.scores["surface_rms"].value < 0.006
    assert found.grid.values.shape == (16, 16, 16)
    assert start.values.shape == (8, 8, 8)
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {
        f"out{end}" for end in (".ply", ".json", ".pt", ".png", ".gif", "-errors.ply")
    }
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["metrics"]["nodes"] == [16, 16, 16]
    assert {"hausdorff_diagonal", "normal_consistency_100k"} <= report["metrics"]["scores"].keys()
    energies = [record["total"] for record in report["metrics"]["energies"]]
    assert energies[-1] < energies[0] / 2
    # In the coordinates of the mesh file, not of the views.
    assert float(found.mesh.vertices[:, 0].max()) == pytest.approx(1.8, abs=0.05)


@pytest.mark.parametrize("use", ["masks", "colors"])
def test_a_torus_from_one_of_them(torus, tmp_path, use):
    # A sphere has no hole, and masks alone cannot make one: what covers it whole has no gradient.
    start = "hull" if use == "masks" else "sphere"
    settings = short(torus, tmp_path / "out.ply", use=use, start=start)
    found = reconstruct(settings, quiet)
    error = found.scores["surface_rms"].value
    assert error < (0.01 if use == "masks" else 0.06)


def test_presets_run(torus, tmp_path):
    for preset in ("paper", "official"):
        settings = getattr(ReconstructSettings, preset)(
            str(torus / "views"), output=str(tmp_path / f"{preset}.ply"), nodes=(8,), picture=False
        )
        schedule = dataclasses.replace(settings.schedule, cycles=2)
        settings = dataclasses.replace(settings, schedule=schedule)
        found = reconstruct(settings, quiet)
        assert len(found.mesh.faces) > 0
        report = json.loads((tmp_path / f"{preset}.json").read_text())
        energies = [record["total"] for record in report["metrics"]["energies"]]
        assert energies[-1] < energies[0]
        assert "scores" not in report["metrics"]


@pytest.mark.parametrize("kind", ["batches", "greedy"])
def test_resuming_changes_no_bit(torus, tmp_path, monkeypatch, kind):
    changes = {
        "reference": None,
        "schedule": ScheduleSettings(kind=kind, steps=(6, 7), views=3, cycles=1),
        "optimizer": OptimizerSettings(redistance_every=4),
    }
    whole = reconstruct(short(torus, tmp_path / "whole.ply", **changes), quiet)
    calls = []
    update = loop._Level._update

    def stop_sometimes(self, found):
        update(self, found)
        calls.append(None)
        if len(calls) in (4, 9):
            raise KeyboardInterrupt

    monkeypatch.setattr(loop._Level, "_update", stop_sometimes)
    monkeypatch.setattr(loop, "_SAVE_EVERY", 0.0)
    settings = short(torus, tmp_path / "parts.ply", **changes)
    for index in range(2):
        with pytest.raises(KeyboardInterrupt):
            reconstruct(dataclasses.replace(settings, resume=index > 0), quiet)
    with pytest.raises(ValueError, match="checkpoint of a run that is not finished, or resume"):
        reconstruct(settings, quiet)
    other = dataclasses.replace(settings, resume=True, seed=1)
    with pytest.raises(ValueError, match=r"settings must be those .* got seed 0 \(now 1\)"):
        reconstruct(other, quiet)
    parts = reconstruct(dataclasses.replace(settings, resume=True), quiet)
    assert torch.equal(parts.grid.values, whole.grid.values)
    assert torch.equal(parts.mesh.vertices, whole.mesh.vertices)
    # A finished run may be run anew.
    monkeypatch.undo()
    assert torch.equal(reconstruct(settings, quiet).grid.values, whole.grid.values)


def test_command(torus, tmp_path, capsys):
    out = tmp_path / "out.ply"
    options = ["--nodes", "[8]", "--schedule.steps", "[10]", "--no-picture", "--seed", "3"]
    assert main(["reconstruct", str(torus / "views"), "-o", str(out), *options]) == 0
    printed = capsys.readouterr().out
    assert "26 of 32 x 32 pixels, colours and masks" in printed
    assert "8 x 8 x 8 samples" in printed
    assert io.load_mesh(out).open_edge_count() == 0
    given = ["reconstruct", "views", "--official", "--print-settings"]
    assert main(given) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["optimizer"]["epsilon"] == 0.01
    assert shown["picture_size"] == 256
    assert shown["nodes"] == [8, 16, 24, 32, 40, 48, 56, 64]
    assert main(["reconstruct", str(tmp_path / "none")]) == 2
    assert "none: folder of views not found" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*given, "--paper"])
    assert "only one preset can hold, got --paper and --official" in capsys.readouterr().err
