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
        start: "learned" starts from the learned codes that fit best, "random" near zero, as
            DeepSDF does.
        starts: So many codes are tried for an eighth of the steps each; the best goes on. DeepSDF
            has one, which may end where a part of the shape is missing.
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
    starts: int = 4
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
            positive=("steps", "points", "learning_rate", "starts", "distance_samples"),
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
    samples = samples.to(model.codes.weight)
    draw = step_generator(settings.seed, 3)
    few = samples[:: -(-len(samples) // settings.points)]
    codes = _starts(model, few, settings, draw)
    if len(codes) > 1:
        steps = math.ceil(settings.steps / 8)
        codes = [
            _descend(model, code, samples, steps, settings, draw)
            for code in track(codes, "trying codes")
        ]
        with torch.no_grad():
            losses = torch.stack([_loss(model, code, few, settings) for code in codes])
        codes = [codes[int(losses.nan_to_num(torch.inf).argmin())]]
    code = _descend(model, codes[0], samples, settings.steps, settings, draw, say=True)
    if not bool(code.isfinite().all()):
        raise RuntimeError("encode: the code must stay finite; a smaller learning_rate may help")
    return code


def _descend(
    model: AutoDecoder,
    start: Tensor,
    samples: Tensor,
    steps: int,
    settings: EncodeSettings,
    draw: torch.Generator,
    *,
    say: bool = False,
) -> Tensor:
    """Return a code after some steps from another one."""
    code = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([code], settings.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in track(range(steps), "searching the code") if say else range(steps):
        index = torch.randint(len(samples), (settings.points,), generator=draw)
        loss = _loss(model, code, samples[index.to(samples.device)], settings)
        loss = loss + settings.code_penalty * code.square().sum()
        (code.grad,) = torch.autograd.grad(loss, code)
        optimizer.step()
        schedule.step()
    return code.detach()


def _loss(model: AutoDecoder, code: Tensor, samples: Tensor, settings: EncodeSettings) -> Tensor:
    """Return how far a code's field is from signed distances (N, 4)."""
    found = model.decoder.evaluate(samples[:, :3], code, dropout=0.0)
    return clamped_l1(found, samples[:, 3], settings.clamp or None)


@torch.no_grad()
def _starts(
    model: AutoDecoder, samples: Tensor, settings: EncodeSettings, draw: torch.Generator
) -> list[Tensor]:
    """Return the codes to start from: random ones, or the learned ones with the smallest losses."""
    table = model.codes.weight
    if settings.start == "random":
        codes = torch.randn(settings.starts, table.shape[1], generator=draw)
        return list((codes * settings.code_deviation).to(samples))
    losses = torch.stack([_loss(model, code, samples, settings) for code in table])
    return [table[index].clone() for index in losses.argsort()[: settings.starts].tolist()]


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
