# SPDX-License-Identifier: Apache-2.0
"""A folder of closed meshes as training shapes: read, brought into one frame, sampled."""

from __future__ import annotations

import hashlib
import io as bytes_io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from diffiso.io import StrPath, load_mesh, write_file
from diffiso.metrics import Frame, fit_frame
from diffiso.run import Processes, check_settings, memory_bytes, step_generator, track
from diffiso.shapes import MeshShape, sdf_samples
from diffiso.types import Mesh

MESH_FILES = (".ply", ".obj", ".glb", ".stl", ".off")
BUFFER = 1.03  # free space around the unit sphere's contents, as DeepSDF's preprocessing leaves

Normalize = Literal["sphere", "none"]


@dataclass(frozen=True)
class SampleSettings:
    """Where signed distances are measured; lengths in the frame of [-1, 1]^3.

    Attributes:
        count: Points of each shape.
        deviations: Standard deviations of the noise that moves surface points, equally many each.
        uniform: Share of the points drawn from the whole box.
    """

    count: int = 200_000
    deviations: tuple[float, ...] = (0.05, 0.01)
    uniform: float = 0.1

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: If there is no point, no noise or no such share.
        """
        check_settings(self, positive=("count", "deviations"), not_negative=("uniform",))
        if not self.deviations or self.uniform > 1:
            raise ValueError(
                "SampleSettings: deviations must hold a number and uniform be at most 1, "
                f"got {self.deviations} and {self.uniform}"
            )


class TrainingShape(NamedTuple):
    """One mesh of the folder.

    Attributes:
        name: Its path in the folder without the ending.
        mesh: Triangles in the frame's units, float64.
        frame: From world units to there.
        digest: SHA-256 of vertices and faces in the frame.
    """

    name: str
    mesh: Mesh
    frame: Frame
    digest: str


class MeshFolder(NamedTuple):
    """What a folder holds.

    Attributes:
        shapes: The meshes that can be used, by name.
        skipped: Why each of the others cannot.
    """

    shapes: list[TrainingShape]
    skipped: dict[str, str]


def read_mesh_folder(
    folder: StrPath, normalize: Normalize = "sphere", say: Callable[[str], None] = print
) -> MeshFolder:
    """Return the closed meshes below a folder, each in the frame of [-1, 1]^3.

    Files that cannot be read as a mesh, and open meshes, are named and left out.

    Args:
        folder: Searched with all folders below it for PLY, OBJ, GLB, STL and OFF.
        normalize: ``"sphere"`` moves every shape into the unit sphere, as DeepSDF does; ``"none"``
            takes them as they are.
        say: Takes each line for people.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If no mesh is left, or two have the same name.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: folder of meshes not found")
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in MESH_FILES and p.is_file())
    shapes: dict[str, TrainingShape] = {}
    skipped: dict[str, str] = {}
    for path in track(paths, "reading meshes"):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in shapes:
            raise ValueError(f"{path}: another mesh of this folder is named {name!r} too")
        try:
            shapes[name] = read_shape(path, name, normalize)
        except ValueError as error:
            skipped[path.relative_to(folder).as_posix()] = str(error)
            say(f"skipped   {error}")
    if not shapes:
        raise ValueError(
            f"{folder}: must hold a closed mesh ({', '.join(MESH_FILES)}), "
            f"got {len(paths)} mesh files of which none can be used"
        )
    return MeshFolder(list(shapes.values()), skipped)


def check_apart(output: Path, source: Path) -> None:
    """Refuse a run's folder that would write among the meshes it reads.

    Args:
        output: The run's folder; its meshes go to `shapes` there.
        source: The folder of meshes.

    Raises:
        ValueError: If one lies within the other's.
    """
    here, there = output.resolve(), source.resolve()
    if here.is_relative_to(there) or there.is_relative_to(here / "shapes"):
        raise ValueError(
            f"{output}: output must lie outside the source, whose meshes are all learned, "
            f"and write none of them, got {source}"
        )


