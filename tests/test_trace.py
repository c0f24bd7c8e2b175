# SPDX-License-Identifier: Apache-2.0
"""trace: values, errors, CUDA; see the other files for gradients, edges and properties."""

import math

import pytest
import torch
from conftest import assert_close, assert_same_on_cuda
from fields import sphere, torus
from rays import (
    LOWER,
    SPACING,
    assert_brute_force,
    box_grid,
    orbit,
    random_grid,
    random_rays,
    random_scene,
)

import diffiso
from diffiso import Grid, SphereTracing, reference, trace

DTYPES = (torch.float32, torch.float64)
POLICIES = ("exit", "start", "ignore")


# Values against the reference.


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("inside", POLICIES)
def test_equals_brute_force(dtype, inside, generator):
    """Random fields, no distances, with and without gaps: 2 x 10^4 rays each."""
    for gaps in (0.0, 0.1):
        grid = random_grid(generator, dtype, gaps)
        origins, directions = random_rays(grid, 10_000, generator)
        hits = trace(grid, origins, directions, inside=inside)
        # In float32 one ray in some thousands grazes the surface, or hits it next to a face.
        ties = 20 if dtype == torch.float32 else 0
        result = assert_brute_force(grid, origins, directions, hits, ties, inside=inside)
        assert result.hits > 1000


@pytest.mark.parametrize("dtype", DTYPES)
def test_level_near_and_far(dtype, generator):
    options = {"level": 0.25, "near": 0.375, "far": 0.875}
    for inside in POLICIES:
        grid = random_grid(generator, dtype)
        origins, directions = random_rays(grid, 2000, generator)
        hits = trace(grid, origins, directions, inside=inside, **options)
        assert_brute_force(grid, origins, directions, hits, 4, inside=inside, **options)
        assert hits.t[hits.hit].min() >= 0.375
        assert hits.t[hits.hit].max() <= 0.875


def test_one_grid_and_a_batch_agree(generator):
    grid, origins, directions = random_scene(generator)
    together = trace(grid, origins, directions)
    for b in range(2):
        alone = trace(Grid(grid.values[b], LOWER, SPACING), origins[b], directions[b])
        for name in ("t", "status", "fraction", "samples", "hit"):
            assert torch.equal(getattr(alone, name), getattr(together, name)[b]), name
        own = together.cell[b] - b * grid.values[0].numel()
        assert torch.equal(alone.cell, own.where(together.hit[b], -1))


