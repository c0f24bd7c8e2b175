# SPDX-License-Identifier: Apache-2.0
"""How to learn a family of shapes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from diffiso import view
from diffiso.fields import DecoderSettings
from diffiso.pipelines.auto_decoder.data import Normalize, SampleSettings
from diffiso.run import check_settings


@dataclass(frozen=True)
class TrainSettings:
    """How to learn a family of shapes; lengths in the frame of [-1, 1]^3.

    Attributes:
        source: Folder of closed meshes.
        output: Folder to write to.
        resume: Go on from the checkpoint in `output`, where there is one.
        normalize: "sphere" moves every shape into the unit sphere, "none" takes them as they are.
        decoder: The network.
        samples: Where signed distances are measured.
        epochs: Passes through all shapes; given instead of `steps`.
        steps: Optimisation steps; by default 4,000, or what `epochs` take.
        shapes_per_batch: Shapes in each step, at most all.
        points_per_shape: Points of each shape in each step, half inside and half outside.
        clamp: Distances beyond it count as equal; 0 clamps nothing.
        code_penalty: Weight of the codes' squared norm.
        code_ramp: Epochs over which that weight grows to its value.
        code_deviation: Length of a starting code, about; its numbers are drawn from a normal
            distribution.
        code_norm: Greatest length of a code, kept after each step; none by default.
        learning_rate: Of the network.
        code_learning_rate: Of the codes.
        schedule: "cosine" warms up and falls to zero; "halving" halves every `halve_every` epochs.
        halve_every: Epochs between halvings.
        resolution: Cells along each axis of the final meshes.
        distance_samples: Points for the distances of the final meshes.
        up: Axis that points up in the pictures.
        device: "cpu", "cuda", or "auto" for CUDA where there is one.
        seed: Seed of everything drawn.
    """

    source: str
    output: str = "diffiso-train"
    resume: bool = False
    normalize: Normalize = "sphere"
    decoder: DecoderSettings = field(
        default_factory=lambda: DecoderSettings(
            latent_size=64, width=128, depth=6, skips=(3,), frequencies=5, weight_norm=False
        )
    )
    samples: SampleSettings = field(default_factory=SampleSettings)
    epochs: int | None = None
    steps: int | None = None
    shapes_per_batch: int = 8
    points_per_shape: int = 1024
    clamp: float = 0.1
    code_penalty: float = 1e-4
    code_ramp: int = 0
    code_deviation: float = 0.1
    code_norm: float | None = None
    learning_rate: float = 2e-3
    code_learning_rate: float = 4e-3
    schedule: Literal["cosine", "halving"] = "cosine"
    halve_every: int = 500
    resolution: int = 128
    distance_samples: int = 50_000
    up: view.Up = "y"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: If one is not possible.
        """
        check_settings(
            self,
            positive=(
                "epochs",
                "steps",
                "shapes_per_batch",
                "points_per_shape",
                "code_norm",
                "code_deviation",
                "learning_rate",
                "code_learning_rate",
                "halve_every",
                "distance_samples",
            ),
            not_negative=("clamp", "code_penalty", "code_ramp", "seed"),
        )
        if self.steps is not None and self.epochs is not None:
            raise ValueError(
                "TrainSettings: steps must be left out where epochs are given (null unsets them), "
                f"got {self.steps} steps and {self.epochs} epochs"
            )
        if self.points_per_shape % 2:
            raise ValueError(
                f"TrainSettings: points_per_shape must be even, got {self.points_per_shape}"
            )
        if self.resolution < 2:
            raise ValueError(f"TrainSettings: resolution must be at least 2, got {self.resolution}")

    @classmethod
    def official(cls, source: str, **changes: Any) -> TrainSettings:
        """Return the settings of DeepSDF's code: for a GPU and thousands of shapes.

        Args:
            source: Folder of closed meshes.
            changes: Other settings.
        """
        chosen: dict[str, Any] = {
            "decoder": DecoderSettings.official(),
            "samples": SampleSettings(500_000, (math.sqrt(0.005), math.sqrt(0.0005)), 3 / 50),
            "epochs": 2001,
            "shapes_per_batch": 64,
            "points_per_shape": 16_384,
            "code_ramp": 100,
            "code_deviation": 1.0,
            "code_norm": 1.0,
            "learning_rate": 5e-4,
            "code_learning_rate": 1e-3,
            "schedule": "halving",
        }
        return cls(source, **(chosen | changes))
