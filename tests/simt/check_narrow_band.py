# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels of the narrow band against its CPU ops: the same bits in the same order."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import NamedTuple

import pytest
import torch
from fields import GRID_DTYPES
from torch import Tensor

import diffiso
from diffiso.ops._band_lattice import pack

torch.ops.load_library(os.environ["DIFFISO_SIMT_LIBRARY"])

assert diffiso.build_info()
cpu = torch.ops.diffiso
simt = torch.ops.diffiso_simt

# Within a brick (8), exactly one or two, and beyond them by a node; a table of more than 32 places.
LATTICES = [(2, 2, 2), (8, 8, 8), (9, 16, 17), (33, 10, 3), (26, 41, 30)]
NOTHING = [0.0] * 8


class Band(NamedTuple):
    """Samples at some nodes of a lattice, and what is remembered of some."""

    values: Tensor
    table: Tensor
    coordinates: Tensor
    asked: Tensor
    remembered: Tensor
    before: Tensor
    keep: Tensor
    nodes: list[int]

    @property
    def lattice(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.values, self.table, self.coordinates, self.asked


def random_band(
    generator: torch.Generator,
    nodes: tuple[int, int, int],
    dtype: torch.dtype,
    bricks: float = 0.6,
    asked: float = 0.9,
) -> Band:
    """A ball whose surface is rough, in a share of the bricks and at a share of their nodes.

    Values are quarters, so that many are equal; some are no numbers, and those at nodes that were
    not asked for must not be looked at. Some bricks hold nothing. Bricks come in any order.
    """

    def chance(share: float, *shape: int) -> Tensor:
        return torch.rand(shape, generator=generator) < share

    tiles = [-(-n // 8) for n in nodes]
    places = torch.randperm(math.prod(tiles), generator=generator)
    places = places[: math.ceil(bricks * len(places))]
    count = len(places)
    table = torch.full((math.prod(tiles),), -1, dtype=torch.int32)
    table[places] = torch.arange(count, dtype=torch.int32)
    coordinates = torch.stack(torch.unravel_index(places, tiles), dim=1)
    local = torch.cartesian_prod(*[torch.arange(8)] * 3)
    node = (8 * coordinates[:, None] + local).view(count, 8, 8, 8, 3)
    size = torch.tensor(nodes)
    exists = (node < size).all(dim=-1)
    values = (node - size / 2).double().norm(dim=-1) - 0.35 * min(nodes)
    values += 0.7 * torch.randn(values.shape, generator=generator)
    values = (4 * values).round() / 4
    for number in (math.nan, math.inf, -math.inf):
        values[chance(0.01, *values.shape)] = number
    alive = exists & chance(1.0 if asked == 1.0 else 0.9, count, 1, 1, 1)
    remembered = alive & chance(0.6, *values.shape) & chance(0.7, count, 1, 1, 1)
    return Band(
        values.to(dtype),
        table.view(tiles),
        coordinates.int(),
        pack(alive & chance(asked, *values.shape)),
        pack(remembered),
        pack(remembered & chance(0.5, *values.shape)),
        pack(chance(0.1, *values.shape)),
        list(nodes),
    )


def assert_same_bits(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    for ours, theirs in zip(actual, expected, strict=True):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        assert torch.equal(ours.view(torch.uint8), theirs.view(torch.uint8))


def outputs(ops, op: str, band: Band, *rest) -> Sequence[Tensor]:
    out = getattr(ops, f"narrow_band_{op}")(*band.lattice, *rest)
    return [out] if isinstance(out, Tensor) else out


def assert_refines_alike(band: Band, *rule) -> int:
    """Both sizes of fine lattice that have these nodes; return how many ids come out."""
    total = 0
    for odd in (0, 1):
        fine = [2 * n - 1 - (odd if n > 2 else 0) for n in band.nodes]
        keep, reach, level, by_bound, dilation = rule
        for closed in (False, True):
            arguments = (keep, band.nodes, fine, reach, level, by_bound, dilation, closed)
            expected = cpu.narrow_band_refine(*band.lattice, *arguments)
            assert_same_bits(simt.narrow_band_refine(*band.lattice, *arguments), expected)
        total += len(expected[-1])
    return total


@pytest.fixture(params=LATTICES, ids=str)
def nodes(request: pytest.FixtureRequest) -> tuple[int, int, int]:
    return request.param


@pytest.mark.parametrize("dtype", GRID_DTYPES)
def test_refine_by_bound(generator: torch.Generator, nodes, dtype: torch.dtype) -> None:
    spacings = torch.cartesian_prod(*(torch.tensor([h, 2 * h]) for h in (0.5, 0.6, 0.75)))
    reach = spacings.norm(dim=1).tolist()
    some = 0
    for share, asked in ((1.0, 1.0), (1.0, 0.97), (0.5, 0.97)):
        band = random_band(generator, nodes, dtype, share, asked)
        some += assert_refines_alike(band, None, reach, 0.25, True, 0)
    assert some > 0 or max(nodes) == 2


@pytest.mark.parametrize("dilation", [0, 1, 2, 9])
@pytest.mark.parametrize("dtype", GRID_DTYPES)
def test_refine_by_sign(
    generator: torch.Generator, nodes, dtype: torch.dtype, dilation: int
) -> None:
    band = random_band(generator, nodes, dtype, 1, 0.99)
    some = assert_refines_alike(band, None, NOTHING, 0.25, False, dilation)
    assert some > 0 or max(nodes) == 2
    band = random_band(generator, nodes, dtype, 0.4)
    assert_refines_alike(band, None, NOTHING, 0.25, False, dilation)


@pytest.mark.parametrize("dilation", [0, 1, 2, 9, 1000])
def test_refine_by_mask(generator: torch.Generator, nodes, dilation: int) -> None:
    band = random_band(generator, nodes, torch.float32, 0.7, 0.98)
    assert_refines_alike(band, band.keep, NOTHING, 0.0, False, dilation)


@pytest.mark.parametrize("threshold", [0.0, 0.75])
@pytest.mark.parametrize("dtype", GRID_DTYPES)
def test_reuse(generator: torch.Generator, nodes, dtype: torch.dtype, threshold: float) -> None:
    for share, asked in ((1.0, 1.0), (0.6, 0.95)):
        band = random_band(generator, nodes, dtype, share, asked)
        expected = outputs(cpu, "reuse", band, band.nodes, 0.25, threshold)
        assert_same_bits(outputs(simt, "reuse", band, band.nodes, 0.25, threshold), expected)
        assert expected[0].any() or max(nodes) == 2


@pytest.mark.parametrize("dtype", GRID_DTYPES)
def test_grow(generator: torch.Generator, nodes, dtype: torch.dtype) -> None:
    """From partial bands with memory and without, and from one that lacks nothing."""
    joined = 0
    for share, asked in ((0.5, 0.9), (0.2, 0.5), (1.0, 1.0)):
        band = random_band(generator, nodes, dtype, share, asked)
        nothing = torch.zeros_like(band.asked)
        for memory in ((band.remembered, band.before), (nothing, nothing)):
            expected = outputs(cpu, "grow", band, *memory, band.nodes, 0.25)
            assert_same_bits(outputs(simt, "grow", band, *memory, band.nodes, 0.25), expected)
            joined += len(expected[-1])
    assert len(expected[-1]) == 0
    assert joined > 0 or max(nodes) == 2


def test_grow_repeats_to_the_bit(generator: torch.Generator) -> None:
    """Marks are set in any order: the harness turns the order of threads around."""
    band = random_band(generator, (26, 41, 30), torch.float32)
    rest = (band.remembered, band.before, band.nodes, 0.25)
    first = outputs(simt, "grow", band, *rest)
    for _ in range(3):
        assert_same_bits(outputs(simt, "grow", band, *rest), first)


@pytest.mark.parametrize("dtype", GRID_DTYPES)
def test_slope(generator: torch.Generator, nodes, dtype: torch.dtype) -> None:
    """Quarters make many pairs equally steep."""
    lengths = [0.0, 0.5, 0.25, 0.75, 0.25, 0.75, 0.5, 1.0]
    for share in (1.0, 0.5, 0.0):
        band = random_band(generator, nodes, dtype, share)
        assert_same_bits(*(outputs(ops, "slope", band, band.nodes, lengths) for ops in (simt, cpu)))


def test_slopes_that_round_to_the_same(generator: torch.Generator) -> None:
    """Rises of a few ulp about one: different numbers, but equal after the division."""
    band = random_band(generator, (17, 17, 17), torch.float64, 1.0)
    ulps = torch.randint(0, 4, band.values.shape, generator=generator)
    low = torch.rand(ulps.shape, generator=generator) < 0.5
    band = band._replace(values=torch.where(low, 0.0, 1 + ulps.double() * 2.0**-52))
    rest = (band.nodes, [0.0, *[1.9] * 7])
    assert_same_bits(*(outputs(ops, "slope", band, *rest) for ops in (simt, cpu)))


@pytest.mark.parametrize("number", [-1.0, 1.0, math.nan, math.inf])
def test_of_a_constant(generator: torch.Generator, number: float) -> None:
    band = random_band(generator, (9, 17, 8), torch.float32, 1.0, 1.0)
    band = band._replace(values=torch.full_like(band.values, number))
    nothing = torch.zeros_like(band.asked)
    assert_refines_alike(band, None, [2.0] * 8, 0.0, True, 0)
    assert_refines_alike(band, None, NOTHING, 0.0, False, 1)
    for op, rest in (
        ("reuse", (band.nodes, 0.0, 0.0)),
        ("grow", (nothing, nothing, band.nodes, 0.0)),
        ("slope", (band.nodes, [1.0] * 8)),
    ):
        assert_same_bits(*(outputs(ops, op, band, *rest) for ops in (simt, cpu)))


@pytest.mark.parametrize("dtype", GRID_DTYPES)
def test_of_no_bricks(generator: torch.Generator, dtype: torch.dtype) -> None:
    band = random_band(generator, (9, 10, 40), dtype, 0.0)
    for rule in ((None, [1.0] * 8, 0.0, True, 0), (None, NOTHING, 0.0, False, 1)):
        assert assert_refines_alike(band, *rule) == 0
    for op, rest in (
        ("reuse", (band.nodes, 0.0, 0.0)),
        ("reuse", (band.nodes, 0.0, 1.0)),
        ("grow", (band.remembered, band.before, band.nodes, 0.0)),
    ):
        assert_same_bits(*(outputs(ops, op, band, *rest) for ops in (simt, cpu)))


@pytest.mark.parametrize("dilation", [0, 1, 2, 5, 9])
def test_a_lone_brick_reaches_as_far_as_memory_is_laid_out(dilation: int) -> None:
    nodes = [40, 40, 40]
    table = torch.full((5, 5, 5), -1, dtype=torch.int32)
    table[2, 2, 2] = 0
    full = torch.full((1, 8), -1)
    values = torch.arange(512.0).view(1, 8, 8, 8) - 256
    band = Band(values, table, torch.tensor([[2, 2, 2]]).int(), full, full, full, full, nodes)
    assert assert_refines_alike(band, full, NOTHING, 0.0, False, dilation) > 0
    assert assert_refines_alike(band, None, NOTHING, 0.0, False, dilation) > 0
    assert assert_refines_alike(band, None, [300.0] * 8, 0.0, True, 0) > 0
    for memory in (full, ~full):
        rest = (memory, full, nodes, 0.0)
        expected = outputs(cpu, "grow", band, *rest)
        assert_same_bits(outputs(simt, "grow", band, *rest), expected)
        assert len(expected[0]) > 1


def test_a_table_that_contradicts_the_coordinates(generator: torch.Generator) -> None:
    """Whatever it says, nothing is read or written elsewhere, and both backends take it alike."""
    band = random_band(generator, (26, 17, 30), torch.float32)
    count = len(band.values)
    band = band._replace(
        table=torch.randint(-4, count + 4, band.table.shape, generator=generator).int(),
        coordinates=torch.randint(-2, 7, (count, 3), generator=generator).int(),
    )
    assert_refines_alike(band, None, [2.0] * 8, 0.0, True, 0)
    for dilation in (0, 2):
        assert_refines_alike(band, None, NOTHING, 0.0, False, dilation)
    for op, rest in (
        ("reuse", (band.nodes, 0.0, 0.0)),
        ("reuse", (band.nodes, 0.0, 1.0)),
        ("grow", (band.remembered, band.before, band.nodes, 0.0)),
        ("slope", (band.nodes, [1.0] * 8)),
    ):
        assert_same_bits(*(outputs(ops, op, band, *rest) for ops in (simt, cpu)))
