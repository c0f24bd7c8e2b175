# SPDX-License-Identifier: Apache-2.0
"""A step of SDFDiff: 26 pictures of a grid, and their gradient with respect to its samples."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

import diffiso
from bench.cases import Case, Contender, Floor, Growth, Outputs, Settings, over_threads
from bench.ops import trace
from bench.peers import rays
from bench.peers.rays import View
from diffiso import Grid
from diffiso.camera import sdfdiff_rig
from diffiso.shapes import Sphere, Torus

LOWER, UPPER = -2.0, 2.0


def pictures(nodes: int, size: int, device: torch.device) -> View:
    """A ball with a ring: a distance of slope 1, which Mitsuba's gradient takes for granted."""
    shape = Sphere(1.15) | Torus(1.55, 0.25)
    values = diffiso.sample_field(shape, LOWER, UPPER, nodes - 1, device=device).values
    return rays.view(values, LOWER, UPPER, sdfdiff_rig(size, device=device))


def outputs(found: tuple[Tensor, ...]) -> Outputs:
    *images, gradient = found
    names = ("intensity", "coverage")[: len(images)]
    return {
        **{name: [image.flatten()] for name, image in zip(names, images, strict=True)},
        "gradients": [gradient],
    }


def ours(view: View, weights: Tensor) -> list[Contender]:
    """Shading alone as in the paper, or with outlines that move; and the parts of a step."""
    values = view.values.clone().requires_grad_()
    grid = Grid.from_bounds(values, view.lower, view.upper)
    fixed = Grid.from_bounds(view.values, view.lower, view.upper)

    def shaded(grid: Grid, normals: str) -> Tensor:
        hits = diffiso.trace(grid, cameras=view.cameras)
        return diffiso.shade(grid, hits, normals=normals).intensity

    def step(render: Callable[[], list[Tensor]]) -> Callable[[], tuple[Tensor, ...]]:
        def run() -> tuple[Tensor, ...]:
            images = render()
            (gradient,) = torch.autograd.grad(images, values, [weights] * len(images))
            return (*(image.detach() for image in images), gradient)

        return run

    def rendered() -> list[Tensor]:
        rendering = diffiso.render(grid, view.cameras)
        return [rendering.intensity, rendering.coverage]

    def hits_alone() -> diffiso.RayHits:
        return diffiso.trace(fixed, cameras=view.cameras, capture=False)

    def another(name: str, render: Callable[[], list[Tensor]]) -> Contender:
        """Whose picture is not the first one's."""
        return Contender(name, step(render), outputs, "ours", like=name)

    return [
        Contender("diffiso", step(lambda: [shaded(grid, "central")]), outputs, "ours"),
        another("diffiso, normals of cells", lambda: [shaded(grid, "trilinear")]),
        another("diffiso, with coverage", rendered),
        Contender("diffiso, no gradient", lambda: shaded(fixed, "central"), kind="part"),
        Contender("diffiso, hits alone", hits_alone, trace.outputs, "part"),
    ]


def cases(settings: Settings) -> Iterator[Case]:
    nodes, size = settings.size(64, 16), settings.size(256, 8)
    view = pictures(nodes, size, settings.device)
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand((len(view.cameras), size, size), generator=generator)
    weights = weights.to(settings.device)
    contenders = [
        *ours(view, weights),
        *rays.mitsuba_shading(view, weights, settings),
        *rays.by_hand_shading(view, weights, settings),
    ]
    name = f"{nodes}^3, {len(view.cameras)} pictures of {size}^2"
    floor = Floor([view.values], [view.values, weights])
    yield Case(name, contenders, weights.numel(), "ray", floor)


def growths(settings: Settings) -> Iterator[Growth]:
    def step(nodes: int, size: int, views: int) -> Callable[[], Any]:
        view = pictures(nodes, size, settings.device)
        cameras = view.cameras[:views]
        values = view.values.clone().requires_grad_()
        grid = Grid.from_bounds(values, view.lower, view.upper)

        def run() -> Tensor:
            hits = diffiso.trace(grid, cameras=cameras)
            intensity = diffiso.shade(grid, hits).intensity
            return torch.autograd.grad(intensity.sum(), values)[0]

        return run

    nodes, size = settings.size(64, 16), settings.size(256, 8)
    yield Growth(f"pictures of {size}^2", [1, 3, 9, 26], lambda n: step(nodes, size, n))
    grids = [settings.size(n, n // 4) for n in (32, 64, 128)]
    yield Growth("nodes along an axis", grids, lambda n: step(n, size, 9))
    yield from over_threads(step(nodes, size, 26), settings)
