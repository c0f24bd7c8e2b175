# SPDX-License-Identifier: Apache-2.0
"""Curves as pictures. Needs matplotlib, in the extra `pipelines`."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from diffiso.extras import require
from diffiso.io import IMAGE_SUFFIXES, StrPath, check_output, write_file

Points = Sequence[tuple[float, float]]
_MOST_WITHIN = 5  # names that stand in the picture: more would lie over the curves


def save_curves(
    path: StrPath,
    curves: Points | Mapping[str, Points],
    x: str,
    y: str,
    *,
    title: str = "",
    logarithmic: tuple[bool, bool] = (False, True),
) -> Path:
    """Write a picture of one or several curves, and return the path.

    Args:
        path: File to write, PNG, JPEG or WebP.
        curves: Points (x, y), or such lists by name.
        x: What runs to the right, with its unit.
        y: What runs up, with its unit.
        title: A line on top.
        logarithmic: Whether the x axis and the y axis are; values that are not positive are left
            out there.

    Raises:
        ValueError: If there is no point, or the suffix is unknown.
        OSError: If the file cannot be written.
        ImportError: If the extra `pipelines` is not installed.

    Example:
        >>> save_curves("loss.png", [(1, 0.1), (2, 0.05), (3, 0.02)], "step", "loss").name
        'loss.png'
    """
    path = check_output(path, IMAGE_SUFFIXES)
    named = curves if isinstance(curves, Mapping) else {"": curves}
    if not any(len(points) for points in named.values()):
        raise ValueError("save_curves: curves must hold at least one point, got none")
    figure = require("matplotlib.figure").Figure(figsize=(6.4, 4.0), dpi=120, layout="constrained")
    axes = figure.subplots()
    for name, points in named.items():
        kept = [
            point
            for point in points
            if all(v > 0 or not log for v, log in zip(point, logarithmic, strict=True))
        ]
        axes.plot(*zip(*kept, strict=True) if kept else ([], []), label=name, linewidth=1.4)
    axes.set(xlabel=x, ylabel=y, title=title)
    axes.set_xscale("log" if logarithmic[0] else "linear")
    axes.set_yscale("log" if logarithmic[1] else "linear")
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if len(named) > _MOST_WITHIN:
        figure.set_size_inches(8.4, 4.0)
        figure.legend(frameon=False, loc="outside right upper")
    elif isinstance(curves, Mapping):
        axes.legend(frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix[1:].lower().replace("jpg", "jpeg"))
    return write_file(path, buffer.getvalue())
