# SPDX-License-Identifier: Apache-2.0
"""NarrowBand from call to call, and isosurface with a band."""

import math

import pytest
import torch
from fields import exact_sphere, union
from topology import assert_dense_surface, assert_same_surface, is_closed_and_oriented

from diffiso import Grid, NarrowBand, isosurface, marching_cubes, sample_field

BOX = (-1.0, 1.0)
SPHERE_AREA = math.pi  # of radius 0.5


# Warm: it follows a surface, and says what it cannot see.


@pytest.mark.parametrize("threshold", [None, 0.02, 0.1])
def test_warm_follows_growth_and_motion(threshold):
    band = NarrowBand(*BOX, 64, threshold=threshold)
    for step in range(8):
        field = exact_sphere(0.3 + 0.02 * step, (0.015 * step, -0.01 * step, 0.0))
        grid = band.sample(field)
        assert band.report.mode == ("warm" if step else "cold")
        assert_dense_surface(grid, field)


def test_warm_follows_a_surface_that_leaves_its_band_at_once():
    """Three cells a step: no node of the old band is near the new surface."""
    band = NarrowBand(*BOX, 64, threshold=0.03)
    band.sample(exact_sphere(0.5))
    for radius in (0.6, 0.5):
        field = exact_sphere(radius)
        assert_dense_surface(band.sample(field), field)
        assert band.report.mode == "warm"


def test_warm_follows_parts_that_merge_and_split():
    band = NarrowBand(*BOX, 64, refine="sign")
    for apart in (0.5, 0.4, 0.3, 0.2, 0.3, 0.4, 0.5):
        field = union(exact_sphere(0.3, (apart, 0, 0)), exact_sphere(0.3, (-apart, 0, 0)))
        assert_dense_surface(band.sample(field), field)
    assert band.report.mode == "warm"


def test_a_jump_is_taken_cold():
    band = NarrowBand(*BOX, 64)
    band.sample(exact_sphere(0.1, (0.7, 0.7, 0.7)))
    field = exact_sphere(0.8)
    assert_dense_surface(band.sample(field), field)
    assert band.report.mode == "cold"


def test_a_surface_that_vanished_is_looked_for_cold():
    band = NarrowBand(*BOX, 64)
    band.sample(exact_sphere(0.2))
    assert len(marching_cubes(band.sample(lambda p: p.norm(dim=1) + 0.5)).faces) == 0
    field = exact_sphere(0.3, (0.4, 0.0, 0.0))
    assert_dense_surface(band.sample(field), field)
    assert band.report.mode == "cold"


FAR = union(exact_sphere(0.3, (-0.5, 0.0, 0.0)), exact_sphere(0.05, (0.7, 0.6, 0.5)))


def test_with_a_bound_a_far_part_is_in_the_very_next_mesh():
    band = NarrowBand(*BOX, 64, lipschitz=1.0)
    band.sample(exact_sphere(0.3, (-0.5, 0.0, 0.0)))
    assert_dense_surface(band.sample(FAR), FAR)
    assert band.report.mode == "cold"


def test_without_a_bound_a_far_part_waits_for_the_refresh():
    """Documented: a warm call looks where the surface was."""
    band = NarrowBand(*BOX, 64, refresh_every=3)
    band.sample(exact_sphere(0.3, (-0.5, 0.0, 0.0)))
    for expected in ("warm", "warm"):
        near = marching_cubes(band.sample(FAR))
        assert band.report.mode == expected
        assert near.euler_number() == 2
    assert_dense_surface(band.sample(FAR), FAR)
    assert band.report.mode == "cold"


def test_a_bound_and_warm_calls_between():
    band = NarrowBand(*BOX, 64, lipschitz=1.0, refresh_every=4)
    modes = []
    for step in range(9):
        field = exact_sphere(0.4 + 0.01 * step)
        assert_dense_surface(band.sample(field), field)
        modes.append(band.report.mode)
    assert modes == ["cold", "warm", "warm", "warm"] * 2 + ["cold"]


