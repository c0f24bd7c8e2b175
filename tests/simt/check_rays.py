# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels of tracing, shading and coverage against their CPU ops, to the last bit."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import pytest
import torch
from check_kernels import FLOATS, assert_equal, ball, smooth
from ray_scenes import (
    FIELDS,
    INSIDE,
    LEVEL,
    SPHERES,
    Field,
    Scene,
    Traced,
    cpu,
    explicit,
    pictures,
    scenes,
    simt,
)
from torch import Tensor

pytestmark = pytest.mark.usefixtures("one_thread")

# Around what a warp (32) and a word of signs (64) hold, on every axis.
SHAPES = [(2, 2, 2), (3, 5, 130), (2, 65, 33), (64, 3, 2), (7, 6, 5)]


# trace


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_trace(
    generator: torch.Generator, dtype: torch.dtype, shape: tuple[int, int, int], field: Field
) -> None:
    values = field(generator, (2, *shape), dtype)
    for rows in range(3):
        scene = explicit(generator, values, 100, rows)
        assert_equal(scene.trace(simt, inside=rows), scene.trace(cpu, inside=rows))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("field", FIELDS)
def test_trace_with_every_option(
    generator: torch.Generator, field: Field, dtype: torch.dtype
) -> None:
    values = field(generator, (2, 7, 6, 5), dtype)
    for rows, sphere in product(range(3), SPHERES):
        scene = explicit(generator, values, 100, rows)
        for inside in INSIDE:
            arguments = {"inside": inside, "sphere": sphere, "capture": rows != inside}
            assert_equal(scene.trace(simt, **arguments), scene.trace(cpu, **arguments))


@pytest.mark.parametrize("size", [(1, 1), (4, 8), (9, 19), (21, 5)])
@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_trace_pictures(
    generator: torch.Generator, dtype: torch.dtype, field: Field, size: tuple[int, int]
) -> None:
    values = field(generator, (2, 7, 9, 8), dtype)
    for rows, kind in ((0, 0), (0, 2), (1, 1), (2, 0), (2, 2)):
        scene = pictures(generator, values, size, each=3, rows=rows)
        arguments = {"inside": rows, "sphere": SPHERES[kind]}
        assert_equal(scene.trace(simt, **arguments), scene.trace(cpu, **arguments))


@pytest.mark.parametrize("count", [10, 60, 300, 2000, 14_000])
def test_trace_with_blocks_of_each_size(generator: torch.Generator, count: int) -> None:
    """The fewer the rays, the larger the blocks: 16 cells a side down to one. Most are empty."""
    values = ball(generator, (2, 41, 40, 67), torch.float32) - 0.1
    scene = explicit(generator, values, count, odd=False)
    for rows in (0, 1):
        scene = replace(scene, footprint=scene.footprint[:rows] / 10)
        expected = scene.trace(cpu)
        assert (expected[1] != 0).sum() > count / 4
        assert_equal(scene.trace(simt), expected)


def test_trace_far_from_the_surface(generator: torch.Generator) -> None:
    """Farther than distances between blocks are known, along every axis."""
    for axis in range(3):
        shape = [3, 4, 5]
        shape[axis] = 90
        values = torch.ones(1, *shape)
        values.select(axis + 1, 88)[:] = -1
        scene = explicit(generator, values, 2000, rows=0)
        expected = scene.trace(cpu)
        assert (expected[1] == 1).sum() > 100
        assert_equal(scene.trace(simt), expected)


def test_scenes_have_every_outcome(generator: torch.Generator) -> None:
    statuses, kinds = set(), set()
    scene = explicit(generator, smooth(generator, (2, 7, 6, 5), torch.float64), 200)
    for inside, sphere in product(INSIDE, SPHERES):
        hits = scene.trace(cpu, inside=inside, sphere=sphere, far=1.5)
        statuses |= set(hits[1].tolist())
        kinds |= set(hits[7].tolist())
    assert statuses == kinds == set(range(6))


