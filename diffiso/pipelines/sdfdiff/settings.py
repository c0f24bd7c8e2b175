# SPDX-License-Identifier: Apache-2.0
"""How to reconstruct a solid from views."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from diffiso.camera import Up
from diffiso.pipelines.sdfdiff.energy import EnergySettings, RenderSettings
from diffiso.pipelines.sdfdiff.schedule import ScheduleSettings
from diffiso.pipelines.views import Box, Use
from diffiso.run import check_settings

_PAPER_NODES = (8, 16, 24, 32, 40, 48, 56, 64)


@dataclass(frozen=True)
class OptimizerSettings:
    """Adam, and what it keeps from level to level.

    Attributes:
        learning_rate: Of the first level.
        unit: Of that rate: "cells" of each level's grid, or "world" units.
        level_decay: What the rate is divided by from level to level.
        cosine: Let the rate fall to zero along a cosine within each level of batches.
        epsilon: Of Adam. A large one leaves nodes alone that hardly matter.
        betas: Of Adam.
        smoothing: Passes of a filter (1/4, 1/2, 1/4) along each axis over the gradient before Adam
            sees it, so that neighbours move together: each on its own would go its own way.
        carry: Keep Adam's moments from level to level, interpolated; otherwise they start anew.
        redistance: Restore distances away from the surface at the start of each level, and remove
            cavities, which no camera can see, and specks.
        redistance_every: And every so many steps; 0 for never.
    """

    learning_rate: float = 0.4
    unit: Literal["cells", "world"] = "cells"
    level_decay: float = 1.6
    cosine: bool = True
    epsilon: float = 1e-8
    betas: tuple[float, float] = (0.9, 0.99)
    smoothing: int = 1
    carry: bool = True
    redistance: bool = True
    redistance_every: int = 50

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: If one is not possible.
        """
        check_settings(
            self,
            positive=("learning_rate", "level_decay", "epsilon"),
            not_negative=("betas", "smoothing", "redistance_every"),
        )
        if max(self.betas) >= 1:
            raise ValueError(f"OptimizerSettings: betas must be below 1, got {self.betas}")


