# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest
import torch

import diffiso
from diffiso import shapes, view
from diffiso.types import Mesh
from diffiso.view import _raytrace, drawing
from diffiso.view._raytrace import bake_sky


def mesh_of(shape, resolution=32):
    mesh = diffiso.isosurface(shape, -1.0, 1.0, resolution)
    return Mesh(mesh.vertices.detach(), mesh.faces)


@pytest.fixture(scope="module")
def sphere():
    return mesh_of(shapes.Sphere(0.8))


@pytest.fixture(scope="module")
def torus():
    return mesh_of(shapes.Torus(0.6, 0.25))


EMPTY = Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64))


def covered(image, backdrop):
    return np.abs(image.astype(int) - backdrop.astype(int)).max(axis=2) > 8


# Geometry.


@pytest.mark.parametrize("field_of_view", [0.0, 28.0])
def test_a_sphere_covers_the_disc_it_should(sphere, field_of_view):
    camera = view.fit_view(sphere.vertices, field_of_view=field_of_view, margin=1.25)
    image = view.render(sphere, camera, size=128, ground=None, rays=1)
    disc = covered(image, view.render(EMPTY, size=128))
    # In perspective the outline of the points that fit is a little smaller than the frame's.
    radius = math.sqrt(disc.sum() / math.pi) / 64
    assert radius == pytest.approx(1 / 1.25, rel=0.01 if field_of_view == 0 else 0.06)
    rows, columns = np.nonzero(disc)
    assert rows.mean() == pytest.approx(63.5, abs=1.5)
    assert columns.mean() == pytest.approx(63.5, abs=1)


@pytest.mark.parametrize("up", ["y", "z"])
def test_up_is_up_and_right_is_right(up):
    """Three balls of falling size along up, to the right and towards the camera's back."""
    axes = torch.eye(3)[[0, 1, 2] if up == "y" else [1, 2, 0]]
    right, upward, _ = axes
    big = shapes.Sphere(0.3, tuple((0.6 * upward).tolist()))
    small = shapes.Sphere(0.15, tuple((0.6 * right).tolist()))
    mesh = mesh_of(big | small)
    camera = view.fit_view(mesh.vertices, 0.0, 0.0, up=up)
    image = view.render(mesh, camera, size=96, ground=None, rays=1)
    rows, columns = np.nonzero(covered(image, view.render(EMPTY, size=96)))
    upper = rows < 48
    assert upper.sum() > 2 * (~upper).sum()
    assert columns[~upper].mean() > columns[upper].mean() + 20


def test_fit_view_holds_every_point(torus):
    camera = view.fit_view(torus.vertices, 70.0, 50.0, up="z", margin=1.0)
    image = view.render(torus, camera, size=64, ground=None, rays=1)
    seen = covered(image, view.render(EMPTY, size=64))
    extent = max(np.ptp(np.nonzero(seen)[axis]) for axis in (0, 1))
    assert 58 <= extent <= 63


def test_far_and_small_scenes_look_the_same(torus):
    camera = view.fit_view(torus.vertices)
    image = view.render(torus, camera, size=64)
    moved = Mesh(torus.vertices.double() * 1e-3 + 50, torus.faces)
    again = view.render(moved, view.fit_view(moved.vertices), size=64)
    assert np.abs(image.astype(int) - again.astype(int)).mean() < 0.5


# Light.


def test_pictures_repeat_exactly(torus):
    assert np.array_equal(view.render(torus, size=48), view.render(torus, size=48))


def test_light_comes_from_the_upper_left(sphere):
    image = view.render(sphere, size=96, ground=None).astype(float).mean(axis=2)
    assert image[34, 34] > 1.2 * image[66, 66]
    assert image[20, 48] > 1.2 * image[76, 48]


def test_the_ground_gets_a_shadow(sphere):
    camera = view.fit_view(sphere.vertices, margin=1.6)
    bare = view.render(sphere, camera, size=96, ground=None).astype(int)
    full = view.render(sphere, camera, size=96).astype(int)
    darker = (bare - full).max(axis=2) > 10
    assert darker[50:].sum() > 100
    assert not darker[:40].any()
    assert (full <= bare + 1).all()


def test_cavities_are_darker(sphere):
    bowl = mesh_of(shapes.Sphere(0.8) - shapes.Capsule((0.0, 0.0, 0.0), (0.0, 0.0, 2.0), 0.4), 48)
    camera = view.fit_view(bowl.vertices, 0.0, 0.0)
    hollow, full = (view.render(m, camera, size=96, ground=None) for m in (bowl, sphere))
    assert hollow[40:56, 40:56].mean() < 0.85 * full[40:56, 40:56].mean()


def test_creases_stay_sharp():
    box = mesh_of(shapes.Box((0.6, 0.6, 0.6)), 16)
    image = view.render(box, view.fit_view(box.vertices, 45.0, 0.0), size=96, ground=None)
    left, right = image[48, 25:46].astype(int), image[48, 50:71].astype(int)
    assert abs(left.mean() - right.mean()) > 25
    assert left.std(axis=0).max() < 8


