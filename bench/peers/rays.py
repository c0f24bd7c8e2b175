# SPDX-License-Identifier: Apache-2.0
"""Other ways to trace a grid: Mitsuba's, and sphere tracing as one writes it with torch."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench.cases import Contender, Kind, Outputs, Settings
from bench.peers import SLOW_RUNS, find, optional
from diffiso import Camera

LEAST_COSINE = 0.01  # as diffiso.trace, in the gradient of rays that graze
TOLERANCE = 1e-4
STEPS = 1000
GRAZING = {"t": 3e-3, "hits": 1e-3}  # of rays: sphere tracing takes some that pass closely for hits
TILE = 4  # pixels


class View(NamedTuple):
    """A cubical grid and rays through the pixel centres of cameras; t is depth.

    Attributes:
        values: (X, Y, Z), nodes from `lower` to `upper` along each axis.
        origins: (P, 3), camera after camera, row by row.
        directions: (P, 3), of depth 1.
    """

    values: Tensor
    lower: float
    upper: float
    cameras: Camera
    origins: Tensor
    directions: Tensor


def view(values: Tensor, lower: float, upper: float, cameras: Camera) -> View:
    rays = cameras.rays()
    depth = (rays.directions * cameras.rotation[:, None, None, 2]).sum(dim=-1, keepdim=True)
    directions = (rays.directions / depth).reshape(-1, 3)
    return View(values, lower, upper, cameras, rays.origins.reshape(-1, 3).contiguous(), directions)


def in_tiles(cameras: Camera) -> Tensor:
    """Return the flat indices of all pixels, tile after tile: neighbours take the same way."""
    height, width = cameras.size
    pixels = torch.arange(len(cameras) * height * width)
    tiles = pixels.view(len(cameras), height // TILE, TILE, width // TILE, TILE)
    return tiles.transpose(2, 3).flatten()


def outputs_of_t(t: Tensor, **others: Sequence[Tensor]) -> Outputs:
    """Return t (P,), and as many rows of hits as there are, which take no memory."""
    return {"t": [t], "hits": [torch.empty(int(t.isfinite().sum()), 0)], **others}


@optional
def mitsuba_hits(view: View, settings: Settings) -> list[Contender]:
    """Mitsuba's sdfgrid; its tree of boxes is built beforehand."""
    mitsuba = find("bench.peers.mitsuba_grid") if settings.on_cpu else None
    if mitsuba is None:
        return []
    scene = mitsuba.GridScene(view.values, view.lower, view.upper, settings.threads)
    tiles = in_tiles(view.cameras)
    rows = mitsuba.prepare(view.origins, view.directions)
    tiled = mitsuba.prepare(view.origins[tiles], view.directions[tiles])
    camera = mitsuba.CameraRays(view.cameras)

    def contender(name: str, run: Callable[[], Any], order: Tensor | None = None) -> Contender:

        def outputs(t: Any) -> Outputs:
            found = mitsuba.tensor(t)
            return outputs_of_t(found if order is None else found[order.argsort()])

        return Contender(f"Mitsuba, {name}", run, outputs)

    return [
        contender("rays in tiles", lambda: scene.trace(tiled), tiles),
        contender("cameras", lambda: scene.trace_camera(camera)),
        contender("rays in rows", lambda: scene.trace(rows)),
        contender("points and normals", lambda: scene.surface(tiled), tiles),
    ]


@optional
def mitsuba_shading(view: View, weights: Tensor, settings: Settings) -> list[Contender]:
    """Mitsuba's sdfgrid with a light at the camera, through its own reverse mode.

    Every step builds the tree of boxes, for values that have changed.
    """
    mitsuba = find("bench.peers.mitsuba_grid") if settings.on_cpu else None
    if mitsuba is None:
        return []
    scene = mitsuba.GridScene(view.values, view.lower, view.upper, settings.threads)
    tiles = in_tiles(view.cameras)
    rays = mitsuba.prepare(view.origins[tiles], view.directions[tiles])
    tiled_weights = mitsuba.mitsuba.Float(weights.flatten()[tiles].numpy())
    mitsuba.evaluated(tiled_weights)
    back = tiles.argsort()

    def outputs(found: tuple[Any, Any]) -> Outputs:
        intensity = mitsuba.tensor(found[0])[back]
        return {"intensity": [intensity], "gradients": [scene.gradient(found[1])]}

    def contender(name: str, run: Any, outputs: Any, kind: Kind) -> Contender:
        # It does not bound what rays that graze give to the gradient.
        like, allowed = "diffiso, normals of cells", {"gradients": 0.2}
        return Contender(f"Mitsuba, {name}", run, outputs, kind, like=like, allowed=allowed)

    return [
        contender("normals of cells", lambda: scene.step(rays, tiled_weights), outputs, "other"),
        contender(
            "hits alone",
            lambda: scene.trace(rays),
            lambda t: outputs_of_t(mitsuba.tensor(t)[back]),
            "part",
        ),
    ]


