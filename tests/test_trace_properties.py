# SPDX-License-Identifier: Apache-2.0
"""trace: what must hold of hits on known and on unknown fields, whatever the cells."""

import itertools
import math

import pytest
import torch
from conftest import assert_close
from fields import gyroid, random_smooth, sphere, torus
from rays import assert_brute_force, box_grid, found, random_grid, random_rays

from diffiso import Grid, RayStatus, SphereTracing, reference, shade, trace
from tools.check_trace import compare, main

HIT, EXIT = RayStatus.HIT, RayStatus.EXIT
DTYPES = (torch.float32, torch.float64)
VOXEL = 2 / 63  # of 64 nodes from -1 to 1


def distance_in_voxels(grid, origins, directions, t):
    """How far points on rays are from the trilinear surface, to first order, in float64."""
    points = (origins.double() + t.double()[:, None] * directions.double())[None]
    values = grid.values.double()[None]
    sdf, gradient = reference.sample_grid(values, points, grid.lower, grid.spacing)
    return (sdf.abs() / gradient.norm(dim=2))[0] / VOXEL


# Known surfaces.


@pytest.mark.parametrize("normal", [(0, 0, 64), (48, -16, 32), (5, 62, -17), (-37, -37, 37)])
def test_plane_of_any_tilt(normal, generator):
    """Trilinear interpolation is exact on planes: t and normals to 2e-6, in float32."""
    # Sixty-fourths on nodes of thirty-seconds: float32 holds every sample.
    tilt = torch.tensor(normal).double() / 64
    grid = box_grid(lambda p: p @ tilt - 0.125, 65, torch.float32)
    origins, directions = random_rays(grid, 20_000, generator)
    outside = (origins.double().abs() > 1).any(dim=1)
    cosine = torch.cosine_similarity(directions.double(), tilt[None], dim=1)
    chosen = outside & (cosine.abs() > 0.1)
    origins, directions, cosine = origins[chosen], directions[chosen], cosine[chosen]
    hits = trace(grid, origins, directions)
    t = (0.125 - origins.double() @ tilt) / (directions.double() @ tilt)
    points = origins.double() + t[:, None] * directions.double()
    expected = (points.abs() < 1 - 1e-5).all(dim=1) & (t > 0)
    assert expected.sum() > 3000
    assert hits.hit[expected].all()
    assert ((hits.t.double() - t).abs() <= 2e-6 * t / cosine.abs())[expected].all()
    side = torch.where(hits.status == EXIT, -1.0, 1.0)[:, None] * tilt / tilt.norm()
    for kind in ("central", "trilinear"):
        normals = shade(grid, hits, normals=kind).normals
        assert ((normals - side).abs()[expected] <= 2e-6).all()


@pytest.mark.parametrize("field", [sphere(0.7), torus(0.6, 0.25)], ids=["sphere", "torus"])
def test_distance_to_the_surface(field, generator):
    """Of 64^3 nodes in float32: 1e-5 voxels in the median, 1e-3 at most."""
    grid = box_grid(field, 64, torch.float32)
    origins, directions = random_rays(grid, 8000, generator)
    hits = trace(grid, origins, directions)
    assert hits.hit.sum() > 2000
    apart = distance_in_voxels(grid, origins, directions, hits.t)[hits.hit]
    assert apart.median() < 1e-5
    assert apart.max() < 1e-3
    # Also seen from the other end: the same statuses and cells.
    result = compare(grid, origins, directions, found(hits))
    assert result.wrong.tolist() == []
    assert result.ties <= 4


