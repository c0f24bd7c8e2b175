# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest
import torch
from PIL import Image
from topology import is_closed_and_oriented
from torch.testing import assert_close

import diffiso
from diffiso import io, shapes
from diffiso.types import Mesh

SEAMED_OBJ = """\
v 0 0 0
v 1 0 0
v 0 1 0
v 0 0 1
vt 0 0
vt 1 0
vt 0 1
vt 1 1
f 1/1 3/2 2/3
f 1/4 2/1 4/2
f 2/4 3/3 4/1
f 3/1 1/2 4/4
"""


@pytest.fixture
def torus():
    mesh = diffiso.isosurface(shapes.Torus(0.6, 0.25), -1.0, 1.0, 24)
    return Mesh(mesh.vertices.detach(), mesh.faces)


def canonical(mesh):
    """Sorted triangles by position, so that files may reorder vertices."""
    corners = mesh.vertices[mesh.faces.long()].double()
    first = corners.sum(dim=2).argmin(dim=1)
    turned = (first[:, None] + torch.arange(3)) % 3
    corners = corners.gather(1, turned[..., None].expand(-1, -1, 3)).reshape(-1, 9)
    order = np.lexsort(np.round(corners.numpy(), 5).T)
    return corners[torch.from_numpy(order)]


# Meshes.


@pytest.mark.parametrize("suffix", io.MESH_SUFFIXES)
def test_meshes_survive_a_file(tmp_path, torus, suffix):
    path = io.save_mesh(tmp_path / "folder" / f"torus{suffix}", torus)
    again = io.load_mesh(path)
    assert again.vertices.dtype == torch.float64
    assert again.faces.dtype == torch.int64
    assert is_closed_and_oriented(again.faces)
    # Single precision in the file.
    assert_close(canonical(again), canonical(torus), rtol=0, atol=1e-6)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_texture_seams_are_welded(tmp_path):
    path = tmp_path / "seamed.obj"
    path.write_text(SEAMED_OBJ)
    mesh = io.load_mesh(path)
    assert len(mesh.vertices) == 4
    assert is_closed_and_oriented(mesh.faces)


@pytest.mark.parametrize("suffix", [".ply", ".obj"])
def test_an_empty_mesh_can_be_saved(tmp_path, suffix):
    empty = Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64))
    path = io.save_mesh(tmp_path / f"empty{suffix}", empty)
    with pytest.raises(ValueError, match=f"empty{suffix}: "):
        io.load_mesh(path)


def test_mesh_errors_name_the_file(tmp_path, torus):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.obj: mesh file not found"):
        io.load_mesh(tmp_path / "nowhere.obj")
    broken = tmp_path / "broken.ply"
    broken.write_bytes(b"this is no mesh")
    with pytest.raises(ValueError, match=r"broken\.ply: cannot be read as a mesh"):
        io.load_mesh(broken)
    unknown = tmp_path / "mesh.xyzzy"
    unknown.write_bytes(b"")
    with pytest.raises(ValueError, match=r"mesh\.xyzzy: cannot be read as a mesh"):
        io.load_mesh(unknown)
    cloud = tmp_path / "cloud.obj"
    cloud.write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\n")
    with pytest.raises(ValueError, match=r"cloud\.obj: "):
        io.load_mesh(cloud)
    infinite = tmp_path / "infinite.obj"
    infinite.write_text("v 0 0 0\nv 1 0 0\nv 0 inf 0\nv 0 0 1\nf 1 2 3\nf 1 2 4\n")
    with pytest.raises(ValueError, match=r"infinite\.obj: vertices must be finite"):
        io.load_mesh(infinite)
    with pytest.raises(ValueError, match=r"name must end in \.ply, .*got '\.txt'"):
        io.save_mesh(tmp_path / "torus.txt", torus)
    empty = Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="GLB cannot hold an empty mesh"):
        io.save_mesh(tmp_path / "empty.glb", empty)


# Volumes.


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_volumes_keep_their_dtype(tmp_path, dtype):
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4).astype(dtype)
    np.save(tmp_path / "volume.npy", np.asfortranarray(values))
    volume = io.load_volume(tmp_path / "volume.npy")
    assert volume.is_contiguous()
    assert volume.dtype == getattr(torch, np.dtype(dtype).name)
    assert_close(volume, torch.from_numpy(values.astype(np.dtype(dtype).newbyteorder("="))))


