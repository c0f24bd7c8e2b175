# SPDX-License-Identifier: Apache-2.0
"""What the auto-decoder learns from: folders of meshes, samples, batches, schedules."""

import dataclasses
import math

import pytest
import torch
from torch.testing import assert_close

import diffiso
from diffiso import io, shapes
from diffiso.pipelines.auto_decoder import SampleSettings, TrainSettings, read_mesh_folder
from diffiso.pipelines.auto_decoder.data import cached_samples, draw_samples, unit_frame
from diffiso.pipelines.auto_decoder.training import draw_batch, rate, steps_of
from diffiso.run import step_generator
from diffiso.shapes import MeshShape
from diffiso.types import Mesh

TUBES = (0.15, 0.25, 0.35)


@pytest.fixture(scope="module")
def meshes(tmp_path_factory):
    """Three rings, away from the origin and of another size than the frame, and a ball."""
    folder = tmp_path_factory.mktemp("meshes")
    for tube in TUBES:
        ring = diffiso.isosurface(shapes.Torus(6.0, 10 * tube), -10.0, 10.0, 32)
        moved = Mesh(ring.vertices + torch.tensor([5.0, 0.0, 0.0]), ring.faces)
        io.save_mesh(folder / f"ring-{tube}.ply", moved)
    ball = diffiso.isosurface(shapes.Sphere(0.6), -1.0, 1.0, 24)
    (folder / "balls").mkdir()
    io.save_mesh(folder / "balls" / "ball.obj", ball)
    return folder


# Folders of meshes.


def test_a_folder_is_read_into_the_unit_sphere(meshes):
    folder = read_mesh_folder(meshes)
    assert [s.name for s in folder.shapes] == ["balls/ball", *(f"ring-{tube}" for tube in TUBES)]
    assert folder.skipped == {}
    for shape in folder.shapes:
        # DeepSDF leaves 3 % of free space around the farthest vertex.
        reach = shape.mesh.vertices.norm(dim=1).max()
        assert float(reach) == pytest.approx(1 / 1.03)
        original = io.load_mesh(next(meshes.glob(f"{shape.name}.*")))
        assert_close(shape.frame.inverse().mesh(shape.mesh).vertices, original.vertices)


def test_bad_meshes_are_named_and_skipped(meshes, tmp_path, capsys):
    good = io.load_mesh(meshes / "ring-0.15.ply")
    io.save_mesh(tmp_path / "good.ply", good)
    io.save_mesh(tmp_path / "open.ply", Mesh(good.vertices, good.faces[4:]))
    (tmp_path / "noise.obj").write_text("not a mesh\n")
    (tmp_path / "notes.txt").write_text("no mesh file: not even looked at\n")
    folder = read_mesh_folder(tmp_path)
    assert [shape.name for shape in folder.shapes] == ["good"]
    assert set(folder.skipped) == {"open.ply", "noise.obj"}
    said = capsys.readouterr().out
    assert "noise.obj: cannot be read as a mesh" in said or "noise.obj: a mesh must have" in said
    assert "open.ply: an inside needs a closed surface" in said


def test_a_folder_without_a_usable_mesh_is_an_error(tmp_path):
    (tmp_path / "noise.obj").write_text("not a mesh\n")
    with pytest.raises(
        ValueError, match=r"must hold a closed mesh .*got 1 mesh files of which none"
    ):
        read_mesh_folder(tmp_path, say=lambda line: None)
    with pytest.raises(FileNotFoundError, match="folder of meshes not found"):
        read_mesh_folder(tmp_path / "none")


def test_shapes_that_are_not_normalized_must_fit(meshes):
    said = []
    folder = read_mesh_folder(meshes, "none", said.append)
    assert [shape.name for shape in folder.shapes] == ["balls/ball"]
    assert "must lie within -1 and 1" in folder.skipped["ring-0.15.ply"]
    assert folder.shapes[0].frame.scale == 1


def test_two_meshes_of_one_name_are_an_error(meshes, tmp_path):
    mesh = io.load_mesh(meshes / "ring-0.15.ply")
    io.save_mesh(tmp_path / "ball.ply", mesh)
    io.save_mesh(tmp_path / "ball.obj", mesh)
    with pytest.raises(ValueError, match=r"ball\.ply: another mesh of this folder is named 'ball'"):
        read_mesh_folder(tmp_path)


