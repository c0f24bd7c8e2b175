# SPDX-License-Identifier: Apache-2.0
"""Colours of pictures, and colours that stand for numbers."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

Color = tuple[float, float, float]

CLAY: Color = (0.74, 0.36, 0.22)
SLATE: Color = (0.20, 0.36, 0.58)
SAGE: Color = (0.32, 0.48, 0.30)

# From white over yellow and red to plum. Lightness falls evenly, by 9 of CIE L* a step, so that
# more looks like more, also in grey and to eyes that tell red from green badly.
ERROR_ANCHORS = np.array(
    [
        [0.936, 0.939, 0.895],
        [0.868, 0.852, 0.621],
        [0.839, 0.741, 0.362],
        [0.842, 0.601, 0.075],
        [0.837, 0.444, 0.000],
        [0.790, 0.289, 0.000],
        [0.710, 0.123, 0.109],
        [0.577, 0.006, 0.224],
        [0.405, 0.061, 0.266],
    ]
)
ERROR_ABSENT = (0.45, 0.50, 0.58)  # a blue grey that is not on the scale


def error_colors(
    values: torch.Tensor | NDArray[np.floating], maximum: float | None = None
) -> NDArray[np.float32]:
    """Return a colour for each value: white for 0, over yellow and red to plum for the maximum.

    Args:
        values: (V,) distances or other numbers that are not negative, such as one a vertex; NaN
            becomes a grey that is not on the scale.
        maximum: The value at the end of the scale, and of all above it; by default the largest.

    Returns:
        (V, 3) sRGB in [0, 1], for `render(colors=...)` and `save_mesh(colors=...)`.

    Raises:
        ValueError: If values are not (V,), or `maximum` is not positive.

    Example:
        >>> error_colors(np.array([0.0, 0.5, 1.0]), 1.0).shape
        (3, 3)
    """
    array = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else values
    numbers = np.asarray(array, dtype=np.float64)
    if numbers.ndim != 1:
        raise ValueError(f"error_colors: values must be (V,), got {numbers.shape}")
    finite = numbers[np.isfinite(numbers)]
    if maximum is None:
        maximum = max(float(finite.max(initial=0.0)), 1e-300)
    if not maximum > 0:
        raise ValueError(f"error_colors: maximum must be positive, got {maximum}")
    place = np.nan_to_num(numbers / maximum, nan=0.0).clip(0, 1)
    ticks = np.linspace(0, 1, len(ERROR_ANCHORS))
    colors = np.stack([np.interp(place, ticks, anchors) for anchors in ERROR_ANCHORS.T], axis=-1)
    colors[np.isnan(numbers)] = ERROR_ABSENT
    return colors.astype(np.float32)


def linear_of_srgb(color: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return linear light of sRGB values (IEC 61966-2-1)."""
    high = ((color + 0.055) / 1.055) ** 2.4
    return np.asarray(np.where(color <= 0.04045, color / 12.92, high))


def srgb_of_linear(light: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return sRGB values of linear light (IEC 61966-2-1)."""
    high = 1.055 * light.clip(1e-9) ** (1 / 2.4) - 0.055
    return np.asarray(np.where(light <= 0.0031308, 12.92 * light, high))


def grey_image(picture: torch.Tensor) -> NDArray[np.uint8]:
    """Return a linear grey picture (H, W) from 0 to 1 as sRGB bytes (H, W, 3).

    Example:
        >>> grey_image(torch.tensor([[0.0, 0.5, 1.0]]))[0, :, 0]
        array([  0, 188, 255], dtype=uint8)
    """
    grey = srgb_of_linear(picture.detach().cpu().clamp(0, 1).double().numpy())
    return np.repeat((255 * grey + 0.5).astype(np.uint8)[..., None], 3, axis=2)
