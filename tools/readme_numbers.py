# SPDX-License-Identifier: Apache-2.0
"""Write the figures of README.md from the results that are kept.

Run as `python -m tools.readme_numbers`, or with `--check` to be told whether they are those of the
kept results. Each stands between two comments, `<!-- NAME -->` and `<!-- end -->`; `PASSAGES` has
the text around them.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.table import agrees
from bench.units import in_bytes, significant

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results"
BENCHMARKS = ROOT / "bench" / "results" / "intel-r-xeon-r-processor-2-threads"
BESIDE = ROOT / "bench" / "results" / "amd-epyc-2-threads"  # an older run
WIDTH = 120

Record = dict[str, Any]


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def case(op: str, name: str, folder: Path = BENCHMARKS) -> dict[str, Record]:
    """Return the contenders of a case by name."""
    record = read(folder / f"{op}.json")
    (found,) = (case for case in record["cases"] if case["case"] == name)
    contenders = {each["contender"]: each for each in found["contenders"]}
    first = found["contenders"][0]
    for each in found["contenders"]:
        other = contenders.get(each.get("like") or first["contender"], first)
        if not agrees(each) or not (each.get("differences") or counted_alike(each, other)):
            raise ValueError(f"{op}, {name}: {each['contender']} must agree to be quoted")
    return contenders


def counted_alike(contender: Record, other: Record) -> bool:
    """Say whether outputs that nobody compared, as in older records, are at least as many."""
    if contender is other or contender["kind"] == "part":
        return True
    ours, theirs = other["outputs"], contender["outputs"]
    shared = ours.keys() & theirs.keys()
    return bool(shared) and all(ours[name] == theirs[name] for name in shared)


def median(op: str, name: str, contender: str) -> float:
    return float(case(op, name)[contender]["median"])


def milliseconds(seconds: float) -> str:
    return f"{significant(1000 * seconds)} ms"


def significant_pair(value: float) -> str:
    """Two digits that count, or all before the point."""
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"


def percent(share: float, digits: int = 2) -> str:
    """So many digits that count, never an exponent."""
    return f"{float(f'{100 * share:.{digits}g}'):g}%"


def processor(record: Record) -> str:
    """Its name, without marks of trade."""
    name = record["environment"]["hardware"]["processor"]
    return str(name).replace("(R)", "").removesuffix(" Processor")


def with_vtk(found: dict[str, Record], faces: str) -> tuple[Record, Record]:
    """Return our record and VTK's, which casts what it does not read."""
    cast = found.get("VTK Flying Edges (cast to float32)")
    return found[f"diffiso, {faces} faces"], cast or found["VTK Flying Edges"]