def test_flat_shading_shows_faces(sphere):
    coarse = mesh_of(shapes.Sphere(0.8), 8)
    smooth, flat = (view.render(coarse, size=96, smooth=s).astype(int) for s in (True, False))
    assert (
        np.abs(np.diff(flat[48], axis=0)).max() > np.abs(np.diff(smooth[48, 30:66], axis=0)).max()
    )


def test_libigl_alone_draws_the_same(torus, monkeypatch):
    image = view.render(torus, size=64).astype(int)
    monkeypatch.setattr(_raytrace, "available", lambda package: False)
    again = view.render(torus, size=64).astype(int)
    # Single against double precision: a few rays at outlines and shadow borders differ.
    assert np.abs(image - again).mean() < 0.5


def test_color_and_size(torus):
    blue = view.render(torus, size=(40, 60), color=view.SLATE)
    assert blue.shape == (40, 60, 3)
    assert blue.dtype == np.uint8
    disc = covered(blue, view.render(EMPTY, size=(40, 60)))
    assert blue[disc][:, 2].mean() > blue[disc][:, 0].mean()


def test_meshes_without_area_give_the_backdrop():
    backdrop = view.render(EMPTY, size=16)
    for vertices in (torch.zeros(3, 3), torch.tensor([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]])):
        flat = Mesh(vertices, torch.arange(3)[None])
        assert np.array_equal(view.render(flat, size=16), backdrop)


# Colours.


def test_vertex_colors_show_where_they_are(sphere):
    camera = view.fit_view(sphere.vertices, 0.0, 0.0)
    upper = (sphere.vertices[:, 1:2] > 0).float()
    red, blue = torch.tensor([0.9, 0.1, 0.1]), torch.tensor([0.1, 0.1, 0.9])
    image = view.render(sphere, camera, size=96, colors=upper * red + (1 - upper) * blue)
    image = image.astype(int)
    assert (image[16:40, 40:56, 0] > image[16:40, 40:56, 2] + 60).all()
    assert (image[56:80, 40:56, 2] > image[56:80, 40:56, 0] + 60).all()


def test_one_color_for_all_vertices_is_the_color(torus):
    # sRGB 0.735 is linear 0.5 (IEC 61966-2-1); a byte for rounding.
    vertices = np.full((len(torus.vertices), 3), 1.055 * 0.5 ** (1 / 2.4) - 0.055)
    whole, parts = (
        view.render(torus, size=64, color=(0.5, 0.5, 0.5), colors=colors).astype(int)
        for colors in (None, vertices)
    )
    assert np.abs(whole - parts).max() <= 1


def test_more_error_is_darker_and_evenly_so():
    colors = view.error_colors(np.linspace(0, 1, 200))
    linear = np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)
    lightness = 116 * np.cbrt(linear @ np.array([0.2126, 0.7152, 0.0722])) - 16
    falls = -np.diff(lightness)
    assert lightness[0] > 90
    assert lightness[-1] < 30
    assert (falls > 0).all()
    assert falls.max() < 1.5 * falls.min()


def test_error_colors_end_at_the_maximum():
    values = torch.tensor([0.0, 1.0, 2.0, 9.0, math.inf, math.nan])
    colors = view.error_colors(values, 2.0)
    assert np.array_equal(colors[2:5], np.repeat(colors[2:3], 3, axis=0))
    assert np.array_equal(colors[1], view.error_colors(np.array([0.5, 1.0]))[0])
    assert len({tuple(color) for color in colors.tolist()}) == 4
    assert colors.min() >= 0
    assert colors.max() <= 1
    assert view.error_colors(torch.zeros(3)).tolist() == colors[:1].repeat(3, axis=0).tolist()
    assert view.error_colors(torch.zeros(0)).shape == (0, 3)


# Sheets and turntables.


def test_contact_sheets_hold_all_pictures():
    images = [np.full((30, 40, 3), 20 * k, dtype=np.uint8) for k in range(1, 6)]
    sheet = view.contact_sheet(images, ["one\ntwo"] * 5, columns=3, title="title")
    for k in range(1, 6):
        assert (sheet == 20 * k).all(axis=2).sum() >= 30 * 40
    bare = view.contact_sheet(images, columns=3)
    assert bare.shape[1] == sheet.shape[1]
    assert bare.shape[0] < sheet.shape[0]


def test_sheets_tell_what_colors_mean():
    images = [np.zeros((60, 80, 3), dtype=np.uint8)] * 2
    bare = view.contact_sheet(images)
    sheet = view.contact_sheet(images, bar=view.ColorBar(0.02, "distance"))
    assert sheet.shape[1] == bare.shape[1]
    assert np.array_equal(sheet[: bare.shape[0] - 8], bare[:-8])
    strip = sheet[bare.shape[0] :].reshape(-1, 3).tolist()
    for value in (0.0, 1.0):
        color = (255 * view.error_colors(np.array([value]), 1.0)[0] + 0.5).astype(np.uint8)
        assert color.tolist() in strip
    other = view.contact_sheet(images, bar=view.ColorBar(0.03, "distance"))
    assert not np.array_equal(sheet, other)


