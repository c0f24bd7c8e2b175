# SPDX-License-Identifier: Apache-2.0
"""Pictures and cameras to reconstruct from: read, checked, and brought to a grid's fineness."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from diffiso.camera import Camera
from diffiso.io import IMAGE_SUFFIXES, StrPath, load_cameras, load_image, load_mask
from diffiso.metrics import Frame
from diffiso.types import Vector3
from diffiso.types.grids import as_vector3
from diffiso.view.colors import linear_of_srgb

CAMERA_FILE = "transforms.json"
_WHITE = 0.5  # of white, that a mask must have somewhere

Use = Literal["auto", "colors", "masks"]
Box = tuple[Vector3, Vector3]


@dataclass(frozen=True)
class Views:
    """What cameras saw of a solid.

    Attributes:
        cameras: N cameras, float32.
        intensity: (N, H, W) linear intensities before black, or None.
        coverage: (N, H, W) the share of each pixel that shows the solid, or None.
        names: File names of the pictures.
        box: Lower and upper corner of the box that holds the solid; None if unknown.
        frame: From the solid's own coordinates to those of the cameras.
        strength: Of the light at the cameras.
        falloff: Whether the light grows weaker with the squared distance.
        files: What all this was read from.
    """

    cameras: Camera
    intensity: Tensor | None
    coverage: Tensor | None
    names: tuple[str, ...]
    box: Box | None = None
    frame: Frame = field(default_factory=Frame)
    strength: float = 1.0
    falloff: bool = False
    files: tuple[Path, ...] = ()

    def resized(self, size: tuple[int, int]) -> Views:
        """Return pictures of another size, each pixel the mean of what it covers (a box filter).

        Args:
            size: Height and width, at most those that the pictures have.

        Raises:
            ValueError: If the size is larger.
        """
        have = self.cameras.size
        if size == have:
            return self
        if size[0] > have[0] or size[1] > have[1] or min(size) < 1:
            raise ValueError(f"Views.resized: size must be 1 to {have}, got {size}")
        rows, columns = (_box_filter(have[axis], size[axis]) for axis in (0, 1))

        def shrink(pictures: Tensor | None) -> Tensor | None:
            return None if pictures is None else rows @ pictures @ columns.T

        return replace(
            self,
            cameras=self.cameras.resized(size),
            intensity=shrink(self.intensity),
            coverage=shrink(self.coverage),
        )

    def select(self, which: Sequence[int]) -> Views:
        """Return some of the views."""
        rows = list(which)
        return replace(
            self,
            cameras=self.cameras[rows],
            intensity=None if self.intensity is None else self.intensity[rows],
            coverage=None if self.coverage is None else self.coverage[rows],
            names=tuple(self.names[row] for row in rows),
        )

    def to(self, device: torch.device) -> Views:
        """Return the views on another device."""
        return replace(
            self,
            cameras=self.cameras.to(device),
            intensity=None if self.intensity is None else self.intensity.to(device),
            coverage=None if self.coverage is None else self.coverage.to(device),
        )


def load_views(path: StrPath, use: Use = "auto", *, srgb: bool = False) -> Views:
    """Return the views of a folder with a `transforms.json`, as `diffiso views` and others write.

    A picture's mask is its alpha, or the picture that the frame's ``mask_path`` names; without
    either, it is taken to show the solid before black. What lies outside a mask counts as black.
    Colours become the mean of their channels. The file may also hold what `diffiso views` puts
    there: ``box`` (``lower``, ``upper``), ``frame`` (``center``, ``scale``) and ``light``
    (``strength``, ``falloff``, and ``white``, the intensity of a white pixel).

    Args:
        path: The folder, or the camera file.
        use: ``"auto"`` takes colours, and masks where there are any; ``"colors"`` leaves masks out,
            ``"masks"`` colours (where no picture has a mask they are taken for masks themselves).
        srgb: Colours are encoded as sRGB, as cameras do, and not linear.

    Raises:
        FileNotFoundError: If there is no such folder or file, or a picture is missing.
        ValueError: If the file or a picture cannot be read, a picture has another size than its
            camera, lacks a camera, or only some have masks, or no picture shows anything.
    """
    path = Path(path)
    file = path if path.suffix.lower() == ".json" else path / CAMERA_FILE
    if path != file and not path.is_dir():
        raise FileNotFoundError(f"{path}: folder of views not found")
    cameras, images = load_cameras(file, dtype=torch.float32)
    content = json.loads(file.read_text(encoding="utf-8"))
    extra = _Extra(str(file), content)
    masks = tuple(extra.mask(index) for index in range(len(images)))
    pictures = [_find(file, name) for name in images]
    found_masks = [None if name is None else _find(file, name) for name in masks]
    _refuse_strangers(pictures, found_masks)
    white = extra.number("light", "white", 1.0)
    read = [
        _read(picture, mask, use, srgb, cameras.size)
        for picture, mask in zip(pictures, found_masks, strict=True)
    ]
    if use == "masks" and all(coverage is None for _, coverage in read):
        read = [(None, _own_mask(picture)) for picture in pictures]
    views = Views(
        cameras,
        _joined([intensity for intensity, _ in read], images, "colours"),
        _joined([coverage for _, coverage in read], images, "masks"),
        images,
        extra.box(),
        extra.frame(),
        extra.number("light", "strength", 1.0),
        extra.flag("light", "falloff"),
        (file, *pictures, *(mask for mask in found_masks if mask is not None)),
    )
    if views.intensity is not None:
        views = replace(views, intensity=white * views.intensity)
    return _checked(views, file)


def _checked(views: Views, file: Path) -> Views:
    """Return the views without masks that mask nothing.

    Raises:
        ValueError: If nothing is left to go by.
    """
    if views.coverage is not None and float(views.coverage.min()) == 1:
        if views.intensity is None:
            raise ValueError(f"{file}: masks must leave something out, got all of every picture")
        views = replace(views, coverage=None)
    if views.coverage is not None:
        for name, most in zip(views.names, views.coverage.flatten(1).amax(dim=1), strict=True):
            if 0 < float(most) < _WHITE:
                raise ValueError(
                    f"{file}: masks must be white where the solid is, "
                    f"got at most {float(most):.3g} of white for {name}"
                )
    for name, pictures in (("masks", views.coverage), ("pictures", views.intensity)):
        if pictures is not None and not bool((pictures > 0).any()):
            raise ValueError(f"{file}: {name} must show something, got {len(pictures)} black ones")
    return views


def _read(
    path: Path, mask: Path | None, use: Use, srgb: bool, size: tuple[int, int]
) -> tuple[Tensor | None, Tensor | None]:
    """Return intensities and coverage (H, W) of a frame, None for what it does not have."""
    image = load_image(path)
    _check_size(path, image, size)
    alpha = image.shape[2] == 4
    coverage = image[..., 3] if alpha else None
    if mask is not None:
        coverage = load_mask(mask)
        _check_size(mask, coverage, size)
    if use == "masks":
        return None, coverage
    colors = image[..., :3]
    if srgb:
        colors = torch.from_numpy(linear_of_srgb(colors.numpy())).float()
    intensity = colors.mean(dim=2)
    if alpha:
        intensity = intensity * image[..., 3]
    if coverage is not None:
        intensity = intensity.where(coverage > 0, 0.0)
    return intensity, coverage if use == "auto" else None


def _own_mask(path: Path) -> Tensor:
    """Return a picture (H, W) that is a mask itself."""
    try:
        return load_mask(path)
    except ValueError as error:
        raise ValueError(
            f"{path}: must have a mask (alpha or mask_path) or be one, got neither; {error}"
        ) from error


def _check_size(path: Path, picture: Tensor, size: tuple[int, int]) -> None:
    if picture.shape[:2] != size:
        raise ValueError(
            f"{path}: a picture must have the size of its camera, {size[1]} x {size[0]}, "
            f"got {picture.shape[1]} x {picture.shape[0]}"
        )


def _joined(parts: Sequence[Tensor | None], names: Sequence[str], what: str) -> Tensor | None:
    """Return pictures as one tensor, or None where there are none."""
    there = [part for part in parts if part is not None]
    if not there:
        return None
    if len(there) < len(parts):
        missing = next(name for name, part in zip(names, parts, strict=True) if part is None)
        raise ValueError(
            f"{missing}: all pictures must have {what} or none, "
            f"got {len(parts) - len(there)} of {len(parts)} without"
        )
    return torch.stack(there)


def _find(file: Path, name: str) -> Path:
    """Return the picture that a frame names, whose ending NeRF's synthetic data leave out."""
    for path in (file.parent / name, file.parent / f"{name}.png"):
        if path.is_file():
            return path
    raise FileNotFoundError(f"{file.parent / name}: picture of a camera in {file.name} not found")