def test_queries_of_a_warm_call():
    """At most 1.25 times the nodes of crossed cells, for a step of a quarter of a cell."""
    band = NarrowBand(*BOX, 128)
    band.sample(exact_sphere(0.5))
    grid = band.sample(exact_sphere(0.5 + 0.25 * 2 / 128))
    values = grid.to_grid().values
    inside = values < 0
    crossed = torch.nn.functional.max_pool3d(inside[None].float(), 2, stride=1) > 0
    crossed &= torch.nn.functional.max_pool3d((values > 0)[None].float(), 2, stride=1) > 0
    padded = torch.nn.functional.pad(crossed.float(), (1,) * 6)
    nodes = int(torch.nn.functional.max_pool3d(padded, 2, stride=1).sum())
    assert band.report.mode == "warm"
    assert band.report.queries <= 1.25 * nodes


def test_what_a_caller_does_to_the_samples_is_no_matter():
    """Training on the values, for instance."""
    band = NarrowBand(*BOX, 64)
    grid = band.sample(exact_sphere(0.5))
    grid.values.fill_(1.0)
    assert_dense_surface(band.sample(exact_sphere(0.51)), exact_sphere(0.51))
    assert band.report.mode == "warm"


@pytest.mark.cuda
@pytest.mark.parametrize("rule", [{"lipschitz": 1.0}, {}, {"refine": "sign"}])
def test_cuda_gives_the_same_bricks(rule):
    """By operations that both devices round once; cold, then warm."""
    bands = [NarrowBand(*BOX, 96, device=device, **rule) for device in ("cpu", "cuda")]
    for radius in (0.5, 0.51):
        ours, theirs = (band.sample(exact_sphere(radius)) for band in bands)
        assert torch.equal(ours.values.nan_to_num(9), theirs.values.cpu().nan_to_num(9))
        assert torch.equal(ours.table, theirs.table.cpu())
        assert bands[0].report == bands[1].report


def test_reset_forgets():
    band = NarrowBand(*BOX, 32)
    band.sample(exact_sphere(0.5))
    band.reset()
    assert band.report is None
    band.sample(exact_sphere(0.5))
    assert band.report.mode == "cold"


def test_a_field_that_raises_leaves_a_band_that_starts_cold():
    band = NarrowBand(*BOX, 32)
    band.sample(exact_sphere(0.5))
    with pytest.raises(ZeroDivisionError):
        band.sample(lambda p: p[:, 0] * (1 / 0))
    assert_dense_surface(band.sample(exact_sphere(0.6)), exact_sphere(0.6))
    assert band.report.mode == "cold"


def test_thread_counts_change_nothing(threads):
    results = []
    for count in (1, 2, 5):
        threads(count)
        band = NarrowBand(*BOX, 96)
        results.append([band.sample(exact_sphere(r)) for r in (0.5, 0.52)])
    for other in results[1:]:
        for a, b in zip(other, results[0], strict=True):
            assert torch.equal(a.values.nan_to_num(9), b.values.nan_to_num(9))
            assert torch.equal(a.table, b.table)


# isosurface.


@pytest.mark.parametrize("band", [1.0, "lipschitz", "sign", lambda c, size: c.abs().amin(1) < 0.2])
def test_isosurface_with_a_band(band):
    radius = torch.tensor(0.5, requires_grad=True)

    def field(points):
        return points.norm(dim=1) - radius

    mesh = isosurface(field, *BOX, 64, band=band)
    assert is_closed_and_oriented(mesh.faces)
    mesh.volume().backward()
    # A sphere's area is its volume's derivative; 64 cells are good to a few tenths of a per cent.
    assert float(radius.grad) == pytest.approx(SPHERE_AREA, rel=5e-3)


def test_isosurface_keeps_a_band_warm():
    band = NarrowBand(*BOX, 64)
    modes = []
    for radius in (0.5, 0.49, 0.48):
        mesh = isosurface(exact_sphere(radius), band=band)
        modes.append(band.report.mode)
        dense = isosurface(exact_sphere(radius), *BOX, 64)
        assert len(mesh.faces) == len(dense.faces)
    assert modes == ["cold", "warm", "warm"]


