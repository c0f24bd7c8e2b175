# SPDX-License-Identifier: Apache-2.0
"""`diffiso extract`: mesh or volume in, level set out, with distance, picture and report."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from diffiso import geometry, view
from diffiso.io import (
    IMAGE_SUFFIXES,
    MESH_SUFFIXES,
    check_output,
    load_mesh,
    load_volume,
    save_image,
    save_mesh,
)
from diffiso.metrics import SurfaceDistance, surface_distance
from diffiso.ops import NarrowBand, marching_cubes
from diffiso.run import Report, check_settings, memory_bytes, progress_bar, seed_all
from diffiso.shapes import MeshShape
from diffiso.types import BrickGrid, Grid, Mesh

_MARGIN = 2  # cells left free around the solid
_BYTES_PER_AREA = 600  # for each square of a cell's side: samples, the mesh, and what makes them


@dataclass(frozen=True)
class ExtractSettings:
    """What to extract and where to write it.

    Attributes:
        source: A mesh file, or a volume (`.npy`).
        output: Mesh file to write; the picture and the report stand beside it.
        resolution: Cells along the longest side, for a mesh; by default 128. A volume has its own.
        level: Value of the surface; for a mesh the distance to grow it by, world units.
        close_boundary: Close the solid where it leaves the volume.
        picture: Write a picture.
        up: Axis that points up in the picture.
        samples: Points for the distance between the mesh and the surface.
        seed: Seed of these points.
    """

    source: str
    output: str
    resolution: int | None = None
    level: float = 0.0
    close_boundary: bool = False
    picture: bool = True
    up: view.Up = "y"
    samples: int = 200_000
    seed: int = 0

    def __post_init__(self) -> None:
        """Check every value."""
        check_settings(
            self, positive=["resolution", "samples"], finite=["level"], not_negative=["seed"]
        )


@dataclass(frozen=True)
class ExtractResult:
    """What came out.

    Attributes:
        mesh: The surface.
        distance: Distance to the mesh that was read; None for a volume or another level than 0.
        report: Path of the JSON report.
    """

    mesh: Mesh
    distance: SurfaceDistance | None
    report: Path


def extract(settings: ExtractSettings, say: Callable[[str], None] = print) -> ExtractResult:
    """Run the extraction and write mesh, picture and report.

    Args:
        settings: What to do.
        say: Takes each line for people.

    Raises:
        FileNotFoundError: If the source does not exist.
        ValueError: If the source cannot be used or has no surface at the level.
        OSError: If an output cannot be written.
    """
    generator = seed_all(settings.seed)
    report = Report("extract", settings)
    output = check_output(settings.output, MESH_SUFFIXES, inputs=[settings.source])
    picture = check_output(output.with_suffix(".png"), IMAGE_SUFFIXES) if settings.picture else None
    summary = check_output(output.with_suffix(".json"))

    grid, reference = _read(settings, say)
    report.lap("grid")
    # The box around a mesh holds its solid, so that there is nothing to close.
    close = settings.close_boundary and isinstance(grid, Grid)
    mesh = marching_cubes(grid, settings.level, close_boundary=close)
    assert isinstance(mesh, Mesh)
    report.lap("marching_cubes")
    _check_surface(mesh, grid, settings)
    report.metrics |= describe(mesh) | {"nodes": list(_nodes(grid))}
    say(f"surface   {summarize(mesh)}")

    distance = None
    if reference is not None and settings.level == 0:
        distance = surface_distance(mesh, reference, settings.samples, generator)
        report.metrics["distance"] = distance.as_dict()
        say(f"distance  {distance}")
    report.lap("distance")

    report.files.append(str(save_mesh(output, mesh)))
    if picture is not None:
        image = view.render(mesh, view.fit_view(mesh.vertices, up=settings.up))
        report.files.append(str(save_image(picture, image)))
    report.lap("files")
    report.files.append(str(summary))
    report.write(summary)
    say(f"wrote     {', '.join(report.files)}")
    return ExtractResult(mesh, distance, summary)


def mesh_band(shape: MeshShape, resolution: int, level: float = 0.0) -> BrickGrid:
    """Return signed distances of cubic cells around a mesh, where its level set can be.

    Args:
        shape: The mesh.
        resolution: Cells along the longest side of the box, two of them free at either end.
        level: Value at which a surface is wanted.

    Raises:
        ValueError: If the resolution leaves no cell for the mesh, or does not fit the memory.
    """
    if resolution <= 2 * _MARGIN:
        raise ValueError(f"resolution: must be above {2 * _MARGIN}, got {resolution}")
    grow = max(level, 0.0)
    lower = torch.tensor(shape.lower, dtype=torch.float64) - grow
    size = torch.tensor(shape.upper, dtype=torch.float64) + grow - lower
    cell = float(size.max()) / (resolution - 2 * _MARGIN)
    area = geometry.surface_area(torch.from_numpy(shape.vertices), torch.from_numpy(shape.faces))
    tiles = float((size / (8 * cell) + 2).prod())
    need, have = int(_BYTES_PER_AREA * float(area) / cell**2 + 4 * tiles), memory_bytes()
    if 0 < have < need:
        raise ValueError(
            f"resolution: must fit the memory, got {resolution}, "
            f"which takes {need / 2**30:.0f} of {have / 2**30:.0f} GiB"
        )
    cells = [min(resolution, math.ceil(side / cell - 1e-9) + 2 * _MARGIN) for side in size.tolist()]
    lower = lower + (size - cell * torch.tensor(cells)) / 2
    upper = lower + cell * torch.tensor(cells)
    # Exact distances are 1-Lipschitz; these hold to float64's rounding. Asked for in float64, since
    # a mesh may lie far from 0, and kept in float32, as distances are.
    band = NarrowBand(
        lower.tolist(), upper.tolist(), cells, lipschitz=shape.lipschitz, dtype=torch.float64
    )
    with progress_bar("sampling distances") as progress:
        return band.sample(shape, level, progress).to(torch.float32)


def describe(mesh: Mesh) -> dict[str, int]:
    """Return the counts that tell a mesh's size and topology."""
    return {
        "vertices": len(mesh.vertices),
        "faces": len(mesh.faces),
        "euler_number": mesh.euler_number(),
        "open_edges": mesh.open_edge_count(),
    }


