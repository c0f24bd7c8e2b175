# SPDX-License-Identifier: Apache-2.0
"""trace: nothing to hit, exact zeros, gaps, starts inside, rays along faces and beyond numbers."""

import itertools
import math

import pytest
import torch
from fields import sphere
from rays import LOWER, SPACING, assert_brute_force, box_grid, orbit, random_rays, random_scene

from diffiso import Grid, RayStatus, SphereTracing, trace

MISS, HIT, EXIT, START = RayStatus.MISS, RayStatus.HIT, RayStatus.EXIT, RayStatus.START
NAN, INF = math.nan, math.inf
DTYPES = (torch.float32, torch.float64)


def column(*samples, dtype=torch.float64):
    """A field of z alone, with one node at each whole number."""
    return torch.tensor(samples, dtype=dtype).expand(2, 2, -1).contiguous()


def upward(samples, start=-1.0, **options):
    """t + start, which is z, and status of a ray up the middle of a column."""
    origin = torch.tensor([[0.5, 0.5, start]]).double()
    hits = trace(column(*samples), origin, torch.tensor([[0.0, 0.0, 1.0]]).double(), **options)
    return hits.t.item() + start, hits.status.item()


# Nothing to hit, or no rays.


def test_no_rays_and_no_grids():
    hits = trace(torch.zeros(4, 4, 4), torch.zeros(0, 3), torch.zeros(0, 3))
    assert hits.t.shape == hits.status.shape == hits.cell.shape == (0,)
    assert (hits.fraction.shape, hits.samples.shape) == ((0, 3), (0, 8))
    assert hits.points().shape == (0, 3)
    hits = trace(torch.zeros(0, 4, 4, 4), torch.zeros(0, 5, 3), torch.zeros(0, 5, 3))
    assert hits.t.shape == (0, 5)
    hits = trace(torch.zeros(3, 4, 4, 4), torch.zeros(3, 0, 3), torch.zeros(3, 0, 3))
    assert hits.t.shape == (3, 0)


def test_no_rays_give_a_zero_gradient():
    values = torch.randn(4, 4, 4, requires_grad=True)
    hits = trace(values, torch.zeros(0, 3), torch.zeros(0, 3))
    (hits.t.sum() + hits.samples.sum()).backward()
    assert torch.equal(values.grad, torch.zeros(4, 4, 4))


@pytest.mark.parametrize("inside", ["exit", "start", "ignore"])
@pytest.mark.parametrize("method", ["voxel", "sphere"])
@pytest.mark.parametrize("fill", [1.0, -1.0, NAN, INF, -INF])
def test_grids_without_a_surface(fill, method, inside, generator):
    """All outside, all inside or all absent: misses, but for rays that may begin inside."""
    grid = Grid(torch.full((5, 6, 7), fill), LOWER, SPACING)
    origins, directions = random_rays(grid, 100, generator)
    hits = trace(grid, origins, directions, method=method, inside=inside)
    begins = fill == -1 and inside == "start"
    assert (hits.status == (START if begins else MISS)).all()
    assert hits.t.isfinite().all() if begins else (hits.t == INF).all()
    if not begins:
        assert (hits.cell == -1).all()
        assert torch.equal(hits.fraction, torch.zeros(100, 3))
        assert torch.equal(hits.samples, torch.zeros(100, 8))


def test_one_cell(generator):
    values = torch.randn(2, 2, 2, generator=generator, dtype=torch.float64)
    origins, directions = random_rays(Grid(values), 2000, generator)
    for inside in ("exit", "start", "ignore"):
        hits = trace(values, origins, directions, inside=inside)
        assert_brute_force(Grid(values), origins, directions, hits, inside=inside)


@pytest.mark.parametrize("axis", range(3))
def test_one_cell_thick(axis, generator):
    shape = [9, 11, 10]
    shape[axis] = 2
    grid = Grid(torch.randn(shape, generator=generator, dtype=torch.float64), LOWER, SPACING)
    origins, directions = random_rays(grid, 2000, generator)
    assert_brute_force(grid, origins, directions, trace(grid, origins, directions))


