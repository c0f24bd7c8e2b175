# SPDX-License-Identifier: Apache-2.0
"""NeRF's dictionaries and their files: keys, what they mean, and what is refused."""

import json
import math

import pytest
import torch
from cameras import assert_same_cameras, random_numbers
from PIL import Image

from diffiso.camera import Camera, ring_rig
from diffiso.io.cameras import load_cameras, save_cameras

POSE = [[1, 0, 0, 0.5], [0, 1, 0, 0], [0, 0, 1, 4], [0, 0, 0, 1]]


def content(frame=None, **keys):
    frames = [{"file_path": "a.png", "transform_matrix": POSE}]
    frames.append({"file_path": "b.png", "transform_matrix": POSE, **(frame or {})})
    return {"fl_x": 50.0, "w": 40, "h": 30, "frames": frames, **keys}


def without(mapping, *keys):
    return {key: value for key, value in mapping.items() if key not in keys}


# Meaning.


def test_missing_keys_mean_square_pixels_and_the_middle():
    camera = Camera.from_nerf(content())
    assert camera.focal.tolist() == [[50, 50]] * 2
    assert camera.principal.tolist() == [[20, 15]] * 2
    assert camera.size == (30, 40)
    assert camera.focal.dtype == torch.get_default_dtype()


def test_a_frames_own_numbers_go_first():
    frame = {"fl_x": 70, "fl_y": 80, "cx": 1.5, "cy": -2.5}
    camera = Camera.from_nerf(content(frame, fl_y=60.0, cx=19.0, cy=14.0))
    assert camera.focal.tolist() == [[50, 60], [70, 80]]
    assert camera.principal.tolist() == [[19, 14], [1.5, -2.5]]


def test_angles_give_way_to_lengths_of_the_same_place():
    right = math.pi / 2
    top = Camera.from_nerf(content(camera_angle_x=right, camera_angle_y=right))
    assert top.focal[0].tolist() == pytest.approx([50, 15])
    own = Camera.from_nerf(content({"camera_angle_x": right}, fl_y=60.0))
    assert own.focal[1].tolist() == pytest.approx([20, 60])


def test_sizes_may_be_whole_floats_as_colmap_scripts_write_them():
    assert Camera.from_nerf(content(w=40.0, h=30.0)).size == (30, 40)


def test_three_rows_are_a_pose_too():
    frame = {"transform_matrix": POSE[:3]}
    assert Camera.from_nerf(content(frame)).centers[1].tolist() == [0.5, 0, 4]


def test_pinhole_models_without_distortion_are_read():
    for model in ("PINHOLE", "OPENCV", "SIMPLE_RADIAL"):
        assert len(Camera.from_nerf(content(camera_model=model, k1=0.0, p2=0))) == 2


def test_shared_intrinsics_stand_once():
    written = ring_rig(3, 20.0, 4.0, size=(30, 40), field_of_view=40.0).to_nerf()
    assert written["fl_x"] == written["fl_y"] == pytest.approx(15 / math.tan(math.radians(20)))
    assert written["camera_angle_x"] == pytest.approx(2 * math.atan(20 / written["fl_x"]))
    assert all(set(frame) == {"transform_matrix"} for frame in written["frames"])


def test_an_angle_is_written_only_where_it_says_all():
    for numbers in (
        random_numbers(2, (30, 40), square_pixels=True),
        random_numbers(2, (30, 40), centered=True),
    ):
        written = numbers.camera().to_nerf()
        assert all("camera_angle_x" not in frame for frame in [written, *written["frames"]])
        assert all("fl_y" in frame for frame in written["frames"])


# Files.


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_files_give_back_what_they_were_given(tmp_path, shared, dtype):
    numbers = random_numbers(5, (30, 41))
    camera = numbers.camera(dtype)
    if shared:
        camera = Camera(
            camera.rotation, camera.translation, camera.focal[:1], camera.principal[:1], (30, 41)
        )
    images = [f"train/r_{i}.png" for i in range(5)]
    path = save_cameras(tmp_path / "new" / "transforms.json", camera, images)
    loaded = load_cameras(path, dtype=dtype)
    assert loaded.images == tuple(images)
    assert torch.equal(loaded.cameras.focal, camera.focal)
    assert torch.equal(loaded.cameras.principal, camera.principal)
    if dtype == torch.float64:
        assert_same_cameras(loaded.cameras, camera)
    else:
        # The position is rounded on its way out, the offset on its way in; both below 20.
        assert torch.equal(loaded.cameras.rotation, camera.rotation)
        assert (loaded.cameras.translation - camera.translation).abs().max() < 20 * 2**-22


