# SPDX-License-Identifier: Apache-2.0
"""The records as one HTML page that needs nothing but itself: tables, and bars beside the bound."""

import base64
import html
import io
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from bench import table, units
from bench.peers import find
from bench.timing import Record

INK = {"ours": "#c8553d", "other": "#5b7c99", "part": "#c9cfd6"}
LEGEND = {"ours": "diffiso", "other": "others", "part": "less than the whole job"}
HATCH = "/////"  # over bars of outputs that differ

STYLE = """
:root { color-scheme: light; --ink: #22272e; --soft: #68717d; --line: #dfe3e8; --ours: #c8553d; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 88rem; padding: 2rem 1.25rem 4rem; color: var(--ink);
  background: #fff; font: 15px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .25rem; }
h2 { font-size: 1.25rem; margin: 2.75rem 0 .5rem; border-bottom: 2px solid var(--line);
  padding-bottom: .25rem; }
h3 { font-size: 1rem; margin: 1.75rem 0 .25rem; }
p { margin: .25rem 0; color: var(--soft); }
nav a { margin-right: 1rem; color: var(--ours); text-decoration: none; }
nav { margin: 1rem 0; }
.key { display: inline-block; width: .8rem; height: .8rem; margin: 0 .3rem 0 1rem;
  vertical-align: -0.05rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: .5rem 0; font-variant-numeric: tabular-nums;
  font-size: .85rem; }
th, td { padding: .25rem .75rem; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; }
th { font-weight: 600; color: var(--soft); }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
tr.ours td:first-child { color: var(--ours); font-weight: 600; }
tr.part td { color: var(--soft); }
img { max-width: 100%; height: auto; display: block; }
"""


def page(records: Sequence[Record]) -> str:
    """Return the page of one run, or of several."""
    several = len({table.device_name(record) for record in records}) > 1
    anchors = names_of_places(records)
    links = ""
    for machine, group in groupby(zip(records, anchors, strict=True), machine_of):
        there = "".join(f'<a href="#{anchor}">{each["op"]}</a>' for each, anchor in group)
        links += f"<p>{html.escape(machine)}: {there}</p>" if several else there
    keys = "".join(
        f'<span class="key" style="background:{INK[kind]}"></span>{what}'
        for kind, what in LEGEND.items()
    )
    body = "\n".join(
        part
        for record, anchor in zip(records, anchors, strict=True)
        for part in section(record, anchor, several=several)
    )
    heads = [text for text, _ in groupby(table.headline(record) for record in records)]
    about = "".join(f"<p>{html.escape(head)}.</p>" for head in dict.fromkeys(heads))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>diffiso benchmarks</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>diffiso benchmarks</h1>\n{about}\n"
        "<p>All contenders of a case run in one process on the same inputs, in turn. Bars are "
        "medians, lines from the least to the most; the dotted line is the bound, what reading the "
        "inputs once takes. A time counts only beside outputs that agree.</p>\n"
        f"<p>Bars:{keys}; hatched where outputs differ.</p>\n"
        f"<nav>{links}</nav>\n{body}\n</body>\n</html>\n"
    )


def machine_of(placed: tuple[Record, str]) -> str:
    return table.device_name(placed[0])


def names_of_places(records: Sequence[Record]) -> list[str]:
    """Return what links lead to: the name of the op, with a number from its second record on."""
    names: list[str] = []
    for place, record in enumerate(records):
        before = sum(each["op"] == record["op"] for each in records[:place])
        names.append(f"{record['op']}-{before + 1}" if before else record["op"])
    return names


def section(record: Record, anchor: str, *, several: bool) -> Iterator[str]:
    """Return what one record has; with the machine where there are several."""
    machine = f", {html.escape(table.device_name(record))}" * several
    yield f'<h2 id="{anchor}">{record["op"]}{machine}</h2>'
    for case in record["cases"]:
        yield f"<h3>{html.escape(case['case'])}</h3>"
        for each in case["contenders"]:
            if not table.agrees(each):
                line = f"{each['contender']} differs: {table.disagreement(each)}"
                yield f"<p>{html.escape(line)}</p>"
        yield f"<p>{html.escape(table.remarks(case))}.</p>"
        picture = bars(case)
        if picture:
            title = html.escape(f"Times of {record['op']}, {case['case']}", quote=True)
            yield f'<img alt="{title}" src="data:image/svg+xml;base64,{picture}">'
        yield rows(table.rows(case), [each["kind"] for each in case["contenders"]])
        yield from (f"<p>{html.escape(line)}</p>" for line in table.left_out(case))
    yield from (f"<p>{html.escape(line)}</p>" for line in table.left_out(record))
    growths = record.get("growth", [])
    if not growths:
        return
    yield f"<h3>How the time of {record['op']} grows</h3>"
    picture = curves(growths)
    if picture:
        title = html.escape(f"Times of {record['op']} over sizes", quote=True)
        yield f'<img alt="{title}" src="data:image/svg+xml;base64,{picture}">'
    for growth in growths:
        yield f"<p>{html.escape(table.growth_remarks(growth))}.</p>"
        yield rows(table.growth_rows(growth), ["other"] * len(growth["points"]))