# Samples equal to the level.


@pytest.mark.parametrize(
    ("samples", "z", "status"),
    [
        ((1, -1), 0.5, HIT),
        ((1, 0, -1), 1.0, HIT),
        ((1, 0, 0, -1), 2.0, HIT),  # the last place that is not inside
        ((1, -0.0, -1), 1.0, HIT),
        ((0, -1), 0.0, HIT),
        ((0, 0, 0), INF, MISS),
        ((1, 0, 1), INF, MISS),  # touched only
        ((1, 0, 0, 1), INF, MISS),
        ((0, 1), INF, MISS),
        ((1, 0, 1, -1), 2.5, HIT),
        ((-1, 1), 0.5, EXIT),
        ((-1, 0, 1), 1.0, EXIT),
        ((-1, 0, 0, 1), 1.0, EXIT),
        ((-1, -1), INF, MISS),
    ],
)
def test_values_equal_to_the_level(samples, z, status):
    assert upward(samples) == (z, status)
    # -1 marks nothing and 0 is a number: the same field, held in other numbers.
    for shift in (1.0, -1.0, 2.5):
        moved = [sample + shift for sample in samples]
        assert upward(moved, level=shift) == (z, status)


@pytest.mark.parametrize("dtype", DTYPES)
def test_path_that_turns_back_to_the_level_at_its_end(dtype):
    """It leaves the solid, and falls to within 1e-6 of the level again at the cell's face."""
    values = [
        0.30924609303474426, -0.11915808916091919, -0.5689318180084229, -0.26962733268737793,
        -1.175850510597229, 0.4191485047340393, -1.318721890449524, -1.1059515476226807,
    ]  # fmt: skip
    origin = [0.21999035775661469, 0.20579013228416443, 0.37349826097488403]
    direction = [-0.582891583442688, -0.5877903699874878, 0.9921820759773254]
    grid = Grid(torch.tensor(values, dtype=dtype).view(2, 2, 2))
    ray = (torch.tensor([x], dtype=dtype) for x in (origin, direction))
    hits = trace(grid, *ray)
    assert hits.status.tolist() == [EXIT]
    # Brute force in float64; the slope there is about 0.15, and float32 rounds at 1e-7.
    assert abs(hits.t.item() - 0.2587555212) < 1e-5


def test_zero_and_minus_one_are_ordinary_numbers(generator):
    """Fields of halves from -2 to 1.5: as those of other numbers that are as far from the level."""
    values = torch.randint(-4, 4, (6, 7, 8), generator=generator).double() / 2
    origins, directions = random_rays(Grid(values), 3000, generator)
    first = trace(values, origins, directions)
    for shift in (4.0, -3.0):
        other = trace(values + shift, origins, directions, level=shift)
        for name in ("t", "status", "cell", "fraction"):
            assert torch.equal(getattr(other, name), getattr(first, name)), name


def test_cells_that_are_zero_throughout(generator):
    """Flat regions at the level end no ray: they are outside."""
    grid = box_grid(lambda p: (p.norm(dim=-1) - 0.9).clamp(min=0), 12)
    origins, directions = random_rays(grid, 500, generator)
    assert (trace(grid, origins, directions).status == MISS).all()
    dug = grid.values.clone()
    dug[5:7, 5:7, 5:7] = -1.0
    hits = trace(Grid(dug, grid.lower, grid.spacing), origins, directions)
    assert_brute_force(Grid(dug, grid.lower, grid.spacing), origins, directions, hits, 500)
    assert hits.hit.any()


@pytest.mark.parametrize("fill", [0.5, 1e-30])
def test_sphere_tracing_ends_in_flat_fields(fill):
    """Never near enough: out of the box, or out of steps, and no NaN."""
    origins = torch.tensor([[0.5, 0.5, -1.0], [1.5, 1.5, 0.5]])
    directions = torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    method = SphereTracing(tolerance=0.0, max_steps=50)
    hits = trace(torch.full((4, 4, 4), fill), origins, directions, method=method)
    status = MISS if fill == 0.5 else RayStatus.UNFINISHED
    assert hits.status.tolist() == [status] * 2
    assert hits.t.tolist() == [INF] * 2
    assert hits.points().isnan().all()


