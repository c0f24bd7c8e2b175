# SPDX-License-Identifier: Apache-2.0
"""Reconstruction from views: what cannot be, what is kept whole, and views of an unusual kind."""

import dataclasses
import importlib
import json
import math
import shutil

import pytest
import torch
from reconstructions import BOX, make_torus, quiet

import diffiso
from diffiso import io, shapes
from diffiso.camera import Camera
from diffiso.pipelines.sdfdiff import (
    EnergySettings,
    OptimizerSettings,
    ReconstructSettings,
    RenderSettings,
    ScheduleSettings,
    Views,
    ViewsSettings,
    energy,
    levels,
    load_views,
    make_views,
    read_views,
    reconstruct,
)

loop = importlib.import_module("diffiso.pipelines.sdfdiff.optimize")


@pytest.fixture(scope="module")
def torus(tmp_path_factory):
    return make_torus(tmp_path_factory.mktemp("torus"), 32, size=24, samples=4)


def short(torus, output, **changes):
    """Settings of a run of a second."""
    chosen = {"nodes": (8,), "schedule": ScheduleSettings(steps=(12,), views=4), "picture": False}
    return ReconstructSettings(str(torus / "views"), str(output), **(chosen | changes))


@pytest.fixture
def own(torus, tmp_path):
    """A copy of the views that a test may spoil."""
    shutil.copytree(torus / "views", tmp_path / "own")
    return tmp_path / "own"


# What cannot be.


def test_errors(torus, tmp_path):
    views = str(torus / "views")
    settings = short(torus, tmp_path / "out.ply")

    def refuses(message, **changes):
        with pytest.raises(ValueError, match=message):
            reconstruct(dataclasses.replace(settings, **changes), quiet)

    refuses("cameras must be outside the sphere .* got camera 0", box=(-9.0, 9.0), start="sphere")
    refuses("start hull needs masks, got views without", use="colors", start="hull")
    refuses("must leave a solid where all masks overlap, got none on 8 nodes", box=(2.5, 3.0))
    content = json.loads((torus / "views" / "transforms.json").read_text())
    del content["box"]
    bare = torus / "views" / "bare.json"
    bare.write_text(json.dumps(content))
    refuses("bare.json: box must be given", views=str(bare))
    for changes, message in (
        ({"box": (1.0, -1.0)}, "the upper corner must be above the lower"),
        ({"box": (1.0, 2.0, 3.0)}, "box must be two or six numbers, got 3"),
        ({"nodes": (16, 8)}, r"nodes must be rising numbers of at least 4, got \(16, 8\)"),
        ({"start_radius": 1.0}, "start_radius must be below 1, got 1"),
    ):
        with pytest.raises(ValueError, match=message):
            ReconstructSettings(views, **changes)
    with pytest.raises(ValueError, match="steps must be at least one number, got none"):
        ScheduleSettings(steps=())
    with pytest.raises(ValueError, match=r"betas must be below 1, got \(0.9, 1.0\)"):
        OptimizerSettings(betas=(0.9, 1.0))
    assert not (tmp_path / "out.ply").exists()


def test_a_surface_that_vanishes_is_told(torus, tmp_path):
    # Between the nodes of the first level.
    settings = short(torus, tmp_path / "out.ply", start="sphere", start_radius=0.01)
    with pytest.raises(RuntimeError, match="the surface vanished at update 0 of level 0"):
        reconstruct(settings, quiet)
    assert list(tmp_path.iterdir()) == []


def test_views_and_energy_must_speak_of_the_same(torus, tmp_path):
    """Otherwise a run would end well, with a solid that nothing has been compared with."""
    for changes in (
        {"use": "masks", "energy": EnergySettings(mask=0.0)},
        {"use": "colors", "energy": EnergySettings(image=0.0)},
    ):
        with pytest.raises(ValueError, match="energy must weigh what the views have, got"):
            reconstruct(short(torus, tmp_path / "out.ply", **changes), quiet)
    paper = ReconstructSettings.paper(str(torus / "views"), use="masks")
    with pytest.raises(ValueError, match="got masks, with weights 1 of image and 0 of mask"):
        read_views(paper)


