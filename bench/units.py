# SPDX-License-Identifier: Apache-2.0
"""Numbers as people read them: three digits that count, and a unit."""

SECONDS = ((1, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns"))
BYTES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B"))
THOUSANDS = ((1e6, "M"), (1e3, "k"), (1, ""))


def significant(value: float) -> str:
    """Three significant digits, never an exponent."""
    if value == 0:
        return "0"
    digits = max(0, 2 - int(f"{value:e}".partition("e")[2]))
    return f"{value:.{digits}f}"


def duration(seconds: float) -> str:
    scale, unit = next((pair for pair in SECONDS if seconds >= pair[0]), SECONDS[-1])
    return f"{significant(seconds / scale)} {unit}"


def in_bytes(count: float) -> str:
    scale, unit = next((pair for pair in BYTES if count >= pair[0]), BYTES[-1])
    return f"{significant(count / scale)} {unit}"


def in_short(count: int) -> str:
    """A whole number in few characters: 32, 4.1k, 1.05M."""
    scale, unit = next(pair for pair in THOUSANDS if count >= pair[0])
    return f"{count / scale:.3g}{unit}"


def percent(part: float | None) -> str:
    return "" if part is None else f"{significant(100 * part)}%"