# Starts inside.


@pytest.mark.parametrize(
    ("inside", "z", "status"),
    [("exit", 1.5, EXIT), ("start", 0.25, START), ("ignore", 3.5, HIT)],
)
def test_start_in_a_solid(inside, z, status):
    assert upward((-1, -1, 1, 1, 0 - 1.0), 0.25, inside=inside) == (z, status)


@pytest.mark.parametrize(
    ("inside", "z", "status"), [("exit", 1.5, EXIT), ("start", 0.0, START), ("ignore", 3.5, HIT)]
)
def test_solid_cut_by_the_box(inside, z, status):
    """The ray comes in from outside the box, where nothing is known."""
    assert upward((-1, -1, 1, 1, -1), inside=inside) == (z, status)


@pytest.mark.parametrize(
    ("inside", "z", "status"), [("exit", 5.5, EXIT), ("start", 4.0, START), ("ignore", INF, MISS)]
)
def test_solid_behind_a_gap(inside, z, status):
    """Nodes 2 and 3 are absent, so that all cells from z = 1 to z = 4 are."""
    for absent in (NAN, INF, -INF):
        assert upward((1, 1, absent, absent, -1, -1, 1), inside=inside) == (z, status)


@pytest.mark.parametrize("inside", ["exit", "start", "ignore"])
def test_surface_in_a_gap_is_not_hit(inside):
    assert upward((1, NAN, 1, 1, 1), inside=inside) == (INF, MISS)
    assert upward((1, 1, NAN, 1, -1), inside=inside) == (3.5, HIT)
    # It left the solid where nothing is known.
    answer = (0.0, START) if inside == "start" else (INF, MISS)
    assert upward((-1, -1, NAN, 1, 1), inside=inside) == answer


def test_near_and_far():
    samples = (1, 1, -1, -1, 1)
    assert upward(samples) == (1.5, HIT)
    assert upward(samples, near=2.0) == (1.5, HIT)
    assert upward(samples, near=3.0) == (3.5, EXIT)
    assert upward(samples, near=3.0, inside="start") == (2.0, START)
    assert upward(samples, near=5.0) == (INF, MISS)
    assert upward(samples, far=2.0) == (INF, MISS)
    assert upward(samples, far=3.0) == (1.5, HIT)


def test_start_on_the_surface():
    """A start that is not inside, and goes in, is a hit right there."""
    assert upward((1, 0, -1), 1.0) == (1.0, HIT)
    assert upward((-1, 0, 1), 1.0) == (INF, MISS)


def test_camera_in_the_box_equals_one_farther_off():
    """Outside the solid, moved along its rays: t shrinks by as much."""
    grid = box_grid(sphere(0.5, (0.1, 0.0, 0.05)), 17)
    origins = torch.tensor([[0.0, 0.0, -2.0]]).double().expand(400, 3)
    spread = torch.cartesian_prod(torch.linspace(-0.2, 0.2, 20), torch.linspace(-0.2, 0.2, 20))
    directions = torch.cat((spread, torch.ones(400, 1)), dim=1).double()
    far, near = (trace(grid, origins + s * directions, directions) for s in (0.0, 1.25))
    assert far.hit.any()
    assert not far.hit.all()
    assert torch.equal(near.status, far.status)
    assert torch.equal(near.cell, far.cell)
    # Roundings of the moved origin, and what a grazing hit makes of them.
    assert (near.t + 1.25 - far.t)[far.hit].abs().max() < 1e-12


