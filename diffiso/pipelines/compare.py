# SPDX-License-Identifier: Apache-2.0
"""`diffiso compare`: two meshes in, scores with their floors and a picture of the errors out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from diffiso import view
from diffiso.io import (
    IMAGE_SUFFIXES,
    MESH_SUFFIXES,
    check_output,
    load_mesh,
    save_image,
    save_mesh,
)
from diffiso.metrics import ALL_METRICS, Comparison, ErrorMap, compare, error_map
from diffiso.run import Report, check_settings
from diffiso.types import Mesh

_SHOWN = 0.99  # share of the vertices whose colours are on the scale
_LEAST = 1e-6  # end of the scale at least, as a share of the longest side: below is rounding


@dataclass(frozen=True)
class CompareSettings:
    """What to compare and where to write it.

    Attributes:
        mesh: Mesh file to judge.
        reference: Mesh file to compare with; frames are fitted to it.
        output: JSON report to write, the picture stands beside it; null writes neither.
        picture: Write a picture of both meshes, coloured by their distance to the other.
        colored: Mesh file to write: the mesh, coloured by its distance (.ply, .obj or .glb).
        metrics: Names of scores; by default the usual ones.
        samples: Points for distances to triangles; other scores have their papers' counts.
        image_size: Pixels of each picture's side.
        up: Axis that points up in the picture.
        seed: Seed of the samples.
    """

    mesh: str
    reference: str
    output: str | None = "comparison.json"
    picture: bool = True
    colored: str | None = None
    metrics: tuple[str, ...] | None = None
    samples: int = 200_000
    image_size: int = 512
    up: view.Up = "y"
    seed: int = 0

    def __post_init__(self) -> None:
        """Check every value."""
        check_settings(self, positive=["samples", "image_size"], not_negative=["seed"])
        unknown = [name for name in self.metrics or () if name not in ALL_METRICS]
        if unknown:
            raise ValueError(
                f"CompareSettings: metrics must be among {', '.join(ALL_METRICS)}, "
                f"got {', '.join(unknown)}"
            )


def compare_files(settings: CompareSettings, say: Callable[[str], None] = print) -> Comparison:
    """Compare two mesh files: print the scores, write a report, a picture and a coloured mesh.

    Args:
        settings: What to do.
        say: Takes each line for people.

    Returns:
        The scores.

    Raises:
        FileNotFoundError: If a mesh does not exist.
        ValueError: If a mesh cannot be used, or does not allow a score asked for by name.
        OSError: If an output cannot be written.
    """
    report = Report("compare", settings)
    summary, picture, colored = _outputs(settings)
    mesh, reference = _read(settings.mesh, say), _read(settings.reference, say)
    report.lap("read")

    scores = compare(
        mesh, reference, metrics=settings.metrics, samples=settings.samples, seed=settings.seed
    )
    report.metrics |= scores.as_dict()
    report.lap("scores")
    say(scores.table())

    if picture is not None or colored is not None:
        maps = error_map(mesh, reference), error_map(reference, mesh)
        end = scale_end(*maps)
        if picture is not None:
            report.files.append(str(save_image(picture, draw_errors(*maps, end, settings))))
        if colored is not None:
            paint = view.error_colors(maps[0].distances, end)
            report.files.append(str(save_mesh(colored, maps[0].mesh, colors=paint)))
        report.metrics["color_scale_end"] = end
        report.lap("pictures")
    if summary is not None:
        report.files.append(str(summary))
        report.write(summary)
    if report.files:
        say(f"wrote     {', '.join(report.files)}")
    return scores


def scale_end(mesh: ErrorMap, reference: ErrorMap) -> float:
    """Return where the colour scale of two error maps ends: 1, 2 or 5 times a power of ten.

    All but a hundredth of the vertices lie below; rounding errors get no colour.
    """
    found = max(
        float(one.distances.cpu().double().kthvalue(math.ceil(_SHOWN * len(one.distances))).values)
        for one in (mesh, reference)
    )
    vertices = reference.mesh.vertices
    side = float((vertices.amax(dim=0) - vertices.amin(dim=0)).max())
    found = max(found, _LEAST * side)
    power = 10.0 ** math.floor(math.log10(found))
    return power * next(step for step in (1, 2, 5, 10) if found <= step * power * (1 + 1e-9))


def draw_errors(
    mesh: ErrorMap, reference: ErrorMap, end: float, settings: CompareSettings
) -> view.Image:
    """Return both surfaces side by side, coloured by their distance to the other, with a scale.

    Args:
        mesh: The surface that is judged.
        reference: The other.
        end: Distance at the end of the scale.
        settings: Names, size and up axis.
    """
    # Both from the same places, so that one can look back and forth.
    points = torch.cat([mesh.mesh.vertices.cpu(), reference.mesh.vertices.cpu()])
    cameras = [view.fit_view(points, azimuth, up=settings.up) for azimuth in (30.0, 210.0)]
    columns, titles = [], []
    for name, one in ((settings.mesh, mesh), (settings.reference, reference)):
        colors = view.error_colors(one.distances, end)
        columns.append(
            view.render_views(one.mesh, cameras, size=settings.image_size, colors=colors)
        )
        worst, mean = float(one.distances.max()), float(one.distances.mean())
        titles.append(f"{Path(name).name}\nvertices: mean {mean:.3g}, worst {worst:.3g}")
    images = [picture for row in zip(*columns, strict=True) for picture in row]
    captions = [*titles, "from behind", "from behind"]
    bar = view.ColorBar(end, "distance to the other surface, world units")
    return view.contact_sheet(images, captions, columns=2, bar=bar)


def _outputs(settings: CompareSettings) -> tuple[Path | None, Path | None, Path | None]:
    """Return the paths of report, picture and coloured mesh, found to be writable."""
    summary = picture = colored = None
    if settings.output is not None:
        summary = check_output(settings.output, (".json",))
        if settings.picture:
            picture = check_output(summary.with_suffix(".png"), IMAGE_SUFFIXES)
    if settings.colored is not None:
        colored = check_output(
            settings.colored,
            [suffix for suffix in MESH_SUFFIXES if suffix != ".stl"],
            inputs=[settings.mesh, settings.reference],
        )
    return summary, picture, colored


def _read(name: str, say: Callable[[str], None]) -> Mesh:
    mesh = load_mesh(name)
    open_edges = mesh.open_edge_count()
    ends = f"{open_edges:,} open edges" if open_edges else "closed"
    say(f"mesh      {name}: {len(mesh.vertices):,} vertices, {len(mesh.faces):,} faces, {ends}")
    return mesh