def test_a_box_must_hold_something(torus, tmp_path):
    settings = short(torus, tmp_path / "out.ply", box=(50.0, 54.0), start="sphere")
    with pytest.raises(ValueError, match="box must hold what pictures show"):
        reconstruct(settings, quiet)
    said = []
    reconstruct(short(torus, tmp_path / "out.ply", box=(-1.0, 1.0)), said.append)
    assert any("reaches the rim of the box" in line for line in said)
    said.clear()
    reconstruct(short(torus, tmp_path / "out.ply"), said.append)
    assert not any("rim" in line for line in said)


def test_dark_masks(own):
    """Labels 0 and 1 in bytes are no masks."""
    for path in (own / "masks").iterdir():
        io.save_image(path, (io.load_mask(path) > 0.5).to(torch.uint8))
    with pytest.raises(
        ValueError, match=r"masks must be white where the solid is, got at most 0.0"
    ):
        load_views(own)


def test_energy_takes_normals_of_one_update(torus):
    views = load_views(torus / "views")
    grid = levels.sphere(BOX, 8, 0.5)
    alternate = RenderSettings(normals="alternate")
    with pytest.raises(ValueError, match="normals must be those of one update, got 'alternate'"):
        energy(grid, views, EnergySettings(), alternate)
    kinds = [alternate.at(0, step, last=False).normals for step in range(3)]
    assert kinds == ["central", "trilinear", "central"]
    assert RenderSettings().at(0, 1, last=False).normals == "central"
    assert RenderSettings().at(0, 1, last=True).normals == "trilinear"
    assert RenderSettings().at(0, 1, last=True, done=0.74).normals == "trilinear"
    assert RenderSettings().at(0, 1, last=True, done=0.76).normals == "central"
    with pytest.raises(ValueError, match="RenderSettings: min_cosine must be at most 1, got 2"):
        RenderSettings(min_cosine=2.0)
    assert RenderSettings(ramp=(3.0, 1.0)).at(5, 0, last=False).ramp == (1.0,)


@pytest.mark.parametrize("bad", [math.nan, 1.0])
@pytest.mark.parametrize("step", [3, 10])
def test_a_run_that_went_wrong_leaves_its_last_good_state(torus, tmp_path, monkeypatch, bad, step):
    update = loop._Level._update

    def spoil(self, found):
        update(self, found)
        if self.state.step == step + 1:
            self.values.data.fill_(bad)

    monkeypatch.setattr(loop._Level, "_update", spoil)
    monkeypatch.setattr(loop, "_SAVE_EVERY", 0.0)
    settings = short(torus, tmp_path / "out.ply")
    message = "samples must stay finite" if math.isnan(bad) else "the surface vanished"
    with pytest.raises(RuntimeError, match=rf"{message}.* at update {step + 1} of level 0"):
        reconstruct(settings, quiet)
    kept = loop.load_checkpoint(tmp_path / "out.pt")
    assert kept["step"] == step
    assert not kept["done"]
    assert (kept["values"] < 0).any()
    monkeypatch.undo()
    found = reconstruct(dataclasses.replace(settings, resume=True), quiet)
    assert found.grid.values.isfinite().all()


# Nothing that was read is lost.


def test_outputs_are_no_inputs(own):
    content = (own / "transforms.json").read_text()
    (own / "bunny.json").write_text(content)
    for views, output in (
        (own, own / "transforms.ply"),
        (own / "bunny.json", own / "bunny.ply"),
    ):
        settings = dataclasses.replace(short(own.parent, output), views=str(views))
        with pytest.raises(ValueError, match="output must be another file than the input"):
            reconstruct(settings, quiet)
    settings = dataclasses.replace(short(own.parent, own / "masks" / "out.ply"), views=str(own))
    with pytest.raises(ValueError, match="output must be in another folder than the pictures"):
        reconstruct(settings, quiet)
    assert (own / "transforms.json").read_text() == content
    assert len(list((own / "masks").iterdir())) == 26


