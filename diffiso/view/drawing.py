# SPDX-License-Identifier: Apache-2.0
"""Shaded pictures of meshes and of grids, one or many of the same surface."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from diffiso.camera import Up
from diffiso.types import Grid, Mesh
from diffiso.view._gridtrace import grid_subject, surface_points
from diffiso.view._raytrace import (
    BAKED_RAYS,
    Array,
    bake_sky,
    build_scene,
    single,
)
from diffiso.view._shading import (
    Ground,
    Indices,
    Subject,
    Surface,
    build_ground,
    ground_brightness,
    merged,
    mesh_subject,
    shade,
)
from diffiso.view.cameras import View, camera_rays, check_finite, fit_view
from diffiso.view.colors import CLAY, Color, linear_of_srgb, srgb_of_linear

Image = NDArray[np.uint8]
Level = float | Literal["auto"] | None

_AT_ONCE = 4  # pictures drawn side by side: each takes memory
_BACKDROP_TOP, _BACKDROP_BOTTOM = np.array([0.66, 0.70, 0.76]), np.array([0.90, 0.90, 0.90])


def render(
    surface: Mesh | Grid,
    view: View | None = None,
    *,
    size: int | tuple[int, int] = 512,
    color: Color = CLAY,
    colors: torch.Tensor | NDArray[np.floating] | None = None,
    ground: Level = "auto",
    smooth: bool = True,
    samples: int = 2,
    rays: int = 6,
) -> Image:
    """Return a shaded picture of a mesh or a grid as (height, width, 3) bytes, row 0 on top.

    A grid's surface, where its field turns negative, is traced itself, by :func:`diffiso.trace` on
    the grid's device and in single precision. It looks as its mesh does, without the triangles.

    Args:
        surface: The triangles or the grid (X, Y, Z) to show; an empty one gives the empty backdrop.
            What is seen from behind is darkened. Cells with a sample that is not finite are gaps.
        view: The camera; by default `fit_view` of the vertices, or of the grid.
        size: Height and width in pixels; one number for a square.
        color: Red, green and blue reflectance in [0, 1], linear.
        colors: (V, 3) a colour of its own for each vertex, sRGB in [0, 1], instead of `color`; for
            meshes.
        ground: Height of the shadow-catching ground along the up axis, `"auto"` for the lowest
            vertex, `None` for none.
        smooth: Interpolate normals where faces meet at less than 40 degrees; otherwise shade flat.
            A grid's are those of central differences, which round its creases by a cell; otherwise
            the gradient of its field.
        samples: Camera rays per pixel along each axis.
        rays: Sky rays and light rays at each hit.

    Raises:
        TypeError: If `surface` is neither mesh nor grid, or the grid is not floating.
        ValueError: If size, samples or rays are not positive, a vertex is not finite, colours are
            not (V, 3) in [0, 1] or given for a grid, or the grid is a batch.
        ImportError: If the extra `pipelines` is not installed.

    Example:
        >>> from diffiso import shapes, view
        >>> mesh = diffiso.isosurface(shapes.Torus(), (-1.5,) * 3, (1.5,) * 3, 48)
        >>> view.render(mesh, size=64).shape
        (64, 64, 3)
        >>> grid = diffiso.sample_field(shapes.Torus(), (-1.5,) * 3, (1.5,) * 3, 48)
        >>> view.render(grid, size=64).shape
        (64, 64, 3)
    """
    (picture,) = render_views(
        surface,
        [view or _default_view(surface)],
        size=size,
        color=color,
        colors=colors,
        ground=ground,
        smooth=smooth,
        samples=samples,
        rays=rays,
    )
    return picture


def render_views(
    surface: Mesh | Grid,
    views: Sequence[View],
    *,
    size: int | tuple[int, int] = 512,
    color: Color = CLAY,
    colors: torch.Tensor | NDArray[np.floating] | None = None,
    ground: Level = "auto",
    smooth: bool = True,
    samples: int = 2,
    rays: int = 6,
) -> list[Image]:
    """Return pictures of a mesh or a grid from several sides; of a mesh much faster than singly.

    What no camera changes is prepared once: a mesh for rays, and where it pays the light of the
    sky at each of its vertices.

    Args:
        surface: The triangles or the grid to show, as for :func:`render`.
        views: The cameras.
        size: Height and width in pixels; one number for a square.
        color: Red, green and blue reflectance in [0, 1], linear.
        colors: (V, 3) a colour of its own for each vertex of a mesh, sRGB in [0, 1], instead of
            `color`.
        ground: Height of the ground, as for :func:`render`.
        smooth: Interpolate normals, as for :func:`render`.
        samples: Camera rays per pixel along each axis.
        rays: Sky rays and light rays at each hit.

    Raises:
        TypeError: If `surface` is neither mesh nor grid, or the grid is not floating.
        ValueError: If size, samples or rays are not positive, a vertex is not finite, colours are
            not (V, 3) in [0, 1] or given for a grid, or the grid is a batch.
        ImportError: If the extra `pipelines` is not installed.

    Example:
        >>> from diffiso import shapes, view
        >>> mesh = diffiso.isosurface(shapes.Torus(), (-1.5,) * 3, (1.5,) * 3, 24)
        >>> sides = [view.fit_view(mesh.vertices, azimuth) for azimuth in (0, 90, 180, 270)]
        >>> len(view.render_views(mesh, sides, size=32))
        4
    """
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width, samples, rays) < 1:
        raise ValueError(
            "render: size, samples and rays must be positive, "
            f"got {height} x {width}, {samples} and {rays}"
        )
    full = (height * samples, width * samples)
    # Half the picture shows the surface, roughly.
    cost = len(views) * full[0] * full[1] * rays / 2
    subject = _subject(surface, color, colors, smooth, cost if len(views) > 1 else 0)
    if subject is None:
        return [_encode(_backdrop(*full), samples) for _ in views]
    planes = {axis: _plane(subject, axis, ground) for axis in {v.frame().up_axis for v in views}}

    def draw(view: View) -> Image:
        picture = _backdrop(*full)
        plane = planes[view.frame().up_axis]
        _paint(picture, subject, view, plane, samples, rays)
        return _encode(picture, samples)

    # Much of the time goes into numpy, which leaves Python free for another picture.
    with ThreadPoolExecutor(min(len(views), torch.get_num_threads(), _AT_ONCE) or 1) as pool:
        return list(pool.map(draw, views))


def turntable(
    surface: Mesh | Grid,
    frames: int = 36,
    *,
    elevation: float = 20.0,
    up: Up = "y",
    size: int | tuple[int, int] = 320,
    color: Color = CLAY,
    colors: torch.Tensor | NDArray[np.floating] | None = None,
) -> list[Image]:
    """Return pictures of what turns once around its up axis, as frames of an animation.

    Args:
        surface: The mesh or the grid to show, as for :func:`render`.
        frames: How many pictures make one turn.
        elevation: Angle of the camera above the horizon, in degrees.
        up: The axis to turn around.
        size: Height and width in pixels; one number for a square.
        color: Red, green and blue reflectance in [0, 1], linear.
        colors: (V, 3) a colour of its own for each vertex of a mesh, sRGB in [0, 1], instead of
            `color`.

    Raises:
        TypeError: If `surface` is neither mesh nor grid, or the grid is not floating.
        ValueError: If `frames` is not positive, or there is no surface.

    Example:
        >>> from diffiso import shapes, view
        >>> mesh = diffiso.isosurface(shapes.Torus(), (-1.5,) * 3, (1.5,) * 3, 24)
        >>> len(view.turntable(mesh, 3, size=32))
        3
    """
    if frames < 1:
        raise ValueError(f"turntable: frames must be positive, got {frames}")
    points = _points("turntable", surface)
    if len(points) == 0:
        rule = (
            "mesh must have vertices" if isinstance(surface, Mesh) else "grid must have a surface"
        )
        raise ValueError(f"turntable: {rule}, got none")
    angles = [30.0 + 360.0 * k / frames for k in range(frames)]
    views = [fit_view(points, angle, elevation, up=up) for angle in angles]
    x, y, z = ((points.amin(dim=0) + points.amax(dim=0)) / 2).tolist()
    distance = max(view.distance for view in views)
    views = [replace(view, target=(x, y, z), distance=distance) for view in views]
    return render_views(surface, views, size=size, color=color, colors=colors)


def _points(op: str, surface: Mesh | Grid) -> torch.Tensor:
    """Return a mesh's vertices, or where a grid's surface crosses its edges: (V, 3)."""
    if isinstance(surface, Grid):
        return surface_points(op, surface)
    if not isinstance(surface, Mesh):
        raise TypeError(f"{op}: surface must be a Mesh or a Grid, got {type(surface).__name__}")
    return surface.vertices.detach()


def _default_view(surface: Mesh | Grid) -> View:
    points = _points("render", surface)
    return fit_view(points) if len(points) else View()


def _subject(
    surface: Mesh | Grid,
    color: Color,
    colors: torch.Tensor | NDArray[np.floating] | None,
    smooth: bool,
    cost: float,
) -> Subject | None:
    """Return the subject of pictures whose sky would take `cost` rays, or None without surface."""
    reflectance = single(np.array(color))
    if isinstance(surface, Grid):
        if colors is not None:
            raise ValueError("render: colors must be None for a grid, which has no vertices")
        return grid_subject(surface, reflectance, smooth)
    check_finite("render: vertices", _points("render", surface).cpu().numpy())
    vertices, faces = surface.numpy()
    if colors is not None:
        reflectance = _vertex_reflectance(colors, len(vertices))
    scene = build_scene(vertices.astype(np.float64), faces.astype(np.int64), smooth)
    if scene is None:
        return None
    # A vertex costs its rays once, a hit in each picture.
    if cost > 2 * len(vertices) * BAKED_RAYS:
        scene = bake_sky(scene)
    return mesh_subject(scene, reflectance)


def _vertex_reflectance(colors: torch.Tensor | NDArray[np.floating], count: int) -> Array:
    array = colors.detach().cpu().numpy() if isinstance(colors, torch.Tensor) else colors
    values = np.asarray(array)
    if values.shape != (count, 3) or values.dtype.kind != "f":
        raise ValueError(
            f"render: colors must be ({count}, 3) floats, one a vertex, "
            f"got {values.shape} of {values.dtype}"
        )
    if count and not (values.min() >= 0 and values.max() <= 1):
        raise ValueError(
            f"render: colors must lie in [0, 1], got {values.min():g} to {values.max():g}"
        )
    return single(linear_of_srgb(values))


def _plane(subject: Subject, axis: int, ground: Level) -> Ground | None:
    if ground is None:
        return None
    if ground == "auto":
        return build_ground(subject, axis, float(subject.lowest[axis]))
    return build_ground(subject, axis, (float(ground) - subject.middle[axis]) / subject.extent)


def _paint(
    picture: Array,
    subject: Subject,
    view: View,
    ground: Ground | None,
    samples: int,
    rays: int,
) -> None:
    frame = view.frame()
    x, y, z = (np.array(view.target) - subject.middle) / subject.extent
    near = replace(view, target=(x, y, z), distance=view.distance / subject.extent)
    origins, directions = camera_rays(near, frame, *picture.shape[:2])
    hit, surface = subject.meet(origins, directions)
    pixels = picture.reshape(-1, 3)
    if ground is not None:
        pixels *= ground_brightness(subject, frame, ground, origins, directions)[:, None]
    if samples == 1 or np.isnan(surface.sky).all():
        pixels[hit] = shade(subject, frame, surface, rays)
        return
    # Where the sky is known, light is the same all over a pixel but at outlines and creases.
    groups = _groups(hit, picture.shape[0], picture.shape[1], samples)
    mean, one = merged(surface, groups)
    groups, mean = groups[one], Surface(*(part[one] for part in mean))
    alone = np.ones(len(hit), dtype=np.bool_)
    alone[groups] = False
    pixels[hit[alone]] = shade(subject, frame, Surface(*(part[alone] for part in surface)), rays)
    pixels[hit[groups]] = shade(subject, frame, mean, 2 * rays)[:, None]


def _groups(hit: Indices, height: int, width: int, samples: int) -> Indices:
    """Return the hits (G, samples * samples) of each pixel all of whose rays hit."""
    slots = np.full(height * width, -1)
    slots[hit] = np.arange(len(hit))
    across = slots.reshape(height // samples, samples, width // samples, samples)
    table = across.transpose(0, 2, 1, 3).reshape(-1, samples * samples)
    return table[(table >= 0).all(axis=1)]


def _backdrop(height: int, width: int) -> Array:
    ramp = np.linspace(0, 1, height)[:, None, None] ** 1.5
    row = _BACKDROP_TOP + (_BACKDROP_BOTTOM - _BACKDROP_TOP) * ramp
    return np.broadcast_to(row, (height, width, 3)).astype(np.float32, order="C")


def _encode(picture: Array, samples: int) -> Image:
    """Return sRGB bytes of a linear picture, with highlights rolled off above 0.75."""
    height, width = picture.shape[0] // samples, picture.shape[1] // samples
    picture = picture.reshape(height, samples, width, samples, 3).mean(axis=(1, 3))
    knee = 0.75
    over = (picture - knee).clip(0) / (1 - knee)
    picture = np.minimum(picture, knee) + (1 - knee) * (1 - np.exp(-over))
    return (255 * srgb_of_linear(picture) + 0.5).clip(0, 255).astype(np.uint8)
