# SPDX-License-Identifier: Apache-2.0
"""What a mesh should become: silhouettes seen by cameras, or a surface."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from diffiso.camera import Camera
from diffiso.io import StrPath
from diffiso.losses import surface_loss
from diffiso.metrics import Frame
from diffiso.ops import Field, silhouette
from diffiso.pipelines.auto_decoder import AutoDecoder, TrainingShape, read_shape
from diffiso.pipelines.mesh_sdf.rays import check_coverage, ray_silhouette
from diffiso.pipelines.mesh_sdf.settings import RefineSettings
from diffiso.pipelines.views import Views, load_views
from diffiso.proximity import SurfaceTree
from diffiso.run import step_generator
from diffiso.types import Mesh


class Loss(NamedTuple):
    """How far a surface is from its target.

    Attributes:
        value: A scalar, differentiable in the vertices, or in what the field closes over.
        l1: Mean absolute difference of silhouettes, or root mean square distance of surfaces.
        l2: Mean squared difference of silhouettes, or mean squared distance of surfaces.
    """

    value: Tensor
    l1: float
    l2: float


class Target(Protocol):
    """What a mesh should become.

    Several processes add up the losses of their parts, and what each says of l1 and l2.
    """

    def loss(self, mesh: Mesh, step: int) -> Loss:
        """Return how far a mesh, in the network's frame, is from the target."""


@dataclass(frozen=True)
class SilhouetteTarget:
    """Silhouettes (MeshSDF, Eq. 7).

    Attributes:
        cameras: N cameras in the network's frame.
        coverage: (N, H, W), from 0 to 1.
        norm: "l1" or "l2".
        mode: "contour" or "soft".
        share: Of all views, that these are: 1 unless processes share them.

    Raises:
        ValueError: If the coverage is not (N, H, W) as the cameras', or not from 0 to 1.
    """

    cameras: Camera
    coverage: Tensor
    norm: Literal["l1", "l2"] = "l1"
    mode: Literal["contour", "soft"] = "contour"
    share: float = 1.0

    def __post_init__(self) -> None:
        """Check the coverage."""
        check_coverage("SilhouetteTarget", self.coverage, self.cameras)

    def loss(self, mesh: Mesh, step: int) -> Loss:
        """Return the mean difference over all pixels of all views."""
        seen = silhouette(mesh, self.cameras.to(mesh.vertices.dtype), mode=self.mode)
        apart = seen - self.coverage.to(seen)
        l1, l2 = (self.share * terms.mean() for terms in (apart.abs(), apart.square()))
        return Loss(l1 if self.norm == "l1" else l2, float(l1.detach()), float(l2.detach()))

    def loss_along_rays(self, field: Field) -> tuple[Loss, int]:
        """Return how far a field is from the target by sphere tracing, and how often it was asked.

        The distances are those of pictures of its own, whose pixels are 0 or 1.
        """
        seen = ray_silhouette(field, self.cameras, self.coverage)
        apart = seen.coverage - self.coverage.to(seen.coverage)
        l1, l2 = (self.share * float(terms.mean()) for terms in (apart.abs(), apart.square()))
        return Loss(self.share * seen.loss, l1, l2), seen.queries

    def part(self, rank: int, size: int) -> SilhouetteTarget:
        """Return the views of one of several processes; one that counts for nothing if none is."""
        rows = list(range(rank, len(self.cameras), size))
        share = len(rows) / len(self.cameras)
        rows = rows or [0]
        return replace(self, cameras=self.cameras[rows], coverage=self.coverage[rows], share=share)

    def to(self, device: torch.device) -> SilhouetteTarget:
        """Return the target on a device."""
        return replace(self, cameras=self.cameras.to(device), coverage=self.coverage.to(device))


@dataclass(frozen=True)
class SurfaceTarget:
    """A surface (MeshSDF, Eq. 5).

    Attributes:
        mesh: In the network's frame.
        count: Points drawn on either surface in each step.
        seed: Of these draws.
        reach: Longer distances pull nothing; None lets all pull.
        rank: Of this process, of `size`: each draws points of its own.
        size: Of processes.
    """

    mesh: Mesh
    count: int
    seed: int = 0
    reach: float | None = None
    rank: int = 0
    size: int = 1
    _trees: dict[tuple[torch.dtype, torch.device], SurfaceTree] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def loss(self, mesh: Mesh, step: int) -> Loss:
        """Return the mean squared distance, both ways."""
        generator = step_generator(self.seed, 7, self.rank, step)
        points = self.mesh.sample(self.count, generator).points.to(mesh.vertices)
        value = surface_loss(mesh, self._tree(mesh), points, generator, reach=self.reach)
        plain = float(value.detach())
        return Loss(value / self.size, math.sqrt(plain) / self.size, plain / self.size)

    def _tree(self, mesh: Mesh) -> SurfaceTree:
        """Return the surface with its hierarchy, in the dtype and on the device of a mesh."""
        like = mesh.vertices.dtype, mesh.vertices.device
        if like not in self._trees:
            vertices = self.mesh.vertices.to(mesh.vertices)
            self._trees[like] = SurfaceTree(Mesh(vertices, self.mesh.faces.to(vertices.device)))
        return self._trees[like]

    def part(self, rank: int, size: int) -> SurfaceTarget:
        """Return the target of one of several processes."""
        return replace(self, rank=rank, size=size)

    def to(self, device: torch.device) -> SurfaceTarget:
        """Return the target on a device."""
        return replace(self, mesh=self.mesh.to(device))