def rows(lines_of_table: Sequence[table.Row], kinds: Sequence[str]) -> str:
    heading, *body = lines_of_table
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in heading)
    lines = "\n".join(
        f'<tr class="{kind}">' + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
        for kind, row in zip(kinds, body, strict=True)
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n'
        f"<tbody>{lines}</tbody></table></div>"
    )


def bars(case: Record) -> str:
    """Return a picture (SVG, base64) of all times on one logarithmic axis; empty without plots."""
    plots, figures = find("matplotlib"), find("matplotlib.figure")
    if figures is None:
        return ""
    contenders = case["contenders"]
    if not contenders:
        return ""
    height = 0.55 + 0.27 * len(contenders)
    figure = figures.Figure(figsize=(9.0, height), layout="constrained")
    axes = figure.subplots()
    places = range(len(contenders))
    medians = [each["median"] for each in contenders]
    spread = [
        [each["median"] - each["min"] for each in contenders],
        [each["max"] - each["median"] for each in contenders],
    ]
    axes.barh(
        places,
        medians,
        color=[INK[each["kind"]] for each in contenders],
        height=0.7,
        hatch=["" if table.agrees(each) else HATCH for each in contenders],
        edgecolor="white",
        linewidth=0,
    )
    axes.errorbar(medians, places, xerr=spread, fmt="none", ecolor="#22272e", elinewidth=0.8)
    least = min([*medians, *([case["bound"]["median"]] if case["bound"] else [])])
    axes.set_xscale("log")
    axes.set_xlim(0.5 * least, 2.2 * max(each["max"] for each in contenders))
    if case["bound"]:
        axes.axvline(case["bound"]["median"], color="#22272e", linestyle=":", linewidth=1.2)
    axes.set_yticks(places, [each["contender"] for each in contenders], fontsize=8)
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(lambda seconds, _: units.duration(seconds))
    axes.xaxis.set_minor_formatter(lambda seconds, _: "")
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return in_base64(figure, plots)


def curves(growths: Sequence[Record]) -> str:
    """Return a picture (SVG, base64) of times over sizes, side by side; empty without plots."""
    plots, figures = find("matplotlib"), find("matplotlib.figure")
    if figures is None:
        return ""
    figure = figures.Figure(figsize=(2.6 * len(growths), 2.3), layout="constrained")
    places = figure.subplots(1, len(growths), squeeze=False)[0]
    for axes, growth in zip(places, growths, strict=True):
        sizes = [point["size"] for point in growth["points"]]
        medians = [point["median"] for point in growth["points"]]
        axes.fill_between(
            sizes,
            [point["min"] for point in growth["points"]],
            [point["max"] for point in growth["points"]],
            color=INK["part"],
            alpha=0.6,
            linewidth=0,
        )
        axes.plot(sizes, medians, marker="o", markersize=3.5, color=INK["ours"])
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(sizes, [units.in_short(size) for size in sizes], fontsize=7)
        axes.xaxis.set_minor_locator(plots.ticker.NullLocator())
        for which in ("major", "minor"):
            axes.tick_params(axis="y", which=which, labelsize=7)
        axes.yaxis.set_major_formatter(lambda seconds, _: units.duration(seconds))
        few = max(medians) < 10 * min(medians)  # too few powers of ten for their names alone
        axes.yaxis.set_minor_formatter(
            lambda seconds, _, few=few: units.duration(seconds) if few else ""
        )
        axes.set_xlabel(growth["over"], fontsize=8)
        if growth["slope"] is not None:
            axes.set_title(f"slope {growth['slope']:.2f}", fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    return in_base64(figure, plots)


def in_base64(figure: Any, plots: Any) -> str:
    buffer = io.BytesIO()
    with plots.rc_context({"svg.hashsalt": "diffiso"}):  # the same page from the same times
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return base64.b64encode(buffer.getvalue()).decode()
