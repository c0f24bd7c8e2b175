# SPDX-License-Identifier: Apache-2.0
"""What a reconstruction looks like, beside what it was made from and what it should be."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from diffiso import view
from diffiso.camera import Up
from diffiso.io import save_gif, save_mesh
from diffiso.metrics import Comparison, compare, error_map
from diffiso.ops import marching_cubes
from diffiso.pipelines.sdfdiff.energy import RenderSettings, render_views
from diffiso.pipelines.views import Views
from diffiso.types import Grid, Mesh

# Largest distances, in the paper's manner; then means of distances, and of normals.
SCORES = (
    "hausdorff",
    "surface_rms",
    "chamfer_squared_2k",
    "chamfer_halved_100k",
    "normal_consistency_100k",
)
_SHOWN = 8  # views on the sheet
_SIDE = 220  # pixels of a picture on the sheet, about
_FRAMES = 36  # of the turntable


def surface(grid: Grid, views: Views) -> Mesh:
    """Return a grid's surface, closed at the box, in the coordinates that the solid came in.

    Raises:
        RuntimeError: If there is none.
    """
    mesh = marching_cubes(
        Grid(grid.values.detach().cpu(), grid.lower, grid.spacing), close_boundary=True
    )
    assert isinstance(mesh, Mesh)
    if len(mesh.faces) == 0:
        raise RuntimeError("reconstruct: the surface vanished")
    return views.frame.inverse().mesh(Mesh(mesh.vertices.double(), mesh.faces))


def touches_rim(grid: Grid) -> bool:
    """Return whether a grid's solid reaches the rim of its box."""
    inside = grid.values.detach() < 0
    return any(bool(inside.select(axis, end).any()) for axis in range(3) for end in (0, -1))


def score(mesh: Mesh, reference: Mesh, samples: int) -> Comparison:
    """Return the scores of a reconstruction, each with what a perfect one would score."""
    return compare(mesh, reference, metrics=SCORES, samples=samples)


@torch.no_grad()
def draw_views(grid: Grid, views: Views, rendering: RenderSettings, title: str = "") -> view.Image:
    """Return a sheet of pictures: what was given beside what the grid shows.

    Args:
        grid: The reconstruction.
        views: Pictures of any size.
        rendering: How to render the grid.
        title: A line on top.
    """
    shrink = max(1, math.ceil(max(views.cameras.size) / _SIDE))
    height, width = (max(1, side // shrink) for side in views.cameras.size)
    count = len(views.names)
    shown = sorted({index * count // _SHOWN for index in range(_SHOWN)})
    chosen = views.select(shown).resized((height, width))
    # Exact, and one pixel wide, whatever the levels had: for people.
    normals = rendering.at(0, 0, last=True).normals
    seen = render_views(grid, chosen.to(grid.values.device), RenderSettings(normals=normals))
    if chosen.intensity is not None:
        given, found = chosen.intensity, seen.intensity * seen.coverage
        white = max(float(given.max()), 1e-12)
    else:
        assert chosen.coverage is not None
        given, found, white = chosen.coverage, seen.coverage, 1.0
    images, captions = [], []
    for index, name in enumerate(chosen.names):
        images += [
            view.grey_image(given[index] / white),
            view.grey_image(found[index].cpu() / white),
        ]
        captions += [Path(name).name, "reconstructed"]
    return view.contact_sheet(images, captions, columns=4 if len(images) > 2 else 2, title=title)


def save_turntable(path: Path, mesh: Mesh, up: Up) -> Path:
    """Write an animation of a mesh that turns, and return the path."""
    return save_gif(path, view.turntable(mesh, _FRAMES, up=up, size=320), colors=128)


def save_errors(path: Path, mesh: Mesh, reference: Mesh, end: float) -> Path:
    """Write the reconstruction, coloured by its distance to the reference, and return the path.

    Args:
        path: Mesh file to write.
        mesh: The reconstruction.
        reference: What it should be.
        end: Distance at the end of the colour scale.
    """
    found = error_map(mesh, reference)
    return save_mesh(path, found.mesh, colors=view.error_colors(found.distances, end))
