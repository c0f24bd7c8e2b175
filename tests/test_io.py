# SPDX-License-Identifier: Apache-2.0
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
import trimesh
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
    assert again.vertices.dtype == (torus.vertices.dtype if suffix == ".npz" else torch.float64)
    assert again.faces.dtype == torch.int64
    assert is_closed_and_oriented(again.faces)
    # Single precision in the file.
    assert_close(canonical(again), canonical(torus), rtol=0, atol=1e-6)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", io.MESH_SUFFIXES)
@pytest.mark.parametrize("scale", [1e-7, 1e-14, 1e12])
def test_the_size_of_a_mesh_does_not_matter(tmp_path, torus, suffix, scale):
    scaled = Mesh(scale * torus.vertices.double(), torus.faces)
    again = io.load_mesh(io.save_mesh(tmp_path / f"torus{suffix}", scaled))
    assert len(again.faces) == len(torus.faces)
    assert is_closed_and_oriented(again.faces)
    # Single precision in the file.
    expected = Mesh(torus.vertices.double(), torus.faces).volume()
    assert_close(again.volume() / scale**3, expected, rtol=1e-5, atol=0)


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
    vertices = torus.vertices.clone()
    vertices[7, 1] = math.nan
    with pytest.raises(ValueError, match=r"torus\.ply: vertices must be finite, got .* vertex 7"):
        io.save_mesh(tmp_path / "torus.ply", Mesh(vertices, torus.faces))
    with pytest.raises(ValueError, match=r"name must end in \.ply, .*got '\.txt'"):
        io.save_mesh(tmp_path / "torus.txt", torus)
    empty = Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="GLB cannot hold an empty mesh"):
        io.save_mesh(tmp_path / "empty.glb", empty)
    assert not (tmp_path / "empty.glb").exists()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_npz_meshes_are_kept_to_the_last_bit(tmp_path, torus, dtype):
    exact = Mesh(torus.vertices.to(dtype) / 3, torus.faces.int())
    again = io.load_mesh(io.save_mesh(tmp_path / "torus.npz", exact))
    assert torch.equal(again.vertices, exact.vertices)
    assert torch.equal(again.faces, exact.faces.long())


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"vertices": np.zeros((3, 3))}, r"must be arrays 'vertices' and 'faces', got \['vert"),
        ({"vertices": np.zeros((3, 2)), "faces": np.zeros((1, 3), int)}, r"vertices .*\(3, 2\)"),
        ({"vertices": np.zeros((3, 3)), "faces": np.zeros((1, 3))}, "faces must be .* of float64"),
        ({"vertices": np.zeros((3, 3)), "faces": np.array([[0, 1, 3]])}, "below 3, got 0 to 3"),
        ({"vertices": np.zeros((3, 3)), "faces": np.array([[0, -1, 2]])}, "below 3, got -1 to 2"),
        ({"vertices": np.full((3, 3), np.nan), "faces": np.eye(1, 3, dtype=int)}, "be finite"),
        ({"vertices": np.zeros((0, 3)), "faces": np.zeros((0, 3), int)}, "must have faces"),
    ],
)
def test_npz_errors_name_the_file(tmp_path, arrays, message):
    np.savez(tmp_path / "mesh.npz", **arrays)
    with pytest.raises(ValueError, match=f"mesh.npz: .*{message}"):
        io.load_mesh(tmp_path / "mesh.npz")


# Vertex colours.


@pytest.mark.parametrize("suffix", [".ply", ".obj", ".glb", ".npz"])
def test_colors_are_stored(tmp_path, torus, suffix):
    colors = torch.rand(len(torus.vertices), 3)
    path = io.save_mesh(tmp_path / f"torus{suffix}", torus, colors=colors)
    assert len(io.load_mesh(path).faces) == len(torus.faces)
    if suffix == ".npz":
        with np.load(path) as arrays:
            assert np.array_equal(arrays["colors"], colors.numpy())
        return
    stored = trimesh.load_mesh(path, process=False)
    # Files may reorder vertices: compare colours where positions agree.
    found = torch.from_numpy(np.array(stored.vertices)).float()
    nearest = torch.cdist(torus.vertices.float(), found).argmin(dim=1)
    shades = torch.from_numpy(stored.visual.vertex_colors[nearest.numpy(), :3] / 255.0)
    # Colours in glTF are linear light, elsewhere sRGB.
    expected = colors.double()
    if suffix == ".glb":
        low, high = expected / 12.92, ((expected + 0.055) / 1.055) ** 2.4
        expected = torch.where(expected <= 0.04045, low, high)
    assert_close(shades, expected, rtol=0, atol=0.51 / 255)


