# SPDX-License-Identifier: Apache-2.0
"""The harness itself: what self_test.cu computes, and that its planted faults are caught."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

torch.ops.load_library(os.environ["DIFFISO_SIMT_LIBRARY"])

SIZES = [1, 31, 32, 33, 64, 200, 1000]
ops = torch.ops.simt_self_test


@pytest.fixture(params=SIZES)
def values(request: pytest.FixtureRequest) -> torch.Tensor:
    generator = torch.Generator().manual_seed(request.param)
    return torch.randint(-2, 3, (request.param,), generator=generator)


def test_ballot(values: torch.Tensor) -> None:
    padded = torch.zeros(-(-len(values) // 64) * 64, dtype=torch.int64)
    padded[: len(values)] = values
    words = ((padded.view(-1, 32) != 0).long() << torch.arange(32)).sum(1)
    assert torch.equal(ops.ballot(values), torch.where(words == 0, -1, words))


@pytest.mark.parametrize("width", [2, 8, 32])
def test_shuffle(values: torch.Tensor, width: int) -> None:
    count = len(values)
    lane = torch.arange(count) % width
    first = torch.arange(count) - lane
    sources = [
        first,
        first + (lane - 1).clamp(min=0),
        first + (lane + 1).clamp(max=width - 1),
        first + (lane ^ 1),
    ]
    padded = torch.cat([values, values.new_zeros(width)])
    assert torch.equal(ops.shuffle(values, width).view(4, -1), padded[torch.stack(sources)])


def test_shared_memory(values: torch.Tensor) -> None:
    expected = torch.cat([block.flip(0) for block in values.split(64)])
    assert torch.equal(ops.reverse(values, True), expected)


def test_missing_barrier_shows_in_one_order_of_the_threads() -> None:
    values = torch.arange(1, 129)
    expected = torch.cat([block.flip(0) for block in values.split(64)])
    assert not torch.equal(ops.reverse(values, False), expected)


def test_atomics_and_block_sums(values: torch.Tensor) -> None:
    assert ops.sums(values) == (values.sum(), values.square().sum())


def test_warp_sums(values: torch.Tensor) -> None:
    expected = torch.cat([group.cumsum(0) for group in values.split(8)])
    assert torch.equal(ops.warp_sum(values), expected)


def test_exclusive_sum(values: torch.Tensor) -> None:
    assert torch.equal(ops.exclusive_sum(values), values.cumsum(0) - values)


def test_sort_is_stable_and_looks_at_the_bits_named(values: torch.Tensor) -> None:
    keys = values + 2 + (torch.arange(len(values)) % 2 << 3)
    sorted_keys, order = ops.sort(keys, torch.arange(len(values)), 3)
    expected = torch.sort(values, stable=True).indices
    assert torch.equal(order, expected)
    assert torch.equal(sorted_keys, keys[expected])


def test_empty() -> None:
    empty = torch.zeros(0, dtype=torch.int64)
    assert len(ops.ballot(empty)) == len(ops.exclusive_sum(empty)) == 0
    assert [len(out) for out in ops.sort(empty, empty, 3)] == [0, 0]


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (1, "16 (first: thread 0) at __ballot_sync .* 32 (first: thread 1) past the end"),
        (2, "at __ballot_sync .* 32 (first: thread 1) at __syncthreads"),
        (3, "63 (first: thread 0) at __syncthreads .* 1 (first: thread 3) past the end"),
        (4, "__shfl_sync .* reads lane 20"),
        (5, "__ballot_sync .* leaves out its own lane 0"),
    ],
)
def test_divergence_is_an_error(choice: int, message: str) -> None:
    values = torch.zeros(64, dtype=torch.int64)
    with pytest.raises(RuntimeError, match=message.replace("(", r"\(").replace(")", r"\)")):
        ops.fault(values, choice)
    assert torch.equal(ops.warp_sum(values), values)  # the harness goes on


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (0, "heap-buffer-overflow"),
        (6, "global-buffer-overflow"),
        (7, "stack-buffer-overflow"),
    ],
)
def test_out_of_bounds_ends_the_process(choice: int, message: str) -> None:
    script = (
        "import os, torch; torch.ops.load_library(os.environ['DIFFISO_SIMT_LIBRARY']);"
        f"torch.ops.simt_self_test.fault(torch.zeros(64, dtype=torch.int64), {choice})"
    )
    child = subprocess.run(
        [sys.executable, "-c", script], env=os.environ, capture_output=True, text=True
    )
    assert child.returncode != 0
    assert message in child.stderr
    assert "self_test.cu" in child.stderr
