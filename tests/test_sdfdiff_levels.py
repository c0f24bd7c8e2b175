# SPDX-License-Identifier: Apache-2.0
"""Parts of a reconstruction from views: the schedule, the size of pictures, the levels."""

import dataclasses
import json

import pytest
import torch
from reconstructions import BOX

import diffiso
from diffiso.camera import Camera, sdfdiff_rig
from diffiso.losses import grid_gradient
from diffiso.pipelines.sdfdiff import Greedy, ScheduleSettings, levels, picture_size
from diffiso.types import Grid

# Which views, how often, how large.


def run_greedy(losses, settings, cycles=1, level=0):
    """The views that are updated, in order, where each update divides its view's loss by two."""
    losses, updated = list(losses), []
    greedy = Greedy(settings, level, len(losses))
    while not greedy.done and greedy.cycle < cycles:
        if greedy.judge(losses[greedy.view]):
            updated.append(greedy.view)
            losses[greedy.view] /= 2
    return updated, greedy


def test_views_above_the_average_are_updated_until_below():
    # The average is 26.5: view 1 is above and below it after two updates, the others get five.
    updated, greedy = run_greedy([2.0, 100.0, 1.0, 3.0], ScheduleSettings(kind="greedy"))
    assert updated == [0] * 5 + [1] * 2 + [2] * 5 + [3] * 5
    assert greedy.losses == [2 / 32, 25.0, 1 / 32, 3 / 32]
    assert greedy.average == sum(greedy.losses) / 4
    # One that stays above gets twenty.
    updated, _ = run_greedy([1e9, 1.0], ScheduleSettings(kind="greedy"))
    assert updated == [0] * 1 + [1] * 5
    stubborn = Greedy(ScheduleSettings(kind="greedy"), 0, 2)
    taken = [(stubborn.view, stubborn.judge(9.0 if stubborn.view == 0 else 1.0)) for _ in range(23)]
    assert taken == [(0, False), (1, False), *[(0, True)] * 20, (0, False)]


def test_a_rise_ends_a_turn():
    greedy = Greedy(ScheduleSettings(kind="greedy"), 0, 2)
    sequence = [(0, 5.0), (1, 1.0), (0, 5.0), (0, 4.5), (0, 4.6), (1, 1.0)]
    answers = []
    for view, loss in sequence:
        assert greedy.view == view
        answers.append(greedy.judge(loss))
    # Measured twice; two updates of view 0, the second of which made it worse; then view 1.
    assert answers == [False, False, True, True, False, True]
    assert greedy.losses == [4.6, 1.0]


def test_levels_end():
    gaining = ScheduleSettings(kind="greedy", relative_gain=0.0)
    for settings, cycles in (
        (gaining, 20),  # every cycle halves the loss at least
        (dataclasses.replace(gaining, cycles=3), 3),
        (dataclasses.replace(gaining, tolerance=1e-3), 2),  # five halvings a cycle from 2 x 0.5
        (dataclasses.replace(gaining, relative_gain=1.0), 1),
        # The gain of the first cycle is 1 - 1 / 32, of the second 1 / 32 of that.
        (dataclasses.replace(gaining, gain=0.5), 2),
    ):
        _, greedy = run_greedy([0.5, 0.5], settings, cycles=100)
        assert greedy.done
        assert greedy.cycle == cycles
    # 0.02 * 2^6 is more than there is to gain.
    _, grown = run_greedy([1.0], dataclasses.replace(gaining, gain=0.02), cycles=100, level=6)
    assert grown.cycle > 1
    growing = dataclasses.replace(gaining, gain=0.02, gain_growth=2.0)
    _, grown = run_greedy([1.0], growing, cycles=100, level=6)
    assert grown.cycle == 1


def test_greedy_goes_on_from_its_state():
    settings = ScheduleSettings(kind="greedy")
    losses = torch.rand(200, generator=torch.Generator().manual_seed(0)).tolist()
    whole, stopped = Greedy(settings, 1, 3), Greedy(settings, 1, 3)
    for index, loss in enumerate(losses):
        if index % 7 == 0:
            state = json.loads(json.dumps(stopped.state()))
            stopped = Greedy(settings, 1, 3)
            stopped.load(state)
        assert stopped.view == whole.view
        assert stopped.judge(loss) == whole.judge(loss)
    assert stopped.state() == whole.state()


