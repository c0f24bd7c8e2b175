# SPDX-License-Identifier: Apache-2.0
"""Shaded pictures of triangle meshes, contact sheets and turntables.

Pictures are ray traced on the CPU: they need no display and no OpenGL, and the same mesh gives the
same picture. Needs the extra `pipelines`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from diffiso._raytrace import Frame, Scene, build_scene, ground_brightness, shade
from diffiso.extras import require
from diffiso.types import Mesh

Image = NDArray[np.uint8]
Color = tuple[float, float, float]
Up = Literal["y", "z"]

CLAY: Color = (0.74, 0.36, 0.22)
SLATE: Color = (0.20, 0.36, 0.58)
SAGE: Color = (0.32, 0.48, 0.30)

_BACKDROP_TOP, _BACKDROP_BOTTOM = np.array([0.66, 0.70, 0.76]), np.array([0.90, 0.90, 0.90])


@dataclass(frozen=True)
class View:
    """Where the camera stands, in world coordinates and degrees.

    Attributes:
        azimuth: Angle around the up axis.
        elevation: Angle above the horizon.
        target: Point the camera looks at.
        distance: From the camera to the target.
        field_of_view: Opening angle of the picture's short side; 0 is orthographic, `distance / 2`
            high.
        up: The axis that points up in the picture.
    """

    azimuth: float = 30.0
    elevation: float = 20.0
    target: tuple[float, float, float] = (0.0, 0.0, 0.0)
    distance: float = 4.0
    field_of_view: float = 28.0
    up: Up = "y"

    def frame(self) -> Frame:
        """Return the camera's axes: right, up, and back towards the camera."""
        azimuth, elevation = math.radians(self.azimuth), math.radians(self.elevation)
        ring = math.cos(elevation)
        back = np.array([ring * math.sin(azimuth), math.sin(elevation), ring * math.cos(azimuth)])
        right = np.array([math.cos(azimuth), 0.0, -math.sin(azimuth)])
        if self.up == "z":
            back, right = back[[2, 0, 1]], right[[2, 0, 1]]
        return Frame(right, np.cross(back, right), back, 1 if self.up == "y" else 2)


def fit_view(
    points: torch.Tensor | NDArray[np.floating],
    azimuth: float = 30.0,
    elevation: float = 20.0,
    *,
    field_of_view: float = 28.0,
    up: Up = "y",
    margin: float = 1.15,
) -> View:
    """Return the view that just holds all points in a square picture.

    Args:
        points: (P, 3) points in world coordinates, usually a mesh's vertices.
        azimuth: Angle around the up axis, in degrees.
        elevation: Angle above the horizon, in degrees.
        field_of_view: Opening angle in degrees, 0 for an orthographic picture.
        up: The axis that points up.
        margin: Free border; 1 touches the frame.

    Raises:
        ValueError: If there are no points or `up` is unknown.
    """
    if up not in ("y", "z"):
        raise ValueError(f"fit_view: up must be 'y' or 'z', got {up!r}")
    array = points.detach().cpu().numpy() if isinstance(points, torch.Tensor) else points
    cloud = np.asarray(array, dtype=np.float64).reshape(-1, 3)
    if len(cloud) == 0:
        raise ValueError("fit_view: points must hold at least one point, got none")
    view = View(azimuth, elevation, field_of_view=field_of_view, up=up)
    frame = view.frame()
    axes = np.stack([frame.right, frame.up, frame.back])
    local = cloud @ axes.T
    middle = (local.min(axis=0) + local.max(axis=0)) / 2
    local -= middle
    reach = np.abs(local[:, :2]).max(axis=1) * margin
    if field_of_view > 0:
        distance = float((reach / math.tan(math.radians(field_of_view) / 2) + local[:, 2]).max())
    else:
        distance = 4 * float(reach.max())
    x, y, z = (float(value) for value in middle @ axes)
    return replace(view, target=(x, y, z), distance=max(distance, 1e-9))


