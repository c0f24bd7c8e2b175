# SPDX-License-Identifier: Apache-2.0
"""Sheets of pictures with captions and a colour bar."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffiso.extras import require
from diffiso.view.colors import error_colors
from diffiso.view.drawing import Image

_PAPER, _INK, _FAINT = (250, 250, 250), (30, 34, 40), (60, 66, 74)


@dataclass(frozen=True)
class ColorBar:
    """What the colours of :func:`error_colors` mean, to be drawn below a sheet.

    Attributes:
        maximum: The value at the end of the scale, as given to `error_colors`.
        label: What is shown, with its unit.
    """

    maximum: float
    label: str = ""


def contact_sheet(
    images: Sequence[Image],
    captions: Sequence[str] | None = None,
    *,
    columns: int | None = None,
    title: str = "",
    bar: ColorBar | None = None,
) -> Image:
    """Return pictures of one size side by side on one sheet, each with a caption below.

    Args:
        images: (H, W, 3) bytes each, all of one size.
        captions: One line, or several parted by newlines, for each picture.
        columns: Pictures in a row; by default a nearly square sheet, at most six wide.
        title: A line on top.
        bar: A colour bar at the bottom.

    Raises:
        ValueError: If there is no picture, sizes differ, captions and pictures differ in number,
            or `columns` or the bar's maximum is not positive.

    Example:
        >>> pictures = [np.full((40, 60, 3), 60 * k, np.uint8) for k in range(4)]
        >>> sheet = contact_sheet(pictures, ["a", "b", "c", "d"], bar=ColorBar(0.02, "distance"))
    """
    if len(images) == 0 or any(image.shape != images[0].shape for image in images):
        shapes = sorted({image.shape for image in images})
        raise ValueError(
            f"contact_sheet: images must be of one size and at least one, got {shapes}"
        )
    texts = list(captions) if captions is not None else [""] * len(images)
    if len(texts) != len(images):
        raise ValueError(
            f"contact_sheet: captions must be one per image, got {len(texts)} for {len(images)}"
        )
    if columns is not None and columns < 1:
        raise ValueError(f"contact_sheet: columns must be positive, got {columns}")
    if bar is not None and not 0 < bar.maximum < math.inf:
        raise ValueError(f"contact_sheet: bar.maximum must be positive, got {bar.maximum}")
    pillow, drawing, fonts = (
        require("PIL.Image"),
        require("PIL.ImageDraw"),
        require("PIL.ImageFont"),
    )
    height, width = images[0].shape[:2]
    across = columns or min(6, math.ceil(math.sqrt(len(images))))
    down = math.ceil(len(images) / across)
    letter = max(11, width // 22)
    font, title_font = fonts.load_default(letter), fonts.load_default(round(letter * 1.35))
    gap = max(4, width // 48)
    lines = max(text.count("\n") + 1 if text else 0 for text in texts)
    strip = round(lines * letter * 1.35) + (gap if lines else 0)
    top = round(letter * 2.4) if title else gap
    bottom = round(4.4 * letter) + gap if bar is not None else 0
    full = (across * (width + gap) + gap, top + down * (height + strip + gap) + bottom)
    sheet = pillow.new("RGB", full, _PAPER)
    pen = drawing.Draw(sheet)
    pen.text((2 * gap, top / 2), title, fill=_INK, font=title_font, anchor="lm")
    for index, (image, text) in enumerate(zip(images, texts, strict=True)):
        left = gap + index % across * (width + gap)
        upper = top + index // across * (height + strip + gap)
        sheet.paste(pillow.fromarray(image), (left, upper))
        pen.multiline_text(
            (left + gap, upper + height + gap / 2), text, fill=_FAINT, font=font, spacing=2
        )
    if bar is not None:
        _draw_bar(sheet, pen, bar, font, letter, full[1] - bottom)
    return np.asarray(sheet, dtype=np.uint8)


def _draw_bar(sheet: Any, pen: Any, bar: ColorBar, font: Any, letter: int, upper: int) -> None:
    """Draw label, scale and ticks into the lowest strip of a sheet."""
    side = 2 * letter
    pen.text((side, upper), bar.label, fill=_FAINT, font=font)
    length = max(2, min(24 * letter, sheet.width - 2 * side))
    ramp = error_colors(np.linspace(0, 1, length), 1.0)
    strip = np.repeat((255 * ramp + 0.5).astype(np.uint8)[None], letter, axis=0)
    upper += round(1.6 * letter)
    sheet.paste(require("PIL.Image").fromarray(strip), (side, upper))
    lower = upper + letter
    for share in (0.0, 0.5, 1.0):
        x = side + round(share * (length - 1))
        pen.line([(x, lower), (x, lower + letter // 4)], fill=_FAINT)
        text = f"{share * bar.maximum:.3g}"
        pen.text((x, lower + letter // 3), text, fill=_FAINT, font=font, anchor="ma")
