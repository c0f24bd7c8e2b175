# SPDX-License-Identifier: Apache-2.0
"""`diffiso encode`: the latent code of a mesh that an auto-decoder has not seen."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from diffiso import view
from diffiso.io import MESH_SUFFIXES, check_output, save_image, save_mesh
from diffiso.losses import clamped_l1
from diffiso.pipelines.auto_decoder.data import (
    SampleSettings,
    draw_samples,
    read_shape,
)
from diffiso.pipelines.auto_decoder.model import AutoDecoder
from diffiso.pipelines.auto_decoder.results import ShapeResult, draw_results, judge
from diffiso.run import Report, check_settings, seed_all, step_generator, track


@dataclass(frozen=True)
class EncodeSettings:
    """How to find a mesh's latent code; lengths in the frame of [-1, 1]^3.

    Attributes:
        checkpoint: Folder or checkpoint of `diffiso train`.
        mesh: A closed mesh.
        output: Mesh file to write; the picture and the report stand beside it.
        samples: Where signed distances are measured.
        steps: Optimisation steps of the code, the network at rest.
        points: Points of each step.
        learning_rate: Largest rate; falls to zero along a cosine.
        code_penalty: Weight of the code's squared norm.
        start: "learned" starts from the learned code that fits best, "random" near zero, as
            DeepSDF does.
        code_deviation: Standard deviation of a random starting code's entries.
        clamp: Distances beyond it count as equal; 0 clamps nothing.
        resolution: Cells along each axis of the mesh.
        distance_samples: Points for its distance.
        picture: Write a picture.
        up: Axis that points up in the picture.
        seed: Seed of everything drawn.
    """

    checkpoint: str
    mesh: str
    output: str = "encoded.ply"
    samples: SampleSettings = field(
        # DeepSDF's for tests: coarser than in training, for the code must be found from afar.
        default_factory=lambda: SampleSettings(
            100_000, (math.sqrt(0.05), math.sqrt(0.0005)), uniform=0.1
        )
    )
    steps: int = 800
    points: int = 8192
    learning_rate: float = 5e-3
    code_penalty: float = 1e-4
    start: Literal["learned", "random"] = "learned"
    code_deviation: float = 0.01
    clamp: float = 0.1
    resolution: int = 128
    distance_samples: int = 50_000
    picture: bool = True
    up: view.Up = "y"
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: If one is not possible.
        """
        check_settings(
            self,
            positive=("steps", "points", "learning_rate", "distance_samples"),
            not_negative=("code_penalty", "code_deviation", "clamp", "seed"),
        )
        if self.resolution < 2:
            raise ValueError(
                f"EncodeSettings: resolution must be at least 2, got {self.resolution}"
            )


class EncodeResult(NamedTuple):
    """What came out.

    Attributes:
        code: (L,) latent code.
        result: The code's surface and its distance from the mesh.
        report: Path of the JSON report.
    """

    code: Tensor
    result: ShapeResult
    report: Path


def find_code(model: AutoDecoder, samples: Tensor, settings: EncodeSettings) -> Tensor:
    """Return the latent code (L,) with which a decoder comes nearest to signed distances.

    DeepSDF's inference: descent on the code alone, the network as it is.

    Args:
        model: A trained network and its codes; left as it was.
        samples: (N, 4) points in the frame and their signed distances.
        settings: How to search.

    Raises:
        RuntimeError: If the code is not finite.
    """
    decoder = model.decoder
    samples = samples.to(model.codes.weight)
    draw = step_generator(settings.seed, 3)
    if settings.start == "learned":
        code = _best_learned_code(model, samples[:: -(-len(samples) // settings.points)], settings)
    else:
        start = torch.randn(decoder.settings.latent_size, generator=draw)
        code = (start * settings.code_deviation).to(samples).requires_grad_()
    optimizer = torch.optim.Adam([code], settings.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)
    for _ in track(range(settings.steps), "searching the code"):
        index = torch.randint(len(samples), (settings.points,), generator=draw)
        batch = samples[index.to(samples.device)]
        found = decoder.evaluate(batch[:, :3], code, dropout=0.0)
        loss = clamped_l1(found, batch[:, 3], settings.clamp or None)
        loss = loss + settings.code_penalty * code.square().sum()
        (code.grad,) = torch.autograd.grad(loss, code)
        optimizer.step()
        schedule.step()
    if not bool(code.isfinite().all()):
        raise RuntimeError("encode: the code must stay finite; a smaller learning_rate may help")
    return code.detach()


@torch.no_grad()
def _best_learned_code(model: AutoDecoder, samples: Tensor, settings: EncodeSettings) -> Tensor:
    """Return a copy of the learned code with the smallest loss on samples (N, 4)."""
    losses = [
        clamped_l1(model.field(index)(samples[:, :3]), samples[:, 3], settings.clamp or None)
        for index in range(len(model.names))
    ]
    return model.codes.weight[int(torch.stack(losses).argmin())].clone().requires_grad_()


def encode(settings: EncodeSettings, say: Callable[[str], None] = print) -> EncodeResult:
    """Find the code of a mesh and write its surface, a picture and a report.

    The mesh is brought into the frame as those that were learned.

    Args:
        settings: What to do.
        say: Takes each line for people.

    Raises:
        FileNotFoundError: If checkpoint or mesh do not exist.
        ValueError: If either cannot be used.
        OSError: If an output cannot be written.
        RuntimeError: If the code has no surface.
    """
    seed_all(settings.seed)
    report = Report("encode", settings)
    output = check_output(settings.output, MESH_SUFFIXES, inputs=[settings.mesh])
    picture = check_output(output.with_suffix(".png")) if settings.picture else None
    summary = check_output(output.with_suffix(".json"))
    model = AutoDecoder.load(settings.checkpoint)
    say(f"decoder   {settings.checkpoint}: {len(model.names)} shapes")
    shape = read_shape(settings.mesh, Path(settings.mesh).stem, model.normalize)
    samples = draw_samples(shape, settings.samples, step_generator(settings.seed, 4))
    report.lap("samples")
    code = find_code(model, samples, settings)
    say(f"code      norm {float(code.norm()):.3g}; {report.lap('code'):.0f} s")
    result = judge(
        model.decoder.field(code),
        shape,
        settings.resolution,
        settings.distance_samples,
        settings.seed,
    )
    if result.distance is None:
        raise RuntimeError(f"encode: {settings.mesh}: the code that was found has no surface")
    say(f"distance  {result.distance}")
    report.metrics |= {"code": code.tolist(), "distance": result.distance.as_dict()}
    report.files.append(str(save_mesh(output, shape.frame.inverse().mesh(result.mesh))))
    if picture is not None:
        sheet = draw_results([result], up=settings.up, size=400)
        report.files.append(str(save_image(picture, sheet)))
    report.files.append(str(summary))
    report.write(summary)
    say(f"wrote     {', '.join(report.files)}")
    return EncodeResult(code, result, summary)