# Rays along faces and edges, and past the box.


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_rays_along_lines_of_nodes(dtype, axis, sign, zero, generator):
    """On an edge of four cells the field is linear between nodes: one hit, where it says."""
    values = torch.randn(6, 7, 9, generator=generator, dtype=torch.float64).to(dtype)
    lines = values.movedim(axis, -1).flatten(0, 1)
    others = [n for a, n in enumerate(values.shape) if a != axis]
    at = torch.cartesian_prod(*(torch.arange(float(n)) for n in others)).to(dtype)
    places, directions = [at[:, 0], at[:, 1]], torch.full((len(at), 3), zero, dtype=dtype)
    directions[:, axis] = sign
    length = values.shape[axis] - 1
    places.insert(axis, torch.full_like(at[:, 0], -2.0 if sign > 0 else length + 2.0))
    hits = trace(values, torch.stack(places, dim=1), directions)
    seen = (lines if sign > 0 else lines.flip(1)).double()
    turned = (seen[:, 1:] < 0) != (seen[:, :1] < 0)
    first = turned.int().argmax(dim=1, keepdim=True)
    below, above = seen.gather(1, first), seen.gather(1, first + 1)
    expected = torch.where(turned.any(dim=1), 2.0 + (first + below / (below - above))[:, 0], INF)
    torch.testing.assert_close(hits.t, expected.to(dtype), rtol=8 * torch.finfo(dtype).eps, atol=0)
    status = torch.where(seen[:, 0] < 0, EXIT, HIT).where(turned.any(dim=1), MISS)
    assert torch.equal(hits.status.long(), status)


@pytest.mark.parametrize("step", [s for s in itertools.product((-1, 0, 1), repeat=3) if any(s)])
def test_rays_through_nodes(step, generator):
    """Along edges, diagonals of faces and of cells: nothing slips through between cells."""
    grid = box_grid(sphere(0.6), 9)
    direction = torch.tensor(step).double() * 0.25
    nodes = torch.cartesian_prod(*(torch.arange(-0.5, 0.75, 0.25).double(),) * 3)
    inner = nodes[nodes.norm(dim=1) < 0.55]
    origins = inner - 16 * direction
    hits = trace(grid, origins, direction.expand_as(origins))
    assert (hits.status == HIT).all()
    distance = hits.points().norm(dim=1)
    # Linear interpolation of a sphere's distance between nodes 1/4 sqrt(3) apart sags by
    # 3 h^2 / (8 r).
    assert (distance - 0.6).abs().max() < 3 * 0.25**2 / (8 * 0.6)
    back = trace(grid, inner, -direction.expand_as(origins))
    assert (back.status == EXIT).all()
    again = trace(grid, inner - 12 * direction, direction.expand_as(origins))
    assert torch.equal(again.cell, hits.cell)


def test_minus_zero_is_zero(generator):
    grid = box_grid(sphere(0.6), 10)
    origins = (torch.rand(200, 3, generator=generator).double() - 0.5) * 2.4
    for axis in range(3):
        directions = torch.zeros(200, 3).double()
        directions[:, axis] = 1.0
        plus = trace(grid, origins, directions)
        minus = trace(grid, origins, torch.where(directions == 0, -0.0, directions))
        assert torch.equal(plus.t, minus.t)
        assert torch.equal(plus.cell, minus.cell)


def test_rays_that_pass_the_box():
    grid = box_grid(lambda p: p[..., 2] - 2.0, 5)  # all inside
    ahead = torch.tensor([0.0, 0.0, 1.0])
    origins = torch.tensor([[0.0, 0, 3], [2.0, 0, -3], [1.5, 0, 0], [0.0, -1.25, 0], [9.0, 9, 9]])
    for inside in ("exit", "start"):
        hits = trace(grid.to(torch.float32), origins, ahead.expand(5, 3), inside=inside)
        assert (hits.status == MISS).all()
        assert (hits.t == INF).all()
        assert hits.samples.isfinite().all()