def test_many_views_are_what_single_views_are(monkeypatch):
    """Light prepared at the vertices differs a little from light traced in each picture."""
    prepared = []

    def spy(scene):
        prepared.append(bake_sky(scene))
        return prepared[-1]

    monkeypatch.setattr(drawing, "bake_sky", spy)
    bowl = shapes.Sphere(0.8) - shapes.Capsule((0.0, 0.0, 0.0), (0.0, 0.0, 2.0), 0.4)
    mesh = mesh_of(bowl, 48)
    views = [view.fit_view(mesh.vertices, azimuth, 20.0) for azimuth in range(0, 360, 15)]
    many = view.render_views(mesh, views, size=96)
    (scene,) = prepared
    # Most faces have prepared light; those at the rim's crease are left to be traced.
    assert 0.8 < np.isfinite(scene.sky).all(axis=1).mean() < 1
    for camera, image in list(zip(views, many, strict=True))[::8]:
        alone = view.render(mesh, camera, size=96).astype(int)
        # Sky light of 64 rays a vertex against 24 a pixel.
        assert np.abs(alone - image).mean() < 1.0
        assert np.abs(alone - image).mean(axis=2).max() < 60
    assert len(prepared) == 1


def test_pictures_side_by_side_are_those_one_by_one(torus, threads):
    views = [view.fit_view(torus.vertices, azimuth) for azimuth in (0, 120, 240)]
    drawn = []
    for count in (1, 3):
        threads(count)
        drawn.append(np.stack(view.render_views(torus, views, size=48)))
    assert np.array_equal(*drawn)


def test_views_of_nothing():
    assert view.render_views(EMPTY, []) == []
    pictures = view.render_views(EMPTY, [view.View(), view.View(up="z")], size=16)
    assert np.array_equal(*pictures)


def test_views_may_have_other_axes_up(torus):
    views = [view.fit_view(torus.vertices, 20.0, 30.0, up=up) for up in ("y", "z")]
    for camera, image in zip(views, view.render_views(torus, views, size=48), strict=True):
        alone = view.render(torus, camera, size=48).astype(int)
        assert np.abs(alone - image).mean() < 1.0


def test_turntables_turn(torus):
    tall = mesh_of(shapes.Capsule((0.0, 0, 0), (0.7, 0, 0), 0.2))
    frames = view.turntable(tall, 4, size=32)
    assert len(frames) == 4
    assert np.abs(frames[0].astype(int) - frames[1].astype(int)).max() > 50


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: view.render(EMPTY, size=0), "render: size, samples and rays must be positive"),
        (lambda: view.fit_view(torch.zeros(0, 3)), "points must hold at least one point, got none"),
        (lambda: view.fit_view(torch.zeros(1, 3), up="x"), "up must be 'y' or 'z', got 'x'"),
        (
            lambda: view.fit_view(torch.tensor([[0.0, 0, 0], [0, math.nan, 0]])),
            r"fit_view: points must be finite, got \[0.0, nan, 0.0\] at 1",
        ),
        (
            lambda: view.render(
                Mesh(torch.full((3, 3), math.inf), torch.arange(3)[None]), view.View()
            ),
            r"render: vertices must be finite, got \[inf, inf, inf\] at 0",
        ),
        (lambda: view.turntable(EMPTY, 0), "turntable: frames must be positive, got 0"),
        (lambda: view.turntable(EMPTY, 2), "turntable: mesh must have vertices, got none"),
        (
            lambda: view.render(EMPTY, colors=torch.zeros(2, 3)),
            r"colors must be \(0, 3\) floats, one a vertex, got \(2, 3\) of float32",
        ),
        (
            lambda: view.render(
                Mesh(torch.rand(3, 3), torch.arange(3)[None]), colors=torch.full((3, 3), 1.5)
            ),
            r"colors must lie in \[0, 1\], got 1.5 to 1.5",
        ),
        (lambda: view.error_colors(torch.zeros(2, 2)), r"values must be \(V,\), got \(2, 2\)"),
        (lambda: view.error_colors(torch.zeros(2), 0.0), "maximum must be positive, got 0.0"),
        (
            lambda: view.contact_sheet([np.zeros((2, 2, 3), np.uint8)], bar=view.ColorBar(-1.0)),
            "bar.maximum must be positive, got -1.0",
        ),
        (
            lambda: view.contact_sheet([np.zeros((2, 2, 3), np.uint8)], columns=0),
            "columns must be positive, got 0",
        ),
        (lambda: view.contact_sheet([]), r"one size and at least one, got \[\]"),
        (
            lambda: view.contact_sheet([np.zeros((2, 2, 3), np.uint8)], ["a", "b"]),
            "captions must be one per image, got 2 for 1",
        ),
    ],
)
def test_errors_name_the_rule(call, message):
    with pytest.raises(ValueError, match=message):
        call()