def _refuse_strangers(pictures: Sequence[Path], masks: Sequence[Path | None]) -> None:
    """Raise where a folder holds pictures that no camera took: they may have been meant to count.

    Companions of a picture, such as the depth map 7_depth.png of 7.png, are none of these.
    """
    known = {path.resolve() for path in [*pictures, *(m for m in masks if m is not None)]}
    for folder in {path.parent for path in pictures}:
        stems = [path.stem for path in pictures if path.parent == folder]
        companions = tuple(f"{stem}{mark}" for stem in stems for mark in "_-.")
        strangers = [
            path
            for path in sorted(folder.iterdir())
            if path.suffix.lower() in IMAGE_SUFFIXES
            and path.resolve() not in known
            and not path.stem.startswith(companions)
        ]
        if strangers:
            raise ValueError(
                f"{strangers[0]}: every picture beside those of the cameras must have a camera, "
                f"got {len(strangers)} without"
            )


def _box_filter(have: int, want: int) -> Tensor:
    """Return a matrix (want, have) of the shares in which old pixels lie in new ones."""
    edges = torch.arange(want + 1, dtype=torch.float64) * (have / want)
    old = torch.arange(have, dtype=torch.float64)
    low = torch.maximum(edges[:-1, None], old)
    high = torch.minimum(edges[1:, None], old + 1)
    return ((high - low).clamp(min=0) * (want / have)).float()


