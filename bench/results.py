# SPDX-License-Identifier: Apache-2.0
"""What a run leaves: one JSON file an op, with the machine it ran on; README.md has the fields."""

import json
import os
import platform
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

import diffiso
from bench import memory, ops, peers, scaling, table
from bench.agreement import NOTHING
from bench.cases import NO_DATA, NO_MEMORY, Case, LeftOut, Settings
from bench.timing import Record, time_case, trouble
from diffiso.io import write_file


def processor() -> str:
    """Return the model of the CPU, or its architecture where Linux does not tell."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.machine()
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return " ".join(model[1].split()) if model else platform.machine()


def cores() -> int:
    """Return the number of cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def environment(settings: Settings) -> Record:
    on_gpu = not settings.on_cpu
    gpu = torch.cuda.get_device_properties(settings.device) if on_gpu else None
    return {
        "diffiso": diffiso.build_info(),
        "peers": peers.versions(settings),
        "hardware": {
            "processor": processor(),
            "cores": cores(),
            "gpu": gpu.name if gpu else None,
            "gpu_memory_bytes": gpu.total_memory if gpu else None,
        },
    }


def about(settings: Settings, chosen_peers: Sequence[str] | None) -> Record:
    """Return what all records of a run share, known before anything is measured."""
    return {
        "settings": {
            "device": settings.device.type,
            "threads": settings.threads,
            "runs": settings.runs,
            "smoke": settings.smoke,
            "quick": settings.quick,
            "peers": chosen_peers,
        },
        "environment": environment(settings),
    }


def path_of(record: Record, directory: Path) -> Path:
    """Return DIRECTORY/<device>/<op>.json."""
    slug = re.sub(r"[^a-z0-9]+", "-", table.device_name(record).lower()).strip("-")
    return directory / slug / f"{record['op']}.json"


def unwritable(path: Path) -> str:
    """Say why a file cannot be written, by making one where it will be; empty if it can."""
    place = Path(os.path.realpath(path))
    if os.path.isdir(place):
        return f"must be a file, got the folder {path}"
    there = next(folder for folder in place.parents if os.path.lexists(folder))
    name = max(place.relative_to(there).parts, key=lambda part: len(os.fsencode(part)))
    try:  # a name as long as that under which `write_file` begins
        with tempfile.NamedTemporaryFile(prefix=f".{name}.", suffix=".part", dir=there):
            return ""
    except OSError as error:
        return f"must be where files can be written, got {path} ({error.strerror})"


def fullness(record: Record) -> int:
    """Rank a run by its sizes: tiny, half or full."""
    settings = record["settings"]
    return 0 if settings["smoke"] else 1 if settings.get("quick") else 2


SIZES = ("smoke", "quick", "full")


def check_targets(path: Path, names: Sequence[str], about: Record) -> None:
    """Look at the files that will be written before anything is measured.

    Args:
        path: A .json file, or the folder for those of all ops.
        names: Of the ops.
        about: What `about` returned.

    Raises:
        ValueError: If one cannot be written, or has results of larger sizes.
    """
    targets = [path_of({**about, "op": name}, path) for name in names]
    for target in [path] if path.suffix == ".json" else targets:
        if trouble := unwritable(target):
            raise ValueError(f"--json: {trouble}")
        try:
            kept = read(target, list(ops.OPS))
        except (OSError, ValueError):  # nothing of ours
            continue
        fullest = max(map(fullness, kept), default=0)
        if fullest > fullness(about):
            raise ValueError(
                f"--json: a {SIZES[fullness(about)]} run must not replace a {SIZES[fullest]} one, "
                f"got {target}"
            )


def write(record: Record, directory: Path) -> Path:
    return write_json(record, path_of(record, directory))


def write_json(content: Record | list[Record], path: Path) -> Path:
    """Write a record, or all those of a run, as one file."""
    return write_file(path, f"{json.dumps(content, indent=1, allow_nan=False)}\n".encode())