def test_surface_that_touches_the_box(generator):
    """The paper's torus, around x, with major radius 1.5 and minor 0.5 in a box of +-2."""
    field = torus(1.5, 0.5)
    grid = box_grid(lambda p: field(p[..., [1, 2, 0]]), 33, torch.float32, half=2.0)
    origins, directions = random_rays(grid, 5000, generator)
    hits = trace(grid, origins, directions)
    assert_brute_force(grid, origins, directions, hits, 5)
    for kind in ("central", "trilinear"):
        shading = shade(grid, hits, normals=kind)
        assert shading.normals.isfinite().all()
        assert_close(shading.normals[hits.hit].norm(dim=1), torch.ones(int(hits.hit.sum())))
    # Where it touches, at y = 2: straight down on it, and along the face of the box.
    turn = torch.linspace(0, 2 * math.pi, 9)[:-1]
    rim = torch.stack((torch.zeros(8), 2 * turn.cos(), 2 * turn.sin()), dim=1)
    hits = trace(grid, 2 * rim, -rim)
    assert (hits.status == HIT).all()
    # The chord of a circle of radius 0.5 over a cell of 1 / 8, and of the ring's of radius 2.
    assert (hits.points() - rim).norm(dim=1).max() < 0.125**2 / 8 * (1 / 0.5 + 1 / 2) * 1.5


# Fields that are no distances.


@pytest.mark.parametrize("dtype", DTYPES)
def test_scaled_fields_have_the_same_hits(dtype, generator):
    grid = box_grid(lambda p: gyroid(4 * p), (20, 22, 24), dtype)
    origins, directions = random_rays(grid, 3000, generator)
    exact = trace(grid, origins, directions)
    for scale in (0.25, 3.0):
        hits = trace(Grid(scale * grid.values, grid.lower, grid.spacing), origins, directions)
        same = (hits.status == exact.status) & exact.hit
        # Rounding of 3 * f decides about grazing rays alone.
        assert (hits.status != exact.status).sum() <= (0 if scale == 0.25 else 3)
        apart = ((hits.t - exact.t).abs() / exact.t)[same]
        assert apart.quantile(0.99) < 1e-6
        if scale == 0.25:
            assert apart.max() == 0


def test_cells_of_any_shape_equal_cubes(generator):
    """Sizes and spacings that all differ: the same t as in index coordinates."""
    values = random_smooth(generator, (7, 5, 11))
    origins, directions = random_rays(Grid(values), 3000, generator)
    cubes = trace(values, origins, directions)
    lower, spacing = torch.tensor([-1.3, 0.4, 12.0]).double(), torch.tensor([0.1, 0.7, 0.02])
    spacing = spacing.double()
    hits = trace(
        Grid(values, lower, spacing), lower + origins * spacing, directions * spacing, capture=True
    )
    assert torch.equal(hits.status, cubes.status)
    assert torch.equal(hits.cell, cubes.cell)
    assert ((hits.t - cubes.t).abs() / cubes.t)[cubes.hit].max() < 1e-6
    assert (hits.fraction - cubes.fraction).abs().max() < 1e-6


@pytest.mark.parametrize("scale", [0.25, 1.0, 3.0])
@pytest.mark.parametrize("refine", [False, True])
def test_sphere_tracing_with_a_measured_bound_never_skips(scale, refine, generator):
    """Whatever a voxel tracer hits, it stops at, or before: within its tolerance."""
    values = scale * random_smooth(generator, (8, 9, 10))
    grid = Grid(values, (0.0, 0.0, 0.0), (0.5, 0.25, 1.0))
    origins, directions = random_rays(grid, 2000, generator)
    exact = trace(grid, origins, directions)
    method = SphereTracing(tolerance=1e-3, lipschitz=None, refine=refine, max_steps=100_000)
    hits = trace(grid, origins, directions, method=method)
    assert (hits.status != RayStatus.UNFINISHED).all()
    assert hits.hit[exact.hit].all()
    late = ((hits.t - exact.t) * directions.norm(dim=1))[exact.hit]
    # A step may end where the field is a rounding beyond zero; unrefined, the paper's last step is
    # as long as the field says, which is at most the tolerance.
    assert late.max() < (1e-9 if refine else 1e-3 + 1e-9)
    early = late < -1e-6
    fields = reference.sample_grid(
        values[None], hits.points()[exact.hit][early][None], grid.lower, grid.spacing
    )
    # That step adds at most the steepest slope times the tolerance.
    steepest = max((values.diff(dim=a).abs().max() / grid.spacing[a]).item() for a in range(3))
    room = 1e-3 if refine else 1e-3 * (1 + 3**0.5 * steepest)
    assert (fields.sdf.abs() <= room + 1e-9).all()


