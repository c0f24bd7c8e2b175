# SPDX-License-Identifier: Apache-2.0
"""A mesh's silhouette and its gradient by the vertices: one picture of 60,000 faces."""

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import diffiso
from bench.cases import (
    NO_DATA,
    Case,
    Contender,
    Floor,
    Growth,
    LeftOut,
    Outputs,
    Settings,
    over_threads,
)
from bench.peers import silhouettes
from diffiso import Camera, SoftRasterizing
from diffiso.io import load_mesh
from diffiso.shapes import gyroid_ball


class Picture(NamedTuple):
    """A mesh, the one camera that sees it, and what its coverage is weighted with."""

    name: str
    vertices: Tensor
    faces: Tensor
    camera: Camera
    weights: Tensor


def picture(name: str, vertices: Tensor, faces: Tensor, size: int, device: torch.device) -> Picture:
    center = (vertices.amin(dim=0) + vertices.amax(dim=0)) / 2
    radius = float((vertices - center).norm(dim=1).max())
    camera = Camera.orbit(30.0, 20.0, 3 * radius, target=center, field_of_view=42.0, size=size)
    weights = torch.rand((1, size, size), generator=torch.Generator().manual_seed(0))
    return Picture(
        name, vertices.to(device), faces.to(device), camera.to(device), weights.to(device)
    )


def bunny_file() -> Path:
    return Path(os.environ.get("DIFFISO_DATA", ""), "meshes", "bunny.obj")


def meshes(settings: Settings) -> Iterator[tuple[str, Tensor, Tensor]]:
    """A shape full of holes, and the bunny where DIFFISO_DATA has it."""
    holes = diffiso.isosurface(gyroid_ball(), -1, 1, settings.size(84, 10))
    yield "gyroid ball", holes.vertices, holes.faces
    if bunny_file().is_file() and not settings.smoke:
        bunny = load_mesh(bunny_file())
        yield "bunny", bunny.vertices, bunny.faces


def outputs(found: tuple[Tensor, Tensor]) -> Outputs:
    coverage, gradient = found
    return {
        "coverage": [coverage.flatten()],
        "gradients": [gradient],
        "pull": [gradient.sum(dim=0)],
    }


def ours(scene: Picture) -> list[Contender]:
    points = scene.vertices.clone().requires_grad_()

    def step(render: Callable[[], Tensor]) -> Callable[[], tuple[Tensor, Tensor]]:
        def run() -> tuple[Tensor, Tensor]:
            coverage = render()
            (gradient,) = torch.autograd.grad(coverage, points, scene.weights)
            return coverage.detach(), gradient

        return run

    mesh = points, scene.faces
    soft = SoftRasterizing.mesh_sdf()
    return [
        Contender("diffiso", step(lambda: diffiso.silhouette(mesh, scene.camera)), outputs, "ours"),
        Contender(
            "diffiso, no gradient",
            lambda: diffiso.silhouette((scene.vertices, scene.faces), scene.camera),
            kind="part",
        ),
        Contender(
            "diffiso, soft",
            step(lambda: diffiso.silhouette(mesh, scene.camera, mode=soft)),
            outputs,
            "part",
        ),
    ]


def cases(settings: Settings) -> Iterator[Case | LeftOut]:
    for name, vertices, faces in meshes(settings):
        for size in (settings.size(256, 16), settings.size(512, 24)):
            scene = picture(name, vertices, faces, size, settings.device)
            contenders = [*ours(scene), *silhouettes.peers(scene, settings)]
            floor = Floor(
                [scene.vertices, scene.faces, scene.weights], [scene.weights, scene.vertices]
            )
            title = f"{name}, {len(faces):,} faces, {size}^2"
            yield Case(title, contenders, size * size, "pixel", floor)
    if not bunny_file().is_file() and not settings.smoke:
        got = os.environ.get("DIFFISO_DATA") or "none"
        why = f"{NO_DATA}: DIFFISO_DATA must name a folder with meshes/bunny.obj, got {got}"
        yield LeftOut("bunny", why)


def growths(settings: Settings) -> Iterator[Growth]:
    def step(cells: int, size: int, views: int = 1) -> Callable[[], Any]:
        ball = diffiso.isosurface(gyroid_ball(), -1, 1, cells)
        points = ball.vertices.to(settings.device).requires_grad_()
        azimuths = torch.linspace(30, 300, views)
        camera = Camera.orbit(azimuths, 20.0, 3.0, field_of_view=42.0, size=size)
        camera = camera.to(settings.device)
        mesh = points, ball.faces.to(settings.device)

        def run() -> Tensor:
            return torch.autograd.grad(diffiso.silhouette(mesh, camera).sum(), points)[0]

        return run

    cells, size = settings.size(84, 10), settings.size(256, 16)
    by_faces = {}
    for n in (settings.size(n, n // 8) for n in (42, 84, 168, 336)):
        faces = len(diffiso.isosurface(gyroid_ball(), -1, 1, n).faces)
        by_faces[faces] = n
    yield Growth("faces", list(by_faces), lambda n: step(by_faces[n], size))
    sizes = [settings.size(n, n // 16) for n in (128, 256, 512, 1024)]
    yield Growth("pixels", [n * n for n in sizes], lambda n: step(cells, math.isqrt(n)))
    yield Growth(f"pictures of {size}^2", [1, 4, 16], lambda n: step(cells, size, n))
    yield from over_threads(step(cells, settings.size(512, 24), 4), settings)
