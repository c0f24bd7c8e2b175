# SPDX-License-Identifier: Apache-2.0
"""What learned shapes look like, and how far they are from their meshes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from diffiso import view
from diffiso.metrics import SurfaceDistance, surface_distance
from diffiso.ops import Field, NarrowBand, isosurface
from diffiso.pipelines.auto_decoder.data import TrainingShape
from diffiso.proximity import closest_points
from diffiso.types import Mesh

_IN_THE_PICTURE = 24  # shapes
_COARSEST = 32  # cells: fewer could step over something
_WORST_COLOR = 0.02  # of the longest side: the error at the end of the colour scale


class ShapeResult(NamedTuple):
    """A learned shape beside its mesh, both in the frame of [-1, 1]^3.

    Attributes:
        shape: The mesh that was learned.
        mesh: The surface of its field; empty where that has none.
        distance: Between the two; None where there is no surface.
    """

    shape: TrainingShape
    mesh: Mesh
    distance: SurfaceDistance | None


@torch.no_grad()
def learned_surface(field: Field, resolution: int) -> Mesh:
    """Return the closed surface of a learned field in [-1, 1]^3.

    Every second node is looked at, and all where the surface can be: what the dense grid shows, for
    a sixth of its queries.

    Args:
        field: A callable (P, 3) -> (P,).
        resolution: Cells along each axis.
    """
    coarsest = max(_COARSEST, resolution // 2)
    band = NarrowBand(-1.0, 1.0, resolution, coarsest=coarsest, close_boundary=True)
    mesh = isosurface(field, band=band)
    assert isinstance(mesh, Mesh)
    return mesh


@torch.no_grad()
def judge(
    field: Field, shape: TrainingShape, resolution: int, samples: int, seed: int
) -> ShapeResult:
    """Return the surface of a shape's field and its distance from the shape's mesh.

    Args:
        field: A callable (P, 3) -> (P,) in the frame of [-1, 1]^3.
        shape: What it should be.
        resolution: Cells along each axis.
        samples: Points drawn on each surface for the distance.
        seed: Seed of these points.
    """
    mesh = learned_surface(field, resolution).to("cpu")
    if len(mesh.faces) == 0:
        return ShapeResult(shape, mesh, None)
    generator = torch.Generator().manual_seed(seed)
    mesh = Mesh(mesh.vertices.double(), mesh.faces)
    return ShapeResult(shape, mesh, surface_distance(mesh, shape.mesh, samples, generator))


def summarize(results: Sequence[ShapeResult]) -> dict[str, float | int | None]:
    """Return mean and worst RMS over shapes, as shares of the longest side, and how many failed."""
    shares = [r.distance.rms / r.distance.side for r in results if r.distance is not None]
    return {
        "shapes": len(results),
        "without_surface": len(results) - len(shares),
        "mean_rms_share_of_side": sum(shares) / len(shares) if shares else None,
        "worst_rms_share_of_side": max(shares) if shares else None,
    }


def draw_results(
    results: Sequence[ShapeResult], *, up: view.Up = "y", size: int = 220, title: str = ""
) -> view.Image:
    """Return a sheet of pairs: a mesh, and what was learned of it, coloured by its error.

    Args:
        results: The shapes, of which the first 24 are drawn.
        up: Axis that points up.
        size: Pixels of each picture's side.
        title: A line on top.
    """
    images, captions = [], []
    for result in results[:_IN_THE_PICTURE]:
        camera = view.fit_view(result.shape.mesh.vertices, up=up)
        images.append(view.render(result.shape.mesh, camera, size=size))
        captions.append(result.shape.name)
        if result.distance is None:
            images.append(view.render(result.mesh, camera, size=size))
            captions.append("no surface")
            continue
        error = closest_points(result.shape.mesh, result.mesh.vertices).distances
        colors = view.error_colors(error, _WORST_COLOR * result.distance.side)
        images.append(view.render(result.mesh, camera, size=size, colors=colors))
        captions.append(f"RMS {100 * result.distance.rms / result.distance.side:.3f}%")
    columns = 2 * min(3, len(images) // 2)
    bar = view.ColorBar(100 * _WORST_COLOR, "distance to the mesh, % of the longest side")
    return view.contact_sheet(images, captions, columns=columns, title=title, bar=bar)
