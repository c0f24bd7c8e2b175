# SPDX-License-Identifier: Apache-2.0
"""A user's field: what it must return, its gradient, and the memory it takes."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

Field = Callable[[Tensor], Tensor]

MEMORY_BUDGET = 2**30  # bytes

_PROBE_POINTS = 256
_SURELY_FITS = 4096  # points


def check_field_values(value: Any, points: Tensor) -> Tensor:
    """Return what a field gave if it is one floating number a point, else raise."""
    if not isinstance(value, Tensor):
        raise TypeError(f"field: must return a tensor, got {type(value).__name__}")
    if value.shape != points.shape[:1]:
        raise ValueError(
            f"field: must return (P,) for points (P, 3), here ({points.shape[0]},), "
            f"got {tuple(value.shape)}"
        )
    if not value.is_floating_point():
        raise ValueError(f"field: must return floating numbers, got {value.dtype}")
    if value.device != points.device:
        raise ValueError(f"field: must return values on {points.device}, got {value.device}")
    return value


def value_and_gradient(
    field: Field, points: Tensor, memory_budget: int = MEMORY_BUDGET
) -> tuple[Tensor, Tensor]:
    """Return a field's value (P,), attached to the field, and its detached gradient (P, 3).

    A field that closes over nothing with a gradient gives a detached value. Where the graph of all
    points would not fit the budget, points are taken in chunks, whose graphs are made once more,
    one at a time, in the backward.
    """
    chunk = _chunk_size(field, points, memory_budget)
    if len(points) <= chunk:
        return _value_and_gradient(field, points)
    values, gradients = [], []
    for part in points.detach().split(chunk):
        gradients.append(_value_and_gradient(field, part)[1])
        with torch.enable_grad():
            values.append(checkpoint(field, part, use_reentrant=False))
    value = torch.cat(values)
    return value, torch.cat(gradients)


def _value_and_gradient(field: Field, points: Tensor) -> tuple[Tensor, Tensor]:
    at = points.detach().clone().requires_grad_(True)
    with torch.enable_grad():
        value = check_field_values(field(at), at)
    leaves = leaves_of(value)
    check_differentiable(any(leaf is at for leaf in leaves))
    (gradient,) = torch.autograd.grad(value.sum(), at, retain_graph=True)
    return value if len(leaves) > 1 else value.detach(), gradient


def _chunk_size(field: Field, points: Tensor, memory_budget: int) -> int:
    """Return how many points' graphs fit the budget, from what a few of them take."""
    if len(points) <= _SURELY_FITS:
        return len(points)
    with PeakMemory() as memory:
        _value_and_gradient(field, points[:_PROBE_POINTS])
    return max(_PROBE_POINTS, int(memory_budget * _PROBE_POINTS / memory.peak))


def check_differentiable(depends_on_points: bool) -> None:
    """Raise unless a field's value depends on its points."""
    if not depends_on_points:
        raise RuntimeError("mesh_sdf: field must be differentiable in its points, got a constant")


def leaves_of(value: Tensor) -> list[Tensor]:
    """Return the leaves that would receive a gradient from ``value``."""
    leaves = []
    seen: set[Any] = {None}
    waiting: list[Any] = [value.grad_fn]
    if value.grad_fn is None and value.requires_grad:
        leaves.append(value)
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves.append(node.variable)
        waiting.extend(following for following, _ in node.next_functions)
    return leaves


class PeakMemory(TorchDispatchMode):
    """Measures the most bytes that new tensors hold at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._add(tensor)
        return out

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self.seen:
            return
        self.seen.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.live -= size
