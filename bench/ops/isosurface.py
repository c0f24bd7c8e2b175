# SPDX-License-Identifier: Apache-2.0
"""A network's surface and the gradient of its weights, beside the recipe of MeshSDF's authors."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

import diffiso
from bench.cases import (
    Case,
    Contender,
    DentedSphere,
    Growth,
    Outputs,
    Settings,
    outputs_of_mesh,
    over_threads,
)
from bench.peers import SLOW_RUNS, find

LOWER, UPPER = -1.0, 1.0
CHUNK = 2**16  # points: 16 MB of activations, which stay in the cache


def nodes_of(resolution: int) -> Tensor:
    x = torch.linspace(LOWER, UPPER, resolution + 1)
    return torch.stack(torch.meshgrid(x, x, x, indexing="ij"), dim=-1).view(-1, 3)


def evaluate(field: torch.nn.Module, points: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([field(part) for part in points.split(CHUNK)])


def by_hand(field: torch.nn.Module, resolution: int, measure: Any) -> Callable[[], Outputs]:
    """Dense samples, scikit-image, a second look at the vertices, -(dL/dv . n) into the field."""
    points = nodes_of(resolution)
    spacing = (UPPER - LOWER) / resolution

    def run() -> Outputs:
        values = evaluate(field, points).view([resolution + 1] * 3)
        found, faces, *_ = measure.marching_cubes(
            values.numpy(), 0.0, spacing=(spacing,) * 3, method="lorensen"
        )
        vertices = torch.from_numpy(found + LOWER).float().requires_grad_()
        value = field(vertices)
        (slope,) = torch.autograd.grad(value.sum(), vertices, retain_graph=True)
        normal = slope / slope.norm(dim=1, keepdim=True)
        given = torch.ones_like(vertices)
        value.backward(-(given * normal).sum(dim=1))
        return {"vertices": [vertices.detach()], "faces": [faces], **take_gradients(field)}

    return run


def take_gradients(field: torch.nn.Module) -> Outputs:
    gradients = [weight.grad for weight in field.parameters() if weight.grad is not None]
    field.zero_grad()
    return {"gradients": gradients}


def cases(settings: Settings) -> Iterator[Case]:
    resolution, width = settings.size(128, 12), settings.size(64, 8)
    field = DentedSphere(width).to(settings.device)

    def extract() -> Any:
        return diffiso.isosurface(field, LOWER, UPPER, resolution)

    def extract_only() -> Any:
        with torch.no_grad():
            return extract()

    def both_ways() -> Outputs:
        mesh = extract()
        mesh.vertices.sum().backward()
        return {**outputs_of_mesh(mesh), **take_gradients(field)}

    def sampled() -> Tensor:
        return diffiso.sample_field(field, LOWER, UPPER, resolution).values

    contenders = [
        Contender("diffiso, forward and backward", both_ways, lambda found: found, kind="ours"),
        Contender("diffiso, no gradient", extract_only, outputs_of_mesh, kind="part"),
        Contender("diffiso, samples only", sampled, kind="part"),
    ]
    if settings.on_cpu:
        points = nodes_of(resolution)
        contenders.append(
            Contender("the network alone", lambda: evaluate(field, points), kind="part")
        )
        measure = find("skimage.measure")
        if measure is not None:
            run = by_hand(field, resolution, measure)
            name = "by hand, with scikit-image"
            contenders.append(Contender(name, run, lambda found: found, runs=SLOW_RUNS))
    name = f"4-layer network of width {width}, {resolution} cells"
    yield Case(name, contenders, samples=(resolution + 1) ** 3)


def growths(settings: Settings) -> Iterator[Growth]:
    field = DentedSphere(settings.size(64, 8)).to(settings.device)

    def step(resolution: int) -> Callable[[], Any]:
        def run() -> Outputs:
            diffiso.isosurface(field, LOWER, UPPER, resolution).vertices.sum().backward()
            return take_gradients(field)

        return run

    cells = [settings.size(n, n // 8) for n in (32, 64, 128)]
    yield Growth("cells along an axis", cells, step)
    yield from over_threads(step(cells[-1]), settings)