@pytest.mark.parametrize(
    ("colors", "suffix", "message"),
    [
        (torch.zeros(3, 3), ".ply", r"save_mesh: colors must be \(\d+, 3\) floats"),
        (None, ".ply", r"colors must lie in \[0, 1\], got 2 to 2"),
        (None, ".stl", "STL cannot hold colours"),
    ],
)
def test_color_errors(tmp_path, torus, colors, suffix, message):
    if colors is None:
        colors = torch.full((len(torus.vertices), 3), 2.0 if suffix == ".ply" else 0.5)
    with pytest.raises(ValueError, match=message):
        io.save_mesh(tmp_path / f"torus{suffix}", torus, colors=colors)
    assert list(tmp_path.iterdir()) == []


# Volumes.


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_volumes_keep_their_dtype(tmp_path, dtype):
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4).astype(dtype)
    np.save(tmp_path / "volume.npy", np.asfortranarray(values))
    volume = io.load_volume(tmp_path / "volume.npy")
    assert volume.is_contiguous()
    assert volume.dtype == getattr(torch, np.dtype(dtype).name)
    assert_close(volume, torch.from_numpy(values.astype(np.dtype(dtype).newbyteorder("="))))


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.float32, torch.float64, torch.bfloat16], ids=str
)
def test_saved_volumes_return(tmp_path, dtype):
    values = torch.randn(2, 3, 4).to(dtype).requires_grad_().permute(2, 0, 1)
    again = io.load_volume(io.save_volume(tmp_path / "volume.npy", values))
    assert again.dtype == (torch.float32 if dtype == torch.bfloat16 else dtype)
    assert torch.equal(again, values.detach().to(again.dtype))


def test_what_is_no_volume_is_not_saved(tmp_path):
    for values, message in (
        (torch.zeros(4, 4), r"got \(4, 4\)"),
        (torch.zeros(2, 2, 2, dtype=torch.int32), "got int32"),
    ):
        with pytest.raises(ValueError, match=f"save_volume: values must be .*{message}"):
            io.save_volume(tmp_path / "volume.npy", values)
    with pytest.raises(ValueError, match=r"name must end in \.npy"):
        io.save_volume(tmp_path / "volume.raw", torch.zeros(2, 2, 2))
    assert list(tmp_path.iterdir()) == []


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


# Writing.


def test_outputs_that_cannot_be_written_are_found_first(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(OSError, match=r"out\.ply: cannot be written"):
        io.check_output(blocked / "out.ply")
    with pytest.raises(IsADirectoryError, match="output must be a file, got a folder"):
        io.check_output(tmp_path)
    # Nothing is made before there is something to write.
    out = io.check_output(tmp_path / "new" / "folder" / "out.ply")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert io.write_file(out, b"mesh").read_bytes() == b"mesh"


def test_inputs_are_not_overwritten(tmp_path):
    given = io.write_file(tmp_path / "given.ply", b"mesh")
    (tmp_path / "link.ply").symlink_to(given)
    for path in (given, tmp_path / "." / "given.ply", tmp_path / "link.ply"):
        with pytest.raises(ValueError, match=r"output must be another file than the input, got"):
            io.check_output(path, inputs=[tmp_path / "none.ply", given])
    assert io.check_output(tmp_path / "new.ply", inputs=[given]).name == "new.ply"


def test_links_stay_and_their_targets_are_replaced(tmp_path):
    target = io.write_file(tmp_path / "there" / "report.json", b"before")
    link = tmp_path / "report.json"
    link.symlink_to(target)
    io.write_file(link, b"after")
    assert link.is_symlink()
    assert target.read_bytes() == b"after"
    assert [entry.name for entry in target.parent.iterdir()] == ["report.json"]


def test_output_folders_are_found_first(tmp_path):
    assert io.check_output_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="output must be a folder, got a file"):
        io.check_output_folder(tmp_path / "file")
    with pytest.raises(OSError, match=r"below: cannot be written \(Not a directory\)"):
        io.check_output_folder(tmp_path / "file" / "below")
    with pytest.raises(OSError, match="cannot be written"):
        io.check_output_folder("/proc/diffiso")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_what_killed_writers_left_is_removed_and_no_more(tmp_path):
    """A temporary file is stale when nobody locks it; the one being written is left alone."""
    (tmp_path / ".report.json.0123abcd.part").write_text("half")
    (tmp_path / ".other.json.0123abcd.part").write_text("another file's")
    with io.replacing(tmp_path / "report.json") as file:
        file.write(b"first")
        io.check_output(tmp_path / "report.json")
        io.write_file(tmp_path / "report.json", b"second")
        # Another process does not take it for stale either.
        code = f"from diffiso import io; io.check_output({str(tmp_path / 'report.json')!r})"
        subprocess.run([sys.executable, "-c", code], check=True)
    assert (tmp_path / "report.json").read_bytes() == b"first"
    names = sorted(entry.name for entry in tmp_path.iterdir())
    assert names == [".other.json.0123abcd.part", "report.json"]


def test_an_error_while_writing_leaves_nothing(tmp_path):
    def write():
        with io.replacing(tmp_path / "report.json") as file:
            file.write(b"half")
            raise KeyError

    with pytest.raises(KeyError):
        write()
    assert list(tmp_path.iterdir()) == []


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
