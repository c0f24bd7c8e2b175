# SPDX-License-Identifier: Apache-2.0
"""silhouette: coverage and gradients against the reference, errors, edges."""

import itertools

import numpy as np
import pytest
import torch
from conftest import assert_close
from silhouettes import arguments, ball, cameras, cube, soup
from torch.autograd import forward_ad

import diffiso
from diffiso import Camera, Mesh, MeshBatch, reference, silhouette

OP = torch.ops.diffiso.silhouette
BACKWARD = torch.ops.diffiso.silhouette_backward
SAMPLES = (1, 2, 4, 8, 16, 32, 64)


# Values against the reference.


@pytest.mark.parametrize("samples", SAMPLES)
def test_equals_reference(samples, generator):
    """On faces of either winding that share vertices at random: no sample differs."""
    views = cameras()
    for index in (torch.int64, torch.int32):
        vertices, faces = soup(generator)
        got = silhouette((vertices, faces.to(index)), views, samples=samples)
        expected = reference.silhouette(
            vertices, faces, views.projection_matrices, views.size, samples, pieces=1
        )
        assert torch.equal(got, expected)
        assert 0.02 < float(got.mean()) < 0.8


def test_float32_moves_no_more_than_samples_at_outlines(generator):
    vertices, faces = ball()
    views = cameras(size=(64, 64))
    wide = silhouette((vertices, faces), views)
    narrow = silhouette((vertices.float(), faces), views.to(torch.float32))
    assert narrow.dtype == torch.float32
    changed = (wide - narrow.double()).abs()
    # An outline that moves by 64 * 2^-24 pixels passes over a sample now and then.
    assert float(changed.max()) <= 1 / 16
    assert float((changed > 0).double().mean()) < 1e-3


def test_samples_are_rooks():
    """Each has a row and a column of its own; the reference says where."""
    for samples in SAMPLES:
        places = reference.sample_offsets(samples) * samples - 0.5
        for axis in (0, 1):
            assert torch.equal(places[:, axis].sort()[0], torch.arange(samples).double())


# Gradients against the reference.


def test_gradients_equal_reference(generator):
    """The reference cuts edges into pieces; the op cuts them where something changes."""
    views = cameras()
    for _ in range(3):
        vertices, faces = soup(generator, faces=8)
        inputs = [x.requires_grad_() for x in (vertices, views.projection_matrices.detach())]
        size, pieces = views.size, 2048
        got = OP(*arguments(vertices, faces, inputs[1], size), 16)[0]
        expected = reference.silhouette(vertices, faces, inputs[1], size, 16, pieces)
        weights = torch.randn(got.shape, dtype=torch.float64, generator=generator)
        ours, exact = (torch.autograd.grad(c, inputs, weights) for c in (got, expected))
        for actual, wanted in zip(ours, exact, strict=True):
            # Edges are up to 40 pixels long: a piece that lies across a change is wrong by 1/50
            # of a pixel, and each edge has some tens of these.
            torch.testing.assert_close(
                actual, wanted, rtol=0, atol=0.01 * float(wanted.abs().max())
            )
            assert float(wanted.abs().max()) > 1


def test_needs_only_what_is_asked(generator):
    vertices, faces = soup(generator)
    views = cameras()
    alone = vertices.clone().requires_grad_()
    silhouette((alone, faces), views).sum().backward()
    focal = views.focal.clone().requires_grad_()
    moved = Camera(views.rotation, views.translation, focal, views.principal, views.size)
    silhouette((vertices, faces), moved).sum().backward()
    assert float(alone.grad.abs().max()) > 0
    assert float(focal.grad.abs().max()) > 0


# Registration.


def test_opcheck(generator):
    views = cameras()
    for dtype in (torch.float32, torch.float64):
        vertices, faces = soup(generator, dtype=dtype)
        matrices = views.projection_matrices.to(dtype)
        inputs = arguments(vertices.requires_grad_(), faces, matrices.requires_grad_(), views.size)
        torch.library.opcheck(OP, (*inputs, 4))
    nothing = arguments(vertices[:0].detach(), faces[:0], matrices[:0].detach(), views.size)
    torch.library.opcheck(OP, (*nothing, 4))