@dataclass(frozen=True)
class ReconstructSettings:
    """How to reconstruct a solid from views.

    Attributes:
        views: Folder with `transforms.json` and pictures, or that file.
        output: Mesh file to write; report, pictures and checkpoint stand beside it. Parts of the
            solid of eight nodes or fewer are taken for noise, and not written.
        reference: Mesh file to compare with, in the coordinates of the mesh that the pictures show.
        resume: Go on from the checkpoint beside the output, where there is one.
        use: "auto" takes colours, and masks where there are any; "colors" or "masks" only those.
        srgb: Colours are encoded as sRGB, not linear.
        strength: Of the light at the cameras; by default what the camera file says, else 1.
        falloff: Whether light grows weaker with the squared distance; by default likewise, else no.
        box: Lower and upper corner of the box that holds the solid, six numbers, or two for a cube;
            by default what the camera file says.
        nodes: Samples along the longest side of the box, level by level.
        start: "sphere", or the "hull" that the masks' cones leave; by default the hull where there
            are masks.
        start_radius: Of the sphere, as a share of half the box's shortest side.
        pixels: Width in pixels, at most, of a ball as large as a cell's side, in the far corner of
            the box: the paper's rule for the size of pictures. They are never enlarged.
        picture_size: Height of the pictures at every level instead.
        energy: Which terms the energy has.
        rendering: How pictures of the grid are made.
        optimizer: How samples move.
        schedule: Which views an update looks at.
        samples: Points for the distances to the reference.
        picture: Write a sheet of pictures, and a turntable.
        up: Axis that points up in the turntable.
        device: "cpu", "cuda", or "auto" for CUDA where there is one.
        seed: Seed of the order of views.
    """

    views: str
    output: str = "reconstruction.ply"
    reference: str | None = None
    resume: bool = False
    use: Use = "auto"
    srgb: bool = False
    strength: float | None = None
    falloff: bool | None = None
    box: tuple[float, ...] | None = None
    nodes: tuple[int, ...] = (8, 16, 32, 64)
    start: Literal["auto", "sphere", "hull"] = "auto"
    start_radius: float = 0.8
    pixels: float = 2.0
    picture_size: int | None = None
    energy: EnergySettings = field(default_factory=EnergySettings)
    rendering: RenderSettings = field(default_factory=RenderSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    samples: int = 200_000
    picture: bool = True
    up: Up = "y"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: If one is not possible.
        """
        check_settings(
            self,
            positive=("strength", "start_radius", "pixels", "picture_size", "samples"),
            finite=("box", "nodes"),
            not_negative=("seed",),
        )
        if not self.nodes or min(self.nodes) < 4 or list(self.nodes) != sorted(set(self.nodes)):
            raise ValueError(
                f"ReconstructSettings: nodes must be rising numbers of at least 4, got {self.nodes}"
            )
        if self.start_radius >= 1:
            raise ValueError(
                f"ReconstructSettings: start_radius must be below 1, got {self.start_radius:g}"
            )
        if self.box is not None:
            self.corners()

    def corners(self) -> Box | None:
        """Return the corners of the box, None where it is not given.

        Raises:
            ValueError: If it has another number of numbers, or the upper corner is not above.
        """
        if self.box is None:
            return None
        if len(self.box) == 2:
            a, b = self.box
            lower, upper = (a, a, a), (b, b, b)
        elif len(self.box) == 6:
            ax, ay, az, bx, by, bz = self.box
            lower, upper = (ax, ay, az), (bx, by, bz)
        else:
            raise ValueError(
                f"ReconstructSettings: box must be two or six numbers, got {len(self.box)}"
            )
        check_box("ReconstructSettings: box", (lower, upper))
        return lower, upper

    @classmethod
    def paper(cls, views: str, **changes: Any) -> ReconstructSettings:
        """Return SDFDiff's method as the paper has it (sections 4 and 5).

        What the paper does not print is taken from its published program (eight levels, all weights
        1, a learning rate of 0.01, a start radius of 1.6 in a box of 2), or stated here: a level
        ends when a cycle gains less than 1 % ("the step length is too small"), and at the latest
        after 20.

        Args:
            views: Folder of views.
            changes: Other settings.
        """
        chosen: dict[str, Any] = {
            "use": "colors",
            "nodes": _PAPER_NODES,
            "start": "sphere",
            "energy": EnergySettings(
                norm="l2",
                reduction="sum",
                mask=0.0,
                eikonal=1.0,
                laplacian=0.0,
                band=None,
            ),
            "rendering": RenderSettings(
                method="sphere",
                tolerance=1.0,
                law="sdfdiff",
                min_cosine=0.01,
                normals="central",
                last_normals=None,
                ramp=(0.0,),
            ),
            "optimizer": OptimizerSettings(
                learning_rate=0.01,
                unit="world",
                level_decay=1.0,
                cosine=False,
                betas=(0.9, 0.999),
                smoothing=0,
                carry=False,
                redistance=False,
                redistance_every=0,
            ),
            "schedule": ScheduleSettings(kind="greedy"),
        }
        return cls(views, **(chosen | changes))

    @classmethod
    def official(cls, views: str, **changes: Any) -> ReconstructSettings:
        """Return the settings of SDFDiff's published program.

        It differs from the paper in the norm (absolute differences), the eikonal term, a Laplacian
        term, Adam's epsilon, the size of pictures, and the schedule (at most five updates for every
        view). It also moves the cameras that take the target pictures a little, and renders these
        anew at each level from the true distances on the same grid; here pictures are what they
        are: `diffiso views --pose-noise 0.015` moves cameras likewise.

        Args:
            views: Folder of views.
            changes: Other settings.
        """
        paper = cls.paper(views)
        chosen: dict[str, Any] = {
            "use": "colors",
            "nodes": _PAPER_NODES,
            "start": "sphere",
            "picture_size": 256,
            "energy": EnergySettings(
                norm="l1",
                reduction="sum",
                mask=0.0,
                eikonal=1.0,
                eikonal_squared=True,
                laplacian=1.0,
                laplacian_unit="samples",
                band=None,
            ),
            "rendering": paper.rendering,
            "optimizer": OptimizerSettings(
                learning_rate=0.01,
                unit="world",
                level_decay=1.03,
                cosine=False,
                epsilon=1e-2,
                betas=(0.9, 0.999),
                smoothing=0,
                carry=False,
                redistance=False,
                redistance_every=0,
            ),
            "schedule": ScheduleSettings(
                kind="greedy",
                updates_above=5,
                gain=0.4,
                gain_growth=1.05,
                relative_gain=0.0,
                cycles=1000,
            ),
        }
        return cls(views, **(chosen | changes))


def check_box(name: str, box: Box) -> None:
    """Raise a ValueError where a box's upper corner is not above its lower one."""
    if any(a >= b for a, b in zip(*box, strict=True)):
        raise ValueError(f"{name}: the upper corner must be above the lower, got {box}")