# By hand: places are points in [-1, 1] over the box in the order z, y, x, as grid_sample counts.


def to_places(view: View, points: Tensor) -> Tensor:
    return (2 * (points - view.lower) / (view.upper - view.lower) - 1).flip(-1)


def sample(volume: Tensor, places: Tensor, parts: int) -> Tensor:
    """Return (C, P) of a volume (C, X, Y, Z) at (P, 3); on the CPU each part takes one thread."""
    padded = torch.cat([places, places[:1].expand(-len(places) % parts, 3)])
    found = torch.nn.functional.grid_sample(
        volume.expand(parts, *volume.shape),
        padded.view(parts, 1, 1, -1, 3),
        padding_mode="border",
        align_corners=True,
    )
    return found.transpose(0, 1).reshape(len(volume), -1)[:, : len(places)]


@torch.no_grad()
def sphere_trace(view: View, parts: int) -> Tensor:
    """Return t (P,): steps of the field's length until it is below TOLERANCE."""
    origins = to_places(view, view.origins)
    directions = (2 * view.directions / (view.upper - view.lower)).flip(-1)
    faces = torch.stack([(-1 - origins) / directions, (1 - origins) / directions])
    now, far = faces.amin(dim=0).amax(dim=1).clamp(min=0), faces.amax(dim=0).amin(dim=1)
    t = torch.full_like(now, torch.inf)
    rays = (now < far).nonzero()[:, 0]
    unit = view.directions.norm(dim=1)
    for _ in range(STEPS):
        here = now[rays]
        places = torch.addcmul(origins[rays], here[:, None], directions[rays])
        value = sample(view.values[None], places, parts)[0]
        there = value < TOLERANCE
        t[rays[there]] = here[there]
        here = here + value / unit[rays]
        now[rays] = here
        rays = rays[~there & (here <= far[rays])]
        if len(rays) == 0:
            break
    return t


def by_hand_hits(view: View, settings: Settings) -> list[Contender]:
    parts = settings.threads if settings.on_cpu else 1
    return [
        Contender(
            "sphere tracing by hand",
            lambda: sphere_trace(view, parts),
            outputs_of_t,
            runs=SLOW_RUNS,
            allowed=GRAZING,
        )
    ]


def by_hand_shading(view: View, weights: Tensor, settings: Settings) -> list[Contender]:
    """The hit again with autograd, normals from a volume of central differences."""
    parts = settings.threads if settings.on_cpu else 1
    values = view.values.clone().requires_grad_()
    spacing = (view.upper - view.lower) / (len(values) - 1)

    def run() -> tuple[Tensor, Tensor]:
        t = sphere_trace(view, parts)
        hit = t.isfinite().nonzero()[:, 0]
        origins, directions = view.origins[hit], view.directions[hit]
        places = to_places(view, origins + t[hit, None] * directions).requires_grad_()
        value = sample(values[None], places, parts)[0]
        (slope,) = torch.autograd.grad(value.sum(), places, retain_graph=True)
        slope = slope.flip(-1) * (2 / (view.upper - view.lower))
        along = (slope * directions).sum(dim=1)
        steepest = slope.norm(dim=1) * directions.norm(dim=1)
        moved = t[hit] - value / torch.minimum(along, -LEAST_COSINE * steepest)
        points = origins + moved[:, None] * directions
        differences = torch.stack(torch.gradient(values, spacing=spacing))
        normals = sample(differences, to_places(view, points), parts).T
        normals = torch.nn.functional.normalize(normals, dim=1)
        to_light = torch.nn.functional.normalize(origins - points, dim=1)
        seen = (normals * to_light).sum(dim=1).clamp(min=0)
        (gradient,) = torch.autograd.grad((seen * weights.flatten()[hit]).sum(), values)
        return torch.zeros_like(t).index_put((hit,), seen.detach()), gradient

    def outputs(found: tuple[Tensor, Tensor]) -> Outputs:
        return {"intensity": [found[0]], "gradients": [found[1]]}

    # Its hits lie up to TOLERANCE before the surface.
    allowed = {"intensity": 0.02, "gradients": 0.1}
    return [Contender("by hand, with grid_sample", run, outputs, runs=SLOW_RUNS, allowed=allowed)]
