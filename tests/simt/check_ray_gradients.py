# SPDX-License-Identifier: Apache-2.0
"""The CUDA backwards of tracing, shading and coverage against their CPU ops.

What is of one ray must agree to the last bit. Sums over rays are compared within what their
roundings can come to: as many times the digits of the dtype as there are terms, times the sum of
their sizes. The terms are known from a run in which every ray has a grid of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from check_kernels import FLOATS, assert_equal, smooth
from ray_scenes import (
    FIELDS,
    LEVEL,
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

# Each gives the gradients of values, origins and directions; then of t, and of light or footprint.


def trace_backward(
    ops,
    of: Traced,
    deterministic: bool,
    law: bool = False,
    min_cosine: float = 0.1,
    asked=(True,) * 3,
    rays: bool = True,
) -> tuple[Tensor, ...]:
    scene = of.scene
    names = ("t", "samples", "closest_t")
    grads = [of.grads[n] if wanted else None for n, wanted in zip(names, asked, strict=True)]
    t, status, cell, _, _, *closest = of.hits
    hits = (t, status, cell, *closest)
    options = (law, min_cosine, rays, deterministic)
    return ops.trace_backward(*grads, scene.values, *scene.rays, *hits, *scene.where, *options)


def shade_backward(
    ops, of: Traced, deterministic: bool, falloff: bool = False, central: bool = True,
    asked=(True, True), rays: bool = True,
) -> tuple[Tensor, ...]:  # fmt: skip
    scene = of.scene
    names = ("intensity", "normals")
    grads = [of.grads[n] if wanted else None for n, wanted in zip(names, asked, strict=True)]
    options = (1.5, falloff, central, rays, deterministic)
    inputs = (scene.values, *scene.rays, *of.hits[:3], scene.light, *scene.where)
    return ops.shade_backward(*grads, *inputs, *options)


def coverage_backward(
    ops, of: Traced, deterministic: bool, min_slope: float = 0.1, rays: bool = True
) -> tuple[Tensor, ...]:
    scene = of.scene
    inputs = (scene.values, *scene.rays, *of.hits[5:7], scene.footprint, *scene.where)
    options = (LEVEL, min_slope, rays, deterministic)
    return ops.coverage_backward(of.grads["share"], *inputs, *options)


Backward = Callable[..., tuple[Tensor, ...]]


def assert_sums(
    actual: Tensor, expected: Tensor, terms: Tensor, digits: float, rounded: float = 0.0
) -> None:
    """Compare sums of (n, ...) terms; each addition rounds, and so may the result."""
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
    sizes, count = terms.double().abs().sum(0), (terms != 0).sum(0)
    room = 2 * digits * count * sizes + rounded * expected.double().abs()
    assert ((actual - expected).double().abs() <= room).all()


def assert_same_backward(backward: Backward, of: Traced, **options) -> None:
    """Compare both orders of the sums with the CPU, and each with itself."""
    scene, count = of.scene, len(of.hits[0])
    grids, groups = len(scene.values), len(scene.origins)
    expected = backward(cpu, of, False, **options)
    apart = backward(cpu, of.apart(), False, **options)
    digits, double_digits = (torch.finfo(x).eps for x in (scene.values.dtype, torch.float64))

    def terms(of_rays: Tensor, rows: int) -> Tensor:
        return of_rays.view(rows, count // rows, *of_rays.shape[1:]).transpose(0, 1)

    sums = {}  # but for those of the values: by output, the terms of each
    if scene.size:
        matrices = apart[2].view(count, 3, 1).double() * of.pixels().double()
        sums = {1: terms(apart[1].view(count, 3), groups), 2: terms(matrices, groups)}
    if len(expected) > 4 and len(expected[4]) > 0:
        sums[4] = terms(apart[4], len(expected[4]))
    for deterministic in (False, True):
        actual, again = (backward(simt, of, deterministic, **options) for _ in range(2))
        assert_sums(actual[0], expected[0], terms(apart[0], grids), digits)
        for n in range(1, len(expected)):
            if n in sums:
                assert_sums(actual[n], expected[n], sums[n], double_digits, digits)
            else:
                assert_equal([actual[n]], [expected[n]])
        # The harness turns the order of threads around from launch to launch.
        assert_equal(actual[1:], again[1:])
        assert torch.equal(actual[0], again[0]) or not deterministic


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_trace_backward(generator: torch.Generator, dtype: torch.dtype, field: Field) -> None:
    options = {}, {"asked": (True, False, False), "law": True}, {"asked": (False, True, True)}
    for n, traced in enumerate(scenes(generator, dtype, field)):
        assert_same_backward(trace_backward, traced, **options[n // 2])


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_shade_backward(generator: torch.Generator, dtype: torch.dtype, field: Field) -> None:
    options = (
        {"falloff": True},
        {"asked": (True, False)},
        {"asked": (False, True), "central": False},
    )
    for n, traced in enumerate(scenes(generator, dtype, field)):
        assert_same_backward(shade_backward, traced, **options[n // 2])
    dark = replace(traced, scene=replace(traced.scene, light=traced.scene.light[:0]))
    assert_same_backward(shade_backward, dark)  # lit from where the rays begin


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_coverage_backward(generator: torch.Generator, dtype: torch.dtype, field: Field) -> None:
    for n, traced in enumerate(scenes(generator, dtype, field)):
        assert_same_backward(coverage_backward, traced, min_slope=(0.1, 5.0, 0.5)[n // 2])


@pytest.mark.parametrize("backward", [trace_backward, shade_backward, coverage_backward])
@pytest.mark.parametrize("rows", [1, 2])
def test_sums_over_many_blocks(generator: torch.Generator, backward: Backward, rows: int) -> None:
    """More pieces of a picture than rows of threads that add them up."""
    values = smooth(generator, (1, 3, 4, 2), torch.float32)
    traced = Traced.of(generator, pictures(generator, values, (67, 66), 2, rows))
    assert (traced.hits[1] != 0).sum() > 1000
    assert_same_backward(backward, traced)


@pytest.mark.parametrize("backward", [trace_backward, shade_backward, coverage_backward])
def test_gradients_of_rays_only_when_asked(generator: torch.Generator, backward: Backward) -> None:
    values = smooth(generator, (2, 3, 4, 5), torch.float32)
    for scene in (
        explicit(generator, values, 50, odd=False), pictures(generator, values, (5, 9), 1)
    ):  # fmt: skip
        traced = Traced.of(generator, scene)
        asked, left = (backward(simt, traced, True, rays=rays) for rays in (True, False))
        assert all(x.count_nonzero() > 0 for x in asked)
        assert left[1].count_nonzero() == left[2].count_nonzero() == 0
        assert_equal([left[0], *left[3:]], [asked[0], *asked[3:]])


@pytest.mark.parametrize(("grids", "count"), [(0, 5), (2, 0)])
@pytest.mark.parametrize("backward", [trace_backward, shade_backward, coverage_backward])
def test_no_rays(backward: Backward, grids: int, count: int) -> None:
    rays = torch.zeros(grids, count, 3)
    scene = Scene(torch.ones(grids, 3, 4, 5), rays, rays, [], torch.ones(1), torch.ones(1, 3))
    traced = Traced.of(torch.Generator(), scene)
    for deterministic in (False, True):
        actual = backward(simt, traced, deterministic)
        assert_equal(actual, backward(cpu, traced, False))
        assert all(x.count_nonzero() == 0 for x in actual)
