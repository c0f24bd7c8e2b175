# SPDX-License-Identifier: Apache-2.0
"""Pictures of meshes: how they are taken, written, and read for a reconstruction."""

import json
import math

import pytest
import torch

import diffiso
from diffiso import io, shapes, view
from diffiso.camera import Camera, sdfdiff_rig
from diffiso.cli import main
from diffiso.pipelines.sdfdiff import ViewsSettings, load_views, make_views
from diffiso.types import Mesh


def quiet(line):
    pass


def cube_mesh(half):
    corners = torch.tensor([[x, y, z] for x in (-1.0, 1) for y in (-1, 1) for z in (-1, 1)])
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = [f for a, b, c, d in quads for f in ((a, b, c), (a, c, d))]
    return Mesh(half * corners.double(), torch.tensor(faces))


@pytest.fixture(scope="module")
def ball():
    return diffiso.isosurface(shapes.Sphere(1.0), -1.5, 1.5, 96, dtype=torch.float64)


@pytest.fixture(scope="module")
def folder(ball, tmp_path_factory):
    """The views of an egg far from the origin, and the mesh file."""
    place = tmp_path_factory.mktemp("views")
    stretch = ball.vertices.new_tensor([1.0, 2.0, 1.0])
    io.save_mesh(place / "egg.ply", Mesh(ball.vertices * stretch + 7, ball.faces))
    settings = ViewsSettings(str(place / "egg.ply"), str(place / "egg"), size=40, samples=4)
    made = make_views(settings, say=quiet)
    return place / "egg", made


@pytest.fixture
def pictures(tmp_path):
    """A small camera file, and the folder that its pictures go to."""
    cameras = Camera.orbit([0.0, 90.0], 20.0, 4.0, field_of_view=40.0, size=(6, 8))
    io.save_cameras(tmp_path / "transforms.json", cameras, ["a.png", "b.png"])
    return tmp_path


def half_covered(channels):
    image = torch.zeros(6, 8, channels)
    image[:, :4] = torch.tensor([0.2, 0.4, 0.6, 0.5][:channels])
    return image


# Pictures.


@pytest.mark.parametrize("falloff", [False, True])
def test_a_ball_looks_as_geometry_says(ball, falloff):
    camera = Camera.look_at((0.0, 0.0, 4.0), field_of_view=50.0, size=64, dtype=torch.float64)
    found = view.render_diffuse(ball, camera, strength=3.0, falloff=falloff, samples=16)
    # What each of 8 x 8 rays through a pixel sees of a true ball.
    fine = camera.resized(8 * 64).rays()
    along = (fine.origins * fine.directions).sum(dim=-1)
    root = along.square() - (fine.origins.square().sum(dim=-1) - 1)
    distance = -along - root.clamp(min=0).sqrt()
    normals = fine.origins + distance[..., None] * fine.directions
    seen = -(normals * fine.directions).sum(dim=-1) * (root > 0)
    light = 3 * seen / distance.square() if falloff else 3 * seen
    expected, covered = (torch.nn.functional.avg_pool2d(x, 8) for x in (light, (root > 0).double()))
    # Inside the outline, triangles of 3 / 96 turn by up to 0.02 from the ball's normals, where the
    # cosine's slope is below 1, and pixels hold some of them.
    whole = covered == 1
    off = (found.intensity.double() - expected).abs()[whole] / float(expected.max())
    assert off.max() < 0.02
    assert off.mean() < 0.003
    # The disc's area to a thousandth: the mesh is 1e-4 too small, rays know an edge to 1/16 pixel.
    radius = float(camera.focal[0, 0]) / math.sqrt(4**2 - 1)
    assert float(found.coverage.sum()) == pytest.approx(math.pi * radius**2, rel=1e-3)
    # Of the 16 points four lie in a row at most: an edge along it changes the side of these.
    assert (found.coverage.double() - covered).abs().max() <= 4 / 16
    assert (found.coverage.double() - covered)[~whole].abs().mean() < 0.03
    assert not found.intensity[found.coverage == 0].any()