def test_opcheck_backward(generator):
    vertices, faces = soup(generator)
    views = cameras()
    inputs = arguments(vertices, faces, views.projection_matrices, views.size)
    coverage, contours, offsets = OP(*inputs, 4)
    rest = (vertices, inputs[2], inputs[3], contours, offsets, *inputs[5:], False)
    torch.library.opcheck(BACKWARD, (torch.ones_like(coverage), *rest))


def test_double_backward_is_refused(generator):
    vertices, faces = soup(generator)
    points = vertices.clone().requires_grad_()
    total = silhouette((points, faces), cameras()).square().sum()
    (grad,) = torch.autograd.grad(total, points, create_graph=True)
    with pytest.raises(RuntimeError, match="silhouette: second derivatives"):
        grad.sum().backward()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's, of its own scripts
def test_forward_mode_is_refused(generator):
    vertices, faces = soup(generator)
    with forward_ad.dual_level():
        moving = forward_ad.make_dual(vertices, torch.ones_like(vertices))
        with pytest.raises(RuntimeError, match="silhouette: forward-mode"):
            silhouette((moving, faces), cameras())


# Errors.


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"mesh": "ball"},
            TypeError,
            "mesh must be a Mesh, a MeshBatch, or tensors of vertices and ",
        ),
        ({"mesh": (cube()[0].numpy(), cube()[1])}, TypeError, "got ndarray, Tensor"),
        ({"mesh": (1, 2)}, TypeError, "mesh must be a Mesh"),
        ({"cameras": None}, TypeError, "cameras must be a Camera, got NoneType"),
        ({"size": (0, 4)}, ValueError, "size"),
        ({"mode": "hard"}, ValueError, "mode must be 'contour', 'soft' or a SoftRasterizing"),
        ({"samples": 3}, ValueError, "samples must be a power of two up to 64, got 3"),
        ({"samples": 128}, ValueError, "samples must be a power of two up to 64, got 128"),
        ({"near": 0.0}, ValueError, "near must be positive, got 0.0"),
        ({"near": float("nan")}, ValueError, "near must be positive, got nan"),
    ],
)
def test_option_errors(change, error, message):
    given = {"mesh": cube(), "cameras": cameras(), "size": None} | change
    mesh, views, size = given.pop("mesh"), given.pop("cameras"), given.pop("size")
    with pytest.raises(error, match=message):
        silhouette(mesh, views, size, **given)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v, f: (v.long(), f), "vertices must be torch.float32 or torch.float64"),
        (lambda v, f: (v.float(), f), "cameras must be torch.float32, got torch.float64"),
        (lambda v, f: (v[:, :2], f), r"vertices must be contiguous \(V, 3\), got \(8, 2\)"),
        (lambda v, f: (v[0, 0], f), r"vertices must be contiguous \(V, 3\), got \(\)"),
        (lambda v, f: (v, f.to("meta")), "faces must be on the device of vertices, cpu, got meta"),
        (lambda v, f: (v, f[0]), r"faces must be contiguous \(F, 3\), got \(3,\)"),
        (lambda v, f: (v, f.double()), "faces must be torch.int64 or torch.int32, got torch.float"),
        (lambda v, f: (v, f + 1), "indices of the vertices of their own mesh, got face"),
        (lambda v, f: (v, f - 1), "indices of the vertices of their own mesh, got face"),
        (lambda v, f: (v * torch.nan, f), "vertices and cameras must be finite, got vertex"),
        (lambda v, f: (v / 0, f), "vertices and cameras must be finite, got vertex"),
    ],
)
@pytest.mark.parametrize("mode", ["contour", "soft"])
def test_tensor_errors(mode, change, message):
    with pytest.raises(RuntimeError, match=message):
        silhouette(change(*cube()), cameras(), mode=mode)


def test_batch_errors():
    vertices, faces = cube()
    ends = [torch.tensor([0, 4, 8]), torch.tensor([0, 6, 12])]
    views = cameras(2)
    with pytest.raises(RuntimeError, match="indices of the vertices of their own mesh"):
        silhouette(MeshBatch(vertices, faces, *ends), views)
    with pytest.raises(RuntimeError, match="cameras must be a multiple of the meshes, got 3 for 2"):
        silhouette(MeshBatch(vertices, faces, *ends), cameras(3))
    with pytest.raises(RuntimeError, match="face_offsets must rise from 0 to the number of faces"):
        silhouette(MeshBatch(vertices, faces, ends[0], torch.tensor([0, 6, 9])), views)