class _Extra:
    """What a camera file may hold besides cameras."""

    def __init__(self, name: str, content: Any) -> None:
        self.name, self.content = name, content

    def mask(self, index: int) -> str | None:
        """Return the mask that a frame names."""
        value = self.content["frames"][index].get("mask_path")
        if value is not None and not isinstance(value, str):
            raise ValueError(f"{self.name}: frames[{index}].mask_path must be text, got {value!r}")
        return value

    def group(self, key: str) -> dict[str, Any]:
        """Return a mapping, empty where there is none."""
        value = self.content.get(key)
        if value is not None and not isinstance(value, dict):
            raise ValueError(f"{self.name}: {key} must be an object, got {value!r}")
        return value or {}

    def number(self, group: str, key: str, default: float) -> float:
        """Return a positive number."""
        value = self.group(group).get(key, default)
        fits = isinstance(value, int | float) and not isinstance(value, bool)
        if not fits or not 0 < value < math.inf:
            raise ValueError(f"{self.name}: {group}.{key} must be a positive number, got {value!r}")
        return float(value)

    def flag(self, group: str, key: str) -> bool:
        """Return true or false."""
        value = self.group(group).get(key, False)
        if not isinstance(value, bool):
            raise ValueError(f"{self.name}: {group}.{key} must be true or false, got {value!r}")
        return value

    def vector(self, group: str, key: str) -> Vector3:
        """Return three numbers."""
        value, name = self.group(group).get(key), f"{self.name}: {group}.{key}"
        if not isinstance(value, list) or not all(type(v) in (int, float) for v in value):
            raise ValueError(f"{name} must be three numbers, got {value!r}")
        return as_vector3(name, value)

    def box(self) -> Box | None:
        """Return the corners of the box."""
        if not self.group("box"):
            return None
        return self.vector("box", "lower"), self.vector("box", "upper")

    def frame(self) -> Frame:
        """Return the way from the solid's coordinates to the cameras'."""
        if not self.group("frame"):
            return Frame()
        return Frame(self.vector("frame", "center"), self.number("frame", "scale", 1.0))