def test_flat_faces_have_one_normal_and_smooth_ones_do_not():
    camera = Camera.look_at((0.3, 0.2, 4.0), (0.3, 0.2, 0.0), field_of_view=20.0, size=16)
    cube = cube_mesh(1.0)
    flat = view.render_diffuse(cube, camera, samples=9).intensity[0]
    rays = camera.rays()
    # The whole picture lies in the face z = 1: |n . l| of each pixel's ray, to the mean over it.
    assert torch.allclose(flat, -rays.directions[0, ..., 2], atol=1e-4)
    assert torch.equal(flat, view.render_diffuse(cube, camera, smooth=True, samples=9).intensity[0])
    turned = Mesh(cube.vertices, cube.faces.flip(1))
    assert torch.equal(flat, view.render_diffuse(turned, camera, samples=9).intensity[0])

    coarse = diffiso.isosurface(shapes.Sphere(1.0), -1.5, 1.5, 12)
    looks = Camera.look_at((0.0, 0.0, 4.0), field_of_view=16.0, size=64)
    rays = looks.rays()
    along = (rays.origins * rays.directions).sum(dim=-1)
    distance = -along - (along.square() - 15).sqrt()
    points = rays.origins + distance[..., None] * rays.directions
    expected = -(points * rays.directions).sum(dim=-1)
    off = [
        float((view.render_diffuse(coarse, looks, smooth=smooth).intensity - expected).abs().mean())
        for smooth in (False, True)
    ]
    # Interpolated normals are those of the ball; the facets' own are not.
    assert off[0] > 2 * off[1]


def test_nothing_to_see(ball):
    away = Camera.look_at((0.0, 0.0, 4.0), (0.0, 0.0, 9.0), field_of_view=50.0, size=8)
    none = Mesh(torch.zeros(3, 3), torch.empty(0, 3, dtype=torch.int64))
    for mesh in (ball, none):
        found = view.render_diffuse(mesh, away)
        assert not found.intensity.any()
        assert not found.coverage.any()
    inside = Camera.look_at((0.0, 0.0, 0.0), (0.0, 0.0, 9.0), field_of_view=50.0, size=8)
    assert view.render_diffuse(ball, inside).coverage.eq(1).all()
    with pytest.raises(ValueError, match="samples and strength must be positive, got 0 and 1"):
        view.render_diffuse(ball, away, samples=0)


# Folders of views.


def test_round_trip(folder):
    path, made = folder
    found = load_views(path)
    white = float(made.pictures.intensity.max())
    # 16 bits, rounded to the nearest, and float32.
    bound = 0.5 / 65535 + 2**-23
    assert (found.intensity - made.pictures.intensity).abs().max() <= bound * white
    assert (found.coverage - made.pictures.coverage).abs().max() <= bound
    assert torch.allclose(found.cameras.centers, sdfdiff_rig(40).centers, atol=1e-5)
    assert found.strength == 10
    assert found.falloff
    assert found.box == ((-2.0,) * 3, (2.0,) * 3)
    # The egg's longest side is 4 from 5 to 9, and becomes 3.6.
    assert found.frame.center == pytest.approx((7, 7, 7), abs=1e-9)
    assert found.frame.scale == pytest.approx(0.9, rel=1e-3)
    assert load_views(path / "transforms.json").names == found.names
    report = json.loads((path / "report.json").read_text())
    assert report["metrics"]["views"] == report["metrics"]["views_that_see"] == 26
    assert report["metrics"]["views_cut_off"] == 0
    assert (path / "views.png").is_file()


def test_parts_of_views(folder):
    path, _ = folder
    colors, masks = load_views(path, "colors"), load_views(path, "masks")
    assert colors.coverage is None
    assert masks.intensity is None
    assert torch.equal(masks.coverage, load_views(path).coverage)
    some = load_views(path).select([3, 5])
    assert some.names == ("shading/003.png", "shading/005.png")
    assert torch.equal(some.coverage, masks.coverage[[3, 5]])


def test_noise_moves_what_is_seen_but_not_what_is_said(folder, tmp_path):
    path, made = folder
    mesh = str(path.parent / "egg.ply")
    options = {"mesh": mesh, "size": 40, "samples": 4}
    moved = make_views(ViewsSettings(**options, output=str(tmp_path / "p"), pose_noise=0.1), quiet)
    assert torch.equal(moved.cameras.centers, made.cameras.centers)
    assert not torch.equal(moved.pictures.coverage, made.pictures.coverage)
    noisy = make_views(ViewsSettings(**options, output=str(tmp_path / "i"), image_noise=0.1), quiet)
    assert torch.equal(noisy.pictures.intensity, made.pictures.intensity)
    off = load_views(tmp_path / "i").intensity - made.pictures.intensity
    # Where it is bright nothing is cut off at 0: the standard deviation of 1000 draws, within 15 %.
    bright = made.pictures.coverage == 1
    assert int(bright.sum()) > 1000
    assert float(off[bright].std()) == pytest.approx(0.1, rel=0.15)