class Loaded(NamedTuple):
    """A target, and what belongs to it.

    Attributes:
        target: In the network's frame.
        frame: From the coordinates that results are written in to the network's.
        reference: What to score against, in the network's frame; None if unknown.
        files: What all this was read from.
    """

    target: SilhouetteTarget | SurfaceTarget
    frame: Frame
    reference: TrainingShape | None
    files: Sequence[Path]


def load_target(settings: RefineSettings, model: AutoDecoder) -> Loaded:
    """Return the target that settings name: a mesh file, or a folder of views.

    Raises:
        FileNotFoundError: If target or reference do not exist.
        ValueError: If they cannot be used.
    """
    path = Path(settings.target)
    if path.is_dir() or path.suffix.lower() == ".json":
        return _load_views(settings, model)
    if settings.reference is not None:
        raise ValueError(
            "refine: reference must be left out where the target is a mesh, "
            f"got {settings.reference}"
        )
    if settings.renderer == "rays":
        raise ValueError(
            "refine: target must be a folder of pictures where the renderer is rays, "
            f"got {settings.target}"
        )
    shape = read_shape(path, path.stem, model.normalize)
    target = SurfaceTarget(shape.mesh, settings.surface_points, settings.seed, settings.reach)
    return Loaded(target, shape.frame, shape, (path,))


def _load_views(settings: RefineSettings, model: AutoDecoder) -> Loaded:
    views = load_views(settings.target, "masks")
    if settings.size is not None:
        height, width = views.cameras.size
        shrink = settings.size / max(height, width)
        views = views.resized((max(1, round(height * shrink)), max(1, round(width * shrink))))
    reference, frame = None, Frame()
    if settings.reference is None and views.box is not None:
        least, most = min(views.box[0]), max(views.box[1])
        if least < -1 or most > 1:
            raise ValueError(
                "refine: reference must name the mesh by whose size and place views are brought "
                f"into the network's frame of -1 to 1, got a box of {least:g} to {most:g}"
            )
    if settings.reference is not None:
        path = Path(settings.reference)
        reference = read_shape(path, path.stem, model.normalize)
        frame = reference.frame
    # From the solid's own coordinates, which the frame of a reference is stated in.
    to_network = after(frame, views.frame.inverse()) if reference is not None else Frame()
    cameras = moved(views.cameras, to_network)
    assert views.coverage is not None  # which load_views sees to
    _refuse_blind(settings, views, cameras)
    target = SilhouetteTarget(cameras, views.coverage, settings.norm, settings.mode)
    own = frame if reference is not None else views.frame
    files: list[StrPath] = [*views.files]
    if settings.reference is not None:
        files.append(settings.reference)
    return Loaded(target, own, reference, [Path(file) for file in files])


def _refuse_blind(settings: RefineSettings, views: Views, cameras: Camera) -> None:
    """Refuse a view whose solid lies beside the network's box: nothing there could come to it.

    Raises:
        ValueError: If no ray through a mask meets the unit sphere around the origin.
    """
    rays = cameras.rays()
    along = (rays.origins * rays.directions).sum(dim=-1, keepdim=True)
    nearest = rays.origins - along.clamp(max=0) * rays.directions
    meets = nearest.square().sum(dim=-1) < 1
    assert views.coverage is not None
    shown = views.coverage > 0
    for name, mask, inside in zip(views.names, shown, meets, strict=True):
        if bool(mask.any()) and not bool((mask & inside).any()):
            raise ValueError(
                f"{settings.target}: cameras must see the network's unit sphere where the masks "
                f"are, got {name} that shows the solid elsewhere; reference names the mesh by "
                "whose size and place they are brought there"
            )


def after(second: Frame, first: Frame) -> Frame:
    """Return the frame that does what one frame does and then another."""
    # ((x - a) s - b) t = (x - (a + b / s)) s t
    x, y, z = (a + b / first.scale for a, b in zip(first.center, second.center, strict=True))
    return Frame((x, y, z), first.scale * second.scale)


def moved(cameras: Camera, frame: Frame) -> Camera:
    """Return cameras that see in a frame what they saw before."""
    center = cameras.translation.new_tensor(frame.center)
    # R x + t = (R x' + s (t + R c)) / s with x' = (x - c) s; depth only scales.
    turned = (cameras.rotation * center).sum(dim=2)
    translation = frame.scale * (cameras.translation + turned)
    return Camera(cameras.rotation, translation, cameras.focal, cameras.principal, cameras.size)
