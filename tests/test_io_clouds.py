# SPDX-License-Identifier: Apache-2.0
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from torch.testing import assert_close

import diffiso
from diffiso import io, shapes
from diffiso.types import Mesh

PLY = (
    "ply\nformat ascii 1.0\nelement vertex {}\n"
    "property float x\nproperty float y\nproperty float z\nend_header\n"
)


@pytest.fixture
def torus():
    mesh = diffiso.isosurface(shapes.Torus(0.6, 0.25), -1.0, 1.0, 24)
    return Mesh(mesh.vertices.detach(), mesh.faces)


@pytest.fixture
def cloud():
    generator = torch.Generator().manual_seed(1)
    points = torch.randn(50, 3, generator=generator, dtype=torch.float64) * 1e3
    return io.PointCloud(points, torch.nn.functional.normalize(points.flip(0), dim=1))


@pytest.mark.parametrize("suffix", io.CLOUD_SUFFIXES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_clouds_survive_a_file(tmp_path, cloud, suffix, dtype):
    for given in (
        io.PointCloud(cloud.points.to(dtype), cloud.normals.to(dtype)),
        io.PointCloud(cloud.points.to(dtype)),
        cloud.points.to(dtype),
    ):
        again = io.load_cloud(io.save_cloud(tmp_path / "new" / f"cloud{suffix}", given))
        points, normals = given if isinstance(given, io.PointCloud) else (given, None)
        # Text has no dtype, but digits enough to tell any two numbers apart.
        assert again.points.dtype == (torch.float64 if suffix == ".xyz" else dtype)
        assert torch.equal(again.points.to(dtype), points)
        assert (again.normals is None) == (normals is None)
        if normals is not None:
            assert torch.equal(again.normals.to(dtype), normals)


def test_other_programs_read_our_ply(tmp_path, cloud):
    read = trimesh.load(io.save_cloud(tmp_path / "cloud.ply", cloud))
    assert np.array_equal(read.vertices, cloud.points.numpy())


def test_ply_of_other_programs(tmp_path):
    header = (
        "ply\r\nformat {}\r\ncomment made by hand\r\nelement vertex 2\r\nproperty uchar red\r\n"
        "property float x\r\nproperty double y\r\nproperty float z\r\nelement face 1\r\n"
        "property list uchar int vertex_indices\r\nend_header\r\n"
    )
    text = header.format("ascii 1.0") + "7 1 2 3\r\n8 4 5.5 6\r\n3 0 1 0\r\n"
    (tmp_path / "text.ply").write_bytes(text.encode())
    rows = np.array([(7, 1, 2, 3), (8, 4, 5.5, 6)], dtype="u1,>f4,>f8,>f4")
    data = header.format("binary_big_endian 1.0").encode() + rows.tobytes() + bytes(13)
    (tmp_path / "big.ply").write_bytes(data)
    for name in ("text.ply", "big.ply"):
        points = io.load_cloud(tmp_path / name).points
        assert points.tolist() == [[1.0, 2.0, 3.0], [4.0, 5.5, 6.0]]


def test_vertices_of_a_mesh_are_a_cloud(tmp_path, torus):
    cloud = io.load_cloud(io.save_mesh(tmp_path / "torus.ply", torus))
    assert_close(cloud.points, torus.vertices.float())
    outward = (cloud.normals * cloud.points).sum(dim=1)
    assert cloud.normals.norm(dim=1).sub(1).abs().max() < 1e-5
    assert outward.sum() > 0


def test_text_may_have_comments_and_commas(tmp_path):
    (tmp_path / "cloud.xyz").write_text("# x y z\n1, 2, 3\n\n4 5 6 # last\n")
    assert io.load_cloud(tmp_path / "cloud.xyz").points.tolist() == [[1, 2, 3], [4, 5, 6]]


def test_text_ply_may_have_blank_lines_and_comments_of_any_words(tmp_path):
    header = "ply\nformat ascii 1.0\ncomment here is no end_header\nelement vertex 2\n"
    axes = "".join(f"property float {axis}\n" for axis in "xyz")
    (tmp_path / "a.ply").write_text(f"{header}{axes}end_header\n1 2 3\n\n4 5 6\n")
    assert io.load_cloud(tmp_path / "a.ply").points.tolist() == [[1, 2, 3], [4, 5, 6]]


def test_a_scan_with_normals(tmp_path, cloud):
    data = os.environ.get("DIFFISO_DATA")
    if data is None:
        path, count = io.save_cloud(tmp_path / "scan.ply", cloud), len(cloud.points)
    else:
        path, count = Path(data) / "points" / "gargoyle_scan.ply", 95_435
    scan = io.load_cloud(path)
    assert scan.points.shape == scan.normals.shape == (count, 3)
    assert scan.normals.norm(dim=1).sub(1).abs().max() < 1e-3


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.xyz", b"1 2\n3 4\n", r"must be floats \(P, 3\) .* got \(2, 2\)"),
        ("a.xyz", b"1 2 3\n4 5\n", "cannot be read as points"),
        ("a.xyz", b"one two three\n", "cannot be read as points"),
        ("a.xyz", b"\xff\xfe\x00", "cannot be read as points"),
        ("a.xyz", b"0,1,2\n1,5 2,5 3,5\n", "commas or spaces .* got both in line 2"),
        ("a.xyz", b"# nothing\n", "a cloud must have points, got none"),
        ("a.xyz", b"1 2 nan\n", "points must be finite"),
        ("a.ply", b"ply\n", "cannot be read as PLY"),
        ("a.ply", b"solid\nend_header\n", "cannot be read as PLY"),
        ("a.ply", b"ply\nformat ascii 1.0\nelement face 1\nend_header\n", "broken header"),
        (
            "a.ply",
            b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nend_header\n1\n",
            "vertices must have x, y and z, got x",
        ),
        ("a.ply", PLY.format(-1).encode() + b"1 2 3\n", "broken header"),
        ("a.ply", PLY.format(1).encode() + b"1 two 3\n", "cannot be read as points .*two"),
        ("a.npy", b"hello", r"cannot be read as a \.npy array"),
        ("a.npz", b"hello", r"cannot be read as a \.npz array"),
        ("a.las", b"", r"name must end in \.xyz, .* got '\.las'"),
    ],
)
def test_cloud_errors_name_the_file(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=f"{re.escape(name)}: .*{message}"):
        io.load_cloud(tmp_path / name)


def test_clouds_cut_short(tmp_path, cloud):
    for suffix, message in ((".ply", "is cut short, 9 of 50"), (".npz", "cannot be read")):
        path = io.save_cloud(tmp_path / f"cloud{suffix}", cloud)
        data = path.read_bytes()
        path.write_bytes(data[: len(data) - 48 * 40 - 40])
        with pytest.raises(ValueError, match=message):
            io.load_cloud(path)
    with pytest.raises(FileNotFoundError, match=r"none\.ply: point file not found"):
        io.load_cloud(tmp_path / "none.ply")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.zeros(3, 2), r"points must be \(P, 3\) of float32 or float64, got \(3, 2\)"),
        (torch.zeros(3, 3, dtype=torch.int64), "of int64"),
        (torch.tensor([[0.0, 0, torch.inf]]), r"cloud\.xyz: points must be finite, .* in row 0"),
        (io.PointCloud(torch.zeros(3, 3), torch.zeros(2, 3)), "one a point, got 2 for 3 points"),
    ],
)
def test_clouds_that_are_none(tmp_path, given, message):
    with pytest.raises(ValueError, match=message):
        io.save_cloud(tmp_path / "cloud.xyz", given)
