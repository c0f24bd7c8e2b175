# SPDX-License-Identifier: Apache-2.0
"""All scores of one surface against another, each beside what a perfect surface would score."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch

from diffiso.metrics.inputs import check_count, checked_mesh
from diffiso.metrics.overlap import volume_iou
from diffiso.metrics.protocols import PROTOCOLS, Protocol
from diffiso.metrics.surfaces import hausdorff, surface_distance, vertex_distance
from diffiso.metrics.transport import EarthMover
from diffiso.run import track
from diffiso.types import Mesh


@dataclass(frozen=True)
class Row:
    """One score.

    Attributes:
        name: What is measured.
        value: The score.
        limit: What a perfect surface scores: the floor where lower is better, else the ceiling.
        unit: Unit, frame and scale of both.
        better: Which way is better.
        paper: Who prints such a score.
        epsilon: Where the score is the cost of an assignment: it is proved to be at most
            (1 + epsilon) times the least.
    """

    name: str
    value: float
    limit: float
    unit: str
    better: Literal["lower", "higher"] = "lower"
    paper: str = ""
    epsilon: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the row as plain data, without what does not apply."""
        return {k: v for k, v in dataclasses.asdict(self).items() if v is not None and v != ""}


@dataclass(frozen=True)
class Comparison:
    """The scores of one surface against another.

    Attributes:
        rows: One for each score.
        left_out: By the name of a metric that these meshes do not allow, why.
        seed: Of the samples.
    """

    rows: tuple[Row, ...]
    left_out: dict[str, str]
    seed: int

    def __getitem__(self, name: str) -> Row:
        """Return the row of a name.

        Raises:
            KeyError: If there is none.
        """
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"no row {name!r}, there are {', '.join(row.name for row in self.rows)}")

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as plain data, ready for JSON."""
        return {
            "scores": {row.name: row.as_dict() for row in self.rows},
            "left_out": dict(self.left_out),
            "seed": self.seed,
        }

    def table(self) -> str:
        """Return the rows as lines of text for people."""
        head = ("score", "value", "perfect", "better", "unit", "printed by")
        cells = [head]
        for row in self.rows:
            paper = row.paper
            if row.epsilon is not None:
                paper += f" (within {100 * row.epsilon:.2g}% of the least)"
            limit, value = f"{row.limit:.4g}", f"{row.value:.4g}"
            cells.append((row.name, value, limit, row.better, row.unit, paper))
        widths = [max(len(line[k]) for line in cells) for k in range(len(head))]
        lines = []
        for line in cells:
            texts = [
                text.rjust(width) if k in (1, 2) else text.ljust(width)
                for k, (text, width) in enumerate(zip(line, widths, strict=True))
            ]
            lines.append("  ".join(texts).rstrip())
        lines += [f"left out  {name}: {reason}" for name, reason in self.left_out.items()]
        return "\n".join(lines)


# Takes mesh, reference, samples and generator.
_Scores = Callable[[Mesh, Mesh, int, torch.Generator], list[Row]]


def compare(
    mesh: Mesh,
    reference: Mesh,
    *,
    metrics: Sequence[str] | None = None,
    samples: int = 200_000,
    seed: int = 0,
) -> Comparison:
    """Return scores of a surface against a reference, each beside what a perfect one would score.

    Start with `surface_rms`: it has no floor. Scores on samples cannot pass their limit but by
    chance; the limit is the same score between two samples of the reference. A score does not
    depend on which others are asked for.

    Args:
        mesh: The surface to judge.
        reference: The surface to compare with; frames are fitted to it.
        metrics: Names among `ALL_METRICS`; by default `DEFAULT_METRICS`, of which those that the
            meshes do not allow are left out and named.
        samples: Points drawn on each surface for distances to triangles; metrics on clouds have
            the counts of their papers.
        seed: Seed of the samples.

    Raises:
        ValueError: If a name is unknown, a mesh has no faces or no area or is not finite, or the
            meshes do not allow a metric asked for by name.
        ImportError: If the extra `pipelines` is not installed.

    Example:
        >>> from diffiso import isosurface, shapes
        >>> ball, egg = (isosurface(shapes.Sphere(r), -1.0, 1.0, 32) for r in (0.6, 0.63))
        >>> scores = compare(egg, ball, metrics=("hausdorff", "chamfer_squared_2k"))
        >>> print(scores.table())
        score                value  perfect  better  unit                          printed by
        hausdorff_diagonal  ...  lower   of the box's diagonal         SDFDiff, MeshLab
        ...
        >>> scores["hausdorff_side"].limit
        0.0
    """
    known = _metrics()
    chosen = DEFAULT_METRICS if metrics is None else tuple(metrics)
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise ValueError(
            f"compare: metrics must be among {', '.join(known)}, got {', '.join(unknown)}"
        )
    check_count("compare", samples, "samples")
    if seed < 0:
        raise ValueError(f"compare: seed must not be negative, got {seed}")
    mesh = checked_mesh("compare", "mesh", mesh)
    reference = checked_mesh("compare", "reference", reference)
    rows: list[Row] = []
    left_out: dict[str, str] = {}
    for name in track(chosen, "measuring"):
        try:
            rows += known[name](mesh, reference, samples, torch.Generator().manual_seed(seed))
        except ValueError as error:
            if metrics is not None:
                raise
            left_out[name] = str(error)
    return Comparison(tuple(rows), left_out, seed)


def _surface_rms(
    mesh: Mesh, reference: Mesh, samples: int, generator: torch.Generator
) -> list[Row]:
    found = surface_distance(mesh, reference, samples, generator)
    return [
        Row(name, value / found.side, 0.0, "of the longest side")
        for name, value in (
            ("surface_rms", found.rms),
            ("surface_rms_to_reference", found.there),
            ("surface_rms_from_reference", found.back),
        )
    ]


def _hausdorff(mesh: Mesh, reference: Mesh, samples: int, generator: torch.Generator) -> list[Row]:
    found = hausdorff(mesh, reference, samples, generator)
    return [
        Row(
            "hausdorff_diagonal", found.share_of_diagonal, 0.0, "of the box's diagonal",
            paper="SDFDiff, MeshLab",
        ),
        Row("hausdorff_side", found.share_of_side, 0.0, "of the longest side", paper="SDFDiff"),
    ]  # fmt: skip


def _vertex_distance(
    mesh: Mesh, reference: Mesh, samples: int, generator: torch.Generator
) -> list[Row]:
    found = vertex_distance(mesh, reference)
    lengths = {
        "mean": found.mean,
        "deviation": found.deviation,
        "median": found.median,
        "90%": found.percentile_90,
    }
    unit = "world units x 1000"
    rows = [
        Row(f"vertex_distance_{what}", 1e3 * value, 0.0, unit, paper="LGCL ED")
        for what, value in lengths.items()
    ]
    shares = zip(found.thresholds, found.shares, strict=True)
    return rows + [
        Row(
            f"vertices_over_{1e3 * limit:g}",
            100 * share,
            0.0,
            f"% beyond {limit:g} world units",
            paper="LGCL ED",
        )
        for limit, share in shares
    ]


def _volume_iou(mesh: Mesh, reference: Mesh, samples: int, generator: torch.Generator) -> list[Row]:
    value = volume_iou(mesh, reference)
    return [Row("volume_iou_32", value, 1.0, "32^3 cells", "higher", "Pix3D IoU")]


def _protocol(
    name: str,
    protocol: Protocol,
    mesh: Mesh,
    reference: Mesh,
    samples: int,
    generator: torch.Generator,
) -> list[Row]:
    score = protocol.score(mesh, reference, generator)
    better: Literal["lower", "higher"] = "higher" if protocol.higher_is_better else "lower"
    epsilon = score.result.epsilon if isinstance(score.result, EarthMover) else None
    return [Row(name, score.value, score.limit, protocol.unit, better, protocol.paper, epsilon)]


def _metrics() -> dict[str, _Scores]:
    """Return every metric by name."""
    plain: dict[str, _Scores] = {
        "surface_rms": _surface_rms,
        "hausdorff": _hausdorff,
        "vertex_distance": _vertex_distance,
        "volume_iou_32": _volume_iou,
    }
    return plain | {name: partial(_protocol, name, it) for name, it in PROTOCOLS.items()}


ALL_METRICS = tuple(_metrics())
DEFAULT_METRICS = (
    "surface_rms",
    "hausdorff",
    "vertex_distance",
    "volume_iou_32",
    "surface_iou_5k",
    "chamfer_squared_2k",
    "chamfer_even_10k",
    "chamfer_squared_halved_10k",
    "chamfer_halved_100k",
    "earth_mover_2k",
    "f_score_5e-2_10k",
    "f_score_2e-3_100k",
    "normal_consistency_100k",
)
