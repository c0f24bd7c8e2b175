# SPDX-License-Identifier: Apache-2.0
"""Whether diffiso lost to a peer since results were kept.

Only times of one run are divided by each other: ours by a peer's, then and now. Those of different
runs, on machines that had more or less to do, tell nothing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import table, units
from bench.timing import Record


@dataclass(frozen=True)
class Compared:
    """A contender of ours beside a peer.

    Attributes:
        op: The benchmark.
        case: Of it.
        contender: Ours.
        peer: The other one.
        kept: Our time over the peer's, then.
        now: The same now; None where one of them is gone, or their outputs no longer agree.
        margin: By what share it may have grown.
    """

    op: str
    case: str
    contender: str
    peer: str
    kept: float
    now: float | None
    margin: float

    @property
    def worse(self) -> bool:
        return self.now is not None and self.now > self.kept * (1 + self.margin)


def ratios(record: Record) -> Iterator[tuple[tuple[str, str, str, str], float]]:
    """Return our times over those of all peers whose outputs agree."""
    for case in record["cases"]:
        for ours in case["contenders"]:
            if ours["kind"] != "ours" or not table.agrees(ours):
                continue
            for peer in table.rivals(case, ours):
                where = record["op"], case["case"], ours["contender"], peer["contender"]
                yield where, ours["median"] / peer["median"]


def compare(records: Sequence[Record], kept: Sequence[Record], margin: float) -> list[Compared]:
    """Return what both runs have of the cases that were measured now, on such a device."""
    devices = {how(record) for record in records}
    kept = [record for record in kept if how(record) in devices]
    measured = {(record["op"], case["case"]) for record in records for case in record["cases"]}
    now = dict(pair for record in records for pair in ratios(record))
    then = dict(pair for record in kept for pair in ratios(record))
    return [
        Compared(*where, ratio, now.get(where), margin)
        for where, ratio in then.items()
        if where[:2] in measured
    ]


def how(record: Record) -> tuple[str, int]:
    return record["settings"]["device"], record["settings"]["threads"]


def rows(compared: Sequence[Compared]) -> list[table.Row]:
    """Return a table with one line for each case and contender, beside its nearest peer."""
    nearest: dict[tuple[str, str, str], Compared] = {}
    for each in compared:
        where = each.op, each.case, each.contender
        before = nearest.get(where)
        if before is None or (each.worse, each.kept) > (before.worse, before.kept):
            nearest[where] = each
    heading = ["case", "contender", "peer", "time / peer, kept", "now", ""]
    body = [
        [
            f"{each.op}: {each.case}",
            each.contender,
            each.peer,
            units.significant(each.kept),
            "gone" if each.now is None else units.significant(each.now),
            "worse" * each.worse,
        ]
        for each in nearest.values()
    ]
    return [heading, *body]


def trouble(compared: Sequence[Compared], path: Path) -> list[str]:
    """Say what is worse than it was, or that nothing could be compared."""
    if not any(each.now is not None for each in compared):
        return [
            f"--against {path}: it must share a case, a peer, the device and the threads with this "
            "run, got none"
        ]
    return [
        f"worse: {each.op}, {each.case}: {each.contender} takes {units.significant(each.now)} of "
        f"the time of {each.peer}, before {units.significant(each.kept)} "
        f"(allowed: {100 * each.margin:.0f}% more)"
        for each in compared
        if each.worse and each.now is not None
    ]
