# SPDX-License-Identifier: Apache-2.0
"""NarrowBand: the same surface as from every node, at the cost of the surface."""

import math

import pytest
import torch
from fields import box, exact_sphere, gyroid, torus, union
from topology import assert_dense_surface, assert_same_surface

import diffiso
from diffiso import NarrowBand, marching_cubes, sample_field

BOX = (-1.0, 1.0)
SPHERE_AREA = math.pi  # of radius 0.5


# Cold: the same surface as from all nodes.

RULES = {
    "bound": {"lipschitz": 1.0},
    "loose bound": {"lipschitz": 1.7},
    "estimate": {},
    "sign": {"refine": "sign"},
    "sign alone": {"refine": "sign", "dilation": 0},
    "criterion": {"refine": lambda corners, size: corners.abs().amin(dim=1) < 2 * max(size)},
}
SHAPES = {
    "sphere": exact_sphere(0.5, (0.1, -0.05, 0.02)),
    "box": box((0.4, 0.3, 0.55)),
    "torus": torus(0.55, 0.2),
    "two": union(exact_sphere(0.3, (-0.5, 0.0, 0.0)), exact_sphere(0.25, (0.5, 0.2, 0.1))),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("resolution", [64, (37, 50, 61), (70, 33, 9)])
def test_cold_gives_the_dense_surface(rule, shape, resolution):
    band = NarrowBand(*BOX, resolution, dtype=torch.float64, **RULES[rule])
    assert_dense_surface(band.sample(SHAPES[shape]), SHAPES[shape])
    assert band.report.mode == "cold"


@pytest.mark.parametrize("rule", ["bound", "sign"])
@pytest.mark.parametrize("resolution", [2, 3, (2, 5, 130), 8, 9, 15, 16, 17])
def test_any_resolution(rule, resolution):
    field = exact_sphere(0.7)
    lower, upper = (-1.0, -0.9, -1.1), (1.2, 1.0, 0.9)
    band = NarrowBand(lower, upper, resolution, coarsest=4, **RULES[rule])
    grid = band.sample(field)
    assert grid.lower == lower
    assert grid.upper == pytest.approx(upper)
    assert_dense_surface(grid, field)


@pytest.mark.parametrize("level", [-0.2, 0.3])
@pytest.mark.parametrize("rule", RULES)
def test_levels(rule, level):
    if rule == "criterion":
        rule = "sign"  # that criterion knows the level 0 only
    field = exact_sphere(0.5)
    band = NarrowBand(*BOX, 48, **RULES[rule])
    assert_dense_surface(band.sample(field, level), field, level)
    assert_dense_surface(band.sample(field, torch.tensor(level)), field, level)


def test_open_surfaces_end_at_the_box():
    band = NarrowBand(-3.0, 3.0, 64, lipschitz=math.sqrt(3), dtype=torch.float64)
    assert_dense_surface(band.sample(gyroid), gyroid, closed=False)


def test_samples_are_those_of_the_field():
    field = exact_sphere(0.5)
    grid = NarrowBand(*BOX, 100, lipschitz=1.0).sample(field).to_grid().values
    known = ~grid.isnan()
    assert torch.equal(grid[known], sample_field(field, *BOX, 100).values[known])


def test_bricks_come_in_the_order_of_the_table():
    grid = NarrowBand(*BOX, 64, lipschitz=1.0).sample(exact_sphere(0.5))
    x, y, z = grid.coordinates.long().unbind(dim=1)
    assert torch.equal(grid.table[x, y, z], torch.arange(len(x), dtype=torch.int32))
    place = (x * grid.table.shape[1] + y) * grid.table.shape[2] + z
    assert (place.diff() > 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_fields_of_half_precision(dtype):
    """A field's own dtype is kept; the bound allows for its rounding."""

    def field(points):
        return exact_sphere(0.5)(points).to(dtype)

    grid = NarrowBand(*BOX, 32, lipschitz=1.0).sample(field)
    assert grid.values.dtype == dtype
    dense = marching_cubes(sample_field(field, *BOX, 32), return_edges=True)
    assert_same_surface(marching_cubes(grid, return_edges=True), dense)


# What a bound guarantees, and what goes without one.


def test_a_bound_finds_a_part_of_the_finest_cells_size():
    """Radius one cell at 128 cells: no node of the coarsest lattice is near."""
    field = union(exact_sphere(0.5, (-0.3, 0.0, 0.0)), exact_sphere(2 / 128, (0.68, 0.55, -0.6)))
    band = NarrowBand(*BOX, 128, lipschitz=1.0)
    assert_dense_surface(band.sample(field), field)


def test_sign_alone_misses_what_fits_between_coarse_nodes():
    """Documented: the small sphere stands in the middle of a cell of the coarsest lattice."""
    middle = 2 / 32 * 8.5
    small = exact_sphere(0.02, (middle, middle, middle))
    field = union(exact_sphere(0.3, (-0.4, 0.0, 0.0)), small)
    found = marching_cubes(NarrowBand(*BOX, 128, refine="sign").sample(field))
    expected = marching_cubes(sample_field(field, *BOX, 128))
    assert diffiso.Mesh(expected.vertices, expected.faces).euler_number() == 4
    assert found.euler_number() == 2


def test_a_contradicted_bound_is_an_error_that_says_where():
    def field(points):
        return 2 * exact_sphere(0.5)(points)

    with pytest.raises(ValueError, match=r"lipschitz must bound .* got 1.0, but .* rise by") as e:
        NarrowBand(*BOX, 64, lipschitz=1.0).sample(field)
    words = str(e.value).split()
    assert 1.5 < float(words[words.index("by") + 1]) <= 2.001


def test_a_bound_contradicted_on_the_finest_lattice_only():
    def field(points):
        ripple = torch.exp(-((points[:, 0] / 0.01) ** 2)) * 0.02  # slope up to 1.7
        return points.norm(dim=1) - 0.5 + ripple

    with pytest.raises(ValueError, match=r"lipschitz must bound"):
        NarrowBand(*BOX, 256, lipschitz=1.0).sample(field)


def test_an_estimate_is_raised_where_samples_are_steeper():
    """Steep only near the surface, where the coarsest lattice has few samples."""

    def field(points):
        distance = exact_sphere(0.45)(points)
        return distance + 0.03 * torch.tanh(distance / 0.03)

    band = NarrowBand(*BOX, 128, coarsest=8, dtype=torch.float64)
    assert_dense_surface(band.sample(field), field)
    assert band.report.lipschitz >= 1.9


def test_an_estimate_gives_up_on_a_field_that_jumps():
    with pytest.raises(ValueError, match=r'Lipschitz bound.*refine="sign"'):
        NarrowBand(*BOX, 512).sample(lambda p: (p.norm(dim=1) > 0.5).float() - 0.5)


def test_occupancy_by_sign():
    def field(points):
        return (exact_sphere(0.5)(points) > 0).float() - 0.5

    band = NarrowBand(*BOX, 96, refine="sign")
    assert_dense_surface(band.sample(field), field)


# Cost.


def test_queries_of_a_cold_call():
    """At most 4.5 A / h^2 on all lattices together, for a smooth distance at 512 cells."""
    band = NarrowBand(*BOX, 512, lipschitz=1.0)
    band.sample(exact_sphere(0.5))
    assert band.report.queries <= 4.5 * SPHERE_AREA / (2 / 512) ** 2
    assert sum(band.report.queries_by_level) <= band.report.queries


@pytest.mark.parametrize("field", [exact_sphere(0.5), torus(0.55, 0.2)])
def test_queries_grow_as_the_surface(field):
    counts = []
    for resolution in (128, 512):
        band = NarrowBand(*BOX, resolution, lipschitz=1.0)
        band.sample(field)
        counts.append(band.report.queries)
    assert math.log(counts[1] / counts[0]) / math.log(4) <= 2.2


def test_every_node_is_asked_once():
    seen = []

    def field(points):
        seen.append(points)
        return exact_sphere(0.5)(points)

    band = NarrowBand(*BOX, 64, lipschitz=1.0)
    band.sample(field)
    points = torch.cat(seen)
    assert len(points) == band.report.queries
    # The first 256 nodes are asked once more, to see what memory they take.
    assert len(points.unique(dim=0)) == len(points) - 256


def test_chunks_within_the_memory_budget_change_nothing():
    sizes = []

    def field(points):
        sizes.append(len(points))
        return exact_sphere(0.5)(points)

    whole = NarrowBand(*BOX, 64, lipschitz=1.0).sample(field)
    sizes.clear()
    chunked = NarrowBand(*BOX, 64, lipschitz=1.0, memory_budget=2**19).sample(field)
    assert max(sizes) * 12 <= 2**19  # points alone take twelve bytes each
    assert len(sizes) > 5
    assert torch.equal(chunked.values.nan_to_num(9), whole.values.nan_to_num(9))


# Values that are rounded, infinite or absent.


@pytest.mark.parametrize(
    ("level", "dtype"),
    [(100.0, torch.float16), (10.0, torch.float16), (1.0, torch.bfloat16), (1e5, torch.float32)],
)
def test_a_bound_allows_for_the_rounding_of_values_near_the_level(level, dtype):
    def field(points):
        return (exact_sphere(0.5)(points) + level).to(dtype)

    dense = marching_cubes(sample_field(field, *BOX, 64), level, return_edges=True)
    grid = NarrowBand(*BOX, 64, lipschitz=1.0).sample(field, level)
    assert_same_surface(marching_cubes(grid, level, return_edges=True), dense)


@pytest.mark.parametrize("rule", [{"lipschitz": 1.0}, {}, {"refine": "sign"}])
@pytest.mark.parametrize(
    ("beyond", "instead"), [(0.2, math.inf), (0.1, math.inf), (-0.1, -math.inf)]
)
def test_infinities_clear_nothing(rule, beyond, instead):
    """A distance that is known near the surface only."""

    def field(points):
        values = exact_sphere(0.5)(points)
        return torch.where(values > beyond if beyond > 0 else values < beyond, instead, values)

    assert_dense_surface(NarrowBand(*BOX, 64, **rule).sample(field), field)


def test_an_estimate_allows_for_rounding():
    def field(points):
        return (exact_sphere(0.1)(points) + 10).half()

    band = NarrowBand(-0.2, 0.2, 128)
    dense = marching_cubes(sample_field(field, -0.2, 0.2, 128), 10.0, return_edges=True)
    found = marching_cubes(band.sample(field, 10.0), 10.0, return_edges=True)
    assert_same_surface(found, dense)
    assert band.report.lipschitz < 2


# Absent samples.


@pytest.mark.parametrize("rule", RULES)
def test_nan_makes_cells_absent(rule):
    def field(points):
        values = exact_sphere(0.5)(points)
        return torch.where(points[:, 0] > 0.21, torch.nan, values)

    band = NarrowBand(*BOX, 64, **RULES[rule])
    assert_dense_surface(band.sample(field), field, closed=False)
    assert_dense_surface(band.sample(field), field, closed=False)


@pytest.mark.parametrize("close_boundary", [False, True])
@pytest.mark.parametrize("rule", [{"lipschitz": 1.0}, {}, {"refine": "sign"}])
def test_nan_everywhere_is_refused(rule, close_boundary):
    band = NarrowBand(*BOX, 64, close_boundary=close_boundary, **rule)
    with pytest.raises(ValueError, match=r"NaN everywhere"):
        band.sample(lambda p: p[:, 0] * math.nan)


# Errors.


@pytest.mark.parametrize(
    ("change", "fragments"),
    [
        ({"resolution": 1}, ("resolution", "at least 2", "got 1")),
        ({"resolution": (8, 8)}, ("resolution", "one or three", "got (8, 8)")),
        ({"lower": 1.0, "upper": -1.0}, ("upper must be above lower", "(1.0, 1.0, 1.0)")),
        ({"lipschitz": 0.0}, ("lipschitz must be positive", "got 0.0")),
        ({"lipschitz": math.inf}, ("lipschitz must be positive and finite", "got inf")),
        ({"threshold": 0.0}, ("threshold must be positive", "got 0.0")),
        ({"threshold": -1.0}, ("threshold must be positive", "got -1.0")),
        ({"refine": "signs"}, ("refine must be", "got 'signs'")),
        ({"lipschitz": 1.0, "refine": "sign"}, ("lipschitz must stand with", "got 'sign'")),
        ({"lipschitz": "1"}, ("lipschitz must be positive", "got 1")),
        ({"lipschitz": True}, ("lipschitz must be positive", "got True")),
        ({"dilation": 1.5}, ("dilation must be at least 0", "got 1.5")),
        ({"dilation": -1}, ("dilation must be at least 0", "got -1")),
        ({"refresh_every": 0}, ("refresh_every must be at least 1", "got 0")),
        ({"coarsest": 0}, ("coarsest must be at least 1", "got 0")),
    ],
)
def test_wrong_settings(change, fragments):
    settings = {"lower": -1.0, "upper": 1.0, "resolution": 16, **change}
    with pytest.raises(ValueError, match="narrow_band: ") as error:
        NarrowBand(**settings)
    for fragment in fragments:
        assert fragment in str(error.value)


def test_budget_below_one_brick():
    with pytest.raises(ValueError, match=r"memory_budget must hold one brick, 512 .*got 1000"):
        NarrowBand(*BOX, 16, memory_budget=1000).sample(exact_sphere(0.5))


@pytest.mark.parametrize(
    ("field", "error", "fragment"),
    [
        ("no field", TypeError, "field must be a Grid or a callable, got str"),
        (lambda p: p, ValueError, r"field: must return \(P,\)"),
        (lambda p: p[:, 0].long(), ValueError, "floating"),
        (lambda p: torch.zeros(len(p), device="meta"), ValueError, "values on cpu, got meta"),
    ],
)
def test_wrong_fields(field, error, fragment):
    with pytest.raises(error, match=fragment):
        NarrowBand(*BOX, 16).sample(field)


def test_a_field_that_moved_to_another_device():
    band = NarrowBand(*BOX, 16)
    band.sample(exact_sphere(0.5))
    band.device = "meta"
    with pytest.raises(ValueError, match=r"field must stay on cpu, got one on meta; call reset"):
        band.sample(exact_sphere(0.5))


@pytest.mark.parametrize(
    ("answer", "fragment"),
    [
        (lambda c, size: c[:, 0], r"refine must return torch.bool, got torch.float32"),
        (lambda c, size: c > 0, r"refine must return \(C,\) for corners \(C, 8\)"),
        (lambda c, size: True, r"refine must return \(C,\).* got bool"),
    ],
)
def test_wrong_criteria(answer, fragment):
    with pytest.raises(ValueError, match=fragment):
        NarrowBand(*BOX, 64, refine=answer).sample(exact_sphere(0.5))


def test_levels_of_several_numbers_are_refused():
    with pytest.raises(ValueError, match=r"level must be a number or of shape \(\), got \(2,\)"):
        NarrowBand(*BOX, 16).sample(exact_sphere(0.5), torch.zeros(2))


def test_nan_level_is_refused():
    with pytest.raises(ValueError, match=r"level must be a number, got nan"):
        NarrowBand(*BOX, 16).sample(exact_sphere(0.5), math.nan)
