# SPDX-License-Identifier: Apache-2.0
"""The steps of a narrow band, in bricks and bits, against plain torch on dense arrays."""

import itertools
import math

import pytest
import torch
from fields import GRID_DTYPES, random_shape, random_ties, sprinkle

from diffiso import reference
from diffiso.ops._band_lattice import BandLattice, pack, reach_of, unpack
from diffiso.types import BRICK_SIZE

OPS = torch.ops.diffiso
SEEDS = range(12)


def lattice_of(values, asked, generator=None):
    """Bricks of all nodes that were asked for, shuffled by a generator."""
    tiles = [-(-n // BRICK_SIZE) for n in values.shape]
    coordinates = torch.cartesian_prod(*(torch.arange(n) for n in tiles))
    if generator is not None:
        coordinates = coordinates[torch.randperm(len(coordinates), generator=generator)]
    values = torch.where(asked, values, torch.nan)
    bits, bricks = bricks_of(asked, coordinates), bricks_of(values, coordinates)
    some = bits.flatten(1).any(dim=1)
    table = torch.full(tiles, -1, dtype=torch.int32)
    coordinates = coordinates[some]
    table[tuple(coordinates.T)] = torch.arange(len(coordinates), dtype=torch.int32)
    cells = tuple(n - 1 for n in values.shape)
    ids = torch.empty(0, dtype=torch.int64)
    return BandLattice(bricks[some], table, coordinates.int(), pack(bits[some]), ids, cells, 1)


def bricks_of(dense, coordinates):
    beyond = [n for size in reversed(dense.shape) for n in (0, -size % BRICK_SIZE)]
    padded = torch.nn.functional.pad(dense, beyond, value=0)
    split = padded.unflatten(2, (-1, 8)).unflatten(1, (-1, 8)).unflatten(0, (-1, 8))
    return split.permute(0, 2, 4, 1, 3, 5)[tuple(coordinates.T)]


def dense_of(bricks, coordinates, nodes, fill):
    """Scatter (R, 8, 8, 8) into the nodes of a lattice."""
    tiles = [-(-n // BRICK_SIZE) for n in nodes]
    out = torch.full((*tiles, 8, 8, 8), fill, dtype=bricks.dtype)
    out[tuple(coordinates.long().T)] = bricks
    joined = out.permute(0, 3, 1, 4, 2, 5).reshape([8 * n for n in tiles])
    x, y, z = nodes
    assert (joined[x:] == fill).all() or fill != fill
    return joined[:x, :y, :z]


def dense_ids(lattice):
    """The nodes still to be evaluated, as bits of the lattice; each once and in order."""
    assert (lattice.ids.diff() > 0).all()
    bits = torch.zeros(len(lattice.values), 8, 8, 8, dtype=torch.bool)
    bits.view(-1)[lattice.ids] = True
    return dense_of(bits, lattice.coordinates, lattice.nodes, False)


def dense_mask(lattice, masks):
    return dense_of(unpack(masks), lattice.coordinates, lattice.nodes, False)


def dense_values(lattice):
    return dense_of(lattice.values, lattice.coordinates, lattice.nodes, math.nan)


def random_lattice(generator, dtype=torch.float32, share=0.7):
    """Values with ties, infinities and NaN, asked at some nodes, in clumps."""
    shape = random_shape(generator, 2, 20)
    values = sprinkle(random_ties(generator, shape, dtype), generator, share=0.05)
    clumps = torch.rand([-(-n // 3) for n in shape], generator=generator) < share
    for axis in range(3):
        clumps = clumps.repeat_interleave(3, dim=axis)
    asked = clumps[: shape[0], : shape[1], : shape[2]]
    return values, asked & (torch.rand(shape, generator=generator) < 0.97)


def smooth_lattice(generator, shape):
    """A field with few crossings, so that what is added around them can be told apart."""
    x, y, z = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in shape), indexing="ij")
    a, b, c, d = torch.rand(4, generator=generator).tolist()
    return ((x - a + 0.5) ** 2 + (y - b + 0.5) ** 2 + (z - c + 0.5) ** 2).sqrt() - 0.3 - 0.4 * d


# Values against the reference.


def fine_sizes(shape):
    """Both lattices that have this coarse one."""
    return itertools.product(*((2 * n - 2, 2 * n - 1) if n > 1 else (2,) for n in shape))


@pytest.mark.parametrize("dtype", GRID_DTYPES)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("rule", ["bound", "closed", "sign", "dilated", "twice", "keep"])
def test_refine(rule, seed, dtype):
    generator = torch.Generator().manual_seed(seed)
    values, asked = random_lattice(generator, dtype)
    coarse = lattice_of(values, asked, generator)
    sizes = list(fine_sizes(values.shape))
    fine_nodes = sizes[seed % len(sizes)]
    level = (0.0, 0.5, -0.25)[seed % 3]
    reach = reach_of((0.5, 0.7, 0.9), 1.1, dtype, 0.0) if rule in ("bound", "closed") else None
    keep = torch.rand(values.shape, generator=generator) < 0.05 if rule == "keep" else None
    dilation = {"dilated": 1, "twice": 2, "keep": seed % 2}.get(rule, 0)
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    rounded = None if reach is None else torch.tensor(reach, dtype=compute).tolist()
    known_values = values.where(asked, torch.nan)
    closed = rule == "closed"
    expected = reference.narrow_band_refine(
        known_values.to(compute),
        asked,
        fine_nodes,
        level,
        rounded,
        keep,
        dilation,
        closed,
    )
    fine = BandLattice(
        *OPS.narrow_band_refine(
            coarse.values,
            coarse.table,
            coarse.coordinates,
            coarse.asked,
            None if keep is None else pack(bricks_of(keep, coarse.coordinates.long())),
            list(values.shape),
            list(fine_nodes),
            [0.0] * 8 if reach is None else reach,
            level,
            reach is not None,
            dilation,
            closed,
        ),
        tuple(n - 1 for n in fine_nodes),
        1,
    )
    assert torch.equal(dense_mask(fine, fine.asked), expected)
    place = [
        torch.where(torch.arange(n) == n - 1, m - 1, torch.arange(n) // 2)
        for n, m in zip(fine_nodes, values.shape, strict=True)
    ]
    even = [(torch.arange(n) % 2 == 0) | (torch.arange(n) == n - 1) for n in fine_nodes]
    shared = even[0][:, None, None] & even[1][:, None] & even[2]
    known = shared & asked[place[0][:, None, None], place[1][:, None], place[2]]
    assert torch.equal(dense_ids(fine), expected & ~known)
    copied = values[place[0][:, None, None], place[1][:, None], place[2]]
    want = torch.where(expected & known, copied, torch.nan)
    assert torch.equal(dense_values(fine).nan_to_num(99), want.nan_to_num(99))
    assert fine.asked.any(dim=1).all()  # no empty brick
    assert_in_table_order(fine)


def assert_in_table_order(lattice):
    x, y, z = lattice.coordinates.long().unbind(dim=1)
    place = (x * lattice.table.shape[1] + y) * lattice.table.shape[2] + z
    assert (place.diff() > 0).all()
    assert torch.equal(lattice.table.view(-1)[place], torch.arange(len(x), dtype=torch.int32))
    assert int((lattice.table >= 0).sum()) == len(x)


@pytest.mark.parametrize("dtype", GRID_DTYPES)
@pytest.mark.parametrize("threshold", [None, 0.5, 1.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_reuse(seed, threshold, dtype):
    generator = torch.Generator().manual_seed(seed)
    values, asked = random_lattice(generator, dtype, share=0.9)
    lattice = lattice_of(values, asked, generator)
    level = (0.0, 0.5)[seed % 2]
    expected = reference.narrow_band_reuse(values, asked, level, threshold)
    found = lattice.reuse(level, threshold)
    assert torch.equal(dense_mask(found, found.asked), expected.wanted)
    assert torch.equal(dense_ids(found), expected.wanted)
    assert torch.equal(dense_mask(found, found.remembered), expected.remembered)
    assert torch.equal(dense_mask(found, found.before), expected.before)
    assert found.values.isnan().all()


@pytest.mark.parametrize("dtype", GRID_DTYPES)
@pytest.mark.parametrize("seed", SEEDS)
def test_grow(seed, dtype):
    """From any state at all, also such as no run of the algorithm reaches."""
    generator = torch.Generator().manual_seed(seed)
    values, asked = random_lattice(generator, dtype, share=0.4)
    if seed % 3:
        values = smooth_lattice(generator, values.shape).to(dtype)
    remembered = torch.rand(values.shape, generator=generator) < 0.3
    before = remembered & (torch.rand(values.shape, generator=generator) < 0.5)
    either = lattice_of(values, asked | remembered, generator)
    values = values.where(asked, torch.nan)
    here = either.coordinates.long()
    state = BandLattice(
        bricks_of(values, here), either.table, either.coordinates,
        pack(bricks_of(asked, here)), either.ids, either.box_cells, 1,
        pack(bricks_of(remembered, here)), pack(bricks_of(before, here)),
    )  # fmt: skip
    expected = reference.narrow_band_grow(values, asked, remembered, before, 0.0)
    found = state.grow(0.0)
    if not expected.wanted.any():
        assert found is None
        return
    assert torch.equal(dense_ids(found), expected.wanted)
    assert torch.equal(dense_mask(found, found.asked), asked | expected.wanted)
    assert torch.equal(dense_mask(found, found.remembered), expected.remembered)
    assert torch.equal(dense_mask(found, found.before), expected.before)
    assert torch.equal(dense_values(found).nan_to_num(99), values.nan_to_num(99))
    assert_in_table_order(found)


@pytest.mark.parametrize("dtype", GRID_DTYPES)
@pytest.mark.parametrize("seed", SEEDS)
def test_steepest_pair(seed, dtype):
    generator = torch.Generator().manual_seed(seed)
    values, asked = random_lattice(generator, dtype)
    spacing = (0.5, 0.7, 0.9)
    found = lattice_of(values, asked, generator).steepest_pair(spacing)
    exact = values.where(asked, torch.nan)
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    exact = torch.nn.functional.pad(exact.to(compute), (0, 1) * 3, value=math.nan)
    most = 0.0
    for a, b in itertools.combinations(itertools.product((0, 1), repeat=3), 2):
        first, second = (
            exact[tuple(slice(d, n - 1 + d) for d, n in zip(step, exact.shape, strict=True))]
            for step in (a, b)
        )
        # On a cell's upper faces: that is a pair of the next cell's lower ones.
        if any(d == e == 1 for d, e in zip(a, b, strict=True)):
            continue
        rise = (first - second).abs()
        rise = rise[rise.isfinite()]
        apart = math.hypot(*((d - e) * h for d, e, h in zip(a, b, spacing, strict=True)))
        if len(rise):
            most = max(most, float(rise.max().double()) / apart)
    assert found.slope == pytest.approx(most, rel=1e-15)
    if most > 0:
        ends = [float(exact[node]) for node in (found.first, found.second)]
        steps = zip(found.first, found.second, spacing, strict=True)
        apart = math.hypot(*((a - b) * h for a, b, h in steps))
        assert abs(ends[0] - ends[1]) / apart == pytest.approx(most, rel=1e-6)


def test_masks_are_packed_and_unpacked(generator):
    bits = torch.rand((5, 8, 8, 8), generator=generator) < 0.5
    assert torch.equal(unpack(pack(bits)), bits)
    one = torch.zeros(1, 8, 8, 8, dtype=torch.bool)
    one[0, 3, 5, 2] = True
    assert pack(one).tolist() == [[0, 0, 0, 1 << 42, 0, 0, 0, 0]]


def test_reach_is_the_farthest_point_of_a_child():
    """By sampling a child cell densely."""
    spacing = (1.0, 0.6, 0.2)
    reach = reach_of(spacing, 2.0, torch.float64, 0.25)
    line = torch.linspace(0, 1, 5)
    for far in range(8):
        begin = torch.tensor([far >> 2 & 1, far >> 1 & 1, far & 1]) / 2
        points = (begin + torch.cartesian_prod(line, line, line) / 2) * torch.tensor(spacing)
        assert reach[far] == pytest.approx(2 * float(points.norm(dim=1).max()) + 0.25, rel=1e-6)


# Registration.


def test_opcheck(generator):
    values, asked = random_lattice(generator)
    lattice = lattice_of(values, asked)
    shared = (lattice.values, lattice.table, lattice.coordinates, lattice.asked)
    nodes = list(values.shape)
    fine = [2 * n - 1 for n in nodes]
    lengths = [0.0, *[1.0] * 7]
    empty = torch.zeros_like(lattice.asked)
    torch.library.opcheck(OPS.narrow_band_reuse, (*shared, nodes, 0.0, 0.5))
    torch.library.opcheck(OPS.narrow_band_slope, (*shared, nodes, lengths))
    # The rest of opcheck compares outputs and holds NaN to differ from NaN.
    tests = ("test_schema", "test_faketensor", "test_autograd_registration")
    for op, given in (
        (OPS.narrow_band_refine, (None, nodes, fine, [1.0] * 8, 0.0, True, 0, False)),
        (OPS.narrow_band_refine, (empty, nodes, fine, [1.0] * 8, 0.0, False, 1, False)),
        (OPS.narrow_band_grow, (empty, empty, nodes, 0.0)),
    ):
        torch.library.opcheck(op, (*shared, *given), test_utils=tests)


# Errors.


def arguments(**changes):
    """Arguments of narrow_band_refine for one brick, with some replaced."""
    given = {
        "values": torch.zeros(1, 8, 8, 8),
        "table": torch.zeros(1, 1, 1, dtype=torch.int32),
        "coordinates": torch.zeros(1, 3, dtype=torch.int32),
        "asked": torch.full((1, 8), -1),
        "keep": None,
        "nodes": [8, 8, 8],
        "fine_nodes": [15, 15, 15],
        "reach": [1.0] * 8,
        "level": 0.0,
        "by_bound": True,
        "dilation": 0,
        "closed": False,
    }
    return tuple({**given, **changes}.values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"values": torch.zeros(1, 8, 8, 4)}, r"values must be contiguous \(R, 8, 8, 8\)"),
        ({"table": torch.zeros(1, 1, 1)}, r"table must be torch.int32, got torch.float32"),
        ({"table": torch.zeros(1, 2, 1, dtype=torch.int32)}, r"table must cover the nodes"),
        ({"coordinates": torch.zeros(2, 3, dtype=torch.int32)}, r"coordinates must be .*\(R, 3\)"),
        ({"asked": torch.zeros(1, 8)}, r"asked must be torch.int64"),
        ({"asked": torch.zeros(1, 4).long()}, r"asked must be contiguous \(R, 8\)"),
        ({"keep": torch.zeros(2, 8).long()}, r"keep must be contiguous \(R, 8\)"),
        ({"nodes": [8, 8, 1]}, r"nodes must be at least 2"),
        ({"fine_nodes": [15, 15, 17]}, r"fine_nodes must have two cells .* got 17 beside 8"),
        ({"fine_nodes": [15, 15]}, r"fine_nodes must have 3 numbers, got 2"),
        ({"reach": [1.0]}, r"reach must have 8 numbers, got 1"),
        ({"dilation": -1}, r"dilation must not be negative, got -1"),
    ],
)
def test_wrong_arguments(changes, message):
    with pytest.raises(RuntimeError, match=rf"narrow_band_refine: {message}"):
        OPS.narrow_band_refine(*arguments(**changes))


# Edges.


def test_without_bricks():
    empty = (
        torch.zeros(0, 8, 8, 8),
        torch.full((2, 1, 1), -1, dtype=torch.int32),
        torch.zeros(0, 3, dtype=torch.int32),
        torch.zeros(0, 8, dtype=torch.int64),
    )
    nodes = [9, 8, 8]
    fine = OPS.narrow_band_refine(*empty, None, nodes, [17, 15, 15], [1.0] * 8, 0.0, True, 0, False)
    assert fine[0].shape == (0, 8, 8, 8)
    assert fine[1].tolist() == torch.full((3, 2, 2), -1).tolist()
    wanted = OPS.narrow_band_reuse(*empty, nodes, 0.0, 0.0)[0]
    assert wanted.shape == (0, 8)
    assert len(OPS.narrow_band_grow(*empty, empty[3], empty[3], nodes, 0.0)[-1]) == 0
    assert OPS.narrow_band_slope(*empty, nodes, [1.0] * 8).tolist() == [0.0] * 7


def test_two_nodes():
    values = torch.tensor([-1.0, 1.0]).view(2, 1, 1).expand(2, 2, 2).clone()
    lattice = lattice_of(values, torch.ones(2, 2, 2, dtype=torch.bool))
    assert len(lattice.reuse(0.0, None).ids) == 8
    assert lattice.grow(0.0) is None


# Properties.


def test_thread_counts_change_nothing(threads):
    generator = torch.Generator().manual_seed(5)
    values = smooth_lattice(generator, (70, 41, 66))
    asked = torch.ones(values.shape, dtype=torch.bool)
    results = []
    for count in (1, 2, 5):
        threads(count)
        lattice = lattice_of(values, asked)
        fine = OPS.narrow_band_refine(
            lattice.values, lattice.table, lattice.coordinates, lattice.asked, None,
            list(values.shape), [2 * n - 2 for n in values.shape], [0.05] * 8, 0.0, True, 0, False,
        )  # fmt: skip
        results.append([tensor.nan_to_num(9) for tensor in fine])
    for other in results[1:]:
        for a, b in zip(other, results[0], strict=True):
            assert torch.equal(a, b)
