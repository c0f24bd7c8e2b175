# SPDX-License-Identifier: Apache-2.0
"""From a sphere to a torus by its mesh (MeshSDF, section 4.1): by surfaces and by silhouettes."""

from __future__ import annotations

import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from diffiso import io, plots, view
from diffiso.metrics import surface_distance
from diffiso.pipelines.morph import (
    MorphSettings,
    MorphStep,
    learn_family,
    target_mesh,
    turn_sphere_into_torus,
)
from diffiso.run import seed_all, track

Row = dict[str, Any]

LOSSES: tuple[Literal["surface", "silhouette"], ...] = ("surface", "silhouette")
SEEDS = 10
FRAMES = 40


def topology_run(seed: int, loss: Literal["surface", "silhouette"]) -> list[MorphStep]:
    generator = seed_all(seed)
    settings = MorphSettings()
    family = learn_family(settings, generator)
    return turn_sphere_into_torus(family, replace(settings, loss=loss), generator)


def topology_rows(seed: int) -> list[Row]:
    rows = []
    for loss in LOSSES:
        history = topology_run(seed, loss)
        settings = MorphSettings()
        distance = surface_distance(
            history[-1].mesh, target_mesh(settings), 200_000, torch.Generator().manual_seed(seed)
        )
        numbers = [step.euler_number for step in history]
        rows.append(
            {
                "loss": loss,
                "seed": seed,
                "euler_numbers": numbers,
                "opens_at_step": numbers.index(0) if 0 in numbers else None,
                "losses": [step.loss for step in history],
                "rms": distance.rms,
                "rms_share_of_radius": distance.rms / settings.target[0],
            }
        )
    return rows


def topology_table(rows: list[Row]) -> str:
    heads = ["loss", "seeds", "Euler number 2 to 0", "RMS / radius: mean", "worst", "opens at step"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for loss in LOSSES:
        mine = [row for row in rows if row["loss"] == loss]
        turned = [r for r in mine if (r["euler_numbers"][0], r["euler_numbers"][-1]) == (2, 0)]
        shares = [100 * row["rms_share_of_radius"] for row in mine]
        steps = [row["opens_at_step"] for row in mine if row["opens_at_step"] is not None]
        lines.append(
            f"| {loss} | {len(mine)} | {len(turned)} of {len(mine)} | "
            f"{statistics.fmean(shares):.2f}% | {max(shares):.2f}% | {min(steps)} to {max(steps)} |"
        )
    return "\n".join(lines)


def topology_pictures(folder: Path) -> list[Path]:
    """Draw all seeds' losses, and how the first seed's surfaces move."""
    rows = json.loads((folder / "topology.json").read_text(encoding="utf-8"))
    files = []
    for loss in LOSSES:
        curves = {
            f"seed {row['seed']}": list(enumerate(row["losses"]))
            for row in rows
            if row["loss"] == loss
        }
        name = folder / f"topology-{loss}.png"
        files.append(plots.save_curves(name, curves, "step", f"loss by {loss}s"))
    histories = [topology_run(0, loss) for loss in LOSSES]
    seen_from = view.fit_view(target_mesh(MorphSettings()).vertices, 30, 50, up="z")
    last = len(histories[0]) - 1
    frames = []
    for k in track(range(FRAMES), "drawing"):
        step = round(last * (k / (FRAMES - 1)) ** 2)  # the change of topology comes early
        images = [view.render(h[step].mesh, seen_from, size=240) for h in histories]
        captions = [
            f"by {loss}s, step {step}, Euler number {h[step].euler_number}"
            for loss, h in zip(LOSSES, histories, strict=True)
        ]
        frames.append(view.contact_sheet(images, captions, columns=2))
    return [*files, io.save_gif(folder / "topology.gif", frames + [frames[-1]] * 10, colors=128)]