def test_samples_that_do_not_fit_the_memory(meshes, tmp_path):
    shapes = read_mesh_folder(meshes).shapes
    with pytest.raises(ValueError, match=r"4 shapes must fit the memory, got 10{12}"):
        cached_samples(shapes, SampleSettings(10**12), tmp_path / "samples", 0)
    assert not (tmp_path / "samples").exists()


def test_samples_are_ordered_signed_distances(meshes):
    shape = read_mesh_folder(meshes).shapes[0]
    settings = SampleSettings(4000, deviations=(0.02,), uniform=0.25)
    samples = draw_samples(shape, settings, step_generator(0))
    points, values = samples[:, :3], samples[:, 3]
    assert bool((values.diff() >= 0).all())
    assert_close(values, MeshShape(shape.mesh)(points), rtol=0, atol=1e-6)
    # A quarter comes from the box, whose points lie farther than 4 deviations but for few.
    far = (values.abs() > 0.08).float().mean()
    assert 0.15 < float(far) < 0.25
    assert float(points.abs().max()) <= 1.0 + 4 * 0.02


# What a step sees.


def test_batches_visit_all_shapes_equally_and_depend_on_the_step_alone():
    samples = torch.rand(5, 100, 4) - 0.5
    samples = samples.take_along_dim(samples[..., 3:].argsort(dim=1), dim=1)
    inside = (samples[..., 3] < 0).sum(dim=1)
    settings = TrainSettings("meshes", shapes_per_batch=2, points_per_shape=10)
    visits = torch.zeros(5)
    for step in range(10):
        ids, batch = draw_batch(samples, inside, settings, step)
        again = draw_batch(samples, inside, settings, step)
        assert torch.equal(ids, again[0])
        assert torch.equal(batch, again[1])
        assert bool(((batch[..., 3] < 0).sum(dim=1) == 5).all())
        for shape, points in zip(ids.tolist(), batch, strict=True):
            visits[shape] += 1
            rows = {tuple(row) for row in samples[shape].tolist()}
            assert all(tuple(point) in rows for point in points.tolist())
    # Ten steps of two shapes are four epochs; a shape may stand twice in a batch at a seam.
    assert visits.min() >= 3
    assert visits.max() <= 4
    other = draw_batch(samples, inside, dataclasses.replace(settings, seed=1), 0)
    assert not torch.equal(other[1], draw_batch(samples, inside, settings, 0)[1])


def test_one_sided_shapes_are_drawn_from_all_their_samples():
    samples = torch.rand(1, 50, 4)
    settings = TrainSettings("meshes", points_per_shape=2000)
    _, batch = draw_batch(samples, torch.tensor([0]), settings, 0)
    assert len({tuple(row) for row in batch[0].tolist()}) == 50
    _, batch = draw_batch(-samples, torch.tensor([50]), settings, 0)
    assert len({tuple(row) for row in batch[0].tolist()}) == 50


def test_schedules():
    cosine = TrainSettings("meshes", steps=1000)
    assert rate(cosine, 0, 1000, 1) == pytest.approx(0.01)
    assert rate(cosine, 500, 1000, 1) == pytest.approx(0.5)
    assert rate(cosine, 999, 1000, 1) < 1e-4
    halving = TrainSettings.official("meshes", halve_every=10)
    # 100 shapes, 64 a batch: two steps an epoch.
    assert steps_of(halving, 100) == (2 * 2001, 2)
    assert [rate(halving, step, 4002, 2) for step in (0, 19, 20, 45)] == [1, 1, 0.5, 0.25]


def test_steps_are_not_ignored_where_epochs_are_given():
    with pytest.raises(ValueError, match=r"must be left out .* got 100 steps and 2001 epochs"):
        TrainSettings.official("meshes", steps=100)
    assert steps_of(TrainSettings.official("meshes", steps=100, epochs=None), 100) == (100, 2)
    assert steps_of(TrainSettings("meshes"), 8) == (4000, 1)


def test_impossible_samples():
    with pytest.raises(ValueError, match="uniform be at most 1"):
        SampleSettings(uniform=1.5)
    with pytest.raises(ValueError, match="deviations must"):
        SampleSettings(deviations=())


def test_frames_ignore_vertices_that_no_face_uses():
    mesh = Mesh(
        torch.tensor([[0.0, 0, 0], [2, 0, 0], [0, 2, 0], [99, 0, 0]]), torch.tensor([[0, 1, 2]])
    )
    frame = unit_frame(mesh)
    assert frame.center == (1.0, 1.0, 0.0)
    assert frame.scale == pytest.approx(1 / (1.03 * math.sqrt(2)))
