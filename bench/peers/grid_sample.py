# SPDX-License-Identifier: Apache-2.0
"""Trilinear interpolation as torch has it."""

import torch
from torch import Tensor


def grid_sample(values: Tensor, places: Tensor, batch: int = 1) -> Tensor:
    """Return torch's trilinear interpolation (P,) of (X, Y, Z) values.

    Args:
        places: (P, 3) in [-1, 1] over the box, in the order z, y, x.
        batch: In how many parts to pass the points, over one grid: on the CPU torch gives each part
            of a batch to one thread.
    """
    whole = values.expand(batch, 1, *values.shape)
    parts = places.view(batch, 1, 1, -1, 3)
    return torch.nn.functional.grid_sample(
        whole, parts, mode="bilinear", padding_mode="border", align_corners=True
    ).flatten()
