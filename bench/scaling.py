# SPDX-License-Identifier: Apache-2.0
"""How the times of calls grow with the size of their input, and with the number of threads."""

import itertools
import math
import statistics
from collections.abc import Sequence

from bench.cases import Growth, Settings
from bench.timing import Entry, Record, time_entries, trouble

RUNS = 5


def measure(growth: Growth, settings: Settings) -> Record:
    """Measure all sizes in turn, round after round."""
    runs = min(RUNS, settings.runs)
    entries = [entry_of(growth, size, runs) for size in growth.sizes]
    time_entries(entries, 1, settings)
    points = [
        {"size": size, **entry.times()}
        for size, entry in zip(growth.sizes, entries, strict=True)
        if not entry.trouble
    ]
    return {
        "over": growth.over,
        "points": points,
        "slope": slope(points),
        "left_out": {
            str(size): entry.trouble
            for size, entry in zip(growth.sizes, entries, strict=True)
            if entry.trouble
        },
    }


def entry_of(growth: Growth, size: int, runs: int) -> Entry:
    try:
        return Entry(growth.build(size), lambda _: {}, runs)
    except Exception as error:
        return Entry(lambda: None, lambda _: {}, runs, trouble=trouble(error))


def slope(points: Sequence[Record]) -> float | None:
    """Return the exponent of the power law through the larger half of the sizes, at least two.

    Small sizes tell of the cost of a call, not of how it grows.
    """
    upper = points[-max(2, math.ceil(len(points) / 2)) :]
    if len(upper) < 2:
        return None
    x = [math.log(point["size"]) for point in upper]
    y = [math.log(point["median"]) for point in upper]
    return statistics.linear_regression(x, y).slope


def steps(points: Sequence[Record]) -> list[float]:
    """Return how many times longer each size takes than the one before."""
    return [b["median"] / a["median"] for a, b in itertools.pairwise(points)]
