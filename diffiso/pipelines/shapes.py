# SPDX-License-Identifier: Apache-2.0
"""`diffiso shapes`: a folder of closed meshes to try things on, made from nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from diffiso import view
from diffiso.io import check_output_folder, save_image, save_mesh
from diffiso.ops import isosurface
from diffiso.run import check_settings, track
from diffiso.shapes import Shape, assorted_solids, cars, chairs
from diffiso.types import Mesh

_IN_THE_PICTURE = 36
# What makes each family, and what one of it is called.
_FAMILIES: dict[str, tuple[Callable[[int, torch.Generator], Sequence[Shape]], str]] = {
    "assorted": (assorted_solids, "solid"),
    "chairs": (chairs, "chair"),
    "cars": (cars, "car"),
}


@dataclass(frozen=True)
class ShapesSettings:
    """Which meshes to make.

    Attributes:
        output: Folder to write to.
        family: "assorted" solids of any topology; "chairs" or "cars", which have parts in common
            and can be learned together.
        count: How many meshes.
        resolution: Cells along each axis of the box from -1 to 1.
        seed: Seed of the draws.
    """

    output: str = "diffiso-shapes"
    family: Literal["assorted", "chairs", "cars"] = "assorted"
    count: int = 20
    resolution: int = 96
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: If one is not possible.
        """
        check_settings(self, positive=("count", "resolution"), not_negative=("seed",))


@torch.no_grad()
def make_shapes(settings: ShapesSettings, say: Callable[[str], None] = print) -> list[Path]:
    """Write procedural solids as closed meshes, and a picture, and return the meshes' paths.

    Args:
        settings: What to do.
        say: Takes each line for people.

    Raises:
        ValueError: If the resolution is so coarse that a solid has no surface, or the folder holds
            solids of another run that would stay beside these.
        OSError: If an output cannot be written.
    """
    output = check_output_folder(settings.output)
    make, name = _FAMILIES[settings.family]
    wanted = [output / f"{name}-{index:03d}.ply" for index in range(settings.count)]
    made = {path for _, name in _FAMILIES.values() for path in output.glob(f"{name}-*.ply")}
    other = sorted(made - set(wanted))
    if other:
        raise ValueError(
            f"{output}: output must hold no solids beside the {settings.count} to make, "
            f"got {other[0].name}"
        )
    solids = make(settings.count, torch.Generator().manual_seed(settings.seed))
    paths, images = [], []
    for path, solid in zip(wanted, track(solids, "making shapes"), strict=True):
        mesh = isosurface(solid, -1.0, 1.0, settings.resolution, dtype=torch.float64)
        assert isinstance(mesh, Mesh)
        if len(mesh.faces) == 0:
            raise ValueError(f"shapes: resolution must be finer, got {settings.resolution}")
        paths.append(save_mesh(path, mesh))
        if len(paths) <= _IN_THE_PICTURE:
            images.append(view.render(mesh, size=180))
    names = [path.stem for path in paths[:_IN_THE_PICTURE]]
    save_image(output / "shapes.png", view.contact_sheet(images, names))
    say(f"wrote     {output}/: {len(paths)} meshes, shapes.png")
    return paths