def test_a_network_gives_the_same_faces():
    """Its values differ by rounding where it is asked in other chunks: not the faces here."""
    network = torch.nn.Sequential(
        torch.nn.Linear(3, 64), torch.nn.Softplus(10), torch.nn.Linear(64, 1, bias=False)
    )

    def field(points):
        return points.norm(dim=1) - 0.6 + 0.1 * network(points)[:, 0]

    with torch.no_grad():
        dense = marching_cubes(sample_field(field, *BOX, 64), return_edges=True)
        mesh = marching_cubes(NarrowBand(*BOX, 64, lipschitz=1.3).sample(field), return_edges=True)
    # Values near 0 are sums of about 64 numbers near 1: rounded by 1e-6 at most, with a slope of 1.
    assert_same_surface(mesh, dense, tolerance=1e-6)


NEAR = {"near": lambda corners, size: corners.abs().amin(dim=1) < 2 * max(size)}


@pytest.mark.parametrize("rule", [1.0, "lipschitz", "sign", NEAR["near"]])
@pytest.mark.parametrize("resolution", [(40, 33, 50), 64, 9])
def test_close_boundary(rule, resolution):
    """A solid that leaves the box on five sides, and one that fills it."""
    lower, upper = (-1.0, -0.5, -0.7), (0.8, 0.5, 1.0)
    for radius in (0.9, 3.0):
        field = exact_sphere(radius, (0.1, 0.0, 0.2))
        dense = isosurface(field, lower, upper, resolution, close_boundary=True)
        mesh = isosurface(field, lower, upper, resolution, close_boundary=True, band=rule)
        assert is_closed_and_oriented(mesh.faces)
        assert mesh.faces.shape == dense.faces.shape
        ours, theirs = (m.vertices[m.vertices[:, 0].argsort()][:, 0] for m in (mesh, dense))
        # Places are counted from a node further out: another rounding of coordinates near 1.
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
        torch.testing.assert_close(mesh.volume(), dense.volume(), rtol=1e-5, atol=0)


def test_close_boundary_stays_warm():
    band = NarrowBand(-0.5, 0.5, 48, close_boundary=True)
    for step in range(4):
        field = exact_sphere(0.55 + 0.01 * step)
        mesh = isosurface(field, band=band)
        dense = isosurface(field, -0.5, 0.5, 48, close_boundary=True)
        assert is_closed_and_oriented(mesh.faces)
        assert len(mesh.faces) == len(dense.faces)
    assert band.report.mode == "warm"


def test_closing_asks_for_no_point_beyond_the_box():
    seen = []

    def field(points):
        seen.append(points)
        return exact_sphere(0.9)(points)

    band = NarrowBand(-0.5, 0.5, 32, lipschitz=1.0, close_boundary=True)
    grid = band.sample(field)
    assert torch.cat(seen).abs().max() <= 0.5
    assert grid.nodes == (35, 35, 35)
    assert grid.values.isinf().any()
    assert sum(len(points) for points in seen) == band.report.queries


def test_progress_is_told():
    seen = []
    isosurface(
        exact_sphere(0.5),
        *BOX,
        64,
        band=1.0,
        progress=lambda done, count: seen.append((done, count)),
    )
    assert all(0 < done <= count for done, count in seen)
    assert seen[-1][0] == seen[-1][1]


def test_isosurface_refuses_what_a_band_cannot_do():
    field, band = exact_sphere(0.5), NarrowBand(*BOX, 16)
    with pytest.raises(ValueError, match=r"a NarrowBand has its own box"):
        isosurface(field, *BOX, 16, band=band)
    with pytest.raises(ValueError, match=r"lower, upper and resolution must be given"):
        isosurface(field, band=1.0)
    with pytest.raises(ValueError, match=r"close_boundary must be set where"):
        isosurface(field, band=band, close_boundary=True)
    with pytest.raises(ValueError, match=r"band must be None for a Grid"):
        isosurface(Grid(torch.randn(4, 4, 4)), band=band)
