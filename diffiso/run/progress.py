# SPDX-License-Identifier: Apache-2.0
"""How far a loop has come, and how long it still takes, on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from diffiso.extras import available, require
from diffiso.run.processes import is_first

Item = TypeVar("Item")

_PATIENCE = 2.0  # seconds of work before a progress bar shows


class Track(Generic[Item]):
    """A loop that shows how far it is; made by :func:`track`."""

    def __init__(
        self,
        items: Iterable[Item],
        what: str,
        total: int | None,
        start: int,
        every: float | None,
    ) -> None:
        self._items, self._what, self._total = items, what, total
        self._start, self._every = start, every
        self._text = ""

    def say(self, text: str) -> None:
        """Show a short text, such as the loss, beside the bar from now on."""
        self._text = text

    def __iter__(self) -> Iterator[Item]:
        """Yield the items."""
        if not is_first():
            yield from self._items
        elif sys.stderr.isatty() and available("rich"):
            yield from self._with_bar()
        elif self._every is not None:
            yield from self._with_lines(self._every)
        else:
            yield from self._items

    def _with_bar(self) -> Iterator[Item]:
        bar = _new_bar()
        task: Any = bar.add_task(self._what, total=self._total, completed=self._start, text="")
        shown, began = False, time.perf_counter()
        try:
            for done, item in enumerate(self._items, start=self._start + 1):
                yield item
                bar.update(task, completed=done, text=self._text)
                if not shown and time.perf_counter() - began > _PATIENCE:
                    bar.start()
                    shown = True
        finally:
            bar.stop()

    def _with_lines(self, every: float) -> Iterator[Item]:
        began = last = time.perf_counter()
        for done, item in enumerate(self._items, start=self._start + 1):
            yield item
            now = time.perf_counter()
            if now - last >= every:
                last = now
                pace = (now - began) / (done - self._start)
                print(self._line(done, pace), file=sys.stderr, flush=True)

    def _line(self, done: int, pace: float) -> str:
        parts = [f"{self._what}: {done}"]
        if self._total is not None:
            parts[0] += f" of {self._total}"
        if self._text:
            parts.append(self._text)
        if self._total is not None:
            parts.append(f"{_clock(pace * (self._total - done))} left")
        return ", ".join(parts)


def track(
    items: Iterable[Item],
    what: str,
    total: int | None = None,
    *,
    start: int = 0,
    every: float | None = None,
) -> Track[Item]:
    """Return a loop over items that shows a progress bar on stderr once it has taken two seconds.

    The bar tells the time left, and the text last given to `say`. No bar where stderr is not a
    terminal or the extra `pipelines` is not installed, nor in any process but the first of several.

    Args:
        items: What to go through.
        what: What is being done, in a few words.
        total: How many items, those before `start` included; by default `start` and the items'
            length, where they have one.
        start: How many were done before, by a run that this one resumes.
        every: Where stderr is not a terminal, print a plain line every so many seconds; None
            prints nothing.

    Raises:
        ValueError: If `every` is negative.

    Example:
        >>> steps = track(range(3), "descending")
        >>> for step in steps:
        ...     steps.say(f"loss {1 / (step + 1):.2f}")
    """
    if every is not None and every < 0:
        raise ValueError(f"track: every must not be negative, got {every}")
    if total is None and isinstance(items, Sized):
        total = start + len(items)
    return Track(items, what, total, start, every)


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Give a function that is told how much is done, of how much, and shows it like :func:`track`.

    Args:
        what: What is being done, in a few words.

    Example:
        >>> with progress_bar("counting") as progress:
        ...     for done in range(1, 4):
        ...         progress(done, 3)
    """
    if not (is_first() and sys.stderr.isatty() and available("rich")):
        yield lambda done, total: None
        return
    bar = _new_bar()
    task: Any = bar.add_task(what, total=None, text="")
    began = time.perf_counter()

    def update(done: int, total: int) -> None:
        bar.update(task, completed=done, total=total)
        if time.perf_counter() - began > _PATIENCE:
            bar.start()

    try:
        yield update
    finally:
        bar.stop()


def _new_bar() -> Any:
    progress = require("rich.progress")
    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[text]}"),
        progress.TimeRemainingColumn(),
    )
    console = require("rich.console").Console(stderr=True)
    return progress.Progress(*columns, console=console, transient=True)


def _clock(seconds: float) -> str:
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
