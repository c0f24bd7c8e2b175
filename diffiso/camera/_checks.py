# SPDX-License-Identifier: Apache-2.0
"""What the camera room asks of its inputs, each rule once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

Number = float | Sequence[float] | Tensor
Size = int | Sequence[int]

# Matrices in text files carry five or six digits; a scale of one in ten thousand is already wrong.
ROTATION_TOLERANCE = 1e-4
# Entries that a convention fixes (last rows, skew) come from products of matrices in single
# precision.
FIXED_TOLERANCE = 1e-5


class Failure(NamedTuple):
    """A rule that values must keep.

    Attributes:
        mask: (N,), bool: which cameras break it.
        message: What to say of camera i.
    """

    mask: Tensor
    message: Callable[[int], str]


def refuse(failures: Sequence[Failure]) -> None:
    """Raise for the first rule that a camera breaks; waits for the device once."""
    count = max(failure.mask.shape[0] for failure in failures)
    broken = torch.stack([failure.mask.expand(count) for failure in failures])
    if broken.any():
        rule, camera = broken.nonzero()[0].tolist()
        raise ValueError(failures[rule].message(camera))


def finite(name: str, values: Tensor) -> Failure:
    """Return the rule that all numbers of a camera are finite."""
    mask = ~values.detach().isfinite().reshape(len(values), -1).all(dim=1)
    return Failure(mask, lambda i: f"{name} must be finite, got {_show(values[i])} in camera {i}")


def positive(name: str, values: Tensor) -> Failure:
    """Return the rule that all numbers of a camera, given as (N, K), are positive and finite."""
    given = values.detach()
    mask = ~((given > 0) & given.isfinite()).all(dim=1)
    return Failure(
        mask, lambda i: f"{name} must be positive and finite, got {_show(values[i])} in camera {i}"
    )


def fixed(
    name: str, values: Tensor, expected: Sequence[float], scale: Tensor | None = None
) -> Failure:
    """Return the rule that entries (N, K) of a matrix are those that a convention fixes."""
    given = values.detach()
    apart = (given - given.new_tensor(expected)).abs()
    bound = FIXED_TOLERANCE * (1 if scale is None else scale.detach().abs())
    return Failure(
        ~(apart <= bound).all(dim=1),
        lambda i: (
            f"{name} must be {_show(given.new_tensor(expected))}, got {_show(values[i])} "
            f"in camera {i}"
        ),
    )


def rotation(name: str, matrices: Tensor) -> list[Failure]:
    """Return the rules of rotation matrices, (N, 3, 3): orthogonal rows, determinant +1."""
    rows = matrices.detach()
    # Sums of products, not matmul: autocast and TF32 would round a good rotation to a bad one.
    gram = (rows[:, :, None] * rows[:, None]).sum(dim=-1)
    eye = torch.eye(3, dtype=rows.dtype, device=rows.device)
    apart = (gram - eye).abs().amax(dim=(1, 2))
    volume = (torch.linalg.cross(rows[:, 0], rows[:, 1]) * rows[:, 2]).sum(dim=1)
    rule = f"{name} must be a rotation (orthogonal, determinant +1)"
    return [
        finite(name, matrices),
        Failure(
            apart > ROTATION_TOLERANCE,
            lambda i: (
                f"{rule}, got a matrix that is {float(apart[i]):.2g} from orthogonal in camera {i}"
            ),
        ),
        Failure(
            volume < 0,
            lambda i: (
                f"{rule}, got a reflection (determinant -1) in camera {i}: "
                "one axis points the wrong way"
            ),
        ),
    ]


def as_size(name: str, size: Any) -> tuple[int, int]:
    """Return height and width from one number or two."""
    numbers = [size, size] if isinstance(size, int) else list(size) if _is_sequence(size) else []
    if len(numbers) != 2 or not all(type(n) is int and n > 0 for n in numbers):
        raise ValueError(f"{name} must be a positive int or (height, width), got {size!r}")
    return numbers[0], numbers[1]


def as_batch(name: str, value: Any, shape: tuple[int, ...]) -> Tensor:
    """Return a floating tensor (N, *shape); one camera may come without its batch dimension."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
    batch = value[None] if value.dim() == len(shape) else value
    if batch.shape[1:] != shape or batch.dim() != len(shape) + 1 or batch.shape[0] == 0:
        wanted = ", ".join(str(n) for n in shape)
        raise ValueError(
            f"{name} must be (N, {wanted}) with N at least 1, got {tuple(value.shape)}"
        )
    if value.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"{name} must be float32 or float64, got {value.dtype}")
    return batch


def check_alike(owner: str, **tensors: Tensor) -> int:
    """Return the common batch size of tensors of one dtype and device; size 1 goes with any."""
    (first, reference), *_ = tensors.items()
    count = max(tensor.shape[0] for tensor in tensors.values())
    for name, tensor in tensors.items():
        if tensor.dtype != reference.dtype or tensor.device != reference.device:
            raise ValueError(
                f"{owner}: {name} must be {reference.dtype} on {reference.device} as {first}, "
                f"got {tensor.dtype} on {tensor.device}"
            )
        if tensor.shape[0] not in (1, count):
            raise ValueError(
                f"{owner}: {name} must be for {count} cameras or for one, got {tensor.shape[0]}"
            )
    return count


def as_tensors(
    owner: str, dtype: torch.dtype | None, device: torch.device | str | None, **values: Number
) -> dict[str, Tensor]:
    """Return numbers as tensors of one dtype and device.

    These are the ones asked for, else those of the first floating tensor among the numbers, else
    torch's defaults.
    """
    floating = [
        (name, value)
        for name, value in values.items()
        if isinstance(value, Tensor) and value.is_floating_point()
    ]
    if dtype is None:
        dtype = floating[0][1].dtype if floating else torch.get_default_dtype()
        for name, value in floating:
            if value.dtype != dtype:
                raise ValueError(
                    f"{owner}: {name} must be {dtype} as {floating[0][0]}, got {value.dtype}"
                )
    if device is None and floating:
        device = floating[0][1].device
        for name, value in floating:
            if value.device != device:
                raise ValueError(
                    f"{owner}: {name} must be on {device} as {floating[0][0]}, got {value.device}"
                )
    return {
        name: torch.as_tensor(value, dtype=dtype, device=device) for name, value in values.items()
    }


def _is_sequence(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _show(values: Tensor) -> Any:
    return [round(v, 6) for v in values.detach().flatten().tolist()]
