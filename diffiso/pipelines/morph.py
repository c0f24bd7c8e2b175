# SPDX-License-Identifier: Apache-2.0
"""Turns a sphere into a torus through its mesh: MeshSDF, section 4.1.

An auto-decoder learns spheres and tori. Then gradient descent on one latent code, by a loss on the
vertices of the extracted mesh or on its pictures, leads from the code of a sphere to a torus that
was not among the shapes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from diffiso.camera import Camera
from diffiso.fields import DecoderSettings, DeepSdfDecoder
from diffiso.losses import surface_loss
from diffiso.ops import Field, NarrowBand, isosurface, silhouette
from diffiso.proximity import SurfaceTree
from diffiso.run import check_settings, track
from diffiso.shapes import SphereTorus, spheres_and_tori
from diffiso.types import Mesh

_REFRESH_EVERY = 10  # steps: a part that appears away from the surface waits no longer


@dataclass(frozen=True)
class MorphSettings:
    """How to learn the family and to move through it.

    Attributes:
        shapes: Spheres, and as many tori, to learn.
        latent_size: Length of a latent code.
        training_steps: Optimisation steps of decoder and codes.
        points: Points per shape and training step.
        code_penalty: Weight of the codes' squared norm.
        start_radius: Radius of the sphere to start from (the nearest one that was learned).
        target: Radii of ring and tube of the torus to reach.
        steps: Gradient steps on the code.
        learning_rate: Of these steps, Adam; falls to zero along a cosine.
        resolution: Cells of the extraction along each axis.
        loss: Between surfaces (Eq. 5) or between silhouettes (Eq. 6).
        surface_points: Points drawn on either surface for the one.
        views: Cameras around the shape for the other, and one above it.
        view_size: Height and width of their pictures.
    """

    shapes: int = 16
    latent_size: int = 2
    training_steps: int = 1000
    points: int = 256
    code_penalty: float = 1e-3
    start_radius: float = 0.55
    target: tuple[float, float] = (0.52, 0.21)
    steps: int = 100
    learning_rate: float = 0.03
    resolution: int = 48
    loss: Literal["surface", "silhouette"] = "surface"
    surface_points: int = 4000
    views: int = 5
    view_size: int = 128

    def __post_init__(self) -> None:
        """Check every value."""
        counts = ["shapes", "latent_size", "training_steps", "points", "steps"]
        sizes = ["start_radius", "target", "learning_rate", "resolution", "surface_points"]
        pictures = ["views", "view_size"]
        check_settings(self, positive=[*counts, *sizes, *pictures], not_negative=["code_penalty"])
        if self.loss not in ("surface", "silhouette"):
            raise ValueError(
                f"MorphSettings: loss must be 'surface' or 'silhouette', got {self.loss!r}"
            )


class Family(NamedTuple):
    """A learned family of shapes."""

    decoder: DeepSdfDecoder
    codes: Tensor  # (2 N, L), spheres first
    shapes: list[SphereTorus]


class MorphStep(NamedTuple):
    """One step on the way from the sphere to the torus."""

    mesh: Mesh  # detached
    loss: float  # squared world units (Eq. 5), or a share of the pictures (Eq. 6)
    euler_number: int


def learn_family(settings: MorphSettings, generator: torch.Generator | None = None) -> Family:
    """Return an auto-decoder trained on spheres and tori (DeepSDF; MeshSDF, Eq. 1).

    Args:
        settings: How to learn.
        generator: Source of shapes, codes and points.
    """
    shapes = spheres_and_tori(settings.shapes, generator)
    decoder = DeepSdfDecoder(
        DecoderSettings(
            latent_size=settings.latent_size,
            width=64,
            depth=4,
            skips=(),
            activation="softplus",
            beta=50.0,
            weight_norm=False,
        )
    )
    codes = nn.Parameter(0.1 * torch.randn(len(shapes), settings.latent_size, generator=generator))
    rates = [3e-3, 1e-2]
    groups: list[dict[str, Any]] = [{"params": decoder.parameters()}, {"params": [codes]}]
    optimizer = torch.optim.Adam(groups, lr=rates[0])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, settings.training_steps)
    for _ in track(range(settings.training_steps), "learning spheres and tori"):
        points, values = _draw(shapes, settings.points, generator)
        error = (decoder(points, codes) - values).abs() / (values.abs() + 0.1)
        loss = error.mean() + settings.code_penalty * codes.square().sum(dim=1).mean()
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
    return Family(decoder.requires_grad_(False), codes.detach(), shapes)


def turn_sphere_into_torus(
    family: Family,
    settings: MorphSettings,
    generator: torch.Generator | None = None,
    extract: Callable[[Field], Mesh] | None = None,
) -> list[MorphStep]:
    """Return every step of a gradient descent on the latent code, from sphere to target torus.

    Args:
        family: The learned family.
        settings: Where to start, where to go, how fast.
        generator: Source of the points of the surface loss.
        extract: What makes a mesh of a field, with gradients; by default :func:`isosurface` in a
            narrow band.

    Raises:
        RuntimeError: If the surface vanishes on the way.
    """
    loss_of = _loss(settings, generator)
    code = _code_of_sphere(family, settings.start_radius).requires_grad_()
    optimizer = torch.optim.Adam([code], settings.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)
    history = []
    band = NarrowBand(-1.0, 1.0, settings.resolution, refresh_every=_REFRESH_EVERY)
    for step in track(range(settings.steps + 1), "turning a sphere into a torus"):
        field = family.decoder.field(code)
        mesh = isosurface(field, band=band) if extract is None else extract(field)
        assert isinstance(mesh, Mesh)
        if len(mesh.faces) == 0:
            raise RuntimeError(f"turn_sphere_into_torus: the surface vanished at step {step}")
        loss = loss_of(mesh)
        still = Mesh(mesh.vertices.detach(), mesh.faces)
        history.append(MorphStep(still, float(loss.detach()), still.euler_number()))
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
    return history


def _loss(settings: MorphSettings, generator: torch.Generator | None) -> Callable[[Mesh], Tensor]:
    """Return the distance of a mesh to the target, by their surfaces or their silhouettes."""
    target = target_mesh(settings)
    if settings.loss == "surface":
        points = target.sample(settings.surface_points, generator).points
        tree = SurfaceTree(target)
        return lambda mesh: surface_loss(mesh, tree, points, generator)
    cameras = Camera.orbit(
        [360.0 / settings.views * k for k in range(settings.views)] + [0.0],
        [20.0] * settings.views + [90.0],
        3.0,
        up="z",
        field_of_view=45.0,
        size=settings.view_size,
    )
    pictures = silhouette(target, cameras)
    return lambda mesh: (silhouette(mesh, cameras) - pictures).abs().mean()


@torch.no_grad()
def target_mesh(settings: MorphSettings) -> Mesh:
    """Return the mesh of the torus to reach, twice as fine as the meshes on the way."""
    torus = SphereTorus(torch.tensor(settings.target))
    mesh = isosurface(torus, -1.0, 1.0, 2 * settings.resolution)
    assert isinstance(mesh, Mesh)
    return mesh


def _draw(
    shapes: list[SphereTorus], count: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Return points (S, P, 3), half in the box and half near the surface, and values (S, P)."""
    points = 2 * torch.rand(len(shapes), count, 3, generator=generator) - 1
    wanted = points.requires_grad_()
    values = torch.stack([shape(cloud) for shape, cloud in zip(shapes, wanted, strict=True)])
    (normals,) = torch.autograd.grad(values.sum(), wanted)
    move = values.detach() + 0.04 * torch.randn(len(shapes), count, generator=generator)
    move[:, : count // 2] = 0
    with torch.no_grad():
        points = points.detach() - move[..., None] * normals
        values = torch.stack([shape(cloud) for shape, cloud in zip(shapes, points, strict=True)])
    return points, values


def _code_of_sphere(family: Family, radius: float) -> Tensor:
    """Return a copy of the code of the learned sphere whose radius is nearest."""
    count = len(family.shapes) // 2
    radii = torch.stack([shape.latent[1] for shape in family.shapes[:count]])
    return family.codes[int((radii - radius).abs().argmin())].clone()
