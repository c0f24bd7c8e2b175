# SPDX-License-Identifier: Apache-2.0
"""What fields and grids are trained by."""

from __future__ import annotations

import torch
from torch import Tensor

from diffiso.losses._checks import check_alike
from diffiso.types import Grid


def clamped_l1(prediction: Tensor, target: Tensor, clamp: float | None = None) -> Tensor:
    """Return the mean absolute difference of signed distances, both clamped to a band.

    A prediction beyond the band gets no gradient, not even where it has the wrong sign: start a
    network with values inside the band.

    Args:
        prediction: (...), world units.
        target: The same shape.
        clamp: Half the band's width, world units; None for no band.

    Returns:
        A scalar, world units.

    Raises:
        ValueError: If shapes, dtypes or devices differ, there are no values, or the clamp is not
            positive.

    Source:
        Park et al., DeepSDF, Eq. 4; Remelli et al., MeshSDF, Eq. 1 (a mean over all its sums).

    Example:
        >>> clamped_l1(torch.tensor([0.3, 0.0]), torch.tensor([0.2, 0.05]), clamp=0.1)
        tensor(0.0250)
    """
    if prediction.shape != target.shape:
        raise ValueError(
            f"clamped_l1: target must have the prediction's shape {tuple(prediction.shape)}, "
            f"got {tuple(target.shape)}"
        )
    check_alike("clamped_l1", prediction, target)
    if prediction.numel() == 0:
        raise ValueError(
            f"clamped_l1: prediction must have values, got shape {tuple(prediction.shape)}"
        )
    if clamp is not None:
        if not clamp > 0:
            raise ValueError(f"clamped_l1: clamp must be positive, got {clamp}")
        prediction, target = prediction.clamp(-clamp, clamp), target.clamp(-clamp, clamp)
    return (prediction - target).abs().mean()


def eikonal(gradients: Tensor, *, squared: bool = False, mask: Tensor | None = None) -> Tensor:
    """Return how far gradients are from length one, on average.

    With g a gradient, the mean of (|g| - 1)^2, as the papers print it; or, ``squared``, that of
    | |g|^2 - 1 |, as SDFDiff's code has it, which is twice as steep near length one and has no
    square root. Where a gradient is zero, the length counts as constant.

    Args:
        gradients: (..., 3), of a field at points, per world unit.
        squared: Compare squared lengths.
        mask: (...), bool, the points that count; None for all. If it leaves none, the loss is zero
            and still attached.

    Returns:
        A scalar.

    Raises:
        ValueError: If shapes do not fit, or there are no gradients.

    Source:
        Gropp et al., IGR, Eq. 2; SDFDiff, Eq. 2 (an integral, here a mean); LGCL, Eq. 6.

    Example:
        >>> gradients = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
        >>> eikonal(gradients), eikonal(gradients, squared=True)
        (tensor(0.5000), tensor(1.5000))
    """
    if gradients.dim() == 0 or gradients.shape[-1] != 3 or gradients.numel() == 0:
        raise ValueError(
            f"eikonal: gradients must be (..., 3), not empty, got {tuple(gradients.shape)}"
        )
    if mask is not None:
        if mask.dtype != torch.bool or mask.shape != gradients.shape[:-1]:
            raise ValueError(
                f"eikonal: mask must be {tuple(gradients.shape[:-1])} bool, "
                f"got {tuple(mask.shape)} {mask.dtype}"
            )
        gradients = gradients[mask]  # picked, not multiplied: what is left out may be NaN
    if squared:
        off = (gradients.square().sum(dim=-1) - 1).abs()
    else:
        # The length of zero has no second derivative: torch's is NaN, and would reach the weights.
        zero = torch.linalg.vector_norm(gradients.detach(), dim=-1) == 0
        lengths = torch.linalg.vector_norm(gradients.masked_fill(zero[..., None], 1.0), dim=-1)
        off = (lengths.masked_fill(zero, 0.0) - 1).square()
    return off.sum() / max(off.numel(), 1)


def grid_gradient(grid: Grid) -> Tensor:
    """Return a grid's gradient at its inner nodes by central differences.

    Args:
        grid: (X, Y, Z) or (B, X, Y, Z) samples, 3 or more along each axis.

    Returns:
        (X - 2, Y - 2, Z - 2, 3), with a leading B for a batch, per world unit.

    Raises:
        ValueError: If an axis has fewer than 3 nodes.

    Source:
        SDFDiff, section 5.1.

    Example:
        >>> plane = torch.arange(5.0).reshape(5, 1, 1).expand(5, 5, 5)
        >>> grid_gradient(Grid(plane, spacing=(0.5, 1.0, 1.0)))[0, 0, 0]
        tensor([2., 0., 0.])
    """
    parts = [
        (after - before) / (2 * step)
        for before, _, after, step in _along_axes("grid_gradient", grid)
    ]
    return torch.stack(parts, dim=-1)


def grid_laplacian(grid: Grid) -> Tensor:
    """Return a grid's Laplacian at its inner nodes by the 7-point stencil.

    SDFDiff's loss for smoothness is the mean of its square over a narrow band.

    Args:
        grid: (X, Y, Z) or (B, X, Y, Z) samples, 3 or more along each axis.

    Returns:
        (X - 2, Y - 2, Z - 2), with a leading B for a batch, per squared world unit.

    Raises:
        ValueError: If an axis has fewer than 3 nodes.

    Source:
        SDFDiff, section 6.

    Example:
        >>> parabola = torch.arange(5.0).square().reshape(5, 1, 1).expand(5, 5, 5)
        >>> grid_laplacian(Grid(parabola)).unique()
        tensor([2.])
    """
    parts = [
        (before - 2 * middle + after) / step**2
        for before, middle, after, step in _along_axes("grid_laplacian", grid)
    ]
    return parts[0] + parts[1] + parts[2]


def narrow_band_mask(values: Tensor, width: float) -> Tensor:
    """Return where a field is near its surface: |value| at most ``width``; NaN is not near.

    Args:
        values: (...), world units.
        width: World units; SDFDiff takes 1.6 voxels.

    Returns:
        (...), bool.

    Raises:
        ValueError: If the width is negative or NaN.

    Source:
        SDFDiff, Eq. 3.

    Example:
        >>> narrow_band_mask(torch.tensor([-0.3, 0.1, 0.2]), 0.2)
        tensor([False,  True,  True])
    """
    if not width >= 0:
        raise ValueError(f"narrow_band_mask: width must not be negative, got {width}")
    return values.detach().abs() <= width


def _along_axes(function: str, grid: Grid) -> list[tuple[Tensor, Tensor, Tensor, float]]:
    """Return for each axis the samples before, at and after the inner nodes, and the spacing."""
    if not isinstance(grid, Grid):
        raise TypeError(f"{function}: grid must be a Grid, got {type(grid).__name__}")
    values = grid.values
    if values.dim() not in (3, 4) or min(values.shape[-3:]) < 3:
        raise ValueError(
            f"{function}: values must be (X, Y, Z) or (B, X, Y, Z), 3 nodes or more each, "
            f"got {tuple(values.shape)}"
        )
    parts = []
    for axis, step in zip((-3, -2, -1), grid.spacing, strict=True):
        inner = values
        for other in {-3, -2, -1} - {axis}:
            inner = inner.narrow(other, 1, values.shape[other] - 2)
        before, middle, after = (
            inner.narrow(axis, start, values.shape[axis] - 2) for start in (0, 1, 2)
        )
        parts.append((before, middle, after, step))
    return parts