@pytest.mark.parametrize(("rig", "count", "elevation"), [("ring", 5, 30.0), ("fibonacci", 7, None)])
def test_other_rigs(folder, tmp_path, rig, count, elevation):
    mesh = str(folder[0].parent / "egg.ply")
    settings = ViewsSettings(
        mesh, str(tmp_path), rig, count, size=16, samples=1, elevation=elevation or 0.0, up="z"
    )
    cameras = make_views(settings, quiet).cameras
    assert len(cameras) == count
    if elevation is not None:
        assert torch.allclose(cameras.centers[:, 2], torch.tensor(2.5, dtype=torch.float64))


def test_pictures_of_a_user(pictures):
    """Eight bits, straight alpha, no light: what the colours show before black, and the alpha."""
    for name in ("a.png", "b.png"):
        io.save_image(pictures / name, half_covered(4))
    found = load_views(pictures)
    step = 1 / 255  # of the file's bytes
    assert torch.allclose(found.coverage[0, 0, :4], torch.tensor(0.5), atol=step)
    assert torch.allclose(found.intensity[0, 0, :4], torch.tensor(0.4 * 0.5), atol=step)
    assert not found.coverage[..., 4:].any()
    assert (found.strength, found.falloff, found.box) == (1.0, False, None)
    lit = load_views(pictures, srgb=True).intensity[0, 0, 0] / found.coverage[0, 0, 0]
    # sRGB of 0.2, 0.4, 0.6 in linear light: 0.033, 0.133, 0.319.
    assert float(lit) == pytest.approx(0.162, abs=0.005)


def test_masks_of_all_kinds(pictures):
    # White pictures as masks; colours with alpha of 1 everywhere have none.
    io.save_image(pictures / "a.png", half_covered(3).amax(dim=2).gt(0).float())
    io.save_image(pictures / "b.png", half_covered(3).amax(dim=2).gt(0).float())
    found = load_views(pictures, "masks")
    assert found.intensity is None
    assert float(found.coverage.sum()) == 2 * 24
    for name in ("a.png", "b.png"):
        opaque = torch.cat([half_covered(3), torch.ones(6, 8, 1)], dim=2)
        io.save_image(pictures / name, opaque)
    assert load_views(pictures).coverage is None
    # A mask file turns what it leaves out black.
    io.save_image(pictures / "m.png", torch.eye(8)[:6])
    content = json.loads((pictures / "transforms.json").read_text())
    for frame in content["frames"]:
        frame["mask_path"] = "m.png"
    (pictures / "transforms.json").write_text(json.dumps(content))
    found = load_views(pictures)
    assert torch.equal(found.coverage[0], torch.eye(8)[:6])
    assert not found.intensity[found.coverage == 0].any()


def break_views(folder, what):
    image = half_covered(3)
    io.save_image(folder / "a.png", image)
    if what != "missing":
        io.save_image(folder / "b.png", image[:, :5] if what == "size" else image)
    if what == "stranger":
        io.save_image(folder / "c.png", image)
        io.save_image(folder / "b_depth.png", image)
    if what == "half":
        io.save_image(folder / "b.png", half_covered(4))
    if what == "grey":  # 0 and 1 instead of 0 and 255
        io.save_image(folder / "a.png", half_covered(4)[..., :1].gt(0)[..., 0].float())
        io.save_image(folder / "b.png", half_covered(4)[..., :1].gt(0)[..., 0] / 255)
    if what == "black":
        for name in ("a.png", "b.png"):
            io.save_image(folder / name, torch.zeros(6, 8))
    keys = {
        "mask": ("mask_path", 7),
        "light": ("light", {"strength": -1}),
        "falloff": ("light", {"falloff": 1}),
        "box": ("box", {"lower": [0, 0], "upper": [1, 1, 1]}),
        "frame": ("frame", [1, 2]),
    }
    if what in keys:
        content = json.loads((folder / "transforms.json").read_text())
        key, value = keys[what]
        (content["frames"][0] if what == "mask" else content)[key] = value
        (folder / "transforms.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("what", "use", "message"),
    [
        ("missing", "auto", "b.png: picture of a camera in transforms.json not found"),
        ("size", "auto", "b.png: a picture must have the size of its camera, 8 x 6, got 5 x 6"),
        ("stranger", "auto", "c.png: every picture .* must have a camera, got 1 without"),
        ("half", "auto", "a.png: all pictures must have masks or none, got 1 of 2 without"),
        ("black", "auto", "transforms.json: pictures must show something, got 2 black ones"),
        ("black", "masks", "transforms.json: masks must show something, got 2 black ones"),
        ("colors", "masks", "a.png: must have a mask .* or be one, got neither"),
        ("half", "masks", "a.png: all pictures must have masks or none, got 1 of 2 without"),
        ("grey", "masks", "masks must be white .*, got at most 0.0039. of white for b.png"),
        ("mask", "auto", r"frames\[0\].mask_path must be text, got 7"),
        ("light", "auto", "light.strength must be a positive number, got -1"),
        ("falloff", "auto", "light.falloff must be true or false, got 1"),
        ("box", "auto", "box.lower must be a number or three finite numbers, got"),
        ("frame", "auto", r"frame must be an object, got \[1, 2\]"),
    ],
)
def test_views_that_cannot_be_used(pictures, what, use, message):
    break_views(pictures, what)
    error = FileNotFoundError if what == "missing" else ValueError
    with pytest.raises(error, match=message):
        load_views(pictures, use)


