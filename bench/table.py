# SPDX-License-Identifier: Apache-2.0
"""The records as tables: plain for the console, Markdown for documents."""

from collections.abc import Sequence

from bench import scaling
from bench.cases import PLURAL
from bench.timing import Record
from bench.units import duration, in_bytes, percent, significant

COUNTED = ("vertices", "faces", "hits")
Row = list[str]


def differences(contender: Record) -> list[Record]:
    """Return what was compared: nothing in files from before that was done."""
    found: list[Record] = contender.get("differences", [])
    return found


def agrees(contender: Record) -> bool:
    return all(each["agrees"] for each in differences(contender))


def disagreement(contender: Record) -> str:
    """Say which outputs are not those of the one that they were compared with."""
    return "; ".join(
        f"{each['name']}: {each['kind']}"
        if each["value"] is None
        else f"{each['name']}: {each['kind']} {each['value']:.2g}, allowed {each['allowed']:.2g}"
        for each in differences(contender)
        if not each["agrees"]
    )


def rivals(case: Record, contender: Record) -> list[Record]:
    """Return the others that do the same job, with outputs that agree, beside one that does."""
    if not agrees(contender):
        return []
    first = case["contenders"][0]["contender"]
    job = contender.get("like") or first
    return [
        each
        for each in case["contenders"]
        if each["kind"] == "other" and agrees(each) and (each.get("like") or first) == job
    ]


def rows(case: Record) -> list[Row]:
    """Return the case's table, with its heading; columns that nothing fills are left out."""
    contenders = case["contenders"]
    heading = [
        "contender", "median", "min to max", "time / first", "fastest other / this", "of bound",
        "fresh", "reused", "first call", "peak", f"scratch B / {case['unit']}", *COUNTED, "differs",
    ]  # fmt: skip
    table = [heading]
    for each in contenders:
        others = [rival["median"] for rival in rivals(case, each)]
        scratch = each.get("scratch_bytes_per_sample")
        others_of_call = [each.get(name) for name in ("fresh", "reused", "first_call")]
        counts = [each["outputs"].get(name) for name in COUNTED]
        table.append(
            [
                each["contender"],
                duration(each["median"]),
                f"{duration(each['min'])} to {duration(each['max'])}",
                significant(each["ratio"]),
                significant(min(others) / each["median"])
                if others and each["kind"] == "ours"
                else "",
                percent(each["share_of_bound"]),
                *["" if took is None else duration(took) for took in others_of_call],
                in_bytes(each["peak_bytes"]) if "peak_bytes" in each else "",
                "" if scratch is None else significant(scratch),
                *["" if count is None else f"{count:,}" for count in counts],
                "" if agrees(each) else disagreement(each),
            ]
        )
    used = [any(row[i] for row in table[1:]) for i in range(len(heading))]
    return [[cell for cell, keep in zip(row, used, strict=True) if keep] for row in table]


def remarks(case: Record) -> str:
    """One line on what a case's numbers refer to."""
    bound = case["bound"]
    unit = case["unit"] if case["samples"] == 1 else PLURAL[case["unit"]]
    parts = [f"{case['samples']:,} {unit}"]
    if case["calls"] > 1:
        parts.append(f"mean of {case['calls']} calls a run")
    if bound:
        speed = in_bytes(bound["bytes"] / bound["median"])
        parts.append(
            f"bound: {bound['what']}, {in_bytes(bound['bytes'])} in {duration(bound['median'])} "
            f"({speed}/s)"
        )
    return "; ".join(parts)


def aligned(table: list[Row], gap: str = "  ") -> list[str]:
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    return [
        gap.join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in table
    ]


def console(record: Record) -> str:
    lines = []
    for case in record["cases"]:
        lines += ["", f"{record['op']}: {case['case']}", remarks(case), *aligned(rows(case))]
        lines += left_out(case)
    lines += left_out(record)
    for growth in record.get("growth", []):
        lines += ["", f"{record['op']}: {growth_remarks(growth)}", *aligned(growth_rows(growth))]
        lines += left_out(growth)
    return "\n".join(lines)


def left_out(record: Record) -> list[str]:
    """Say what was left out of a case, or of an op, and why."""
    return [f"left out: {name}: {why}" for name, why in record.get("left_out", {}).items()]


def growth_remarks(growth: Record) -> str:
    """One line on how times grow."""
    slope = growth["slope"]
    if slope is None:
        return f"time over {growth['over']}"
    return f"time over {growth['over']}: as {growth['over']}^{slope:.2f} among the larger half"


def growth_rows(growth: Record) -> list[Row]:
    points = growth["points"]
    beside = ["", *[f"{significant(step)}" for step in scaling.steps(points)]]
    body = [
        [
            f"{point['size']:,}",
            duration(point["median"]),
            f"{duration(point['min'])} to {duration(point['max'])}",
            step,
        ]
        for point, step in zip(points, beside, strict=True)
    ]
    return [[growth["over"], "median", "min to max", "time / line above"], *body]


def device_name(record: Record) -> str:
    hardware = record["environment"]["hardware"]
    threads = record["settings"]["threads"]
    return hardware["gpu"] or f"{hardware['processor']}, {threads} threads"


def headline(record: Record) -> str:
    settings, info = record["settings"], record["environment"]["diffiso"]
    versions = record["environment"]["peers"]
    found = [f"{name} {version}" for name, version in versions.items() if version]
    missing = [name for name, version in versions.items() if not version]
    parts = [
        device_name(record),
        f"diffiso {info['version']} ({info['simd']})",
        f"torch {info['torch_version']}",
        *found,
        *[f"without {', '.join(missing)}"] * bool(missing),
        f"medians of {settings['runs']} runs" if settings["runs"] > 1 else "single runs",
    ]
    note = " (smoke: sizes too small to mean anything)" * settings["smoke"]
    return "; ".join(parts) + note + " (quick: half the sizes)" * settings.get("quick", False)


def markdown(records: Sequence[Record]) -> str:
    lines: list[str] = []
    above = None
    for record in records:
        if headline(record) != above:
            above = headline(record)
            lines += [f"{above}.", ""]
        for case in record["cases"]:
            lines += [f"**`{record['op']}`, {case['case']}**: {remarks(case)}.", ""]
            lines += [*in_markdown(rows(case)), ""]
            lines += [*left_out(case), ""] * bool(left_out(case))
        lines += [*left_out(record), ""] * bool(left_out(record))
        for growth in record.get("growth", []):
            lines += [f"**`{record['op']}`**, {growth_remarks(growth)}.", ""]
            lines += [*in_markdown(growth_rows(growth)), ""]
    return "\n".join(lines)


def in_markdown(table: Sequence[Row]) -> list[str]:
    heading, *body = table
    ruler = [":--", *["--:"] * (len(heading) - 1)]
    return ["| " + " | ".join(row) + " |" for row in (heading, ruler, *body)]