def test_a_file_that_is_no_checkpoint_stays(torus, tmp_path):
    torch.save({"weights": torch.zeros(2)}, tmp_path / "out.pt")
    with pytest.raises(ValueError, match="checkpoint"):
        reconstruct(short(torus, tmp_path / "out.ply"), quiet)
    assert torch.load(tmp_path / "out.pt").keys() == {"weights"}


def test_views_of_two_calls_do_not_mix(torus, own, monkeypatch):
    few = ViewsSettings(str(torus / "torus.ply"), str(own), rig="ring", count=3, size=24, samples=1)
    make = importlib.import_module("diffiso.pipelines.sdfdiff.make_views")
    write = make.save_image

    def stop(path, *rest, **options):
        if path.name == "001.png":
            raise KeyboardInterrupt
        return write(path, *rest, **options)

    monkeypatch.setattr(make, "save_image", stop)
    with pytest.raises(KeyboardInterrupt):
        make_views(few, quiet)
    with pytest.raises(FileNotFoundError, match=r"transforms.json"):
        load_views(own)
    monkeypatch.undo()
    make_views(few, quiet)
    assert len(load_views(own).names) == 3
    assert len(list((own / "shading").iterdir())) == 3


# Unusual views.


def test_noise_on_poses_rolls_no_camera(torus, tmp_path):
    """Nor those that look along the axis that points up elsewhere."""
    settings = ViewsSettings(
        str(torus / "torus.ply"), str(tmp_path / "views"), size=8, samples=1, pose_noise=0.2
    )
    make = importlib.import_module("diffiso.pipelines.sdfdiff.make_views")
    cameras = make._rig(settings)
    moved = make._moved(cameras, settings)
    turned = moved.rotation @ cameras.rotation.mT
    cosine = (turned.diagonal(dim1=1, dim2=2).sum(dim=1) - 1) / 2
    shift = (moved.centers - cameras.centers).norm(dim=1)
    # It turns by as much as it must to look at the middle, 5 away, and a little by what is up.
    assert (cosine.acos() <= 1.5 * shift / (5 - shift)).all()
    assert shift.max() > 0.3


def wide_views(size=(20, 28), box=BOX):
    """A flat block in the middle, seen by four cameras in pictures that are not square."""
    cameras = Camera.orbit([0.0, 90.0, 180.0, 270.0], 25.0, 3.0, field_of_view=40.0, size=size)
    block = shapes.Box((0.45, 0.2, 0.3))
    grid = diffiso.sample_field(block, -1.0, 1.0, 48)
    seen = diffiso.render(grid, cameras)
    names = tuple(str(index) for index in range(4))
    return Views(cameras, None, seen.coverage, names, box), block


@pytest.mark.parametrize("half", [0.6, 2.0, 6.0])
def test_hulls_in_boxes_beyond_the_pictures(half):
    """Where masks end within their pictures, all beyond is outside, seen or not."""
    box = ((-half,) * 3, (half,) * 3)
    views, block = wide_views(box=box)
    hull = levels.visual_hull(views, box, 49)
    points = levels.node_positions(hull)
    inside = hull.values < 0
    assert inside.any()
    # Four cones leave more than the block, but nothing far from it.
    true = block(points.reshape(-1, 3)).view(inside.shape)
    assert true[inside].max() < 0.35
    assert inside[true < -0.1].all()


def test_masks_that_are_cut_off_do_not_judge():
    views, _ = wide_views()
    near = dataclasses.replace(views, coverage=torch.ones_like(views.coverage))
    hull = levels.visual_hull(near, BOX, 17)
    # Seen everywhere that a camera looks; what none sees is outside.
    assert (hull.values < 0).any()
    assert (hull.values > 0).any()


def test_boxes_that_are_thin():
    box = ((-2.0, -2.0, -0.1), (2.0, 2.0, 0.1))
    assert levels.node_counts(box, 8) == (8, 8, 3)