def read_shape(path: StrPath, name: str, normalize: Normalize = "sphere") -> TrainingShape:
    """Return one closed mesh in the frame of [-1, 1]^3.

    Args:
        path: A mesh file.
        name: What to call it.
        normalize: As :func:`read_mesh_folder`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no closed mesh, has no extent, or is too large for the frame.
    """
    mesh = load_mesh(path)
    frame = unit_frame(mesh, str(path)) if normalize == "sphere" else Frame()
    solid = MeshShape(frame.mesh(mesh), name=str(path))
    if min(solid.lower) <= -1 or max(solid.upper) >= 1:
        raise ValueError(
            f"{path}: a shape that is not normalized must lie within -1 and 1, "
            f"got {min(solid.lower):g} to {max(solid.upper):g}"
        )
    digest = hashlib.sha256(solid.vertices.tobytes() + solid.faces.tobytes()).hexdigest()
    inside = Mesh(torch.from_numpy(solid.vertices), torch.from_numpy(solid.faces))
    return TrainingShape(name, inside, frame, digest)


def unit_frame(mesh: Mesh, name: str = "mesh") -> Frame:
    """Return the frame in which a mesh just fits the unit sphere, with DeepSDF's buffer of 3 %.

    Args:
        mesh: Triangles.
        name: What errors call it.

    Raises:
        ValueError: If the mesh has no extent.
    """
    try:
        sphere = fit_frame(mesh, "unit_sphere")
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    return Frame(sphere.center, sphere.scale / BUFFER)


def draw_samples(
    shape: TrainingShape, settings: SampleSettings, generator: torch.Generator
) -> Tensor:
    """Return points and signed distances (N, 4) of a shape, float32, ordered by distance.

    Args:
        shape: A closed mesh in the frame.
        settings: How many points, and where.
        generator: Source of the draws.
    """
    solid = MeshShape(shape.mesh, name=shape.name)
    side = max(b - a for a, b in zip(solid.lower, solid.upper, strict=True))
    drawn = sdf_samples(
        solid,
        settings.count,
        deviations=[deviation / side for deviation in settings.deviations],
        uniform=settings.uniform,
        box=(-1.0, 1.0),
        generator=generator,
    )
    order = drawn.values.argsort(stable=True)
    return torch.cat([drawn.points, drawn.values[:, None]], dim=1)[order].float()


def cached_samples(
    shapes: list[TrainingShape], settings: SampleSettings, folder: Path, seed: int
) -> Tensor:
    """Return points and signed distances (S, N, 4) of all shapes, kept in files for a next time.

    Each shape's file is written as soon as it is there, so that a run that was stopped goes on.

    Args:
        shapes: The shapes.
        settings: How many points of each, and where.
        folder: Where to keep them.
        seed: Seed of the draws.

    Raises:
        ValueError: If all of them do not fit the memory.
        OSError: If a file cannot be written.
    """
    need, have = 16 * len(shapes) * settings.count, memory_bytes()
    if 0 < have < need:
        raise ValueError(
            f"samples.count: {len(shapes)} shapes must fit the memory, got {settings.count}, "
            f"which takes {need / 2**30:.0f} of {have / 2**30:.0f} GiB"
        )
    folder.mkdir(parents=True, exist_ok=True)
    samples = torch.empty(len(shapes), settings.count, 4)
    for index, shape in enumerate(track(shapes, "measuring signed distances")):
        text = f"{shape.digest} {settings} {seed}"
        path = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.npy"
        if path.is_file():
            # Written whole or not at all, under a name that says what it holds.
            samples[index] = torch.from_numpy(np.load(path))
            continue
        # By the shape's own digest: what is drawn does not depend on the other shapes.
        part = draw_samples(shape, settings, step_generator(seed, int(shape.digest[:12], 16)))
        buffer = bytes_io.BytesIO()
        np.save(buffer, part.numpy())
        write_file(path, buffer.getvalue())
        samples[index] = part
    return samples


def shared_samples(
    shapes: list[TrainingShape],
    settings: SampleSettings,
    folder: Path,
    seed: int,
    group: Processes,
) -> Tensor:
    """Return what :func:`cached_samples` does, measured by all processes together; a collective.

    Args:
        shapes: The shapes.
        settings: How many points of each, and where.
        folder: Where to keep them.
        seed: Seed of the draws.
        group: The processes.

    Raises:
        ValueError: If all of them do not fit the memory.
        OSError: If a file cannot be written.
    """
    with group.together():
        if group.size > 1:
            cached_samples(shapes[group.rank :: group.size], settings, folder, seed)
    with group.together():
        return cached_samples(shapes, settings, folder, seed)
