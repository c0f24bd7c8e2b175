# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from diffiso import io


def test_pictures_survive_a_file(tmp_path):
    ramp = np.linspace(0, 1, 32 * 48 * 3).reshape(32, 48, 3)
    path = io.save_image(tmp_path / "ramp.png", torch.from_numpy(ramp))
    with Image.open(path) as image:
        assert np.array_equal(np.asarray(image), (255 * ramp + 0.5).astype(np.uint8))
    for suffix in (".jpg", ".webp"):
        with Image.open(io.save_image(tmp_path / f"ramp{suffix}", ramp)) as image:
            assert image.size == (48, 32)


def test_pictures_return_as_floats(tmp_path):
    generator = torch.Generator().manual_seed(0)
    for channels in (3, 4):
        image = torch.randint(256, (5, 7, channels), generator=generator) / 255
        for suffix in (".png", ".webp"):
            again = io.load_image(io.save_image(tmp_path / f"image{suffix}", image))
            assert again.dtype == torch.float32
            assert again.shape == image.shape
            if suffix == ".png":
                assert_close(again, image, rtol=0, atol=1e-6)
    half = io.load_image(io.save_image(tmp_path / "half.png", torch.ones(2, 2).bfloat16()))
    assert torch.equal(half, torch.ones(2, 2, 3))
    grey = torch.rand(5, 7, generator=generator)
    again = io.load_image(io.save_image(tmp_path / "grey.png", grey))
    assert_close(again, grey[..., None].expand(5, 7, 3), rtol=0, atol=0.51 / 255)


def test_other_kinds_of_pictures(tmp_path):
    deep = np.array([[0, 65535], [13107, 32768]], dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    expected = torch.from_numpy(deep / 65535).float()
    assert_close(io.load_image(tmp_path / "deep.png")[..., 0], expected, rtol=0, atol=1e-6)
    Image.fromarray(deep > 20000).save(tmp_path / "bits.png")
    assert io.load_mask(tmp_path / "bits.png").tolist() == [[0, 1], [0, 1]]
    colors = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3) * 5)
    colors.quantize(16).save(tmp_path / "palette.png")
    assert io.load_image(tmp_path / "palette.png").shape == (4, 4, 3)
    # A camera's note that the picture lies on its side.
    turned = Image.new("RGB", (6, 4))
    note = turned.getexif()
    note[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=note)
    assert io.load_image(tmp_path / "turned.jpg").shape == (6, 4, 3)


def test_greys_may_have_a_transparent_one(tmp_path):
    grey = Image.fromarray(np.array([[0, 100, 200]], dtype=np.uint8))
    grey.save(tmp_path / "grey.png", transparency=100)
    image = io.load_image(tmp_path / "grey.png")
    assert image.shape == (1, 3, 4)
    assert image[0, :, 3].tolist() == [1, 0, 1]
    assert_close(image[0, :, 0], torch.tensor([0, 100, 200]) / 255)


def test_masks_come_from_alpha_or_brightness(tmp_path):
    disc = (torch.linspace(-1, 1, 9).square()[:, None] + torch.linspace(-1, 1, 9).square()).lt(0.5)
    painted = torch.cat([torch.rand(9, 9, 3), disc[..., None].float()], dim=2)
    for image in (painted, disc.float()):
        assert torch.equal(io.load_mask(io.save_image(tmp_path / "m.png", image)), disc.float())
    io.save_image(tmp_path / "color.png", torch.rand(4, 4, 3))
    with pytest.raises(ValueError, match=r"color\.png: a mask must be grey or have alpha"):
        io.load_mask(tmp_path / "color.png")


def test_broken_pictures_name_the_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.png: image file not found"):
        io.load_image(tmp_path / "none.png")
    data = io.save_image(tmp_path / "cut.png", np.random.default_rng(0).random((64, 64, 3)))
    whole = data.read_bytes()
    for length in (0, 20, len(whole) // 2):
        data.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"cut\.png: cannot be read as a picture"):
            io.load_image(data)


def test_numbers_that_are_no_colors_are_clipped(tmp_path):
    image = np.array([[[np.nan, -1.0, 2.0]]])
    assert io.load_image(io.save_image(tmp_path / "a.png", image)).flatten().tolist() == [0, 0, 1]


def test_animations_keep_frames_and_pace(tmp_path):
    frames = [np.full((16, 20, 3), 40 * k, dtype=np.uint8) for k in range(5)]
    path = io.save_gif(tmp_path / "steps.gif", frames, seconds=0.2)
    with Image.open(path) as gif:
        assert gif.n_frames == 5
        assert gif.size == (20, 16)
        assert gif.info["duration"] == 200
        gif.seek(3)
        # A palette of 256 colours holds five greys.
        assert abs(int(np.asarray(gif.convert("RGB"))[0, 0, 0]) - 120) <= 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: io.save_image(p / "a.png", np.zeros(4)), r"\(H, W, 4\), got \(4,\)"),
        (lambda p: io.save_image(p / "a.png", np.zeros((4, 4, 2))), r"got \(4, 4, 2\)"),
        (lambda p: io.save_image(p / "a.png", np.zeros((0, 4, 3))), r"got \(0, 4, 3\)"),
        (lambda p: io.save_image(p / "a.jpg", np.zeros((4, 4, 4))), "JPEG cannot hold alpha"),
        (lambda p: io.save_gif(p / "a.gif", [np.zeros((4, 4))]), r"must be \(H, W, 3\)"),
        (lambda p: io.save_gif(p / "a.gif", [np.zeros((4, 4, 3))], seconds=0), "be positive"),
        (lambda p: io.save_image(p / "a.png", np.zeros((4, 4, 3), dtype=np.int32)), "got int32"),
        (lambda p: io.save_image(p / "a.bmp", np.zeros((4, 4, 3))), r"got '\.bmp'"),
        (lambda p: io.save_gif(p / "a.gif", [np.zeros((4, 4, 3))], colors=1), "from 2 to 256"),
        (lambda p: io.save_gif(p / "a.gif", []), r"at least one, got \[\]"),
        (
            lambda p: io.save_gif(p / "a.gif", [np.zeros((4, k, 3)) for k in (3, 4)]),
            r"one size and at least one, got \[\(4, 3, 3\), \(4, 4, 3\)\]",
        ),
    ],
)
def test_picture_errors(tmp_path, call, message):
    with pytest.raises(ValueError, match=message):
        call(tmp_path)
    assert list(tmp_path.iterdir()) == []