def test_volumes_may_have_absent_samples(tmp_path):
    values = np.ones((2, 2, 2), dtype=np.float32)
    values[0, 0, 0] = np.nan
    np.save(tmp_path / "volume.npy", values)
    assert io.load_volume(tmp_path / "volume.npy").isnan().sum() == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.ones((4, 4)), r"must be \(X, Y, Z\) with two nodes or more each, got \(4, 4\)"),
        (np.ones((4, 1, 4)), r"got \(4, 1, 4\)"),
        (np.ones((2, 2, 2), dtype=np.int32), "must be float16, float32 or float64, got int32"),
        (np.ones((2, 2, 2), dtype=np.complex64), "got complex64"),
        (np.full((2, 2, 2), np.nan), "must have finite samples, got none"),
        (np.array([[[{}]]], dtype=object), "cannot be read as a .npy array"),
    ],
)
def test_volume_errors_name_the_file(tmp_path, values, message):
    np.save(tmp_path / "volume.npy", values)
    with pytest.raises(ValueError, match=f"volume.npy: .*{message}"):
        io.load_volume(tmp_path / "volume.npy")


def test_broken_volumes(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.npy: volume file not found"):
        io.load_volume(tmp_path / "none.npy")
    np.save(tmp_path / "cut.npy", np.ones((8, 8, 8)))
    data = (tmp_path / "cut.npy").read_bytes()
    for name, part in (("cut.npy", data[:200]), ("empty.npy", b""), ("text.npy", b"hello")):
        (tmp_path / name).write_bytes(part)
        with pytest.raises(ValueError, match=f"{name}: cannot be read as a .npy array"):
            io.load_volume(tmp_path / name)
    np.savez(tmp_path / "several.npz", a=np.ones(3))
    with pytest.raises(ValueError, match="got an archive of several"):
        io.load_volume(tmp_path / "several.npz")


# Pictures.


def test_pictures_survive_a_file(tmp_path):
    ramp = np.linspace(0, 1, 32 * 48 * 3).reshape(32, 48, 3)
    path = io.save_image(tmp_path / "ramp.png", torch.from_numpy(ramp))
    with Image.open(path) as image:
        assert np.array_equal(np.asarray(image), (255 * ramp + 0.5).astype(np.uint8))
    for suffix in (".jpg", ".webp"):
        with Image.open(io.save_image(tmp_path / f"ramp{suffix}", ramp)) as image:
            assert image.size == (48, 32)


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
        (lambda p: io.save_image(p / "a.png", np.zeros((4, 4))), r"\(H, W, 3\), got \(4, 4\)"),
        (lambda p: io.save_image(p / "a.png", np.zeros((4, 4, 3), dtype=np.int32)), "got int32"),
        (lambda p: io.save_image(p / "a.bmp", np.zeros((4, 4, 3))), r"got '\.bmp'"),
        (lambda p: io.save_gif(p / "a.gif", []), r"at least one, got \[\]"),
        (
            lambda p: io.save_gif(p / "a.gif", [np.zeros((4, k, 3)) for k in (3, 4)]),
            r"one size and at least one, got \[\(4, 3\), \(4, 4\)\]",
        ),
    ],
)
def test_picture_errors(tmp_path, call, message):
    with pytest.raises(ValueError, match=message):
        call(tmp_path)
    assert list(tmp_path.iterdir()) == []


# Writing.


def test_outputs_that_cannot_be_written_are_found_first(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(OSError, match=r"out\.ply: cannot be written"):
        io.check_output(blocked / "out.ply")
    with pytest.raises(IsADirectoryError, match="output must be a file, got a folder"):
        io.check_output(tmp_path)
    assert io.check_output(tmp_path / "new" / "out.ply").parent.is_dir()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "new"]


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    path = io.write_file(tmp_path / "report.json", b"before")

    def full_disk(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full_disk)
    with pytest.raises(OSError, match=r"report\.json: cannot be written \(No space left"):
        io.write_file(path, b"after")
    assert path.read_bytes() == b"before"
    assert len(list(tmp_path.iterdir())) == 1


def test_positions_survive_far_from_the_origin(tmp_path, torus):
    moved = Mesh(torus.vertices.double() * math.pi + 100, torus.faces)
    again = io.load_mesh(io.save_mesh(tmp_path / "far.obj", moved))
    assert_close(canonical(again), canonical(moved), rtol=0, atol=1e-6)