def test_rays_of_any_shape(generator):
    grid, origins, directions = random_scene(generator)
    exact = trace(grid, origins, directions)
    for shape in ((2, 4, 16, 3), (2, 1, 64, 3)):
        hits = trace(grid, origins.view(shape), directions.view(shape))
        assert hits.t.shape == shape[:-1]
        assert hits.samples.shape == (*shape[:-1], 8)
        assert torch.equal(hits.t.flatten(), exact.t.flatten())
        assert torch.equal(hits.points().view(2, 64, 3).nan_to_num(), exact.points().nan_to_num())
    one = trace(Grid(grid.values[0], LOWER, SPACING), origins[0, 0], directions[0, 0])
    assert one.t.shape == ()
    assert torch.equal(one.t, exact.t[0, 0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_capture(dtype, generator):
    """The samples of the hit's cell, bit for bit, and where in it the hit lies."""
    grid, origins, directions = random_scene(generator, dtype)
    hits = trace(grid, origins, directions)
    assert torch.equal(hits.samples, reference.cell_samples(grid.values, hits.cell))
    expected = reference.cell_fraction(
        grid.values, hits.points().double().nan_to_num(), hits.cell, LOWER, SPACING
    )
    assert ((hits.fraction >= 0) & (hits.fraction <= 1)).all()
    # A point near 2 over a cell of 1 / 8.
    assert_close(hits.fraction.where(hits.hit[..., None], 0), expected, factor=2 / 0.125)
    value = reference.trilinear(hits.samples.double(), hits.fraction.double()).value
    # Samples of about 3, and slopes of twice that in three axes.
    assert value[hits.hit].abs().max() < 32 * 3 * torch.finfo(dtype).eps
    without = trace(grid, origins, directions, capture=False)
    assert without.fraction is None
    assert without.samples is None
    for name in ("t", "status", "cell"):
        assert torch.equal(getattr(without, name), getattr(hits, name))


def test_points(generator):
    grid, origins, directions = random_scene(generator)
    hits = trace(grid, origins, directions)
    assert hits.hit.any()
    assert not hits.hit.all()
    assert torch.equal(hits.hit, hits.t.isfinite())
    points = hits.points()
    assert torch.equal(points[hits.hit], (origins + hits.t[..., None] * directions)[hits.hit])
    assert points[~hits.hit].isnan().all()


@pytest.mark.parametrize("views_per_grid", [1, 2])
def test_cameras_equal_their_rays(views_per_grid, generator):
    """One grid for all cameras, or a batch with as many for each, in order; t is depth."""
    cameras = orbit(4)
    shifts = [(0.2 * n - 0.3, 0.1, 0.0) for n in range(4 // views_per_grid)]
    grids = [box_grid(sphere(0.6, shift), (14, 16, 18)) for shift in shifts]
    batch = Grid(torch.stack([g.values for g in grids]), grids[0].lower, grids[0].spacing)
    hits = trace(batch, cameras=cameras)
    assert hits.size == (24, 32)
    assert hits.t.shape == hits.status.shape == hits.cell.shape == (4, 24, 32)
    assert hits.fraction.shape == (4, 24, 32, 3)
    assert hits.samples.shape == (4, 24, 32, 8)
    rays = cameras.rays(unit=False)
    for n in range(4):
        owner = n // views_per_grid
        single = trace(grids[owner], rays.origins[n].view(-1, 3), rays.directions[n].view(-1, 3))
        cell = hits.cell[n].flatten() - owner * grids[0].values.numel()
        assert torch.equal(hits.status[n].flatten(), single.status)
        assert torch.equal(cell.where(single.hit, -1), single.cell)
        # A dozen roundings of numbers near 4, and a grazing hit moves ten times that.
        assert_close(hits.t[n].flatten(), single.t, factor=10)
        points = hits.points()[n][hits.hit[n]]
        assert_close(cameras[n].project(points).depth[0], hits.t[n][hits.hit[n]])
    shared = trace(grids[0], cameras=cameras)
    assert torch.equal(shared.t[:views_per_grid], hits.t[:views_per_grid])


@pytest.mark.parametrize("lipschitz", [1.0, 2.0])
def test_sphere_tracing_as_in_the_paper(lipschitz, generator):
    """Unrefined: the first point whose value is under the tolerance."""
    grid = box_grid(torus(0.6, 0.25), (24, 26, 28))
    origins, directions = random_rays(grid, 500, generator)
    tracing = {"tolerance": 1e-3, "footprint": 1e-3, "lipschitz": lipschitz}
    method = SphereTracing(**tracing, refine=False)
    hits = trace(grid, origins, directions, method=method, capture=False)
    expected = reference.sphere_trace(
        grid.values[None], origins[None], directions[None], grid.lower, grid.spacing, **tracing
    )
    assert torch.equal(hits.status.long(), expected.status[0])
    assert torch.equal(hits.cell, expected.cell[0])
    # Tens of steps, each rounded, in units of a direction that may be a tenth long.
    assert_close(hits.t, expected.t[0], factor=100)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("inside", POLICIES)
def test_sphere_tracing_refined_equals_voxels(dtype, inside, generator):
    """Of a distance: the refined hit is the root, wherever the tolerance stopped."""
    grid = box_grid(torus(0.6, 0.25), (24, 26, 28), dtype)
    origins, directions = random_rays(grid, 2000, generator)
    exact = trace(grid, origins, directions, inside=inside)
    hits = trace(grid, origins, directions, inside=inside, method="sphere")
    # Within 1e-4 of the surface a grazing ray may count as a hit: that is what a tolerance is.
    same = hits.status == exact.status
    assert same.float().mean() > 0.998
    step = directions.norm(dim=1)
    apart = ((hits.t - exact.t).abs() * step)[same & exact.hit]
    assert apart.quantile(0.99) < 64 * torch.finfo(dtype).eps
    assert apart.max() < 1e-2


# Errors.

GRID, RAYS = torch.zeros(4, 4, 4), torch.ones(5, 3)


@pytest.mark.parametrize(
    ("options", "fragments"),
    [
        ({"method": "march"}, ("method", "voxel", "sphere", "march")),
        ({"inside": "through"}, ("inside", "exit", "start", "ignore", "through")),
        ({"law": "exact"}, ("law", "implicit", "sdfdiff", "exact")),
        ({"min_cosine": 0.0}, ("min_cosine", "0.0")),
        ({"min_cosine": math.nan}, ("min_cosine", "nan")),
        ({"near": 2.0, "far": 1.0}, ("near", "far", "2", "1")),
        ({"near": math.nan}, ("near", "nan")),
        ({"level": math.nan}, ("level", "nan")),
        ({"footprint": -0.5}, ("footprint", "-0.5")),
        ({"footprint": math.nan}, ("footprint", "nan")),
    ],
)
def test_bad_options(options, fragments):
    with pytest.raises(ValueError, match="trace: ") as error:
        trace(GRID, RAYS, RAYS, **options)
    assert all(part in str(error.value) for part in fragments), error.value


@pytest.mark.parametrize(
    ("options", "fragments"),
    [
        ({"tolerance": -1.0}, ("tolerance", "-1")),
        ({"footprint": -1.0}, ("footprint", "-1")),
        ({"max_steps": 0}, ("max_steps", "0")),
        ({"lipschitz": 0.0}, ("lipschitz", "0")),
        ({"lipschitz": math.nan}, ("lipschitz", "nan")),
    ],
)
def test_bad_sphere_tracing(options, fragments):
    with pytest.raises(ValueError, match="SphereTracing: ") as error:
        SphereTracing(**options)
    assert all(part in str(error.value) for part in fragments), error.value


@pytest.mark.parametrize(
    ("values", "origins", "directions", "fragments"),
    [
        (torch.zeros(64, 64), RAYS, RAYS, ("(X, Y, Z)", "got (64, 64)")),
        (torch.zeros(4, 1, 4), RAYS, RAYS, ("at least 2 nodes", "4, 1, 4)")),
        (GRID.half(), RAYS.half(), RAYS.half(), ("torch.float32 or torch.float64", "float16")),
        (GRID.long(), RAYS, RAYS, ("torch.float32 or torch.float64", "got torch.int64")),
        (GRID, RAYS.double(), RAYS, ("origins", "torch.float32", "got torch.float64")),
        (GRID, RAYS, RAYS.double(), ("directions", "torch.float32", "got torch.float64")),
        (GRID, torch.zeros(5, 2), torch.zeros(5, 2), ("origins", "(..., 3)", "5, 2)")),
        (GRID, torch.tensor(0.0), torch.tensor(0.0), ("origins", "(..., 3)", "()")),
        (GRID, RAYS, RAYS[:4], ("directions", "origins", "4, 3)")),
        (GRID.expand(2, 4, 4, 4), RAYS, RAYS, ("origins", "(2, ..., 3)", "batch", "5, 3)")),
        (
            GRID.expand(2, 4, 4, 4), RAYS.expand(3, 5, 3), RAYS.expand(3, 5, 3),
            ("origins", "(2, ..., 3)", "batch", "(3, 5, 3)"),
        ),
    ],
)  # fmt: skip
def test_bad_tensors(values, origins, directions, fragments):
    with pytest.raises((RuntimeError, ValueError)) as error:
        trace(values, origins, directions)
    assert all(part in str(error.value) for part in ("trace: ", *fragments)), error.value


def test_bad_rays():
    camera = orbit(2, (4, 4), dtype=torch.float32)
    for rays in ({}, {"origins": RAYS}, {"directions": RAYS}):
        with pytest.raises(ValueError, match=r"trace: .*(origins|directions|cameras)"):
            trace(GRID, **rays)
    with pytest.raises(ValueError, match=r"trace: .*cameras.*origins|trace: .*origins.*cameras"):
        trace(GRID, RAYS, RAYS, cameras=camera)
    with pytest.raises((RuntimeError, ValueError), match=r"trace: cameras.*multiple.*2.*3"):
        trace(GRID.expand(3, 4, 4, 4), cameras=camera)
    with pytest.raises((RuntimeError, ValueError), match=r"trace: .*float32.*float64"):
        trace(GRID, cameras=camera.to(torch.float64))
    with pytest.raises((RuntimeError, ValueError), match=r"trace: footprint.*3"):
        trace(GRID, cameras=camera, footprint=torch.ones(3))
    with pytest.raises(TypeError, match="trace: grid"):
        trace(GRID.numpy(), RAYS, RAYS)


# CUDA.


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("inside", POLICIES)
def test_cuda_equals_cpu(dtype, inside, generator):
    grid = random_grid(generator, dtype, 0.05)
    origins, directions = random_rays(grid, 20_000, generator)

    def parts(values, origins, directions):
        box = Grid(values, grid.lower, grid.spacing)
        hits = trace(box, origins, directions, inside=inside, footprint=0.05)
        closest = hits.closest_t, hits.closest_cell
        return hits.t, hits.status, hits.cell, hits.fraction, hits.samples, *closest

    # Thousands of rays pass a cell; the clamp passes on ten times a slope's error.
    assert_same_on_cuda(
        parts, grid.values, origins, directions, exact=(True,) * 7, factor=10 * 20_000**0.5
    )


@pytest.mark.cuda
def test_cuda_cameras_equal_cpu():
    grid = box_grid(torus(0.6, 0.25), (24, 26, 28), torch.float32)
    cameras = orbit(3, (50, 70), dtype=torch.float32)
    for method in ("voxel", "sphere"):
        ours = trace(grid, cameras=cameras, method=method)
        theirs = trace(grid.to("cuda"), cameras=cameras.to("cuda"), method=method)
        for name in ("t", "status", "cell", "fraction", "samples"):
            assert torch.equal(getattr(theirs, name).cpu(), getattr(ours, name)), name


@pytest.mark.cuda
def test_cuda_deterministic_backward(deterministic, generator):
    grid, origins, directions = random_scene(generator, torch.float32, count=20_000)
    gradients = []
    for device in ("cpu", "cuda", "cuda"):
        values = grid.values.to(device).requires_grad_()
        hits = trace(Grid(values, LOWER, SPACING), origins.to(device), directions.to(device))
        gradients.append(torch.autograd.grad(hits.t[hits.hit].sum(), values)[0].cpu())
    assert torch.equal(gradients[1], gradients[2])
    assert_close(gradients[1], gradients[0], factor=20_000**0.5)


def test_names_are_public():
    assert {"trace", "RayHits", "RayStatus", "SphereTracing"} <= set(diffiso.__all__)