def test_no_views(tmp_path):
    with pytest.raises(FileNotFoundError, match="none: folder of views not found"):
        load_views(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"transforms.json: camera file not found"):
        load_views(tmp_path)


# Sizes.


def test_pictures_shrink_by_a_box_filter(folder):
    views = load_views(folder[0])
    half = views.resized((20, 20))
    pool = torch.nn.functional.avg_pool2d
    # Four numbers each, summed in another order.
    assert torch.allclose(half.intensity, pool(views.intensity, 2), atol=1e-6)
    assert torch.allclose(half.coverage, pool(views.coverage, 2), atol=1e-6)
    odd = views.resized((17, 29))
    assert odd.cameras.size == (17, 29)
    # Every old pixel counts by its area.
    assert torch.allclose(odd.coverage.mean(dim=(1, 2)), views.coverage.mean(dim=(1, 2)), atol=1e-6)
    ones = torch.ones_like(views.coverage)
    flat = load_views(folder[0], "masks")
    object.__setattr__(flat, "coverage", ones)
    assert torch.allclose(flat.resized((13, 7)).coverage, torch.tensor(1.0), atol=1e-6)
    assert views.resized((40, 40)) is views
    with pytest.raises(ValueError, match=r"size must be 1 to \(40, 40\), got \(41, 40\)"):
        views.resized((41, 40))


# Settings, files and the command.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"extent": 4.1}, "extent must be at most twice the box, 4, got 4.1"),
        ({"field_of_view": 180.0}, "field_of_view must be below 180, got 180"),
        ({"count": 20}, "count must be 26 and up y for SDFDiff's cameras, got 20 and y"),
        ({"samples": 0}, "samples must be positive, got 0"),
    ],
)
def test_settings_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        ViewsSettings("a.obj", **changes)


def test_sixteen_bits(tmp_path):
    ramp = torch.linspace(0, 1, 600).reshape(20, 30)
    found = io.load_image(io.save_image(tmp_path / "ramp.png", ramp, bits=16))
    assert (found[..., 0] - ramp).abs().max() <= 0.5 / 65535 + 2**-24
    with pytest.raises(ValueError, match=r"16 bits must be \(H, W\) floats in \[0, 1\], got"):
        io.save_image(tmp_path / "c.png", torch.zeros(4, 4, 3), bits=16)
    with pytest.raises(ValueError, match=r"name must end in .png, got '.jpg'"):
        io.save_image(tmp_path / "c.jpg", ramp, bits=16)


def test_camera_files_hold_more(tmp_path):
    cameras = Camera.orbit([0.0, 90.0], 20.0, 4.0, field_of_view=40.0, size=8)
    path = tmp_path / "transforms.json"
    io.save_cameras(path, cameras, ["a", "b"], masks=["c", "d"], extra={"box": 2})
    content = json.loads(path.read_text())
    assert content["box"] == 2
    assert [frame["mask_path"] for frame in content["frames"]] == ["c", "d"]
    with pytest.raises(ValueError, match="masks must be one per camera, got 1 for 2"):
        io.save_cameras(path, cameras, ["a", "b"], masks=["c"])
    with pytest.raises(ValueError, match="extra must have other keys, got frames, w"):
        io.save_cameras(path, cameras, ["a", "b"], extra={"w": 1, "frames": []})


def test_command(folder, tmp_path, capsys):
    mesh = str(folder[0].parent / "egg.ply")
    out = tmp_path / "new" / "views"
    given = ["views", mesh, "-o", str(out), "--size", "24", "--samples", "1", "--no-falloff"]
    assert main(given) == 0
    assert not load_views(out).falloff
    assert "26 of 24^2 pixels, 0 cut the mesh off" in capsys.readouterr().out
    # Too near: the egg leaves the pictures.
    near = ["--distance", "2.5", "--field-of-view", "30"]
    assert main([*given, *near]) == 0
    assert "0 cut the mesh off" not in capsys.readouterr().out
    assert main(["views", str(tmp_path / "none.obj")]) == 2
    assert "none.obj: mesh file not found" in capsys.readouterr().err