def test_alternating_corners(generator):
    """Unit differences along every edge, but a slope of up to sqrt(3) within the cell."""
    values = torch.tensor([0.5, -0.5, -0.5, 0.5, -0.5, 0.5, 0.5, -0.5]).double().view(2, 2, 2)
    origins, directions = random_rays(Grid(values), 5000, generator)
    exact = trace(values, origins, directions)
    assert_brute_force(Grid(values), origins, directions, exact)
    method = SphereTracing(tolerance=1e-6, lipschitz=None, max_steps=100_000)
    hits = trace(values, origins, directions, method=method)
    assert torch.equal(hits.status[exact.hit], exact.status[exact.hit])
    # Where a ray passes the saddle in the middle, 1e-6 is reached the square root of that before.
    apart = (hits.t - exact.t)[exact.hit]
    assert apart.max() < 1e-9
    assert apart.quantile(0.01) > -1e-9
    assert apart.min() > -1e-2


# Rays that graze, or come from far.


@pytest.mark.parametrize(("dtype", "finest"), [(torch.float32, -6), (torch.float64, -14)])
def test_grazing_rays_hit_or_miss_monotonically(dtype, finest, generator):
    """Moved outwards across the tangent by ever smaller steps: hits up to it, misses from there."""
    grid = box_grid(sphere(0.6, (0.05, 0.1, -0.02)), 64, dtype)
    center = torch.tensor([0.05, 0.1, -0.02]).double()
    steps = torch.logspace(finest, -2, 40, dtype=torch.float64)
    offsets = torch.cat((-steps.flip(0), torch.zeros(1).double(), steps)) * VOXEL
    axes = torch.linalg.qr(torch.randn(25, 3, 2, generator=generator).double())[0]
    out, ahead = axes.unbind(2)
    tangent = torch.full((25, 1), 0.6).double()
    for _ in range(12):  # the least value on the way falls by about what the ray is moved in
        rays = (center + tangent * out - 3 * ahead)[None], ahead[None]
        closest = reference.closest_approach(grid.values[None], *rays, grid.lower, grid.spacing)
        tangent -= closest.value[0, :, None]
    assert closest.value.abs().max() < 1e-15
    origins = (tangent + offsets)[..., None] * out[:, None] + (center - 3 * ahead)[:, None]
    directions = ahead[:, None].expand_as(origins)
    hits = trace(grid, origins.to(dtype), directions.to(dtype))
    # Nearer than this to the tangent, rounding of places near 3 decides.
    known = offsets.abs() > 4 * 3 * torch.finfo(dtype).eps
    assert torch.equal(hits.hit[:, known], (offsets < 0)[known].expand(25, -1))


def test_origin_ten_thousand_boxes_away(generator):
    """Captured places are good to 1e-3 voxels although t has lost its digits."""
    grid = box_grid(sphere(0.7), 64, torch.float32)
    across = torch.rand(500, 2, generator=generator) * 1.2 - 0.6
    for axis, sign in itertools.product(range(3), (-1.0, 1.0)):
        origins = torch.full((500, 3), 2e4 * sign)
        origins[:, [a for a in range(3) if a != axis]] = across
        directions = torch.zeros(500, 3)
        directions[:, axis] = -sign
        hits = trace(grid, origins, directions)
        exact = reference.first_hit(
            grid.values[None], origins[None], directions[None], grid.lower, grid.spacing
        )
        assert torch.equal(hits.hit, exact.t[0].isfinite())
        value = reference.trilinear(hits.samples, hits.fraction, grid.spacing)
        slope = value.gradient.norm(dim=1)
        assert (value.value.abs() / slope)[hits.hit].max() < 1e-3 * VOXEL
        # t itself to its last digit.
        assert (hits.t - exact.t[0])[hits.hit].abs().max() <= 2e4 * 2.0**-23