def summarize(mesh: Mesh) -> str:
    """Return a mesh's size and topology as a line for people."""
    counts = describe(mesh)
    ends = "closed" if counts["open_edges"] == 0 else f"{counts['open_edges']:,} open edges"
    return (
        f"{counts['vertices']:,} vertices, {counts['faces']:,} faces, {ends}, "
        f"Euler number {counts['euler_number']}"
    )


def _read(
    settings: ExtractSettings, say: Callable[[str], None]
) -> tuple[Grid | BrickGrid, Mesh | None]:
    source = Path(settings.source)
    if source.suffix.lower() == ".npy":
        if settings.resolution is not None:
            raise ValueError(
                f"{source}: resolution is for meshes, a volume has its own; leave it out"
            )
        grid = Grid(load_volume(source))
        say(f"volume    {source}: {_times(_nodes(grid))} nodes of {grid.values.dtype}")
        return grid, None
    reference = load_mesh(source)
    say(f"mesh      {source}: {len(reference.vertices):,} vertices, {len(reference.faces):,} faces")
    resolution = 128 if settings.resolution is None else settings.resolution
    band = mesh_band(MeshShape(reference, name=str(source)), resolution, settings.level)
    known = int((~band.values.isnan()).sum())
    say(f"band      {known:,} signed distances on {_times(band.nodes)} nodes")
    return band, reference


def _nodes(grid: Grid | BrickGrid) -> tuple[int, ...]:
    return grid.nodes if isinstance(grid, BrickGrid) else tuple(grid.values.shape)


def _times(counts: tuple[int, ...]) -> str:
    return " x ".join(str(count) for count in counts)


def _check_surface(mesh: Mesh, grid: Grid | BrickGrid, settings: ExtractSettings) -> None:
    if len(mesh.faces) == 0:
        finite = grid.values[grid.values.isfinite()]
        seen = "no distance of the mesh comes near"
        if len(finite) > 0:
            seen = f"values run from {float(finite.min()):g} to {float(finite.max()):g}"
        raise ValueError(f"{settings.source}: no surface at level {settings.level:g}, {seen}")
