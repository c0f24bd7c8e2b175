# SPDX-License-Identifier: Apache-2.0
"""The latent codes of an auto-decoder: one row a shape, each moved by its own gradients only."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class LatentTable(nn.Module):
    """A learnable latent code for each of many shapes.

    Gradients are sparse: they hold rows for the shapes of a batch and no others. With
    ``torch.optim.SparseAdam`` the code of a shape outside the batch stays as it is, to the last
    bit, and so does its momentum; an optimiser that would move all rows refuses such gradients.

    Args:
        count: Number of shapes.
        size: Numbers per code.
        std: Standard deviation of each number at first; by default ``1 / sqrt(size)``, codes of
            length about 1.
        max_norm: Greatest length of a code, kept by :meth:`limit_norms`; None for any.
        generator: Source of the first codes, on the CPU.

    Attributes:
        weight: (count, size), the codes.

    Raises:
        ValueError: If a setting is not possible.

    Source:
        Park et al., DeepSDF, section 4.

    Example:
        >>> table = LatentTable(10, 4, max_norm=1.0)
        >>> optimizer = torch.optim.SparseAdam(table.parameters(), lr=1e-3)
        >>> before = table.weight.detach().clone()
        >>> table(torch.tensor([2, 7])).square().sum().backward()
        >>> optimizer.step()
        >>> table.limit_norms()
        >>> (table.weight != before).any(dim=1).nonzero()[:, 0]
        tensor([2, 7])
    """

    def __init__(
        self,
        count: int,
        size: int,
        *,
        std: float | None = None,
        max_norm: float | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if count < 1 or size < 1:
            raise ValueError(f"LatentTable: count and size must be positive, got {count}, {size}")
        std = 1 / math.sqrt(size) if std is None else std
        if not 0 <= std < math.inf:
            raise ValueError(f"LatentTable: std must not be negative, got {std}")
        if max_norm is not None:
            _check_max_norm(max_norm)
        self.max_norm = max_norm
        self.weight = nn.Parameter(std * torch.randn(count, size, generator=generator))
        self.limit_norms()  # so that later calls move no code that no step has moved

    def forward(self, ids: Tensor) -> Tensor:
        """Return the codes (..., L) of shapes (...,), int64 or int32.

        Raises:
            ValueError: If the ids are no integers, or on the CPU out of range.
        """
        count = len(self.weight)
        if ids.dtype not in (torch.int64, torch.int32):
            raise ValueError(f"LatentTable: ids must be int64 or int32, got {ids.dtype}")
        # On a GPU the check would wait for it, and in a compiled graph it would break the graph.
        if ids.device.type == "cpu" and ids.numel() > 0 and not torch.compiler.is_compiling():
            low, high = (int(x) for x in torch.aminmax(ids))
            if low < 0 or high >= count:
                raise ValueError(
                    f"LatentTable: ids must be from 0 to {count - 1}, got {low} to {high}"
                )
        return functional.embedding(ids, self.weight, sparse=True)

    @torch.no_grad()
    def limit_norms(self, max_norm: float | None = None) -> None:
        """Shorten every code that is too long; call it after the optimiser's step.

        In the forward, as embeddings with a greatest norm do it, the optimiser would step from
        another code than the one its gradient belongs to.

        Args:
            max_norm: Greatest length; by default the table's, where it has one.

        Raises:
            ValueError: If the length is not positive.
        """
        max_norm = self.max_norm if max_norm is None else max_norm
        if max_norm is None:
            return
        _check_max_norm(max_norm)
        norms = self.weight.norm(dim=1, keepdim=True)
        # A little below the limit: rounding must not make the next call shorten it again.
        target = max_norm * (1 - 16 * torch.finfo(norms.dtype).eps)
        shorter = self.weight * (target / norms)
        self.weight.copy_(torch.where(norms > max_norm, shorter, self.weight))

    def extra_repr(self) -> str:
        """Return the settings for ``repr``."""
        return f"{tuple(self.weight.shape)}, max_norm={self.max_norm}"


def _check_max_norm(max_norm: float) -> None:
    if not 0 < max_norm < math.inf:
        raise ValueError(f"LatentTable: max_norm must be positive, got {max_norm}")
