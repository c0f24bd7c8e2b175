# SPDX-License-Identifier: Apache-2.0
"""Where rays hit a grid's surface: one picture of a shape full of holes."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

import diffiso
from bench.cases import Case, Contender, Floor, Growth, Outputs, Settings, over_threads
from bench.peers import rays as ray_peers
from bench.peers.rays import View
from diffiso import Camera, Grid, RayHits
from diffiso.shapes import gyroid_ball

LOWER, UPPER = -1.0, 1.0
FIELD_OF_VIEW = 40.0


def picture(nodes: int, size: int, device: torch.device, views: int = 1) -> View:
    """The ball of [-1, 1]^3 touches the picture's edges; the shape covers half of it."""
    values = diffiso.sample_field(gyroid_ball(), LOWER, UPPER, nodes - 1, device=device).values
    distance = UPPER / math.sin(math.radians(FIELD_OF_VIEW / 2))
    azimuths = [30.0 + 360 / views * k for k in range(views)]
    camera = Camera.orbit(azimuths, 25.0, distance, field_of_view=FIELD_OF_VIEW, size=size)
    return ray_peers.view(values, LOWER, UPPER, camera.to(device=device))


def outputs(hits: RayHits, back: Tensor | None = None) -> Outputs:
    parts = {"t": hits.t.flatten(), "status": hits.status.flatten(), "cell": hits.cell.flatten()}
    if hits.fraction is not None and hits.samples is not None:
        parts |= {"fraction": hits.fraction.view(-1, 3), "samples": hits.samples.view(-1, 8)}
    if back is not None:
        parts = {name: part[back] for name, part in parts.items()}
    t = parts.pop("t")
    return ray_peers.outputs_of_t(t, **{name: [part] for name, part in parts.items()})


def ours(view: View) -> list[Contender]:
    grid = Grid.from_bounds(view.values, view.lower, view.upper)
    order = ray_peers.in_tiles(view.cameras).to(view.values.device)
    back = order.argsort()

    def contender(
        name: str, rays: tuple[Tensor, ...], back: Tensor | None = None, **options: Any
    ) -> Contender:
        return Contender(
            f"diffiso, {name}",
            lambda: diffiso.trace(grid, *rays, **options),
            lambda hits: outputs(hits, back),
            kind="ours",
            allowed=ray_peers.GRAZING if options.get("method") == "sphere" else {},
        )

    rows, tiles = (view.origins, view.directions), (view.origins[order], view.directions[order])
    hits_alone: dict[str, Any] = {"capture": False}
    return [
        contender("rays in tiles", tiles, back, **hits_alone),
        contender("cameras", (), cameras=view.cameras, **hits_alone),
        contender("rays in rows", rows, **hits_alone),
        contender("rays in tiles, with samples", tiles, back),
        contender("cameras, with samples", (), cameras=view.cameras),
        contender("rays in rows, sphere tracing", rows, method="sphere", **hits_alone),
    ]


def cases(settings: Settings) -> Iterator[Case]:
    size = settings.size(512, 16)
    for nodes in (settings.size(64, 12), settings.size(256, 20)):
        view = picture(nodes, size, settings.device)
        contenders = [
            *ours(view),
            *ray_peers.mitsuba_hits(view, settings),
            *ray_peers.by_hand_hits(view, settings),
        ]
        rays = len(view.origins)
        floor = Floor([view.values, view.origins, view.directions], [view.origins[:, 0]])
        yield Case(f"gyroid ball {nodes}^3, {size}^2 rays", contenders, rays, "ray", floor)


def growths(settings: Settings) -> Iterator[Growth]:
    def hits(nodes: int, size: int, views: int = 1) -> Callable[[], Any]:
        view = picture(nodes, size, settings.device, views)
        grid = Grid.from_bounds(view.values, view.lower, view.upper)
        return lambda: diffiso.trace(grid, cameras=view.cameras)

    nodes = settings.size(64, 12)
    sizes = [settings.size(n, n // 16) for n in (64, 128, 256, 512)]

    def with_rays(count: int) -> Callable[[], Any]:
        return hits(nodes, math.isqrt(count))

    yield Growth("rays", [n * n for n in sizes], with_rays)
    grids = [settings.size(n, n // 4) for n in (32, 64, 128, 256)]
    yield Growth("nodes along an axis", grids, lambda n: hits(n, sizes[-1]))
    yield Growth(f"pictures of {sizes[1]}^2", [1, 4, 16], lambda n: hits(nodes, sizes[1], views=n))
    yield from over_threads(hits(nodes, sizes[-1]), settings)