@pytest.mark.parametrize("limits", [(0.3, 0.7), (-0.5, 0.2), (0.5, 0.5001), (2.0, 1e30)])
def test_trace_within_limits(generator: torch.Generator, limits: tuple[float, float]) -> None:
    scene = explicit(generator, smooth(generator, (1, 7, 6, 5), torch.float32), 500)
    for sphere in SPHERES:
        arguments = {"near": limits[0], "far": limits[1], "sphere": sphere, "level": -0.3}
        assert_equal(scene.trace(simt, **arguments), scene.trace(cpu, **arguments))


@pytest.mark.parametrize("dtype", FLOATS)
def test_steepest_slope_wherever_it_is(generator: torch.Generator, dtype: torch.dtype) -> None:
    """Where rays stop that step by the measured slope tells what it is: here that at one node."""
    shape = (3, 9, 70)
    ramp = torch.linspace(1, -1, shape[2], dtype=dtype).expand(2, *shape)
    scene = explicit(generator, ramp, 40, rows=0, odd=False)
    sphere = [0.02, 0.0, 300, 0.0, 0.0]
    for node in product(*((0, n // 2, n - 1) for n in shape)):
        values = ramp.clone()
        values[(1, *node)] += 0.02
        scene = replace(scene, values=values)
        expected = scene.trace(cpu, sphere=sphere)
        assert (expected[1] == 1).sum() > 5
        assert_equal(scene.trace(simt, sphere=sphere), expected)


@pytest.mark.parametrize("fill", [-1.0, 1.0, math.nan, math.inf, -math.inf])
def test_trace_of_a_constant(generator: torch.Generator, fill: float) -> None:
    values = torch.full((2, 3, 4, 66), fill)
    scene = explicit(generator, torch.zeros_like(values), 50)
    scene = replace(scene, values=values)
    for inside, sphere in product(INSIDE, SPHERES):
        arguments = {"inside": inside, "sphere": sphere}
        assert_equal(scene.trace(simt, **arguments), scene.trace(cpu, **arguments))


# Shading and coverage


def shade(ops, of: Traced, falloff: bool, central: bool) -> tuple[Tensor, ...]:
    scene = of.scene
    options = (1.5, falloff, central)
    return ops.shade(scene.values, *scene.rays, *of.hits[:3], scene.light, *scene.where, *options)


def coverage(ops, of: Traced, min_slope: float) -> tuple[Tensor, ...]:
    scene, options = of.scene, (LEVEL, min_slope)
    hits = of.hits[5:7]
    return (
        ops.coverage(scene.values, *scene.rays, *hits, scene.footprint, *scene.where, *options),
    )  # fmt: skip


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_shade(generator: torch.Generator, dtype: torch.dtype, field: Field) -> None:
    for traced, falloff, central in product(scenes(generator, dtype, field), *[(False, True)] * 2):
        for rows in {0, len(traced.scene.light)}:
            scene = replace(traced.scene, light=traced.scene.light[:rows])
            lit = replace(traced, scene=scene)
            assert_equal(shade(simt, lit, falloff, central), shade(cpu, lit, falloff, central))


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_coverage(generator: torch.Generator, dtype: torch.dtype, field: Field) -> None:
    for traced, min_slope in product(scenes(generator, dtype, field), (0.1, 5.0)):
        expected = coverage(cpu, traced, min_slope)
        assert_equal(coverage(simt, traced, min_slope), expected)


# Nothing to do


@pytest.mark.parametrize(("grids", "count"), [(0, 5), (2, 0)])
def test_no_rays(grids: int, count: int) -> None:
    rays = torch.zeros(grids, count, 3)
    scene = Scene(torch.ones(grids, 3, 4, 5), rays, rays, [], torch.ones(1), torch.ones(1, 3))
    assert_nothing_to_do(scene)


def test_no_pictures() -> None:
    rays = torch.zeros(0, 3), torch.zeros(0, 3, 3)
    assert_nothing_to_do(
        Scene(torch.ones(0, 3, 4, 5), *rays, [4, 5], torch.ones(1), torch.ones(1, 3))
    )


def assert_nothing_to_do(scene: Scene) -> None:
    traced = Traced.of(torch.Generator(), scene)
    assert len(traced.hits[0]) == 0
    assert_equal(scene.trace(simt), traced.hits)
    assert_equal(shade(simt, traced, False, True), shade(cpu, traced, False, True))
    assert_equal(coverage(simt, traced, 0.1), coverage(cpu, traced, 0.1))