def test_a_cell_is_two_pixels_wide_in_the_far_corner():
    cameras, spacing = sdfdiff_rig(512, dtype=torch.float64), 4 / 63
    size = picture_size(cameras, BOX, (spacing,) * 3)
    corners = torch.cartesian_prod(*[torch.tensor([-2.0, 2.0], dtype=torch.float64)] * 3)

    def widest(height):
        focal = cameras.resized(height).focal[0, 0]
        far = torch.cdist(cameras.centers, corners).amax(dim=1)
        return float((2 * spacing * focal / far).max())

    assert size[0] == size[1]
    assert widest(size[0]) <= 2 < widest(size[0] + 1)
    # Half the cells, half the pixels; and never more than there are.
    assert picture_size(cameras, BOX, (2 * spacing,) * 3)[0] in (size[0] // 2, size[0] // 2 + 1)
    assert picture_size(cameras, BOX, (1e-3,) * 3) == (512, 512)
    wide = Camera.look_at((0, 0, 5), field_of_view=60.0, size=(300, 600))
    height, width = picture_size(wide, BOX, (spacing,) * 3)
    assert abs(2 * height - width) <= 1


# Levels.


def test_a_finer_grid_holds_the_same_field(generator):
    values = torch.rand(4, 5, 6, generator=generator)
    fine = levels.refined(values, (7, 9, 11))
    assert torch.equal(fine[::2, ::2, ::2], values)
    middle = (values[1:] + values[:-1]) / 2
    assert torch.allclose(fine[1::2, ::2, ::2], middle, atol=1e-6)


def test_moments_follow_the_gradient_to_a_finer_grid():
    """A surface's pixels are parted among four times as many nodes when cells are half as wide."""
    shares = []
    for nodes in (17, 33):
        values = levels.sphere(BOX, nodes, 0.6).values.requires_grad_()
        cameras = sdfdiff_rig(48)[:4]
        seen = diffiso.render(Grid.from_bounds(values, *BOX), cameras)
        (gradient,) = torch.autograd.grad(seen.depth[seen.hits.hit].mean(), values)
        shares.append(gradient)
    state = {"step": torch.tensor(7.0), "exp_avg": shares[0], "exp_avg_sq": shares[0].square()}
    found = levels.refined_optimizer(state, (33, 33, 33))
    assert float(found["step"]) == 7
    # The sums of what each node gets, over nodes and their number: a mean of the same size.
    ratio = float(found["exp_avg"].sum() / shares[1].sum())
    assert 0.5 < ratio * (32 / 16) ** -1 < 2
    assert found["exp_avg_sq"].min() >= 0
    size = found["exp_avg"].abs().sum() / found["exp_avg_sq"].sqrt().sum()
    assert 0.5 < float(size) <= 1


def test_redistancing_leaves_the_surface_where_it_is():
    solid = levels.sphere(BOX, 24, 0.6)
    bent = Grid(solid.values * (1 + solid.values.square()), solid.lower, solid.spacing)
    found = levels.redistanced(bent)
    before, after = diffiso.marching_cubes(bent), diffiso.marching_cubes(found)
    assert torch.equal(before.vertices, after.vertices)
    assert torch.equal(before.faces, after.faces)
    apart = (found.values - solid.values).abs() / solid.spacing[0]
    # Within three cells distances are to triangles, which lie 0.03 cells within the sphere or less;
    # nodes of crossed cells, 1.7 cells away at most, keep their bent values. Beyond, the nearest of
    # these nodes says which triangle.
    near, kept = solid.values.abs() <= 3 * solid.spacing[0], levels.crossing_nodes(solid.values)
    assert apart[near & ~kept].max() < 0.1
    assert apart.max() < 0.5
    steep = torch.linalg.vector_norm(grid_gradient(bent), dim=-1)
    even = torch.linalg.vector_norm(grid_gradient(found), dim=-1)
    assert steep.max() > 5
    assert even.max() < 1.15
    empty = Grid(torch.ones(4, 4, 4))
    assert levels.redistanced(empty) is empty


def test_cavities_are_filled_but_not_hollows():
    grid = levels.sphere(BOX, 17, 0.8)
    hollow = grid.values.clone()
    hollow[6:11, 6:11, 6:11] = 0.3
    filled = levels.cleaned(Grid(hollow, grid.lower, grid.spacing)).values
    assert (filled[6:11, 6:11, 6:11] < 0).all()
    rest = torch.ones_like(filled, dtype=torch.bool)
    rest[6:11, 6:11, 6:11] = False
    assert torch.equal(filled[rest], grid.values[rest])
    hollow[6:11, 6:11, :11] = 0.3  # open to the rim
    assert torch.equal(levels.cleaned(Grid(hollow)).values, hollow)


def test_specks_go_but_not_what_is_large_or_alone():
    grid = levels.sphere(BOX, 17, 0.5)
    spotted = grid.values.clone()
    spotted[1:3, 1:3, 1:3] = -0.1  # eight nodes in the air
    spotted[8, 8, 8] = spotted[9, 9, 9] = 0.1  # two in the solid that touch at a corner
    cleaned = levels.cleaned(Grid(spotted, grid.lower, grid.spacing))
    assert torch.equal(cleaned.values < 0, grid.values < 0)
    assert levels.cleaned(cleaned) is cleaned
    spotted[1:3, 1:3, 1:4] = -0.1
    kept = levels.cleaned(Grid(spotted, grid.lower, grid.spacing)).values
    assert torch.equal(kept[1:3, 1:3, 1:4], spotted[1:3, 1:3, 1:4])
    alone = torch.ones(6, 6, 6)
    alone[2, 2, 2] = -1.0
    assert levels.cleaned(Grid(alone)).values[2, 2, 2] == -1


def test_smoothing_keeps_sums_and_edges():
    spike = torch.zeros(5, 6, 7)
    spike[2, 3, 3] = 64.0
    found = levels.smoothed(spike, 1)
    assert found[2, 3, 3] == 8
    assert found[1, 2, 4] == 1
    assert found.sum() == 64
    flat = torch.full((3, 4, 5), 2.0)
    assert torch.equal(levels.smoothed(flat, 3), flat)
    assert torch.equal(levels.smoothed(spike, 0), spike)


def test_boxes_need_not_be_cubes():
    box = ((-1.0, -2.0, 0.0), (1.0, 2.0, 1.0))
    assert levels.node_counts(box, 9) == (5, 9, 3)
    grid = levels.sphere(box, 9, 0.8)
    assert grid.spacing == (0.5, 0.5, 0.5)
    assert float(grid.values.min()) == pytest.approx(-0.4, abs=1e-6)