def test_backward_refuses_strange_contours(generator):
    vertices, faces = soup(generator)
    views = cameras()
    inputs = arguments(vertices, faces, views.projection_matrices, views.size)
    coverage, contours, offsets = OP(*inputs, 4)
    with pytest.raises(RuntimeError, match="contours must be what the forward gave, got vertices"):
        BACKWARD(
            torch.ones_like(coverage), vertices, inputs[2], inputs[3], contours + 14, offsets,
            *inputs[5:], False,
        )  # fmt: skip


# Edges.


def test_nothing_to_see_is_zero(generator):
    views = cameras()
    vertices, faces = (x.clone() for x in cube())
    behind = vertices.clone().requires_grad_()
    away = Camera.look_at((0.0, 0.0, 5.0), (0.0, 0.0, 9.0), field_of_view=50.0, size=16).to(
        torch.float64
    )
    for mesh, seen_by in (
        ((vertices[:0], faces[:0]), views),
        ((vertices, faces[:0]), views),
        ((behind, faces), away),
        ((vertices * 0, faces), views),
        ((vertices + 100, faces), views),
    ):
        coverage = silhouette(mesh, seen_by)
        assert torch.equal(coverage, torch.zeros_like(coverage))
    silhouette((behind, faces), away).sum().backward()
    assert torch.equal(behind.grad, torch.zeros_like(behind))


def test_empty_mesh_stays_attached():
    vertices = torch.zeros(0, 3).double().requires_grad_()
    coverage = silhouette((vertices, torch.zeros(0, 3).long()), cameras())
    coverage.sum().backward()
    assert vertices.grad.shape == (0, 3)


def test_a_mesh_around_the_camera_covers_all():
    vertices, faces = cube()
    points = (20 * vertices).requires_grad_()
    coverage = silhouette((points, faces), cameras())
    assert torch.equal(coverage, torch.ones_like(coverage))
    coverage.sum().backward()
    assert torch.equal(points.grad, torch.zeros_like(points))


def test_edge_on_and_zero_area_faces_change_nothing(generator):
    vertices, faces = cube()
    views = Camera.look_at((0.0, 0.0, 3.0), field_of_view=40.0, size=32).to(torch.float64)
    extra = torch.tensor([[0, 0, 0], [0, 1, 1], [3, 2, 3]])
    # In the plane through the camera's axis: seen from its edge, inside the cube's picture.
    blade = torch.tensor([[0.0, 0.4, 0.4], [0.0, -0.4, 0.4], [0.0, 0.0, -0.4]]).double()
    more = torch.cat([vertices, blade]), torch.cat([faces, extra, torch.tensor([[8, 9, 10]])])
    results = []
    for points, corners in ((vertices, faces), more):
        points = points.clone().requires_grad_()
        coverage = silhouette((points, corners), views)
        coverage.sum().backward()
        results.append((coverage.detach(), points.grad))
    (coverage, grad), (with_more, more_grad) = results
    assert torch.equal(coverage, with_more)
    assert_close(more_grad[:8], grad, factor=100)
    assert torch.equal(more_grad[8:], torch.zeros(3, 3).double())


def test_every_winding_and_order_gives_the_same(generator):
    vertices, faces = ball(12)
    views = cameras(size=(32, 32))
    order = torch.randperm(len(faces), generator=generator)
    flipped = torch.where(
        torch.rand(len(faces), 1, generator=generator) < 0.5, faces, faces.flip(1)
    )
    results = []
    for corners in (faces, faces[order], faces.flip(1), flipped):
        points = vertices.clone().requires_grad_()
        coverage = silhouette((points, corners), views)
        coverage.sum().backward()
        results.append((coverage.detach(), points.grad))
    for coverage, grad in results[1:]:
        assert torch.equal(coverage, results[0][0])
        assert_close(grad, results[0][1], factor=1000)  # sums of up to 100 terms, in any order


