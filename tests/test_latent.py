# SPDX-License-Identifier: Apache-2.0
"""Latent tables: a code moves by its own gradients only, and never beyond its greatest length."""

import math

import pytest
import torch

from diffiso.fields import LatentTable


def descend(table, optimizer, batches):
    """Take a step for each batch of ids, towards codes far away."""
    for ids in batches:
        loss = (table(torch.tensor(ids)) - 10).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def test_codes_outside_the_batch_rest_with_their_momentum():
    table = LatentTable(6, 4)
    optimizer = torch.optim.SparseAdam(table.parameters(), lr=0.1)
    descend(table, optimizer, [[0, 1, 2]] * 3)  # 0 and 1 now have momentum
    before = table.weight.detach().clone()
    momentum = optimizer.state[table.weight]["exp_avg"].clone()
    assert (momentum[:2] != 0).all()
    descend(table, optimizer, [[2, 3], [3, 4], [4, 2]])
    rest, moved = [0, 1, 5], [2, 3, 4]
    assert torch.equal(table.weight[rest], before[rest])
    assert torch.equal(optimizer.state[table.weight]["exp_avg"][rest], momentum[rest])
    assert (table.weight[moved] != before[moved]).all()


def test_dense_adam_would_move_them_and_is_refused():
    codes = torch.nn.Embedding(6, 4)
    descend(codes, optimizer := torch.optim.Adam(codes.parameters(), 0.1), [[0, 1]] * 3)
    before = codes.weight.detach().clone()
    descend(codes, optimizer, [[2, 3]])
    assert (codes.weight[:2] != before[:2]).all()  # what the table is made against

    table = LatentTable(6, 4)
    with pytest.raises(RuntimeError, match="sparse"):
        descend(table, torch.optim.Adam(table.parameters(), 0.1), [[0, 1]])


def test_a_code_twice_in_a_batch_counts_twice():
    table = LatentTable(3, 2)
    table(torch.tensor([[1, 1], [0, 1]])).sum().backward()
    assert torch.equal(table.weight.grad.to_dense(), torch.tensor([[1.0, 1], [3, 3], [0, 0]]))


def test_norms_are_limited_after_the_step():
    table = LatentTable(5, 8, std=0.1, max_norm=1.0)
    optimizer = torch.optim.SparseAdam(table.parameters(), lr=1.0)
    before = table.weight.detach().clone()
    assert (before.norm(dim=1) < 1).all()
    descend(table, optimizer, [[1, 3]])
    long = table.weight.detach().clone()
    assert (long[[1, 3]].norm(dim=1) > 1).all()
    assert torch.equal(table(torch.arange(5)), long)  # the forward limits nothing
    table.limit_norms()
    # Shortened, in their own direction, to one; the others as they were.
    torch.testing.assert_close(
        table.weight[[1, 3]], long[[1, 3]] / long[[1, 3]].norm(dim=1, keepdim=True)
    )
    assert (table.weight.norm(dim=1) <= 1).all()
    assert torch.equal(table.weight[[0, 2, 4]], before[[0, 2, 4]])


@pytest.mark.parametrize("size", [1, 2, 64, 257])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_limiting_again_changes_nothing(size, dtype):
    """Else codes outside the batch would creep, by rounding, step after step."""
    table = LatentTable(2000, size, std=5.0).to(dtype)
    table.limit_norms(0.7)
    once = table.weight.detach().clone()
    assert (once.norm(dim=1) <= 0.7).all()
    table.limit_norms(0.7)
    assert torch.equal(table.weight, once)


def test_codes_start_within_the_limit():
    table = LatentTable(100, 4, std=3.0, max_norm=1.0)
    assert (table.weight.norm(dim=1) <= 1).all()
    zeros = LatentTable(2, 4, std=0.0, max_norm=1.0)
    assert torch.equal(zeros.weight, torch.zeros(2, 4))


def test_start(generator):
    table = LatentTable(1000, 16, generator=generator)
    again = LatentTable(1000, 16, generator=generator.manual_seed(0))
    assert torch.equal(table.weight, again.weight)
    # The standard deviation of 16,000 draws is known to 1 / sqrt(2 * 16,000) of itself: five times.
    assert float(table.weight.detach().std()) == pytest.approx(0.25, rel=5 / math.sqrt(32_000))
    assert LatentTable(3, 2, std=0.01).weight.abs().max() < 0.1


def test_state_returns():
    table, other = LatentTable(3, 2), LatentTable(3, 2)
    other.load_state_dict(table.state_dict())
    assert torch.equal(table.weight, other.weight)
    assert repr(table) == "LatentTable((3, 2), max_norm=None)"


def test_compiled_whole():
    table = LatentTable(5, 2)
    compiled = torch.compile(table, fullgraph=True, backend="aot_eager")
    ids = torch.tensor([4, 0])
    with torch.no_grad():
        assert torch.equal(compiled(ids), table(ids))


def test_errors():
    table = LatentTable(3, 2)
    with pytest.raises(ValueError, match="ids must be from 0 to 2, got 0 to 3"):
        table(torch.tensor([0, 3]))
    with pytest.raises(ValueError, match="ids must be from 0 to 2, got -1 to 1"):
        table(torch.tensor([1, -1]))
    with pytest.raises(ValueError, match=r"ids must be int64 or int32, got torch.float32"):
        table(torch.zeros(2))
    with pytest.raises(ValueError, match="count and size must be positive, got 0, 2"):
        LatentTable(0, 2)
    with pytest.raises(ValueError, match="std must not be negative, got -1"):
        LatentTable(1, 2, std=-1.0)
    with pytest.raises(ValueError, match="max_norm must be positive, got 0"):
        LatentTable(1, 2, max_norm=0.0)
    with pytest.raises(ValueError, match="max_norm must be positive, got -1"):
        table.limit_norms(-1.0)
    assert table(torch.empty(0, dtype=torch.int64)).shape == (0, 2)
