# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from diffiso import metrics
from diffiso.metrics import Frame, chamfer, cloud_hausdorff, f_score, fit_frame, normal_consistency
from diffiso.types import Mesh

ORIGIN = torch.zeros(1, 3)


def clouds(generator, dtype=torch.float64):
    return (
        torch.rand(300, 3, generator=generator, dtype=dtype),
        torch.rand(200, 3, generator=generator, dtype=dtype) + 0.1,
    )


def nearest(points, reference):
    """Distances both ways by scipy's tree, in numpy."""
    a, b = points.double().numpy(), reference.double().numpy()
    return cKDTree(b).query(a)[0], cKDTree(a).query(b)[0]


# Values.


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 50.0),
        ({"halved": True}, 25.0),
        ({"squared": False}, 10.0),
        ({"squared": False, "halved": True}, 5.0),
    ],
)
def test_chamfer_of_two_points(options, expected):
    assert chamfer(ORIGIN, torch.tensor([[0.0, 3.0, 4.0]]), **options) == expected


def test_chamfer_takes_the_mean_of_each_direction():
    points = torch.tensor([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0], [4.0, 0.0, 0.0]])
    # There 0, 2, 4 on average 2; back 0.
    assert chamfer(points, ORIGIN, squared=False) == 2.0
    assert chamfer(ORIGIN, points, squared=False) == 2.0
    assert chamfer(points, ORIGIN) == pytest.approx(20 / 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_all_scores_are_those_of_scipy(generator, dtype):
    points, reference = clouds(generator, dtype)
    there, back = nearest(points, reference)
    # Distances of the order of 0.1 are rounded once to the dtype.
    close = {"rel": 4 * torch.finfo(dtype).eps}
    squares = (there**2).mean() + (back**2).mean()
    assert chamfer(points, reference) == pytest.approx(squares, **close)
    mean = (there.mean() + back.mean()) / 2
    assert chamfer(points, reference, squared=False, halved=True) == pytest.approx(mean, **close)
    worst = max(there.max(), back.max())
    assert cloud_hausdorff(points, reference) == pytest.approx(worst, **close)
    for threshold, squared in ((0.08, False), (0.01, True)):
        limit = math.sqrt(threshold) if squared else threshold
        found = f_score(points, reference, threshold, squared=squared)
        precision, recall = (there < limit).mean(), (back < limit).mean()
        assert (found.precision, found.recall) == (precision, recall)
        assert 0 < precision < 1
        assert found.score == pytest.approx(2 / (1 / precision + 1 / recall))
        assert float(found) == found.score


def test_hausdorff_takes_the_larger_direction():
    line = torch.tensor([[0.0, 0.0, 0.0], [7.0, 0.0, 0.0]])
    assert cloud_hausdorff(line, ORIGIN) == cloud_hausdorff(ORIGIN, line) == 7.0


def test_nothing_close_scores_zero():
    assert f_score(ORIGIN, ORIGIN + 1, 0.5) == (0.0, 0.0, 0.0)
    # Nearer than the threshold, not as near.
    assert f_score(ORIGIN, torch.tensor([[0.5, 0.0, 0.0]]), 0.5).score == 0.0


def test_normal_consistency_ignores_signs_and_looks_both_ways():
    points = torch.tensor([[0.0, 0.0, 0.0], [5.0, 0.0, 0.0]])
    normals = torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    down = torch.tensor([[0.0, 0.0, -1.0]])
    # There: 1 and 0; back: 1.
    assert normal_consistency(points, normals, ORIGIN, down) == 0.75
    assert normal_consistency(ORIGIN, down, points, normals) == 0.75


def test_clouds_in_another_order_score_the_same(generator):
    points, reference = clouds(generator)
    mixed = points[torch.randperm(len(points), generator=generator)]
    assert chamfer(mixed, reference) == pytest.approx(chamfer(points, reference), rel=1e-14)
    assert chamfer(points, mixed) == 0


def test_gradients_are_left_alone(generator):
    points, reference = clouds(generator)
    assert chamfer(points.requires_grad_(), reference) > 0
    assert points.grad is None


@pytest.mark.cuda
def test_scores_on_a_gpu(generator):
    points, reference = clouds(generator)
    on_gpu = points.cuda(), reference.cuda()
    # Squares are summed in another order.
    assert chamfer(*on_gpu) == pytest.approx(chamfer(points, reference), rel=1e-12)
    assert f_score(*on_gpu, 0.08) == pytest.approx(f_score(points, reference, 0.08))


# Frames.


def test_frames_fit_the_reference():
    reference = torch.tensor([[1.0, 0.0, 0.0], [5.0, 2.0, 0.0], [3.0, 1.0, 1.0]])
    cube, sphere = fit_frame(reference, "unit_cube"), fit_frame(reference, "unit_sphere")
    assert cube == Frame((3.0, 1.0, 0.5), 0.25)
    assert cube.points(reference).aminmax(dim=0).max.tolist() == [0.5, 0.25, 0.125]
    assert sphere.center == cube.center
    farthest = sphere.points(reference).norm(dim=1).max()
    assert float(farthest) == pytest.approx(1, rel=1e-6)
    assert fit_frame(reference, "given") == Frame((0.0, 0.0, 0.0), 1.0)


def test_frames_of_meshes_forget_vertices_without_faces():
    vertices = torch.tensor([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [99.0, 0.0, 0.0]])
    mesh = Mesh(vertices, torch.tensor([[0, 1, 2]], dtype=torch.int32))
    frame = fit_frame(mesh, "unit_cube")
    assert frame == Frame((1.0, 0.5, 0.0), 0.5)
    assert frame.mesh(mesh).vertices[1].tolist() == [0.5, -0.25, 0.0]


# Errors.


@pytest.mark.parametrize(
    ("points", "reference", "message"),
    [
        (torch.zeros(64, 2), ORIGIN, r"points must be \(P, 3\), got \(64, 2\)"),
        (ORIGIN, torch.zeros(3), r"reference must be \(P, 3\), got \(3,\)"),
        (torch.zeros(0, 3), ORIGIN, "points must hold at least one point, got none"),
        (ORIGIN, torch.full((2, 3), math.nan), "reference must be finite, got 2 points that are"),
        (ORIGIN, ORIGIN.double(), "reference.* must have one dtype, got torch.float32 .*float64"),
        (ORIGIN.long(), ORIGIN, "points must be float32 or float64, got torch.int64"),
        (ORIGIN.half(), ORIGIN.half(), "points must be float32 or float64, got torch.float16"),
        (ORIGIN, torch.zeros(1, 3, device="meta"), "must have one device, got cpu and .*meta"),
    ],
)
@pytest.mark.parametrize(
    "score",
    [
        chamfer,
        cloud_hausdorff,
        lambda a, b: f_score(a, b, 0.1),
        lambda a, b: normal_consistency(a, a, b, b),
        metrics.earth_mover,
        metrics.surface_iou,
    ],
    ids=["chamfer", "cloud_hausdorff", "f_score", "normal_consistency", "earth_mover", "iou"],
)
def test_bad_clouds_are_named(score, points, reference, message):
    with pytest.raises(ValueError, match=message):
        score(points, reference)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: f_score(ORIGIN, ORIGIN, 0.0), "f_score: threshold must be positive, got 0.0"),
        (lambda: f_score(ORIGIN, ORIGIN, math.nan), "threshold must be positive, got nan"),
        (
            lambda: normal_consistency(ORIGIN, torch.zeros(2, 3), ORIGIN, ORIGIN),
            "points and normals must be equally many, got 1 and 2",
        ),
        (lambda: fit_frame(ORIGIN, "unit_cube"), "reference must have a finite extent, got 0"),
        (lambda: fit_frame(torch.zeros(0, 3), "unit_cube"), r"must be \(P, 3\), got \(0, 3\)"),
        (lambda: fit_frame(ORIGIN, "metre"), "unit_sphere, unit_cube, given, got 'metre'"),
        (
            lambda: fit_frame(torch.full((2, 3), math.inf), "unit_sphere"),
            "reference must have a finite extent",
        ),
    ],
)
def test_errors_name_the_rule(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_messages_begin_with_the_metric():
    with pytest.raises(ValueError, match=r"^chamfer: points must be \(P, 3\), got \(64, 2\)$"):
        chamfer(torch.zeros(64, 2), ORIGIN)


def test_means_are_taken_in_double_precision():
    """A million equal distances: summing in float32 would lose digits."""
    points = torch.full((1_000_000, 3), 0.0)
    points[:, 0] = 0.1
    expected = float(np.float32(0.1))
    assert chamfer(points, ORIGIN, squared=False, halved=True) == pytest.approx(expected, rel=1e-9)