@pytest.mark.parametrize("name", ["r_0", "r_0.png", "r_0.5"])
def test_the_size_comes_from_a_picture_where_the_file_has_none(tmp_path, name):
    Image.new("RGB", (80, 60)).save(tmp_path / (name if name.endswith("png") else f"{name}.png"))
    frame = {"file_path": f"./{name}", "transform_matrix": POSE}
    path = tmp_path / "transforms_train.json"
    path.write_text(json.dumps({"camera_angle_x": 0.69, "frames": [frame]}))
    camera, images = load_cameras(path)
    assert camera.size == (60, 80)
    assert images == (f"./{name}",)
    assert camera.focal[0, 0].item() == pytest.approx(40 / math.tan(0.345))
    assert load_cameras(path, (6, 8)).cameras.size == (6, 8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "must hold a JSON object, got list"),
        ("{}", "frames must be a list of at least one"),
        ('{"frames": [{}]}', r"frames\[0\].file_path must be text, got None"),
        ('{"frames": [{"file_path": "x"}]}', "w and h must be given, in the file or as size"),
        ('{"frames": [{"file_path": "transforms.json"}]}', "cannot be read as a picture"),
        (
            '{"w": 4, "h": 4, "frames": [{"file_path": "x"}]}',
            "fl_x or camera_angle_x must be given",
        ),
    ],
)
def test_bad_files_are_named(tmp_path, text, message):
    path = tmp_path / "transforms.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"transforms.json: .*{message}"):
        load_cameras(path)


def test_other_bad_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.json: camera file not found"):
        load_cameras(tmp_path / "none.json")
    camera = ring_rig(2, 20.0, 4.0, size=8, field_of_view=40.0)
    with pytest.raises(ValueError, match=r"name must end in \.json, got '.txt'"):
        save_cameras(tmp_path / "rig.txt", camera, ["a", "b"])
    with pytest.raises(ValueError, match="images must be one per camera, got 1 for 2"):
        save_cameras(tmp_path / "rig.json", camera, ["a"])
    assert list(tmp_path.iterdir()) == []


# Errors.


def posed(*rows):
    return content({"transform_matrix": [list(row) for row in rows]})


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        (content(frames=[]), "frames must be a list of at least one, got ..$"),
        (content(frames=[1]), r"frames\[0\] must be an object, got 1"),
        (
            without(content(), "fl_x"),
            r"fl_x or camera_angle_x must be given, got none for frames\[0\]",
        ),
        (without(content(), "w"), "w and h must be given, in the file or as size"),
        (content(fl_x=0), "fl_x must be a positive number, got 0"),
        (content({"fl_x": "50"}), r"frames\[1\].fl_x must be a positive number, got '50'"),
        (content(fl_y=math.nan), "fl_y must be a positive number, got nan"),
        (content({"cx": math.inf}), r"frames\[1\].cx must be a finite number, got inf"),
        (content(cy=True), "cy must be a finite number, got True"),
        (content({"camera_angle_x": 39.6}), r"frames\[1\].camera_angle_x must be radians below pi"),
        (content(w=40.5), "w and h must be whole numbers, got 40.5 and 30"),
        (
            content({"w": 41}),
            r"h and w must be the same for all frames .* \(30, 41\) in frames\[1\]",
        ),
        (content(k1=0.01), "k1 must be 0 .* got 0.01"),
        (content({"p2": -1e-3}), r"frames\[1\].p2 must be 0 .* got -0.001"),
        (content(camera_model="OPENCV_FISHEYE"), "camera_model must be one of .* 'OPENCV_FISHEYE'"),
        (content({"transform_matrix": None}), r"frames\[1\].transform_matrix must be 4 rows of 4"),
        (posed(*POSE[:2]), r"frames\[1\].transform_matrix must be 4 rows of 4 numbers, got"),
        (posed([1, 0, 0], *POSE[1:]), "must be 4 rows of 4 numbers"),
        (posed([1, 0, 0, math.nan], *POSE[1:]), "must hold finite numbers"),
        (posed(*POSE[:3], [0, 0, 0, 0.01]), "must end in the row 0, 0, 0, 1, got .0, 0, 0, 0.01."),
        (posed([2, 0, 0, 0], *POSE[1:]), "rotation without scale .* got 4 where 1 should be"),
        (posed([1, 0.1, 0, 0], *POSE[1:]), "rotation without scale .* got 0.1 where 0 should be"),
        (posed([-1, 0, 0, 0], *POSE[1:]), "must hold a rotation, got a reflection"),
    ],
)
def test_bad_keys_are_named(transforms, message):
    with pytest.raises(ValueError, match=f"Camera.from_nerf: .*{message}"):
        Camera.from_nerf(transforms)


def test_last_rows_may_be_rounded():
    rounded = posed(*POSE[:3], [0, 1e-7, 0, 0.9999999])
    assert len(Camera.from_nerf(rounded)) == 2


def test_a_size_against_the_file_is_refused():
    with pytest.raises(ValueError, match=r"size must be as h and w say .* got \(15, 20\) for"):
        Camera.from_nerf(content(), (15, 20))