def test_rays_that_are_none():
    """Zero or not finite: a status of their own, and nothing that reaches other rays."""
    grid = box_grid(sphere(0.5), 8)
    values = grid.values.clone().requires_grad_()
    origins = torch.tensor([0.1, 0.0, -3.0]).double().repeat(8, 1)
    directions = torch.tensor([0.0, 0.0, 1.0]).double().repeat(8, 1)
    directions[1], directions[2, 0], directions[3, 1], directions[4, 2] = 0.0, NAN, INF, -INF
    origins[5, 0], origins[6, 2] = NAN, -INF
    rays = origins.requires_grad_(), directions.requires_grad_()
    for method in ("voxel", "sphere"):
        hits = trace(Grid(values, grid.lower, grid.spacing), *rays, method=method)
        assert hits.status.tolist() == [HIT, *[RayStatus.INVALID] * 6, HIT]
        assert (hits.t[1:7] == INF).all()
        assert (hits.cell[1:7] == -1).all()
        assert hits.points()[1:7].isnan().all()
        for gradient in torch.autograd.grad(hits.t[hits.hit].sum(), (values, *rays)):
            assert gradient.isfinite().all()


# Gaps.


def test_gaps_reach_their_cells_alone(generator):
    """Rays that pass no absent cell, or hit before, are what they were, bit for bit."""
    grid, origins, directions = random_scene(generator, count=3000, batch=1)
    grid, origins, directions = Grid(grid.values[0], LOWER, SPACING), origins[0], directions[0]
    whole = trace(grid, origins, directions)
    # The eight cells around the node, as a box that rays pass, or do not.
    size = torch.tensor(SPACING).double()
    low = torch.tensor(LOWER).double() + torch.tensor([1, 1, 2]) * size
    faces = torch.stack(((low - origins) / directions, (low + 2 * size - origins) / directions))
    begin, end = faces.amin(dim=0).amax(dim=1).clamp(min=0), faces.amax(dim=0).amin(dim=1)
    kept = (begin > end) | (whole.t < begin)
    assert kept.sum() > 300
    assert (~kept).sum() > 300
    for absent in (NAN, INF, -INF):
        values = grid.values.clone()
        values[2, 2, 3] = absent
        holed = Grid(values, LOWER, SPACING)
        hits = trace(holed, origins, directions)
        for name in ("t", "status", "cell", "fraction", "samples"):
            assert torch.equal(getattr(hits, name)[kept], getattr(whole, name)[kept]), name
        assert_brute_force(holed, origins, directions, hits)


# Forms of input.


def test_non_contiguous_input(generator):
    values = torch.randn(5, 4, 6, generator=generator, dtype=torch.float64)
    turned = values.permute(2, 0, 1)
    origins, directions = random_rays(Grid(turned), 100, generator)
    hits = trace(turned, origins.T.contiguous().T, directions.flip(0).contiguous().flip(0))
    expected = trace(turned.contiguous(), origins, directions)
    for name in ("t", "status", "cell", "samples"):
        assert torch.equal(getattr(hits, name), getattr(expected, name)), name
    shared = trace(turned, origins[:1].expand(100, 3), directions)
    expected = trace(turned, origins[:1].repeat(100, 1), directions)
    assert torch.equal(shared.t, expected.t)


def test_autocast_leaves_dtypes_alone():
    grid = box_grid(sphere(0.5), 8, torch.float32)
    cameras = orbit(1, (8, 8), dtype=torch.float32)
    expected = trace(grid, cameras=cameras)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hits = trace(grid, cameras=cameras)
    assert hits.t.dtype == hits.samples.dtype == torch.float32
    assert torch.equal(hits.t, expected.t)


def test_more_than_two_to_the_24_samples():
    """A flat index that float32 cannot hold."""
    values = torch.ones(5, 1900, 1900)
    values[3, 1800, 1777:1779] = -1.0
    origins = torch.tensor([[-2.0, 1800.25, 1777.5], [2.0, 1800.0, 1900.0]])
    directions = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
    hits = trace(values, origins, directions)
    assert hits.status.tolist() == [HIT, MISS]
    assert hits.cell[0].item() == (2 * 1900 + 1800) * 1900 + 1777
    # On the way from x = 2 to 3 the field goes from 1 to 0.75 * -1 + 0.25 * 1 = -0.5.
    assert abs(hits.t[0].item() - (4 + 1 / 1.5)) < 1e-6
