# SPDX-License-Identifier: Apache-2.0
"""How a loss on the extracted mesh changes with a parameter (MeshSDF, Theorem 1).

By both laws of vertices, against central differences of meshes that are extracted anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

import diffiso
from diffiso import Camera, Mesh
from diffiso.pipelines.morph import MorphSettings, learn_family
from diffiso.run import seed_all

Row = dict[str, Any]

CELLS = 128
LAWS: tuple[Literal["sdf", "implicit"], ...] = ("sdf", "implicit")


class Family(NamedTuple):
    """Shapes of some parameters: where to differentiate, and how far to step for differences."""

    field: Callable[[Tensor], diffiso.ops.Field]
    at: Sequence[float]
    step: float


def sphere(parameters: Tensor) -> diffiso.ops.Field:
    return lambda points: points.norm(dim=1) - parameters[0]


def steep_sphere(parameters: Tensor) -> diffiso.ops.Field:
    """Twice the distance: no signed distance function."""
    return lambda points: 2 * (points.norm(dim=1) - parameters[0])


def torus(parameters: Tensor) -> diffiso.ops.Field:
    def field(points: Tensor) -> Tensor:
        ring = points[:, :2].norm(dim=1) - parameters[0]
        return torch.stack([ring, points[:, 2]], dim=1).norm(dim=1) - parameters[1]

    return field


def learned(seed: int) -> Callable[[Tensor], diffiso.ops.Field]:
    """A network of two numbers, trained on spheres and tori, that stays smooth between cells."""
    settings = MorphSettings(training_steps=400)
    decoder = learn_family(settings, seed_all(seed)).decoder.double()
    return lambda code: decoder.field(code)


def camera() -> Camera:
    return Camera.orbit([20.0, 200.0], 25.0, 3.0, field_of_view=50.0, size=256, dtype=torch.float64)


SCORES: dict[str, Callable[[Mesh], Tensor]] = {
    "volume": Mesh.volume,
    "area": Mesh.area,
    "silhouette": lambda mesh: diffiso.silhouette(mesh, camera(), samples=64).mean(),
}


def gradient_rows() -> list[Row]:
    families = {
        "sphere": Family(sphere, (0.62,), 0.02),
        "sphere, field twice as steep": Family(steep_sphere, (0.62,), 0.02),
        "torus": Family(torus, (0.55, 0.22), 0.02),
        "network": Family(learned(0), (0.05, -0.05), 0.02),
    }
    return [
        {"family": name, "law": law, "score": score, **gradient_error(family, law, score)}
        for name, family in families.items()
        for law in LAWS
        for score in SCORES
    ]


def gradient_error(family: Family, law: Literal["sdf", "implicit"], score: str) -> Row:
    """Return gradient and differences, and how far they are apart over the latter's length."""

    def value(parameters: Tensor) -> Tensor:
        mesh = diffiso.isosurface(
            family.field(parameters), -1, 1, CELLS, law=law, dtype=torch.float64
        )
        assert isinstance(mesh, Mesh)
        return SCORES[score](mesh)

    at = torch.tensor(family.at, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(value(at), at)
    differences = []
    with torch.no_grad():
        for index in range(len(at)):
            move = torch.zeros_like(at)
            move[index] = family.step
            differences.append((value(at + move) - value(at - move)) / (2 * family.step))
    wanted = torch.stack(differences)
    return {
        "gradient": gradient.tolist(),
        "differences": wanted.tolist(),
        "relative_error": float((gradient - wanted).norm() / wanted.norm()),
    }


def gradient_table(rows: list[Row]) -> str:
    heads = ["family", "score", *(f"relative error, {law}" for law in LAWS)]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        if row["law"] == LAWS[0]:
            mine = {r["law"]: r for r in rows if all(r[k] == row[k] for k in ("family", "score"))}
            errors = " | ".join(f"{mine[law]['relative_error']:.1e}" for law in LAWS)
            lines.append(f"| {row['family']} | {row['score']} | {errors} |")
    return "\n".join(lines)
