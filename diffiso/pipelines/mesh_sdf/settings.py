# SPDX-License-Identifier: Apache-2.0
"""How to move a latent code, or weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from diffiso import view
from diffiso.pipelines.auto_decoder import SampleSettings
from diffiso.run import check_settings

_MOST_CELLS = 4096  # along an axis: fifty million queries a step


@dataclass(frozen=True)
class RefineSettings:
    """How to move a latent code by its mesh; lengths in the network's frame of [-1, 1]^3.

    Attributes:
        checkpoint: Folder or checkpoint of `diffiso train`.
        target: What to reach: a folder of pictures with masks and a camera file, or a closed mesh.
        output: Mesh file to write; pictures, report and checkpoint stand beside it.
        reference: What the pictures show: a mesh to score against, by whose size and place the
            cameras are brought into the network's frame. Without one they must stand in that frame.
        resume: Go on from the checkpoint beside the output, where there is one.
        start_shape: Name of the learned shape to start from; by default the one with the least loss
            at a coarse look.
        steps: Steps of Adam on the code.
        learning_rate: Of these steps.
        code_penalty: Weight of the code's squared norm.
        renderer: Silhouettes are those of the mesh, or "rays" trace them through the field, as DIST
            does (what MeshSDF is compared with, supplementary 8.8).
        norm: Silhouettes of meshes differ by mean absolute (l1, the paper) or squared (l2)
            differences.
        mode: Silhouettes by contour edges, or as Soft Rasterizer makes them.
        size: Height and width of the silhouettes; by default that of the pictures.
        surface_points: Points drawn on either surface where the target is one.
        reach: Of a target that is a surface: longer distances pull nothing. None lets all pull;
            near the goal, what a mesh lacks altogether would pull on whatever is nearest.
        law: How vertices follow the field: "sdf" (the paper) or "implicit" (exact).
        keep: Write the last code, or the one of least distance on the way (without the penalty).
        resolution: Cells along each axis.
        refresh_every: Steps after which the field is sampled anew, not only near the last surface.
        samples: Points for the final mesh's distance.
        picture: Write pictures.
        frames: Of the animation.
        up: Axis that points up in the pictures.
        device: "cpu", "cuda", or "auto" for CUDA where there is one.
        seed: Seed of everything drawn.
    """

    checkpoint: str
    target: str
    output: str = "refined.ply"
    reference: str | None = None
    resume: bool = False
    start_shape: str | None = None
    steps: int = 400
    learning_rate: float = 1e-2
    code_penalty: float = 0.0
    renderer: Literal["mesh", "rays"] = "mesh"
    norm: Literal["l1", "l2"] = "l1"
    mode: Literal["contour", "soft"] = "contour"
    size: int | None = None
    surface_points: int = 4000
    reach: float | None = None
    law: Literal["sdf", "implicit"] = "implicit"
    keep: Literal["last", "best"] = "last"
    resolution: int = 128
    refresh_every: int = 20
    samples: int = 50_000
    picture: bool = True
    frames: int = 40
    up: view.Up = "y"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: If one is not possible.
        """
        positive = ("steps", "learning_rate", "size", "surface_points", "reach", "refresh_every")
        check_settings(
            self,
            positive=(*positive, "samples", "frames"),
            not_negative=("code_penalty", "seed"),
        )
        _check_resolution(self)

    @classmethod
    def paper(cls, checkpoint: str, target: str, **changes: Any) -> RefineSettings:
        """Return the settings of MeshSDF, Eq. 7 and 8.4: 400 steps, the code of least loss.

        Args:
            checkpoint: Folder or checkpoint of `diffiso train`.
            target: A folder of pictures with masks.
            changes: Other settings.
        """
        chosen: dict[str, Any] = {"law": "sdf", "keep": "best", "resolution": 256}
        return cls(checkpoint, target, **(chosen | changes))

    @classmethod
    def official(cls, checkpoint: str, target: str, **changes: Any) -> RefineSettings:
        """Return the settings of MeshSDF's published demonstration, which knows one view.

        Args:
            checkpoint: Folder or checkpoint of `diffiso train`.
            target: A folder of pictures with masks.
            changes: Other settings.
        """
        chosen: dict[str, Any] = {
            "law": "sdf",
            "norm": "l2",
            "steps": 100,
            "learning_rate": 5e-2,
            "resolution": 64,
        }
        return cls(checkpoint, target, **(chosen | changes))


@dataclass(frozen=True)
class FinetuneSettings:
    """How to move a network's weights by its meshes; lengths in the frame of [-1, 1]^3.

    Attributes:
        checkpoint: Folder or checkpoint of `diffiso train`.
        source: Folder of the meshes that were learned.
        output: Folder to write to.
        resume: Go on from the checkpoint in `output`, where there is one.
        steps: Optimisation steps.
        shapes_per_step: Shapes in each step, at most all.
        learning_rate: Of the weights, Adam; falls to zero along a cosine.
        code_learning_rate: Of the codes; 0 leaves them at rest.
        metric: "surface" measures from points to triangles, both ways; "chamfer" from points to
            points (Eq. 14).
        surface_points: Points drawn on either surface.
        reach: Of the metric "surface": longer distances pull nothing. What a mesh lacks altogether
            would pull on whatever is nearest. None lets all pull.
        sdf_weight: Of the mean difference between field and signed distances, both clamped to 0.1
            as DeepSDF does, beside the metric: it holds the field where meshes say nothing. 0
            leaves it out (the paper).
        sdf_points: Points of each shape in each step, where it does.
        samples: Where signed distances are measured.
        law: How vertices follow the field: "sdf" (the paper) or "implicit" (exact).
        resolution: Cells along each axis, of the final meshes too: the weights also learn to make
            up for what extraction leaves out, and meshes of more or fewer cells may become worse.
        refresh_every: Steps after which fields are sampled anew, not only near their last surface;
            and saved.
        distance_samples: Points for the distances before and after.
        up: Axis that points up in the pictures.
        device: "cpu", "cuda", or "auto" for CUDA where there is one.
        seed: Seed of everything drawn.
    """

    checkpoint: str
    source: str
    output: str = "diffiso-finetune"
    resume: bool = False
    steps: int = 400
    shapes_per_step: int = 4
    learning_rate: float = 2e-4
    code_learning_rate: float = 1e-3
    metric: Literal["surface", "chamfer"] = "surface"
    surface_points: int = 4096
    reach: float | None = 0.1
    sdf_weight: float = 0.0
    sdf_points: int = 1024
    samples: SampleSettings = field(default_factory=SampleSettings)
    law: Literal["sdf", "implicit"] = "implicit"
    resolution: int = 128
    refresh_every: int = 100
    distance_samples: int = 50_000
    up: view.Up = "y"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: If one is not possible.
        """
        positive = ("steps", "shapes_per_step", "learning_rate", "surface_points", "reach")
        check_settings(
            self,
            positive=(*positive, "sdf_points", "refresh_every", "distance_samples"),
            not_negative=("code_learning_rate", "sdf_weight", "seed"),
        )
        _check_resolution(self)


def _check_resolution(settings: RefineSettings | FinetuneSettings) -> None:
    if not 2 <= settings.resolution <= _MOST_CELLS:
        raise ValueError(
            f"{type(settings).__name__}: resolution must be 2 to {_MOST_CELLS}, "
            f"got {settings.resolution}"
        )