# Symmetries.


@pytest.mark.parametrize("dtype", DTYPES)
def test_permuted_and_mirrored_axes(dtype, generator):
    """The same hits in every one of the 48 orientations of the box."""
    grid = random_grid(generator, dtype, 0.05, most=8)
    size = torch.tensor(grid.values.shape).to(dtype) - 1
    box = Grid(grid.values)
    origins, directions = random_rays(box, 500, generator)
    exact = trace(box, origins, directions)
    for order in itertools.permutations(range(3)):
        for flips in itertools.product((False, True), repeat=3):
            values = grid.values.permute(order)
            values = values.flip([a for a in range(3) if flips[a]])
            flipped = torch.tensor(flips)
            origin, direction = origins[:, list(order)], directions[:, list(order)]
            origin = torch.where(flipped, size[list(order)] - origin, origin)
            direction = torch.where(flipped, -direction, direction)
            hits = trace(values, origin, direction)
            assert_brute_force(Grid(values), origin, direction, hits, 3)
            same = hits.status == exact.status
            assert (~same).sum() <= 3
            # Mirrored places round anew, and a grazing ray moves far for that.
            apart = (hits.t - exact.t)[same & exact.hit].abs()
            assert apart.median() < 16 * torch.finfo(dtype).eps


def test_hits_do_not_depend_on_threads_or_neighbours(threads, generator):
    """The same bits for any number of threads, every time, and for every ray by itself."""
    grid = random_grid(generator, torch.float32, 0.05)
    origins, directions = random_rays(grid, 20_000, generator)
    results = []
    for count in (1, 2, 3, 1):
        threads(count)
        hits = trace(grid, origins, directions, footprint=0.01)
        results.append((hits.t, hits.status, hits.cell, hits.fraction, hits.samples))
        results[-1] += (hits.closest_t, hits.closest_cell)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, results[0], strict=True))
    order = torch.randperm(20_000, generator=generator)[:777]
    hits = trace(grid, origins[order], directions[order])
    assert torch.equal(hits.t, results[0][0][order])
    assert torch.equal(hits.cell, results[0][2][order])


def test_direction_of_any_length(generator):
    """t is in units of the direction: powers of two scale it exactly."""
    grid = random_grid(generator, torch.float64)
    origins, directions = random_rays(grid, 1000, generator)
    exact = trace(grid, origins, directions)
    for scale in (2.0**-20, 0.5, 2.0**20):
        hits = trace(grid, origins, scale * directions)
        assert torch.equal(hits.t * scale, exact.t)
        assert torch.equal(hits.cell, exact.cell)


# The comparison itself.


def test_brute_force_sees_wrong_hits(generator):
    """Planted errors: a hit that is late, lost or found, another cell, another status."""
    grid = random_grid(generator, torch.float32)
    origins, directions = random_rays(grid, 1000, generator)
    right = found(trace(grid, origins, directions))
    hit = right.cell >= 0
    some = torch.arange(1000) % 2 == 0
    planted = {
        "late": right._replace(t=torch.where(some, right.t * 1.001, right.t)),
        "lost": right._replace(
            t=right.t.masked_fill(some, math.inf),
            status=right.status.masked_fill(some, 0),
            cell=right.cell.masked_fill(some, -1),
        ),
        "cell": right._replace(cell=torch.where(some & hit, right.cell ^ 1, right.cell)),
        "status": right._replace(status=torch.where(some & hit, 3 - right.status, right.status)),
    }
    assert compare(grid, origins, directions, right).wrong.tolist() == []
    for name, wrong in planted.items():
        result = compare(grid, origins, directions, wrong)
        expected = (some & hit).nonzero()[:, 0]
        assert len(result.wrong) > 0.9 * len(expected), name
        assert set(result.wrong.tolist()) <= set(expected.tolist()), name


def test_tool_that_traces_many_rays(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["check_trace", "--rays", "2500", "--per-grid", "1000"])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    assert "2500 rays, 3 fields" in capsys.readouterr().out