def render(
    mesh: Mesh,
    view: View | None = None,
    *,
    size: int | tuple[int, int] = 512,
    color: Color = CLAY,
    ground: float | Literal["auto"] | None = "auto",
    smooth: bool = True,
    samples: int = 2,
    rays: int = 6,
) -> Image:
    """Return a shaded picture of a mesh as (height, width, 3) bytes, row 0 on top.

    Args:
        mesh: The triangles to show; an empty mesh gives the empty backdrop. Faces seen from behind
            are darkened.
        view: The camera; by default `fit_view` of the vertices.
        size: Height and width in pixels; one number for a square.
        color: Red, green and blue reflectance in [0, 1].
        ground: Height of the shadow-catching ground along the up axis, `"auto"` for the lowest
            vertex, `None` for none.
        smooth: Interpolate normals where faces meet at less than 40 degrees; otherwise shade flat.
        samples: Camera rays per pixel along each axis.
        rays: Sky rays and light rays at each hit.

    Raises:
        ValueError: If size, samples or rays are not positive.
        ImportError: If the extra `pipelines` is not installed.

    Example:
        >>> from diffiso import shapes, view
        >>> mesh = diffiso.isosurface(shapes.Torus(), (-1.5,) * 3, (1.5,) * 3, 48)
        >>> view.render(mesh, size=64).shape
        (64, 64, 3)
    """
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width, samples, rays) < 1:
        raise ValueError(
            "render: size, samples and rays must be positive, "
            f"got {height} x {width}, {samples} and {rays}"
        )
    vertices, faces = mesh.numpy()
    scene = build_scene(vertices.astype(np.float64), faces.astype(np.int64), smooth)
    picture = _backdrop(height * samples, width * samples)
    if scene is not None:
        _paint(picture, scene, view or fit_view(vertices), color, ground, rays)
    return _encode(picture.reshape(height, samples, width, samples, 3).mean(axis=(1, 3)))


def turntable(
    mesh: Mesh,
    frames: int = 36,
    *,
    elevation: float = 20.0,
    up: Up = "y",
    size: int | tuple[int, int] = 320,
    color: Color = CLAY,
) -> list[Image]:
    """Return pictures of a mesh that turns once around its up axis, as frames of an animation.

    Args:
        mesh: The triangles to show.
        frames: How many pictures make one turn.
        elevation: Angle of the camera above the horizon, in degrees.
        up: The axis to turn around.
        size: Height and width in pixels; one number for a square.
        color: Red, green and blue reflectance in [0, 1].

    Raises:
        ValueError: If `frames` is not positive or the mesh is empty.
    """
    if frames < 1:
        raise ValueError(f"turntable: frames must be positive, got {frames}")
    if len(mesh.vertices) == 0:
        raise ValueError("turntable: mesh must have vertices, got none")
    angles = [30.0 + 360.0 * k / frames for k in range(frames)]
    views = [fit_view(mesh.vertices, angle, elevation, up=up) for angle in angles]
    lower, upper = mesh.vertices.detach().amin(dim=0), mesh.vertices.detach().amax(dim=0)
    x, y, z = ((lower + upper) / 2).tolist()
    distance = max(view.distance for view in views)
    views = [replace(view, target=(x, y, z), distance=distance) for view in views]
    return [render(mesh, view, size=size, color=color) for view in views]


