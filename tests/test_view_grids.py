# SPDX-License-Identifier: Apache-2.0
"""Pictures of grids: the look of meshes, without triangles."""

import math

import numpy as np
import pytest
import torch

import diffiso
from diffiso import Grid, Mesh, shapes, view
from diffiso.view._gridtrace import grid_subject
from diffiso.view.cameras import camera_rays

EMPTY = Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64))


def grid_of(shape, nodes=33):
    return diffiso.sample_field(shape, -1.0, 1.0, nodes - 1)


@pytest.fixture(scope="module")
def sphere():
    return grid_of(shapes.Sphere(0.8), 65)


@pytest.fixture(scope="module")
def torus():
    return grid_of(shapes.Torus(0.6, 0.25))


def covered(image):
    backdrop = view.render(EMPTY, size=image.shape[:2])
    return np.abs(image.astype(int) - backdrop.astype(int)).max(axis=2) > 8


def difference(first, second):
    return np.abs(first.astype(int) - second.astype(int))


def at_border(mask):
    """Whether the mask differs within a pixel of each."""
    near = [np.roll(mask, (i, j), (0, 1)) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    return np.any(near, axis=0) & ~np.all(near, axis=0)


# Beside meshes.


@pytest.mark.parametrize(("field_of_view", "ground"), [(0.0, None), (28.0, "auto")])
def test_a_grid_looks_as_its_fine_mesh_does(sphere, field_of_view, ground):
    mesh = diffiso.marching_cubes(sphere)
    camera = view.fit_view(sphere, field_of_view=field_of_view)
    seen, expected = (view.render(x, camera, size=64, ground=ground) for x in (sphere, mesh))
    # Triangles of h = 1 / 32 cut up to h^2 / 8 r = 1.5e-4 off a ball of r = 0.8, less than a
    # hundredth of a pixel: at outlines that is two of 255 levels, elsewhere a few of the rays to
    # the lights see something else.
    assert difference(seen, expected).mean() < 0.15
    assert (difference(seen, expected).max(axis=2) > 16).mean() < 1e-3
    # With one ray a pixel a silhouette changes only where that passes the outline so closely.
    masks = [
        covered(view.render(x, camera, size=64, ground=None, samples=1, rays=1))
        for x in (sphere, mesh)
    ]
    outline = at_border(masks[1])
    changed = masks[0] ^ masks[1]
    assert outline.any()
    assert changed.sum() <= 0.01 * outline.sum()
    assert not changed[~outline].any()


def test_far_and_small_grids_look_the_same(torus):
    moved = Grid(
        torus.values,
        tuple(50 + 1e-3 * x for x in torus.lower),
        tuple(1e-3 * x for x in torus.spacing),
    )
    # In float64 places near 50 are exact to 1e-11 of the torus, which few rays can notice.
    seen, expected = (view.render(x, size=48) for x in (moved, torus))
    assert difference(seen, expected).mean() < 0.05


def test_smooth_normals_hide_the_cells():
    coarse = grid_of(shapes.Sphere(0.8), 9)
    fine = view.render(grid_of(shapes.Sphere(0.8), 65), size=96, ground=None)
    smooth, flat = (view.render(coarse, size=96, ground=None, smooth=s) for s in (True, False))
    assert difference(smooth, fine).mean() < 0.5 * difference(flat, fine).mean()


def test_normals_at_outlines_point_outwards():
    """Also those that interpolation turns away from the camera."""
    subject = grid_subject(grid_of(shapes.Sphere(0.8), 9), np.zeros(3), smooth=True)
    near = view.View(distance=4.0)
    _, surface = subject.meet(*camera_rays(near, near.frame(), 64, 64))
    assert ((surface.normals * surface.towards).sum(axis=1) < 0).any()
    assert ((surface.normals * surface.start).sum(axis=1) > 0).all()


def test_the_ground_gets_a_shadow(sphere):
    camera = view.fit_view(sphere, margin=1.6)
    bare = view.render(sphere, camera, size=96, ground=None).astype(int)
    full = view.render(sphere, camera, size=96).astype(int)
    darker = (bare - full).max(axis=2) > 10
    assert darker[50:].sum() > 100
    assert not darker[:40].any()


def test_the_back_of_a_surface_is_dark():
    """A ball cut open by the box shows its inner side, as its mesh does."""
    ball = grid_of(shapes.Sphere(0.8), 49)
    cut = Grid(ball.values[:, :, :30], ball.lower, ball.spacing)
    mesh = diffiso.marching_cubes(cut)
    camera = view.fit_view(cut, 0.0, 0.0)
    seen, expected = (view.render(x, camera, size=96, ground=None) for x in (cut, mesh))
    whole = view.render(ball, camera, size=96, ground=None)
    middle = (slice(40, 56), slice(40, 56))
    assert seen[middle].mean() < 0.7 * whole[middle].mean()
    # As above, but triangles are larger by a third, and their errors by two.
    assert difference(seen, expected).mean() < 0.3


def test_the_color(torus):
    blue = view.render(torus, size=(40, 60), color=view.SLATE, ground=None)
    assert blue.shape == (40, 60, 3)
    disc = covered(blue)
    assert blue[disc][:, 2].mean() > blue[disc][:, 0].mean()


# Cameras.


def test_fit_view_holds_the_surface_and_not_the_box():
    ball = grid_of(shapes.Sphere(0.3, (0.5, 0.0, 0.0)))
    camera = view.fit_view(ball, 0.0, 0.0, field_of_view=0.0, margin=1.0)
    # Edges are crossed within a cell of the ball's ends.
    assert camera.target == pytest.approx((0.5, 0.0, 0.0), abs=0.02)
    assert camera.distance == pytest.approx(4 * 0.3, rel=0.02)
    points = diffiso.marching_cubes(ball).vertices
    assert view.fit_view(points).distance == pytest.approx(view.fit_view(ball).distance, rel=1e-6)


def test_turntables_turn():
    tall = grid_of(shapes.Capsule((0.0, 0, 0), (0.7, 0, 0), 0.2))
    frames = view.turntable(tall, 3, size=32)
    assert len(frames) == 3
    assert difference(frames[0], frames[1]).max() > 50
    again = view.turntable(diffiso.marching_cubes(tall), 3, size=32)
    # Cells are a third of the capsule's radius: triangles cut an eighth of a pixel off.
    assert difference(np.stack(frames), np.stack(again)).mean() < 1.0


def test_pictures_repeat_with_any_number_of_threads(torus, threads):
    views = [view.fit_view(torus, azimuth, up=up) for azimuth, up in ((0, "y"), (120, "z"))]
    drawn = []
    for count in (1, 3):
        threads(count)
        drawn.append(np.stack(view.render_views(torus, views, size=48)))
    assert np.array_equal(*drawn)
    alone = [view.render(torus, camera, size=48) for camera in views]
    assert np.array_equal(np.stack(alone), drawn[0])


def test_a_camera_may_look_past_the_surface(torus):
    away = view.View(target=(40.0, 0.0, 0.0))
    assert np.array_equal(
        view.render(torus, away, size=16, ground=None), view.render(EMPTY, size=16)
    )
    assert view.render(torus, size=1, samples=1, ground=None).shape == (1, 1, 3)


# Values.


def test_grids_of_all_dtypes_and_strides_look_the_same(torus):
    image = view.render(torus, size=32, ground=None)
    strided = torus.values.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    for values in (torus.values.double(), strided, torus.values.clone().requires_grad_()):
        assert np.array_equal(
            view.render(Grid(values, torus.lower, torus.spacing), size=32, ground=None), image
        )
    # Distances within two cells are rounded by 3e-5, a thousandth of a pixel.
    assert (
        difference(view.render(torus.to(torch.float16), size=32, ground=None), image).mean() < 0.05
    )


@pytest.mark.parametrize("absent", [math.nan, math.inf, -math.inf])
def test_cells_that_are_not_finite_are_gaps(absent):
    ball = grid_of(shapes.Sphere(0.8))
    values = ball.values.clone()
    values[:, :, 22:] = absent
    present = Grid(values[:, :, :22], ball.lower, ball.spacing)
    camera = view.fit_view(present)
    with_gap = Grid(values, ball.lower, ball.spacing)
    assert view.fit_view(with_gap) == camera
    seen, expected = (view.render(x, camera, size=48, ground=None) for x in (with_gap, present))
    # At the box's border normals are one-sided differences, beside a gap the field's own.
    assert difference(seen, expected).mean() < 0.1


@pytest.mark.parametrize("value", [1.0, -1.0, 0.0, math.nan])
def test_grids_without_a_surface_give_the_backdrop(value):
    grid = Grid(torch.full((4, 5, 6), value))
    assert np.array_equal(view.render(grid, size=16), view.render(EMPTY, size=16))
    assert view.render_views(grid, []) == []


def test_a_surface_without_extent_gives_the_backdrop():
    values = torch.ones(3, 3, 3)
    values[1, 1, 1] = -1e-30
    assert np.array_equal(view.render(Grid(values), size=16), view.render(EMPTY, size=16))


# Errors.

CALLS = {
    "render": view.render,
    "turntable": view.turntable,
    "fit_view": view.fit_view,
}


@pytest.mark.parametrize("op", CALLS)
def test_values_that_are_no_field_are_errors(op):
    with pytest.raises(ValueError, match=rf"{op}: grid must be \(X, Y, Z\) .*, got \(2, 4, 4, 4\)"):
        CALLS[op](Grid(torch.ones(2, 4, 4, 4)))
    with pytest.raises(ValueError, match=rf"{op}: grid must be .* 2 nodes .*, got \(4, 4, 1\)"):
        CALLS[op](Grid(torch.ones(4, 4, 1)))
    with pytest.raises(TypeError, match=f"{op}: grid must be floating, got torch.int64"):
        CALLS[op](Grid(torch.ones(4, 4, 4, dtype=torch.int64)))


def test_errors_name_the_rule(torus):
    with pytest.raises(TypeError, match="render: surface must be a Mesh or a Grid, got Tensor"):
        view.render(torus.values)
    with pytest.raises(TypeError, match="turntable: surface must be a Mesh or a Grid, got Tensor"):
        view.turntable(torus.values)
    with pytest.raises(ValueError, match="render: colors must be None for a grid"):
        view.render(torus, colors=torch.zeros(3, 3))
    with pytest.raises(ValueError, match="turntable: grid must have a surface, got none"):
        view.turntable(Grid(torch.ones(4, 4, 4)), 2)
    with pytest.raises(ValueError, match="fit_view: points must hold at least one point, got none"):
        view.fit_view(Grid(torch.ones(4, 4, 4)))
