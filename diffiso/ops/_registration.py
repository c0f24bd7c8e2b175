# SPDX-License-Identifier: Apache-2.0
"""What the registrations of several ops share."""

from typing import Any, NoReturn

import torch


def no_double_backward(op: str) -> None:
    """Make a second derivative through ``op`` an error with a sentence."""

    def refuse(ctx: Any, *grads: Any) -> NoReturn:
        raise RuntimeError(f"{op}: second derivatives (double backward) are not supported")

    torch.library.register_autograd(f"diffiso::{op}_backward", refuse)