def contact_sheet(
    images: Sequence[Image],
    captions: Sequence[str] | None = None,
    *,
    columns: int | None = None,
    title: str = "",
) -> Image:
    """Return pictures of one size side by side on one sheet, each with a caption below.

    Args:
        images: (H, W, 3) bytes each, all of one size.
        captions: One line, or several parted by newlines, for each picture.
        columns: Pictures in a row; by default a nearly square sheet, at most six wide.
        title: A line on top.

    Raises:
        ValueError: If there is no picture, sizes differ, or captions and pictures differ in number.
    """
    if not images or any(image.shape != images[0].shape for image in images):
        shapes = sorted({image.shape for image in images})
        raise ValueError(
            f"contact_sheet: images must be of one size and at least one, got {shapes}"
        )
    texts = list(captions) if captions is not None else [""] * len(images)
    if len(texts) != len(images):
        raise ValueError(
            f"contact_sheet: captions must be one per image, got {len(texts)} for {len(images)}"
        )
    pillow, drawing, fonts = (
        require("PIL.Image"),
        require("PIL.ImageDraw"),
        require("PIL.ImageFont"),
    )
    height, width = images[0].shape[:2]
    across = columns or min(6, math.ceil(math.sqrt(len(images))))
    down = math.ceil(len(images) / across)
    letter = max(11, width // 22)
    font, title_font = fonts.load_default(letter), fonts.load_default(round(letter * 1.35))
    gap = max(4, width // 48)
    lines = max(text.count("\n") + 1 if text else 0 for text in texts)
    strip = round(lines * letter * 1.35) + (gap if lines else 0)
    top = round(letter * 2.4) if title else gap
    full = (across * (width + gap) + gap, top + down * (height + strip + gap))
    sheet = pillow.new("RGB", full, (250, 250, 250))
    pen = drawing.Draw(sheet)
    pen.text((2 * gap, top / 2), title, fill=(30, 34, 40), font=title_font, anchor="lm")
    for index, (image, text) in enumerate(zip(images, texts, strict=True)):
        left = gap + index % across * (width + gap)
        upper = top + index // across * (height + strip + gap)
        sheet.paste(pillow.fromarray(image), (left, upper))
        pen.multiline_text(
            (left + gap, upper + height + gap / 2), text, fill=(60, 66, 74), font=font, spacing=2
        )
    return np.asarray(sheet, dtype=np.uint8)


def _paint(
    picture: NDArray[np.float64],
    scene: Scene,
    view: View,
    color: Color,
    ground: float | Literal["auto"] | None,
    rays: int,
) -> None:
    frame = view.frame()
    target = (np.array(view.target) - scene.middle) / scene.extent
    view = replace(
        view, target=(target[0], target[1], target[2]), distance=view.distance / scene.extent
    )
    origins, directions = _camera_rays(view, frame, *picture.shape[:2])
    faces, distance, barycentric = scene.trace(origins, directions)
    pixels = picture.reshape(-1, 3)
    if ground is not None:
        lowest = float(scene.vertices[:, frame.up_axis].min())
        height = (
            lowest
            if ground == "auto"
            else (float(ground) - scene.middle[frame.up_axis]) / scene.extent
        )
        pixels *= ground_brightness(scene, frame, height, origins, directions)[:, None]
    hit = np.flatnonzero(faces >= 0)
    points = origins[hit] + distance[hit, None] * directions[hit]
    surface = (faces[hit], barycentric[hit])
    pixels[hit] = shade(scene, frame, points, directions[hit], surface, np.array(color), rays)


def _camera_rays(
    view: View, frame: Frame, height: int, width: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return origins and unit directions through the centres of all pixels, row by row."""
    half = min(height, width) / 2
    x = (np.arange(width) + 0.5 - width / 2) / half
    y = (height / 2 - np.arange(height) - 0.5) / half
    across = (x[None, :, None] * frame.right + y[:, None, None] * frame.up).reshape(-1, 3)
    eye = np.array(view.target) + view.distance * frame.back
    if view.field_of_view > 0:
        directions = across * math.tan(math.radians(view.field_of_view) / 2) - frame.back
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        return np.broadcast_to(eye, directions.shape), directions
    return eye + across * (view.distance / 4), np.broadcast_to(-frame.back, across.shape)


def _backdrop(height: int, width: int) -> NDArray[np.float64]:
    ramp = np.linspace(0, 1, height)[:, None, None] ** 1.5
    row = _BACKDROP_TOP + (_BACKDROP_BOTTOM - _BACKDROP_TOP) * ramp
    return np.broadcast_to(row, (height, width, 3)).copy()


def _encode(picture: NDArray[np.float64]) -> Image:
    """Return sRGB bytes of a linear picture, with highlights rolled off above 0.75."""
    knee = 0.75
    over = (picture - knee).clip(0) / (1 - knee)
    picture = np.minimum(picture, knee) + (1 - knee) * (1 - np.exp(-over))
    low, high = 12.92 * picture, 1.055 * picture.clip(1e-9) ** (1 / 2.4) - 0.055
    return (255 * np.where(picture <= 0.0031308, low, high) + 0.5).clip(0, 255).astype(np.uint8)
