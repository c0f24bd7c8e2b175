# SPDX-License-Identifier: Apache-2.0
"""Times the contenders of a case, one after the other, round after round, in this process.

Every round runs every contender once, in turn forwards and backwards through the list, so that what
slows the machine for a while falls on all of them; the first round warms up and is not counted. The
clock stops when the outputs are there. They are looked at, and freed before the next one runs:
every call therefore allocates afresh, as the calls of a program would. Before each turn comes a
short pause: OpenMP's threads spin for a few milliseconds after they have worked, and would take the
cores from a peer that brings threads of its own.
"""

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from bench import agreement
from bench.cases import NO_MEMORY, Case, Contender, Outputs, Settings, outputs_of_tensors

Record = dict[str, Any]

PAUSE = 0.01  # seconds


@dataclass
class Entry:
    """A contender, or one way over the floor, with the times it took."""

    run: Callable[[], Any]
    outputs: Callable[[Any], Outputs]
    runs: int
    look: Callable[[Outputs], None] = lambda outputs: None  # at those of the warm-up
    seconds: list[float] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    trouble: str = ""  # why it did not run

    def times(self) -> Record:
        return {
            "median": statistics.median(self.seconds),
            "min": min(self.seconds),
            "max": max(self.seconds),
            "runs": len(self.seconds),
        }


def count(outputs: Outputs) -> dict[str, int]:
    """Touch the outputs and return how many rows of each there are."""
    for parts in outputs.values():
        for part in parts:
            part.reshape(-1)[-1:].tolist()
    return {
        name: sum(len(part) if part.ndim else 1 for part in parts)
        for name, parts in outputs.items()
    }


def bytes_of(outputs: Outputs) -> int:
    return sum(part.nbytes for parts in outputs.values() for part in parts)


Clock = Callable[[Callable[[], Any], int], tuple[float, Any]]
"""Runs something some times; seconds of one, and what came out last."""


def clock_cpu(run: Callable[[], Any], calls: int) -> tuple[float, Any]:
    begin = time.perf_counter()
    for _ in range(calls):
        result = run()
    return (time.perf_counter() - begin) / calls, result


def clock_cuda(run: Callable[[], Any], calls: int) -> tuple[float, Any]:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    for _ in range(calls):
        result = run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1000 / calls, result


def clock_of(settings: Settings) -> Clock:
    return clock_cpu if settings.on_cpu else clock_cuda


class Judge:
    """Compares the outputs of contenders as they come, those of the first ones first.

    Those who do less, and those who are to be like themselves, are not compared.
    """

    def __init__(self, contenders: Sequence[Contender]) -> None:
        self.first = contenders[0].name
        self.wanted = {each.like or self.first for each in contenders}
        self.kept: dict[str, Outputs] = {}
        self.found: dict[str, list[agreement.Difference]] = {each.name: [] for each in contenders}

    def of(self, contender: Contender) -> Callable[[Outputs], None]:
        """Return what looks at a contender's outputs."""

        def look(outputs: Outputs) -> None:
            name, like = contender.name, contender.like or self.first
            if contender.kind != "part" and like != name:
                self.found[name] = (
                    agreement.differences(outputs, self.kept[like], contender.allowed)
                    if like in self.kept
                    else [agreement.NOTHING]
                )
            if name in self.wanted:
                self.kept[name] = agreement.kept(outputs)

        return look


def time_entries(entries: list[Entry], calls: int, settings: Settings) -> None:
    clock = clock_of(settings)
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for turn in range(1 + max(entry.runs for entry in entries)):
            for entry in entries if turn % 2 == 0 else reversed(entries):
                if turn > entry.runs or entry.trouble:
                    continue
                time.sleep(PAUSE)
                try:
                    seconds, result = clock(entry.run, calls)
                    outputs = entry.outputs(result)
                    entry.counts = count(outputs)
                    if turn == 0:
                        entry.look(outputs)
                except Exception as error:
                    entry.trouble = trouble(error)
                    continue
                entry.seconds += [seconds] * (turn > 0)
                del result, outputs
    finally:
        if collecting:
            gc.enable()


def trouble(error: Exception) -> str:
    """Say in a line why a contender did not run."""
    words = str(error).strip().partition("\n")[0]
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in words:
        return f"{NO_MEMORY}: {words}"
    return f"{type(error).__name__}: {words}"


def time_case(case: Case, settings: Settings) -> Record:
    """Measure a case; README.md explains the fields of the record."""
    judge = Judge(case.contenders)
    entries = [
        Entry(
            each.run, each.outputs, min(each.runs or settings.runs, settings.runs), judge.of(each)
        )
        for each in case.contenders
    ]
    passes = case.floor.passes() if case.floor else {}
    over_floor = [Entry(run, outputs_of_tensors, settings.runs) for run in passes.values()]
    time_entries(entries + over_floor, case.calls, settings)

    bound: Record | None = None
    over_floor = [entry for entry in over_floor if not entry.trouble]
    if case.floor and over_floor:
        fastest = min((entry.times() for entry in over_floor), key=lambda times: times["median"])
        bound = {"what": case.floor.what, "bytes": case.floor.bytes, **fastest}
    together = list(zip(case.contenders, entries, strict=True))
    contenders = [
        {
            "contender": each.name,
            "kind": each.kind,
            "like": each.like,
            **entry.times(),
            "outputs": entry.counts,
            "differences": agreement.records(judge.found[each.name]),
        }
        for each, entry in together
        if not entry.trouble
    ]
    for record in contenders:
        record["ratio"] = record["median"] / contenders[0]["median"]
        record["share_of_bound"] = bound and bound["median"] / record["median"]
    return {
        "case": case.name,
        "unit": case.unit,
        "samples": case.samples,
        "calls": case.calls,
        "bound": bound,
        "contenders": contenders,
        "left_out": {each.name: entry.trouble for each, entry in together if entry.trouble},
    }
