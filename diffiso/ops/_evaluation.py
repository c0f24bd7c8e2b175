# SPDX-License-Identifier: Apache-2.0
"""How a user's field is evaluated: on which box, in which dtype, in which pieces."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from diffiso.ops._field import Field, PeakMemory, check_field_values
from diffiso.types import Vector3, as_vector3

_PROBE_POINTS = 256
_LARGEST_CHUNK = 2**18  # points
# Bytes that a field may work on at a time on the CPU. An 8 x 128 network takes 1.6 times as long in
# pieces of four times as much: its layers' values leave the caches and need fresh pages every time.
_LARGEST_CHUNK_CPU = 2**24


class SampledBox:
    """A box and its nodes.

    Attributes:
        lower: World position of the first node.
        upper: World position of the last node.
        cells: Number of cells along each axis.
    """

    lower: Vector3
    upper: Vector3
    cells: tuple[int, int, int]

    def __init__(
        self,
        op: str,
        lower: float | Sequence[float] | Tensor,
        upper: float | Sequence[float] | Tensor,
        resolution: int | Sequence[int],
        least: int = 1,
    ) -> None:
        """Check bounds and resolution, for an op and the least number of cells it can do with."""
        self.lower = as_vector3(f"{op}: lower", lower)
        self.upper = as_vector3(f"{op}: upper", upper)
        try:
            each = resolution if isinstance(resolution, Iterable) else [resolution] * 3
            cells = [] if isinstance(resolution, bool) else [operator.index(n) for n in each]
        except TypeError:
            cells = []
        if len(cells) != 3 or min(cells) < least:
            rule = "positive numbers" if least == 1 else f"numbers, at least {least},"
            raise ValueError(
                f"{op}: resolution must be one or three {rule} of cells, got {resolution}"
            )
        self.cells = cells[0], cells[1], cells[2]
        if any(a >= b for a, b in zip(self.lower, self.upper, strict=True)):
            raise ValueError(
                f"{op}: upper must be above lower on every axis, got {self.lower} and {self.upper}"
            )

    @property
    def nodes(self) -> tuple[int, int, int]:
        """Number of nodes along each axis."""
        x, y, z = self.cells
        return x + 1, y + 1, z + 1

    @property
    def spacing(self) -> Vector3:
        """World distance of neighbouring nodes along each axis."""
        x, y, z = ((b - a) / n for a, b, n in zip(self.lower, self.upper, self.cells, strict=True))
        return x, y, z

    def axes(self, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
        """Return the nodes' world coordinates along each axis."""
        return [
            torch.linspace(a, b, n + 1, dtype=torch.float64, device=device).to(dtype)
            for a, b, n in zip(self.lower, self.upper, self.cells, strict=True)
        ]


class FieldEvaluator:
    """Evaluates a field at many points, in pieces that fit a memory budget.

    Attributes:
        dtype: dtype of the points.
        device: Device of the points.
        queries: How many points the field has been asked for.
    """

    dtype: torch.dtype
    device: torch.device
    queries: int

    def __init__(
        self,
        op: str,
        field: Field,
        lower: Any,
        memory_budget: int,
        dtype: torch.dtype | None,
        device: torch.device | str | None,
        least: int = 1,
    ) -> None:
        """Take a field for an op; the budget must hold at least so many points."""
        if not callable(field):
            raise TypeError(f"{op}: field must be a Grid or a callable, got {type(field).__name__}")
        self.dtype, self.device = points_like(field, lower, dtype, device)
        self.queries = 0
        self._op, self._field, self._budget, self._least = op, field, memory_budget, least
        self._chunk: int | None = None

    def evaluate(
        self,
        points_of: Callable[[int, int], Tensor],
        count: int,
        progress: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Return the field at points 0 to count, at least one, in the dtype that it returns.

        Args:
            points_of: Gives points (N, 3) from a first to before a last.
            count: How many there are.
            progress: Called with the number of points done and of all after each piece.
        """
        if self._chunk is None:
            self._chunk = self._chunk_size(points_of(0, min(count, _PROBE_POINTS)))
        values: Tensor | None = None
        for begin in range(0, count, self._chunk):
            end = min(count, begin + self._chunk)
            points = points_of(begin, end)
            part = check_field_values(self._field(points), points)
            self.queries += len(points)
            if values is None:
                values = part.new_empty(count)
            values[begin:end] = part
            if progress is not None:
                progress(end, count)
        assert values is not None
        return values

    def _chunk_size(self, probe: Tensor) -> int:
        """Return how many points fit the budget, from what a few of them take."""
        with PeakMemory() as memory:
            check_field_values(self._field(probe), probe)
        self.queries += len(probe)
        per_point = 64 + memory.peak / len(probe)  # 64: the points and the indices they come from
        chunk = int(self._budget / per_point)
        if chunk < self._least:
            holds = "one point" if self._least == 1 else f"one brick, {self._least} points"
            raise ValueError(
                f"{self._op}: memory_budget must hold {holds} of this field, "
                f"{per_point * self._least:.0f} bytes, got {self._budget}"
            )
        if probe.device.type == "cpu":
            chunk = min(chunk, max(self._least, int(_LARGEST_CHUNK_CPU / per_point) + 1))
        return min(chunk, _LARGEST_CHUNK)


def points_like(
    field: Field,
    lower: Any,
    dtype: torch.dtype | None,
    device: torch.device | str | None,
) -> tuple[torch.dtype, torch.device]:
    """Return dtype and device of points: as asked, as the parameters, or as the bounds."""
    like: Tensor | None = None
    if isinstance(field, nn.Module):
        like = next(field.parameters(), None)
    if like is None and isinstance(lower, Tensor):
        like = lower
    if dtype is None:
        floating = like is not None and like.is_floating_point()
        dtype = like.dtype if like is not None and floating else torch.get_default_dtype()
    if device is None:
        device = like.device if like is not None else torch.device("cpu")
    return dtype, torch.device(device)
