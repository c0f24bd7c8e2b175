# SPDX-License-Identifier: Apache-2.0
"""What losses ask of their tensors."""

from __future__ import annotations

from torch import Tensor


def check_alike(function: str, points: Tensor, other: Tensor) -> None:
    if points.dtype != other.dtype or points.device != other.device:
        raise ValueError(
            f"{function}: both sides must have one dtype and device, got {points.dtype} on "
            f"{points.device} and {other.dtype} on {other.device}"
        )