def marching_cubes() -> str:
    record = read(BENCHMARKS / "marching_cubes.json")
    beside = processor(read(BESIDE / "marching_cubes.json"))
    peers, settings = record["environment"]["peers"], record["settings"]
    packages = {"Warp": "warp-lang", "scikit-image": "scikit-image"}
    without_threads = [name for name, package in packages.items() if peers.get(package)]
    slow = " and ".join(f"{name} {peers[packages[name]]}" for name in without_threads)
    slow += " have" if len(without_threads) > 1 else " has"
    intro = f"""
        `marching_cubes`, forward, whole calls with output allocation. {processor(record)},
        {settings["threads"]} threads, float32, medians of {settings["runs"]} runs in one process,
        each contender in turn: `python -m bench marching_cubes` (all cases and spreads:
        `bench/results/`). VTK is `vtkFlyingEdges3D` {peers["vtk"]} without normals, gradients and
        scalars, on the same memory with the same threads; the second of its ratios is of an
        earlier build on {beside}, whose outputs were compared by number alone. {slow} no threads.
        Bound is the time in which the same threads can read the samples once.
    """
    heads = ["case", "vertices", "diffiso", "VTK", *without_threads, "VTK / diffiso"]
    heads += [f"on {beside}", "bound / diffiso", "scratch"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, faces in (
        ("sphere 256^3 float32", "int64"),
        ("sphere 512^3 float32", "int64"),
        ("gyroid 512^3 float32", "int64"),
        ("gyroid 512^3 float32", "int32"),
        ("sphere 512^3 float16", "int64"),
    ):
        found = case("marching_cubes", name)
        ours, vtk = with_vtk(found, faces)
        cast = "cast" in vtk["contender"]
        ours_beside, vtk_beside = with_vtk(case("marching_cubes", name, BESIDE), faces)
        others = [found.get(peer) for peer in without_threads]
        cells = [
            f"{name.removesuffix(' float32')}, {faces} faces".replace(" float16", ", float16"),
            f"{ours['outputs']['vertices']:,}",
            milliseconds(ours["median"]),
            milliseconds(vtk["median"]) + " (after a cast)" * cast,
            *["-" if other is None else milliseconds(other["median"]) for other in others],
            significant_pair(vtk["median"] / ours["median"]),
            significant_pair(vtk_beside["median"] / ours_beside["median"]),
            f"{100 * ours['share_of_bound']:.0f}%",
            f"{ours['scratch_bytes_per_sample']:.2f} B a node",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return filled(intro) + "\n\n" + "\n".join(lines)


def trace() -> str:
    def at(op: str, nodes: int, contender: str) -> str:
        return milliseconds(median(op, f"gyroid ball {nodes}^3, 512^2 rays", contender))

    def step(contender: str) -> str:
        return milliseconds(median("shade", "64^3, 26 pictures of 256^2", contender))

    version = read(BENCHMARKS / "trace.json")["environment"]["peers"]["mitsuba"]
    return filled(f"""
        `trace` on the same machine, 512^2 rays, against Mitsuba {version}'s `sdfgrid` (llvm), each
        with its rays in tiles: {at("trace", 64, "diffiso, rays in tiles")} against
        {at("trace", 64, "Mitsuba, rays in tiles")} at 64^3,
        {at("trace", 256, "diffiso, rays in tiles")} against
        {at("trace", 256, "Mitsuba, rays in tiles")} at 256^3; with the eight samples of each hit
        {at("trace", 64, "diffiso, rays in tiles, with samples")} and
        {at("trace", 256, "diffiso, rays in tiles, with samples")}. Tracing and shading 26 pictures
        of 256^2 at 64^3, forward and backward, takes {step("diffiso")}, with soft outlines
        {step("diffiso, with coverage")}.
    """)


def silhouette() -> str:
    record = read(BENCHMARKS / "silhouette.json")
    names = [case["case"] for case in record["cases"] if case["case"].startswith("bunny")]
    if len(names) != 2:
        raise ValueError("silhouette.json must have the bunny: DIFFISO_DATA was not set")
    ours, theirs = (
        [milliseconds(median("silhouette", name, contender)) for name in names]
        for contender in ("diffiso", "DEODR")
    )
    return filled(f"""
        `silhouette` of the bunny's 59,664 faces, forward and backward, takes {ours[0]} at 256^2 and
        {ours[1]} at 512^2, DEODR {record["environment"]["peers"]["deodr"]} (on the one thread that
        it uses, with its edges' neighbours known beforehand) {theirs[0]} and {theirs[1]}.
    """)


def gradients() -> str:
    rows = [
        row for row in read(RESULTS / "mesh_sdf" / "gradients.json") if row["law"] == "implicit"
    ]

    def worst(family: str, score: str) -> str:
        errors = [
            row["relative_error"]
            for row in rows
            if row["family"] == family and row["score"] == score
        ]
        return percent(max(errors))

    return filled(f"""
        The gradient of the enclosed volume in a sphere's radius, at 128 cells, agrees with central
        differences over re-extracted meshes to {worst("sphere", "volume")}, that of the area to
        {worst("sphere", "area")}, that of its silhouette to {worst("sphere", "silhouette")}
        (`results/mesh_sdf/`).
    """)


def narrow_band() -> str:
    curve = read(RESULTS / "narrow_band" / "curve.json")

    def row(field: str, mode: str, cells: int) -> Record:
        (found,) = (
            row
            for row in curve["rows"]
            if (row["field"], row["mode"], row["cells"]) == (field, mode, cells)
        )
        return dict(found)

    torus, dense = (row("torus", mode, 1024) for mode in ("cold", "dense"))
    largest = row("decoder", "cold", 2048)
    how = "" if dense["measured"] else ", computed from 512 cells,"
    return filled(f"""
        On two cores a torus of 1024 cells takes {significant(torus["seconds"])} s, all nodes{how}
        {dense["seconds"]:.0f} s; a decoder of 8 layers of 128 at 2048 cells takes
        {largest["seconds"]:.0f} s within {in_bytes(largest["peak_bytes"])}, and in an optimisation
        loop at 128 cells a step is {curve["latent_steps"]["times_faster"]:.1f} times as fast as
        with all nodes (`results/narrow_band/`).
    """)


def sdfdiff() -> str:
    rows = [
        row
        for row in read(RESULTS / "sdfdiff" / "study.json")
        if row["study"] == "D1" and row["case"] == "default"
    ]

    def worst(score: str) -> str:
        found = [
            max(row["scores"][score] for row in rows if row["shape"] == shape)
            for shape in ("torus", "bunny", "dragon")
        ]
        return "{}, {} and {}".format(*[percent(share) for share in found])

    seconds = statistics.median(row["seconds"] for row in rows)
    return filled(f"""
        From 26 pictures of its mesh, 64^3 samples come within {worst("hausdorff_side")} of the
        longest side of a torus, the bunny and the dragon (symmetric Hausdorff distance, the worst
        of three seeds), and within {worst("surface_rms")} by RMS, in {seconds:.0f} s on one thread
        (`results/sdfdiff/`).
    """)


def auto_decoder() -> str:
    solids, meshes = (
        read(RESULTS / "auto_decoder" / name / "report.json") for name in ("solids", "meshes")
    )

    def result(report: Record) -> str:
        rms = percent(report["metrics"]["mean_rms_share_of_side"], 3)
        return f"in {report['seconds']['total']:.0f} s to a mean RMS of {rms}"

    return filled(f"""
        `diffiso train` on two cores: twenty procedural solids {result(solids)} of the longest side,
        eight scanned and modelled meshes {result(meshes)} (`results/auto_decoder/`).
    """)


def finetuning() -> str:
    rows = read(RESULTS / "mesh_sdf" / "finetuning.json")
    seeds = {row["seed"] for row in rows}

    def change(family: str, network: str, *place: str) -> str:
        def error(of: str, *where: str) -> list[float]:
            found = [row for row in rows if (row["family"], row["network"]) == (family, of)]
            parts = sorted(found, key=lambda row: int(row["seed"]))
            for key in where:
                parts = [part[key] for part in parts]
            return [float(part["rms_percent_of_side"]) for part in parts]

        start = ("unseen", "points") if place[0] == "unseen" else place
        pairs = zip(error(network, *place), error("baseline", *start), strict=True)
        return f"{100 * (1 - statistics.fmean(a / b for a, b in pairs)):.0f}%"

    def of(network: str, *place: str) -> str:
        return " and ".join(change(family, network, *place) for family in ("chairs", "cars"))

    return filled(f"""
        `diffiso finetune`, on networks that know 64 chairs or cars: meshes of 64 cells come nearer
        by {of("through meshes", "learned")} when weights learn through them (and lose at twice
        the cells), by {of("plain", "learned")} when they go on with signed distances for as
        long; those of 16 shapes that none has seen by {of("through meshes", "unseen", "meshes")},
        their codes moved through meshes too, and by {of("plain", "unseen", "points for longer")}
        (RMS, seeds {", ".join(map(str, sorted(seeds)))}, `results/mesh_sdf/`).
    """)


PASSAGES: dict[str, Callable[[], str]] = {
    "sdfdiff": sdfdiff,
    "narrow band": narrow_band,
    "marching cubes": marching_cubes,
    "gradients": gradients,
    "trace": trace,
    "silhouette": silhouette,
    "auto-decoder": auto_decoder,
    "fine-tuning": finetuning,
}


def filled(text: str) -> str:
    """Return a paragraph, broken where lines are full."""
    return textwrap.fill(
        " ".join(text.split()), WIDTH, break_long_words=False, break_on_hyphens=False
    )


def rewritten(text: str) -> str:
    """Return a document with all passages as the kept results have them.

    Raises:
        ValueError: If a passage is missing, or one is there that nobody knows.
    """
    found = re.findall(r"^<!-- (?!end)(.+) -->$", text, re.MULTILINE)
    if sorted(found) != sorted(PASSAGES):
        raise ValueError(
            f"README.md must have the passages {', '.join(PASSAGES)}, got {', '.join(found)}"
        )
    for name, passage in PASSAGES.items():
        before, rest = text.split(f"<!-- {name} -->\n")
        _, end, after = rest.partition("<!-- end -->\n")
        text = f"{before}<!-- {name} -->\n{passage()}\n{end}{after}"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if any differs")
    options = parser.parse_args()
    path = ROOT / "README.md"
    old = path.read_text()
    new = rewritten(old)
    if options.check and new != old:
        sys.exit("README.md must have the figures of the kept results: make numbers writes them")
    if not options.check:
        path.write_text(new)


if __name__ == "__main__":
    main()
