# SPDX-License-Identifier: Apache-2.0
"""Tables of scores, and the pipeline that makes one of two files."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

import diffiso
from diffiso import io, metrics, shapes
from diffiso.metrics import ALL_METRICS, DEFAULT_METRICS, PROTOCOLS, compare, earth_mover
from diffiso.pipelines.compare import CompareSettings, compare_files, scale_end
from diffiso.run import cpu_threads
from diffiso.types import Mesh

QUICK = ("surface_rms", "hausdorff", "chamfer_squared_2k")


@pytest.fixture(autouse=True)
def _one_thread():
    """Where cores are shared, more threads wait more than they work."""
    with cpu_threads(1):
        yield


def ball(radius=0.5, subdivisions=4, center=(0.0, 0.0, 0.0)):
    sphere = trimesh.creation.icosphere(subdivisions, radius)
    vertices = torch.tensor(np.array(sphere.vertices)) + torch.tensor(center)
    return Mesh(vertices, torch.tensor(np.array(sphere.faces)))


@pytest.fixture(scope="module")
def solid():
    """A closed mesh: the bunny where test data are at hand, else a procedural solid."""
    data = os.environ.get("DIFFISO_DATA")
    if data is not None:
        return io.load_mesh(Path(data) / "meshes" / "bunny.obj")
    mesh = diffiso.isosurface(shapes.gyroid_ball(), -1.0, 1.0, 48)
    return Mesh(mesh.vertices.detach(), mesh.faces)


@pytest.fixture
def files(tmp_path):
    one = io.save_mesh(tmp_path / "one.ply", ball(0.5))
    two = io.save_mesh(tmp_path / "two.obj", ball(0.55, 3))
    return one, two


def quiet(line):
    pass


# Comparisons.


def test_every_metric_is_in_the_table(solid):
    scores = compare(solid, solid, metrics=ALL_METRICS, samples=2000)
    names = [row.name for row in scores.rows]
    assert len(set(names)) == len(names)
    assert set(PROTOCOLS) <= set(names)
    for row in scores.rows:
        assert math.isfinite(row.value), row.name
        if row.limit == 0:
            # Equal surfaces: libigl's distances have a root of the rounding in squares.
            assert abs(row.value) < 1e-4, row.name
        elif row.name not in ("earth_mover_1k", "earth_mover_2k", "cloud_hausdorff_30k"):
            assert row.value == pytest.approx(row.limit, rel=0.1), row.name
        else:
            # Draws of assignments scatter by 7 to 13 %, of the largest distance by 5 %.
            assert row.value == pytest.approx(row.limit, rel=0.6), row.name
        assert row.better == ("higher" if row.name in HIGHER else "lower")


HIGHER = {
    "volume_iou_32", "surface_iou_5k", "f_score_5e-2_10k", "f_score_2e-3_100k",
    "f_score_4e-3_100k", "f_score_squared_2e-3_100k", "normal_consistency_100k",
}  # fmt: skip


def test_scores_of_concentric_balls():
    scores = compare(ball(0.6), ball(0.5), metrics=(*QUICK, "vertex_distance", "volume_iou_32"))
    # Chords of edges of 0.08 sag by 0.08^2 / (8 * 0.5) = 1.6e-3 of 0.1 at most.
    assert scores["surface_rms"].value == pytest.approx(0.1, rel=0.02)
    assert scores["hausdorff_side"].value == pytest.approx(0.1, rel=0.02)
    assert scores["hausdorff_diagonal"].value == pytest.approx(0.1 / math.sqrt(3), rel=0.02)
    assert scores["vertex_distance_mean"].value == pytest.approx(100, rel=0.02)
    assert scores["vertices_over_20"].value == 100
    assert scores["volume_iou_32"].value == pytest.approx((5 / 6) ** 3, rel=0.02)
    # In the reference's unit sphere they are 0.2 apart, and neighbours lie to the side, too: with
    # 2,048 points by 4 pi / (pi 2048), times the radius it is seen from.
    row = scores["chamfer_squared_2k"]
    assert row.value == pytest.approx(1e3 * 2 * (0.2**2 + 1.2 * 4 / 2048), rel=0.05)
    assert row.limit == pytest.approx(1e3 * 2 * 4 / 2048, rel=0.1)
    assert row.paper == "MeshSDF CD-l2"


def test_a_score_depends_on_its_seed_alone():
    alone = compare(ball(0.6), ball(), metrics=("chamfer_squared_2k",), seed=3)
    beside = compare(ball(0.6), ball(), metrics=QUICK, samples=100, seed=3)
    other = compare(ball(0.6), ball(), metrics=("chamfer_squared_2k",), seed=4)
    assert alone["chamfer_squared_2k"] == beside["chamfer_squared_2k"]
    assert alone["chamfer_squared_2k"] != other["chamfer_squared_2k"]
    assert (alone.seed, other.seed) == (3, 4)


def test_frames_follow_the_reference():
    """Scores in a frame do not change when both are moved and scaled; those in world units do."""
    names = ("surface_rms", "chamfer_squared_2k", "surface_iou_5k", "vertex_distance")
    near = compare(ball(0.6, 3), ball(0.5, 3), metrics=names, samples=100)
    moved = [Mesh(1000 * mesh.vertices + 5000, mesh.faces) for mesh in (ball(0.6, 3), ball(0.5, 3))]
    far = compare(*moved, metrics=names, samples=100)
    for name in ("surface_rms", "chamfer_squared_2k", "surface_iou_5k"):
        # Coordinates of 5,000 are rounded to 1e-12: distances of 0.01 lose two digits more. A
        # point on the border of a cell may fall on its other side.
        tolerance = 2e-3 if name == "surface_iou_5k" else 1e-8
        assert far[name].value == pytest.approx(near[name].value, rel=tolerance)
    mean = near["vertex_distance_mean"].value
    assert far["vertex_distance_mean"].value == pytest.approx(1000 * mean, rel=1e-8)


@pytest.mark.cuda
def test_meshes_on_a_gpu():
    """Samples are drawn on the CPU: the scores are the same but for the order of sums."""
    on_cpu = compare(ball(0.6, 3), ball(0.5, 3), metrics=ALL_METRICS, samples=100)
    on_gpu = compare(
        ball(0.6, 3).to("cuda"), ball(0.5, 3).to("cuda"), metrics=ALL_METRICS, samples=100
    )
    for ours, theirs in zip(on_gpu.rows, on_cpu.rows, strict=True):
        # Assignments of equal cost may differ, each within its epsilon of the least.
        tolerance = 2e-2 if ours.epsilon is not None else 1e-6
        assert ours.value == pytest.approx(theirs.value, rel=tolerance), ours.name


def test_the_assignment_comes_with_its_epsilon():
    row = compare(ball(0.6, 3), ball(0.5, 3), metrics=("earth_mover_1k",))["earth_mover_1k"]
    assert 0 < row.epsilon <= 1e-2
    assert "epsilon" in row.as_dict()
    score = PROTOCOLS["earth_mover_1k"].score(ball(), ball(), torch.Generator().manual_seed(0))
    assert isinstance(score.result, metrics.EarthMover)
    assert score.value == score.result.cost
    assert earth_mover(torch.zeros(1, 3), torch.ones(1, 3)).epsilon == 0


def test_tables_and_json():
    scores = compare(ball(0.6, 3), ball(0.5, 3), metrics=QUICK, samples=100)
    lines = scores.table().splitlines()
    assert lines[0].split() == ["score", "value", "perfect", "better", "unit", "printed", "by"]
    assert len(lines) == 1 + len(scores.rows) == 7
    assert [line.split()[0] for line in lines[1:]] == [row.name for row in scores.rows]
    plain = json.loads(json.dumps(scores.as_dict()))
    assert plain["seed"] == 0
    assert plain["left_out"] == {}
    row = plain["scores"]["chamfer_squared_2k"]
    assert row["value"] == scores["chamfer_squared_2k"].value
    assert row["limit"] == scores["chamfer_squared_2k"].limit
    assert row["unit"] == "unit sphere, squared, x 1000"
    with pytest.raises(KeyError, match="no row 'chamfer', there are surface_rms, "):
        scores["chamfer"]


def test_what_meshes_do_not_allow_is_left_out_and_named(monkeypatch):
    monkeypatch.setattr(metrics.comparison, "DEFAULT_METRICS", ("volume_iou_32", "surface_rms"))
    sheet = Mesh(torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]).double(), torch.arange(3)[None])
    scores = compare(sheet, sheet, samples=100)
    assert scores.rows[0].name == "surface_rms"
    assert "must enclose a cell's centre" in scores.left_out["volume_iou_32"]
    assert "left out  volume_iou_32: " in scores.table()
    assert "volume_iou_32" in scores.as_dict()["left_out"]
    with pytest.raises(ValueError, match="must enclose a cell's centre"):
        compare(sheet, sheet, metrics=("volume_iou_32",), samples=100)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": ("chamfer", "hausdorff")}, "metrics must be among .*, got chamfer$"),
        ({"samples": 0}, "compare: samples must be positive, got 0"),
        ({"seed": -1}, "compare: seed must not be negative, got -1"),
    ],
)
def test_errors_name_the_rule(options, message):
    with pytest.raises(ValueError, match=message):
        compare(ball(), ball(), **options)


def test_the_usual_metrics_are_known():
    assert set(DEFAULT_METRICS) < set(ALL_METRICS)


# The pipeline.


def test_compare_files(files, tmp_path):
    one, two = files
    lines = []
    settings = CompareSettings(
        str(one),
        str(two),
        output=str(tmp_path / "new" / "scores.json"),
        colored=str(tmp_path / "new" / "errors.ply"),
        metrics=QUICK,
        samples=1000,
        image_size=96,
    )
    scores = compare_files(settings, lines.append)
    report = json.loads((tmp_path / "new" / "scores.json").read_text())
    assert report["command"] == "compare"
    assert report["settings"]["reference"] == str(two)
    rms = report["metrics"]["scores"]["surface_rms"]
    assert rms["value"] == scores["surface_rms"].value == pytest.approx(0.05 / 1.1, rel=0.05)
    assert rms["limit"] == 0
    assert set(report["seconds"]) == {"read", "scores", "pictures", "total"}
    # Distances of 0.05: the scale ends at the next of 1, 2 and 5.
    assert report["metrics"]["color_scale_end"] in (0.05, 0.1)
    with Image.open(tmp_path / "new" / "scores.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    # Two columns and two rows, and a scale with all its colours.
    assert pixels.shape[1] > 2 * 96
    assert pixels.shape[0] > 2 * 96
    assert (pixels.max(axis=2) - pixels.min(axis=2)).max() > 100
    colored = trimesh.load_mesh(tmp_path / "new" / "errors.ply", process=False)
    assert len(colored.vertices) > len(io.load_mesh(one).vertices)
    assert colored.visual.vertex_colors.shape == (len(colored.vertices), 4)
    printed = "\n".join(lines)
    assert "2,562 vertices, 5,120 faces, closed" in printed
    assert scores.table() in printed
    for name in ("scores.json", "scores.png", "errors.ply"):
        assert name in lines[-1]


def test_nothing_is_written_on_request(files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    one, two = (str(path) for path in files)
    compare_files(CompareSettings(one, two, None, metrics=QUICK[:1], samples=100), quiet)
    assert sorted(tmp_path.iterdir()) == before
    settings = CompareSettings(one, two, picture=False, metrics=QUICK[:1], samples=100)
    compare_files(settings, quiet)
    assert sorted(set(tmp_path.iterdir()) - set(before)) == [tmp_path / "comparison.json"]


def test_scales_end_at_round_numbers():
    def maps(distance):
        return metrics.ErrorMap(ball(), torch.full((2562,), distance))

    for distance, end in ((0.03, 0.05), (0.0101, 0.02), (0.7, 1.0), (2.0, 2.0), (51.0, 100.0)):
        assert scale_end(maps(distance), maps(distance / 2)) == pytest.approx(end)
    # Equal meshes: rounding errors of a box of side 1 stay far below the end of the scale.
    assert scale_end(maps(1e-17), maps(0.0)) == pytest.approx(1e-6)
    # One vertex far out does not stretch the scale.
    lone = torch.full((2562,), 0.01)
    lone[5] = 9.0
    assert scale_end(metrics.ErrorMap(ball(), lone), maps(0.01)) == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"mesh": "none.obj"}, FileNotFoundError, "none.obj: mesh file not found"),
        ({"mesh": "none.obj", "output": "new/out.json"}, FileNotFoundError, "not found"),
        ({"colored": "one.ply"}, ValueError, "output must be another file than the input"),
        ({"output": "out.txt"}, ValueError, "out.txt: name must end in .json"),
        ({"output": "one.ply/out.json"}, OSError, "out.json: cannot be written"),
        ({"colored": "out.stl"}, ValueError, "out.stl: name must end in .ply"),
        ({"metrics": ("chamfers",)}, ValueError, "metrics must be among .*, got chamfers"),
        ({"samples": 0}, ValueError, "samples must be positive, got 0"),
    ],
)
def test_bad_settings_are_found_before_any_work(files, monkeypatch, options, error, message):
    monkeypatch.chdir(files[0].parent)
    before = sorted(files[0].parent.iterdir())
    given = {"mesh": "one.ply", "reference": "two.obj"} | options
    with pytest.raises(error, match=message):
        compare_files(CompareSettings(**given), quiet)
    assert sorted(files[0].parent.iterdir()) == before
