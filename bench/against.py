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
        differs: Whether both ran, and their outputs no longer agree.
        margin: By what share it may have grown.
    """

    op: str
    case: str
    contender: str
    peer: str
    kept: float
    now: float | None
    differs: bool
    margin: float

    @property
    def worse(self) -> bool:
        return self.now is not None and self.now > self.kept * (1 + self.margin)

    @property
    def rank(self) -> tuple[bool, bool, float]:
        """What is told of several peers: trouble first, then the nearest."""
        return self.worse, self.differs, self.kept


def ratios(record: Record) -> Iterator[tuple[tuple[str, str, str, str], float]]:
    """Return our times over those of all peers whose outputs agree."""
    for case in record["cases"]:
        for ours in case["contenders"]:
            if ours["kind"] != "ours":
                continue
            for peer in table.rivals(case, ours):
                where = record["op"], case["case"], ours["contender"], peer["contender"]
                yield where, ours["median"] / peer["median"]


def chosen(kept: Sequence[Record], about: Record, path: Path) -> list[Record]:
    """Return the kept records to compare with: this machine's, or else those of one other.

    Args:
        kept: Of the ops that are asked for.
        about: What `results.about` returned.
        path: Where they were kept.

    Raises:
        ValueError: If there is no choice, or nothing that could be compared.
    """
    found = [record for record in kept if how(record) == how(about)]
    machines = {table.device_name(record) for record in found}
    if (here := table.device_name(about)) in machines:
        found = [record for record in found if table.device_name(record) == here]
    elif len(machines) > 1:
        names = " and ".join(sorted(machines))
        raise ValueError(f"--against {path}: must be of one machine, or of this one, got {names}")
    if not any(list(ratios(record)) for record in found):
        raise ValueError(nothing_shared(path))
    return found


def how(record: Record) -> tuple[str, int]:
    return record["settings"]["device"], record["settings"]["threads"]


def nothing_shared(path: Path) -> str:
    return (
        f"--against {path}: it must share a case, a peer, the device and the threads with this "
        "run, got none"
    )


def compare(records: Sequence[Record], kept: Sequence[Record], margin: float) -> list[Compared]:
    """Return what both runs have of the cases that were measured now."""
    now = dict(pair for record in records for pair in ratios(record))
    then = dict(pair for record in kept for pair in ratios(record))
    agrees = {
        (record["op"], case["case"], each["contender"]): table.agrees(each)
        for record in records
        for case in record["cases"]
        for each in case["contenders"]
    }
    measured = {where[:2] for where in agrees}
    found = []
    for where, ratio in then.items():
        op, case, *pair = where
        if (op, case) in measured:
            both = [agrees.get((op, case, name)) for name in pair]
            differs = None not in both and False in both
            found.append(Compared(*where, ratio, now.get(where), differs, margin))
    return found


def rows(compared: Sequence[Compared]) -> list[table.Row]:
    """Return a table with one line for each case and contender, beside its nearest peer."""
    nearest: dict[tuple[str, str, str], Compared] = {}
    for each in compared:
        where = each.op, each.case, each.contender
        before = nearest.get(where)
        if before is None or each.rank > before.rank:
            nearest[where] = each
    heading = ["case", "contender", "peer", "time / peer, kept", "now", ""]
    body = [
        [
            f"{each.op}: {each.case}",
            each.contender,
            each.peer,
            units.significant(each.kept),
            units.significant(each.now)
            if each.now is not None
            else "differs" * each.differs or "gone",
            "worse" * each.worse,
        ]
        for each in nearest.values()
    ]
    return [heading, *body]


def trouble(compared: Sequence[Compared], path: Path) -> list[str]:
    """Say what is worse than it was, or no longer agrees, or that nothing could be compared."""
    if not any(each.now is not None or each.differs for each in compared):
        return [nothing_shared(path)]
    apart = [
        f"no longer agrees: {each.op}, {each.case}: {each.contender} and {each.peer}"
        for each in compared
        if each.differs
    ]
    return apart + [
        f"worse: {each.op}, {each.case}: {each.contender} takes {units.significant(each.now)} of "
        f"the time of {each.peer}, before {units.significant(each.kept)} "
        f"(allowed: {100 * each.margin:.0f}% more)"
        for each in compared
        if each.worse and each.now is not None
    ]
