# SPDX-License-Identifier: Apache-2.0
"""What the registrations of several ops share."""

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.autograd import forward_ad


def no_double_backward(op: str) -> None:
    """Make a second derivative through ``op`` an error with a sentence."""

    def refuse(ctx: Any, *grads: Any) -> NoReturn:
        raise RuntimeError(f"{op}: second derivatives (double backward) are not supported")

    torch.library.register_autograd(f"diffiso::{op}_backward", refuse)


def call(op: Callable[..., Any], *arguments: Any) -> Any:
    """Call an op, past torch's autograd where nothing is attached: that layer is Python."""
    # Within torch.func a batched tensor does not say whether what it holds needs a gradient.
    if torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is not None:
        return op(*arguments)
    if torch.is_grad_enabled() and any(
        isinstance(argument, Tensor) and argument.requires_grad for argument in arguments
    ):
        return op(*arguments)
    with torch._C._AutoDispatchBelowAutograd():
        return op(*arguments)


def no_forward_mode(op: str, *tensors: Tensor) -> None:
    """Raise where a tensor carries a tangent: torch would go on with zeros."""
    if torch.compiler.is_compiling():
        return
    if any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors):
        raise RuntimeError(f"{op}: forward-mode derivatives are not supported, use backward")
