# SPDX-License-Identifier: Apache-2.0
"""The shapes that the steps of a narrow band give, for tracing. None is differentiable."""

from __future__ import annotations

import torch
from torch import Tensor

from diffiso.types import BRICK_SIZE


def _fake_refine(
    values: Tensor,
    table: Tensor,
    coordinates: Tensor,
    asked: Tensor,
    keep: Tensor | None,
    nodes: list[int],
    fine_nodes: list[int],
    reach: list[float],
    level: float,
    by_bound: bool,
    dilation: int,
    closed: bool,
) -> tuple[Tensor, ...]:
    context = torch.library.get_ctx()
    bricks, count = context.new_dynamic_size(), context.new_dynamic_size()
    return (
        values.new_empty((bricks, *(BRICK_SIZE,) * 3)),
        table.new_empty([-(-n // BRICK_SIZE) for n in fine_nodes]),
        coordinates.new_empty((bricks, 3)),
        asked.new_empty((bricks, BRICK_SIZE)),
        asked.new_empty((count,)),
    )


def _fake_reuse(
    values: Tensor,
    table: Tensor,
    coordinates: Tensor,
    asked: Tensor,
    nodes: list[int],
    level: float,
    threshold: float,
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(asked), torch.empty_like(asked), torch.empty_like(asked)


def _fake_grow(
    values: Tensor,
    table: Tensor,
    coordinates: Tensor,
    asked: Tensor,
    remembered: Tensor,
    before: Tensor,
    nodes: list[int],
    level: float,
) -> tuple[Tensor, ...]:
    context = torch.library.get_ctx()
    bricks, count = context.new_dynamic_size(), context.new_dynamic_size()
    return (
        values.new_empty((bricks, *(BRICK_SIZE,) * 3)),
        torch.empty_like(table),
        coordinates.new_empty((bricks, 3)),
        *(asked.new_empty((bricks, BRICK_SIZE)) for _ in range(3)),
        asked.new_empty((count,)),
    )


def _fake_slope(
    values: Tensor,
    table: Tensor,
    coordinates: Tensor,
    asked: Tensor,
    nodes: list[int],
    lengths: list[float],
) -> Tensor:
    return values.new_empty((7,), dtype=torch.float64)


torch.library.register_fake("diffiso::narrow_band_refine", _fake_refine)
torch.library.register_fake("diffiso::narrow_band_reuse", _fake_reuse)
torch.library.register_fake("diffiso::narrow_band_grow", _fake_grow)
torch.library.register_fake("diffiso::narrow_band_slope", _fake_slope)
