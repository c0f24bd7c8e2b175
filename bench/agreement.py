# SPDX-License-Identifier: Apache-2.0
"""Whether contenders do the same job: a time counts only beside outputs that agree.

What both name is compared with the first contender's, or another's: vertices by their number and by
how far some of them are from the nearest one of the other mesh, faces by their number, hits and
depths of rays by how many differ, everything else, whatever its size, by the norm of the
difference.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from bench.cases import Outputs

PROBES = 2000  # vertices whose nearest one is looked for
NEARBY = 1e-3  # of the extent: so far
UNCOMPARED = ("edges", "normals", "values", "status", "cell", "fraction", "samples")
"""What few give, or number in their own way."""


@dataclass(frozen=True)
class Difference:
    """How far one output is from that of the first contender.

    Attributes:
        name: Of the output.
        kind: "number", of rows; "size", which nobody may change; "distance", over the extent;
            "share", of the rows; or "norm".
        value: 0 where both are the same; None where nothing can be said.
        allowed: What the contender may have of it.
    """

    name: str
    kind: str
    value: float | None
    allowed: float

    @property
    def agrees(self) -> bool:
        return self.value is not None and self.value <= self.allowed


NOTHING = Difference("outputs", "nothing to compare", None, 0.0)

# Rounding of float32 at a thousand nodes; meshes of the same grid have the same vertices.
ALLOWED = {"number": 0.0, "distance": 1e-6, "share": 1e-4, "norm": 1e-4}


def kept(outputs: Outputs) -> Outputs:
    """Return outputs that stay when those of the call are gone."""
    return {
        name: [as_tensor(part).clone() for part in parts]
        for name, parts in outputs.items()
        if name not in UNCOMPARED
    }


def as_tensor(part: Any) -> Tensor:
    return part.detach() if isinstance(part, Tensor) else torch.as_tensor(part.copy())


def differences(found: Outputs, other: Outputs, allowed: Mapping[str, float]) -> list[Difference]:
    """Compare what both give.

    Args:
        found: Of a contender.
        other: Of the one that it is compared with, as `kept` returned it.
        allowed: What differs from ALLOWED, by the output's name.
    """
    result = []
    for name in other:
        if name not in found or name in UNCOMPARED:
            continue
        ours, theirs = other[name], [as_tensor(part) for part in found[name]]
        for kind, value in compare(name, theirs, ours).items():
            known = value if math.isfinite(value) else None
            most = 0.0 if kind == "size" else allowed.get(name, ALLOWED[kind])
            result.append(Difference(name, kind, known, most))
    return result or [NOTHING]


def compare(name: str, theirs: Sequence[Tensor], ours: Sequence[Tensor]) -> dict[str, float]:
    if name in ("vertices", "faces", "hits"):
        counts = [sum(len(part) for part in parts) for parts in (theirs, ours)]
        apart = abs(counts[0] - counts[1]) / max(counts[1], 1)
        if name == "hits":
            return {"share": apart}
        number = {"number": apart}
        if name != "vertices" or 0 in counts:
            return number
        return {**number, "distance": distance(torch.cat(list(theirs)), torch.cat(list(ours)))}
    a, b = (
        torch.cat([part.flatten().double().cpu() for part in parts]) for parts in (theirs, ours)
    )
    if a.shape != b.shape:
        return {"size": abs(len(a) - len(b)) / max(len(b), 1)}
    if name == "t":
        return {"share": share(a, b)}
    return {"norm": float((a - b).norm() / b.norm().clamp(min=torch.finfo(b.dtype).tiny))}


def distance(theirs: Tensor, ours: Tensor) -> float:
    """Return how far some of either mesh's vertices are from the other's, by the extent of ours."""
    theirs, ours = theirs.double().cpu(), ours.double().cpu()
    extent = max(float((ours.amax(dim=0) - ours.amin(dim=0)).max()), 1e-30)
    return max(one_way(theirs, ours, extent), one_way(ours, theirs, extent)) / extent


def one_way(probed: Tensor, others: Tensor, extent: float) -> float:
    """Return the largest distance of some points from others: at least that, where it is large."""
    chosen = torch.randperm(len(probed), generator=torch.Generator().manual_seed(0))[:PROBES]
    probes = probed[chosen]
    others = others[others[:, 0].argsort()]
    first = others[:, 0].contiguous()
    reach = NEARBY * extent
    begins, ends = (
        torch.searchsorted(first, probes[:, 0].contiguous() + side * reach).tolist()
        for side in (-1, 1)
    )
    worst = 0.0
    for probe, begin, end in zip(probes, begins, ends, strict=True):
        near = others[begin:end]
        worst = max(worst, float((near - probe).norm(dim=1).min()) if len(near) else reach)
    return worst


def share(theirs: Tensor, ours: Tensor) -> float:
    """Return for how many rays one hits and the other not, or both at different depths."""
    hit = theirs.isfinite() & ours.isfinite()
    missed = theirs.isfinite() != ours.isfinite()
    apart = hit & ((theirs - ours).abs() > 1e-3 * ours.abs())
    return float((missed | apart).double().mean())


def records(found: Sequence[Difference]) -> list[dict[str, Any]]:
    return [{**asdict(each), "agrees": each.agrees} for each in found]