def test_vertices_that_are_not_shared_change_nothing(generator):
    """Every edge is then left over, and lies on another: both halves add up."""
    vertices, faces = ball(12)
    views = cameras(size=(32, 32))
    points = vertices.clone().requires_grad_()
    shared = silhouette((points, faces), views)
    split = silhouette(
        (points[faces].reshape(-1, 3), torch.arange(faces.numel()).view(-1, 3)), views
    )
    assert torch.equal(shared, split)
    weights = torch.rand(shared.shape, dtype=torch.float64, generator=generator)
    (whole,) = torch.autograd.grad(shared, points, weights)
    (parts,) = torch.autograd.grad(split, points, weights)
    # Cuts at 1e-9 of an edge and places 1/8192 pixel beside it: of some pixels of outline each.
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-3 * float(whole.abs().max()))


def test_soups_have_no_holes_where_samples_lie_on_edges():
    """The two runs of an edge that faces share without sharing vertices round alike."""
    corners = [[0, 0, 0], [0, 2, 0], [1 / 3, 1 / 3, 0], [7, 0, 0], [7, 2, 0]]
    points = torch.tensor(corners, dtype=torch.float64)
    tiles = torch.tensor([[0, 1, 2], [2, 3, 0], [2, 4, 1], [3, 2, 4]])
    # One unit a pixel, seen along the z axis with the corner (0, 0) in the picture's corner.
    matrix = torch.tensor([[[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]], dtype=torch.float64)
    orders = torch.tensor(list(itertools.permutations(range(3))))
    separate = torch.arange(12).view(4, 3)
    for choice in itertools.product(orders, repeat=4):
        faces = torch.stack([tile[order] for tile, order in zip(tiles, choice, strict=True)])
        inputs = arguments(points[faces].view(-1, 3), separate, matrix, (2, 7))
        assert bool((OP(*inputs, 16)[0] == 1).all())


def test_non_contiguous_inputs(generator):
    vertices, faces = soup(generator)
    views = cameras()
    strided = vertices.repeat_interleave(2, dim=0)[::2], faces.T.contiguous().T
    assert torch.equal(silhouette(strided, views), silhouette((vertices, faces), views))


def test_batches(generator):
    """Each mesh by its own cameras, empty ones too; gradients stay apart."""
    parts = [soup(generator), (torch.zeros(0, 3).double(), torch.zeros(0, 3).long()), cube()]
    ends = torch.tensor([0, 14, 14, 22]), torch.tensor([0, 12, 12, 24])
    faces = torch.cat(
        [corners + first for (_, corners), first in zip(parts, ends[0], strict=False)]
    )
    points = torch.cat([vertices for vertices, _ in parts]).requires_grad_()
    batch = MeshBatch(points, faces, *ends)
    views = cameras(6)
    coverage = silhouette(batch, views)
    weights = torch.rand(coverage.shape, dtype=torch.float64, generator=generator)
    (grad,) = torch.autograd.grad(coverage, points, weights)
    for b, mesh in enumerate(batch):
        mine = slice(2 * b, 2 * b + 2)
        alone = mesh.vertices.detach().requires_grad_()
        expected = silhouette(Mesh(alone, mesh.faces), views[mine])
        assert torch.equal(coverage[mine], expected)
        (exact,) = torch.autograd.grad(expected, alone, weights[mine])
        assert torch.equal(grad[ends[0][b] : ends[0][b + 1]], exact)


def test_size_resizes(generator):
    mesh = soup(generator)
    views = cameras(size=(20, 20))
    assert torch.equal(silhouette(mesh, views, 40), silhouette(mesh, views.resized(40)))
    assert silhouette(mesh, views, (10, 30)).shape == (2, 10, 30)


def test_threads_change_nothing(generator):
    vertices, faces = ball(24)
    views = cameras(size=(64, 64))
    results = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            points = vertices.clone().requires_grad_()
            coverage = silhouette((points, faces), views)
            coverage.square().sum().backward()
            results.append((coverage.detach(), points.grad))
    finally:
        torch.set_num_threads(threads)
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_takes_what_isosurface_gives():
    radius = torch.tensor(0.5, requires_grad=True)
    mesh = diffiso.isosurface(lambda p: p.norm(dim=1) - radius, -1, 1, 24)
    views = cameras(size=(48, 48), dtype=torch.float32)
    silhouette(mesh, views).sum().backward()
    wide = silhouette((mesh.vertices.detach().double(), mesh.faces), views.to(torch.float64))
    # The area goes with the radius's square, nearly: perspective shows a little more.
    assert float(radius.grad / (2 * wide.sum() / 0.5)) == pytest.approx(1, abs=0.05)
    assert np.isfinite(float(radius.grad))