def read(path: Path, names: Sequence[str]) -> list[Record]:
    """Return the records of a file, or below a directory, by device and in the order of `names`.

    Raises:
        ValueError: If a file holds something else.
    """
    records: list[Record] = []
    for file in files(path):
        try:
            found = json.loads(file.read_text())
            part = found if isinstance(found, list) else [found]
            if not all({"op", "settings", "environment", "cases"} <= each.keys() for each in part):
                raise ValueError("something else")
            if not all({"device", "threads"} <= each["settings"].keys() for each in part):
                raise ValueError("settings without device or threads")
            table.markdown(part)  # reads every field that is shown
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{file}: must be results of python -m bench, got {error!r}"
            ) from error
        records += part
    if not records:
        raise ValueError(f"{path}: must hold results of python -m bench, got none")
    wanted = [record for record in records if record["op"] in names]
    return sorted(wanted, key=lambda record: (table.device_name(record), names.index(record["op"])))


def files(path: Path) -> list[Path]:
    return sorted(filter(Path.is_file, path.rglob("*.json"))) if path.is_dir() else [path]


def measure(
    op: str, settings: Settings, known: Record, found: memory.Found, *, growth: bool
) -> Record:
    """Measure one op.

    Args:
        known: What `about` returned.
        found: What `memory.measure` returned.
        growth: Also follow how times grow.
    """
    cases, left_out = [], {}
    plan = ops.plan(op, settings)
    while (case := following(plan, f"after {len(cases)} cases")) is not None:
        if isinstance(case, LeftOut):
            left_out[case.name] = case.why
            continue
        record = time_case(case, settings)
        for contender in record["contenders"]:
            contender |= found.get((case.name, contender["contender"]), {})
            if "scratch_bytes" in contender:
                scratch = contender["scratch_bytes"]
                contender["scratch_bytes_per_sample"] = scratch / case.samples
        cases.append(record)
    grown = []
    for each in ops.growths(op, settings) if growth else ():
        if isinstance(each, LeftOut):
            left_out[each.name] = each.why
        else:
            grown.append(scaling.measure(each, settings))
    return {
        "op": op,
        **known,
        "cases": cases,
        "left_out": left_out,
        "growth": grown,
    }


def following(plan: Iterator[Case | LeftOut], where: str) -> Case | LeftOut | None:
    """Return the next case, or why none could be made; None at the end."""
    try:
        return next(plan, None)
    except Exception as error:  # which ends the plan
        return LeftOut(where, trouble(error))


def failed(records: Sequence[Record]) -> list[str]:
    """Say which of our own contenders did not run, though memory and data were there."""
    found = [
        (f"{record['op']}, {case['case']}, {name}", why)
        for record in records
        for case in record["cases"]
        for name, why in case["left_out"].items()
        if name.startswith("diffiso")
    ]
    for record in records:
        found += [(f"{record['op']}, {name}", why) for name, why in record["left_out"].items()]
        for growth in record["growth"]:
            over = f"{record['op']} over {growth['over']}"
            found += [(f"{over}, {size}", why) for size, why in growth["left_out"].items()]
    return [f"{what}: {why}" for what, why in found if not why.startswith((NO_MEMORY, NO_DATA))]


def wrong(records: Sequence[Record]) -> list[str]:
    """Say whose outputs are wrong: ours that differ, and the first where all others differ."""
    found = []
    for record in records:
        for case in record["cases"]:
            where = f"{record['op']}, {case['case']}"
            compared = [each for each in case["contenders"] if was_compared(each, case)]
            found += [
                f"{where}, {each['contender']}: {table.disagreement(each)}"
                for each in compared
                if each["kind"] == "ours" and not table.agrees(each)
            ]
            first = case["contenders"][0]["contender"] if case["contenders"] else ""
            others = [
                each
                for each in compared
                if each["kind"] == "other" and (each.get("like") or first) == first
            ]
            if record["settings"]["smoke"] or not others or any(map(table.agrees, others)):
                continue
            names = ", ".join(each["contender"] for each in others)
            found.append(f"{where}: {names}: none agrees with {first}")
    return found


def was_compared(contender: Record, case: Record) -> bool:
    """Say whether there was something to compare with, or we did not fail, which is said."""
    kinds = {each["kind"] for each in table.differences(contender)}
    we_failed = any(name.startswith("diffiso") for name in case["left_out"])
    return bool(kinds) and not (we_failed and kinds == {NOTHING.kind})
