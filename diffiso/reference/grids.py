# SPDX-License-Identifier: Apache-2.0
"""Grids and sparse grids: surfaces, samples, and surface points with gradients."""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from diffiso import _C

CORNERS = [(c >> 2 & 1, c >> 1 & 1, c & 1) for c in range(8)]


class ExtractedSurface(NamedTuple):
    """The surfaces of a batch of grids, packed one after the other.

    Attributes:
        vertices: `(V, 3)` world positions, float64 for a float64 grid, else float32.
        faces: `(F, 3)` int64 rows of `vertices`, counter-clockwise seen from outside.
        edges: `(V,)` int64 grid edge of each vertex: 3 * (flat index of the lower node) + axis.
        vertex_offsets: `(B + 1,)` int64, grid b owns the vertices from entry b up to entry b + 1.
        face_offsets: `(B + 1,)` int64, likewise for faces.
    """

    vertices: Tensor
    faces: Tensor
    edges: Tensor
    vertex_offsets: Tensor
    face_offsets: Tensor


def marching_cubes(
    values: Tensor,
    level: Tensor,
    lower: Sequence[float] = (0.0, 0.0, 0.0),
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    *,
    close_boundary: bool = False,
) -> ExtractedSurface:
    """Return the surfaces on which the grids equal their levels.

    Differentiable with respect to `values` and `level` wherever both are finite.

    Args:
        values: `(B, X, Y, Z)` samples of any floating dtype; NaN marks an absent sample.
        level: `(B,)` levels; `value < level` is inside.
        lower: World position of node (0, 0, 0).
        spacing: World distance between neighbouring nodes along x, y, z.
        close_boundary: Whether the solid is capped on the faces of the box.

    Returns:
        The packed surfaces. Vertices are ordered by grid row (b, i, j), then axis, then k; faces by
        cell (b, i, j, k), then as in the table.

    Example:
        >>> values = torch.ones(1, 3, 3, 3)
        >>> values[0, 1, 1, 1] = -1
        >>> surface = marching_cubes(values, torch.zeros(1))
        >>> surface.vertices.shape, surface.faces.shape
        (torch.Size([6, 3]), torch.Size([8, 3]))
    """
    return _extract(values, level, lower, spacing, close_boundary)[0]


def marching_cubes_bricks(
    values: Tensor,
    table: Tensor,
    level: Tensor,
    nodes: Sequence[int],
    lower: Sequence[float] = (0.0, 0.0, 0.0),
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
) -> ExtractedSurface:
    """Return the surface of the dense grid that some bricks stand for, brick by brick.

    Args:
        values: `(R, 8, 8, 8)` samples; what lies beyond `nodes` counts for nothing.
        table: `(TX, TY, TZ)` which brick stands where, -1 for none: all nodes there are absent.
            The op's `coordinates` say the same and are left out.
        level: `(1,)`; `value < level` is inside.
        nodes: Number of nodes of the box along x, y, z.
        lower: World position of node (0, 0, 0).
        spacing: World distance between neighbouring nodes along x, y, z.

    Returns:
        The surface of `marching_cubes`, in another order. Vertices are ordered by the brick of
        their edge's lower node, then axis, then that node (i, j, k); faces by the brick of their
        cell's lower node, then cell (i, j, k), then as in the table.

    Example:
        >>> values = torch.ones(2, 8, 8, 8)
        >>> values[0, 7, 1, 1] = -1
        >>> surface = marching_cubes_bricks(
        ...     values, torch.tensor([[[0]], [[1]]]), torch.zeros(1), (16, 8, 8)
        ... )
        >>> surface.vertices.shape, surface.faces.shape
        (torch.Size([6, 3]), torch.Size([8, 3]))
    """
    absent = values.new_full((1, *values.shape[1:]), math.nan)
    stored = torch.cat((values, absent))[table.long()].permute(0, 3, 1, 4, 2, 5)
    x, y, z = nodes
    dense = stored.reshape([8 * tiles for tiles in table.shape])[:x, :y, :z]
    surface, cells = _extract(dense[None], level, lower, spacing, False)

    node = surface.edges // 3
    places = torch.stack((node // (y * z), node // z % y, node % z), dim=1)

    def rank(places: Tensor, group: Tensor | int) -> Tensor:
        brick = table[(places // 8).unbind(1)].long()
        i, j, k = (places % 8).unbind(1)
        return (((brick * 3 + group) * 8 + i) * 8 + j) * 8 + k

    order = rank(places, surface.edges % 3).argsort()
    face_order = rank(cells[:, 1:], 0).argsort(stable=True)
    faces = order.argsort()[surface.faces[face_order]]
    return surface._replace(
        vertices=surface.vertices[order], faces=faces, edges=surface.edges[order]
    )


def _extract(
    values: Tensor,
    level: Tensor,
    lower: Sequence[float],
    spacing: Sequence[float],
    close_boundary: bool,
) -> tuple[ExtractedSurface, Tensor]:
    """Return the packed surfaces, and the cell `(F, 4)` of each face: b, i, j, k."""
    compute = torch.float64 if values.dtype == torch.float64 else torch.float32
    samples = values.to(compute)
    level = level.to(compute)
    beyond = torch.zeros_like(samples, dtype=torch.bool)
    if close_boundary:
        samples = torch.nn.functional.pad(samples, (1,) * 6, value=math.inf)
        beyond = torch.nn.functional.pad(beyond, (1,) * 6, value=True)
    _, nodes_x, nodes_y, nodes_z = samples.shape

    # A cell is present where its eight samples are. A vertex exists where a present cell has a
    # crossed edge; `exists` is laid out in the order of the vertices.
    inside = samples.detach() < level.detach()[:, None, None, None]
    inside_corners = _corner_views(inside)
    present = torch.stack(_corner_views(~samples.detach().isnan())).all(dim=0)
    exists = inside.new_zeros((len(inside), nodes_x, nodes_y, 3, nodes_z))
    for axis, dx, dy, dz in _C.marching_cubes_tables()["edge"]:
        start = 4 * dx + 2 * dy + dz
        crossed = inside_corners[start] != inside_corners[start + (4, 2, 1)[axis]]
        rows = exists[:, dx : dx + nodes_x - 1, dy : dy + nodes_y - 1, axis, dz : dz + nodes_z - 1]
        rows |= crossed & present
    vertex_of = exists.flatten().cumsum(0).view(exists.shape) - 1

    batch, i, j, axis_of, k = exists.nonzero().unbind(1)
    node = ((batch * nodes_x + i) * nodes_y + j) * nodes_z + k
    upper_node = node + node.new_tensor((nodes_y * nodes_z, nodes_z, 1))[axis_of]
    fraction = _crossing_fraction(
        samples.flatten()[node].double(),
        samples.flatten()[upper_node].double(),
        level[batch].double(),
        beyond.flatten()[node],
        beyond.flatten()[upper_node],
    )
    along = torch.nn.functional.one_hot(axis_of, 3).double()
    place = torch.stack((i, j, k), dim=1).double() - int(close_boundary)
    origin, step = fraction.new_tensor(lower), fraction.new_tensor(spacing)
    vertices = origin + (place + along * fraction[:, None]) * step

    faces, cell_of_face, faces_per_grid = _faces(inside_corners, present, vertex_of)
    surface = ExtractedSurface(
        vertices.to(compute),
        faces,
        3 * node + axis_of,
        _offsets(exists.flatten(1).sum(dim=1)),
        _offsets(faces_per_grid),
    )
    return surface, cell_of_face


def _corner_views(nodes: Tensor) -> list[Tensor]:
    """Return, for each corner c = 4*dx + 2*dy + dz, what the cells see there."""
    x, y, z = (size - 1 for size in nodes.shape[1:])
    return [nodes[:, dx : dx + x, dy : dy + y, dz : dz + z] for dx, dy, dz in CORNERS]


def _crossing_fraction(
    a: Tensor, b: Tensor, level: Tensor, a_beyond: Tensor, b_beyond: Tensor
) -> Tensor:
    """Return where between the lower node (0) and the upper node (1) of an edge its vertex lies.

    Linear between finite values. An infinite value pulls the vertex to the other end, two of them
    leave it in the middle, and a node beyond the box always leaves it at the real node.
    """
    finite = a.isfinite() & b.isfinite()
    safe_a, safe_b = torch.where(finite, a, 0.0), torch.where(finite, b, 1.0)
    scale = torch.where((safe_b - safe_a).detach().isfinite(), 1.0, 0.5)  # keep b - a in range
    linear = (scale * level - scale * safe_a) / (scale * safe_b - scale * safe_a)
    at_end = torch.where(a.isinf() & b.isinf(), 0.5, a.isinf().double())
    at_end = torch.where(a_beyond, 1.0, torch.where(b_beyond, 0.0, at_end))
    return torch.where(finite, linear, at_end)


def _faces(
    inside_corners: list[Tensor], present: Tensor, vertex_of: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the faces in the order of their cells, those cells, and how many each grid has."""
    tables = _C.marching_cubes_tables()
    count = torch.tensor(tables["triangle_count"])
    triangles = torch.tensor(tables["triangle_edges"])[:, :15].view(256, 5, 3)
    edge = torch.tensor(tables["edge"])

    bits = torch.stack(inside_corners, dim=-1) * (1 << torch.arange(8))
    case = bits.sum(dim=-1) * present
    cells = (count[case] > 0).nonzero()
    case_of_cell = case[tuple(cells.unbind(1))]
    used = torch.arange(5) < count[case_of_cell][:, None]
    cell_of_face = cells[used.nonzero()[:, 0]]
    batch, i, j, k = cell_of_face.T[:, :, None]
    axis, dx, dy, dz = edge[triangles[case_of_cell][used]].unbind(-1)
    faces = vertex_of[batch, i + dx, j + dy, axis, k + dz]
    return faces, cell_of_face, count[case].flatten(1).sum(dim=1)


def _offsets(counts: Tensor) -> Tensor:
    return torch.nn.functional.pad(counts.cumsum(0), (1, 0))


class FieldSample(NamedTuple):
    """Values `(B, P)` and world-space gradients `(B, P, 3)` of an interpolated field."""

    sdf: Tensor
    gradient: Tensor


def sample_grid(
    values: Tensor,
    points: Tensor,
    lower: Sequence[float] = (0.0, 0.0, 0.0),
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
) -> FieldSample:
    """Return the trilinear field of each grid and its gradient at points.

    A point belongs to the cell of the lower index rounded down, the last node to the last cell.
    Outside the box the field is its value at the nearest point of the box plus the distance to it,
    and the gradient is the derivative of that: axes on which the point is outside lose the grid's
    share, and the direction away from the box is added. A NaN coordinate gives NaN, and so does a
    NaN sample in the cell. Both results are differentiable in `values` and in `points`.

    Args:
        values: `(B, X, Y, Z)` samples.
        points: `(B, P, 3)` world positions.
        lower: World position of node (0, 0, 0).
        spacing: World distance between neighbouring nodes along x, y, z.

    Returns:
        Values and gradients, in world units.

    Example:
        >>> ramp = torch.arange(3.0).expand(1, 2, 2, 3)
        >>> sdf, gradient = sample_grid(ramp, torch.tensor([[[0.5, 0.5, 1.25], [0.5, 0.5, 4.0]]]))
        >>> sdf.tolist(), gradient[0, 0].tolist()
        ([[1.25, 4.0]], [0.0, 0.0, 1.0])
    """
    cells = torch.tensor(values.shape[1:]) - 1
    step, low = points.new_tensor(spacing), points.new_tensor(lower)
    ends = [start + n * h for start, n, h in zip(lower, cells.tolist(), spacing, strict=True)]
    high = points.new_tensor(ends)
    nearest = points.clamp(low, high)
    excess = points - nearest
    place = (nearest - low) / step
    place = place - (place - cells).clamp(min=0).detach()  # the upper bound may round past its node
    cell = place.detach().nan_to_num().floor().long().minimum(cells - 1)
    fraction = place - cell
    slope = torch.where(excess == 0, 1 / step, 0.0)

    batch = torch.arange(len(values))[:, None]
    sdf = torch.zeros_like(place[..., 0])
    gradient = torch.zeros_like(place)
    for corner in CORNERS:
        upper = torch.tensor(corner) == 1
        x, y, z = torch.where(upper, fraction, 1 - fraction).unbind(-1)
        dx, dy, dz = torch.where(upper, slope, -slope).unbind(-1)
        value = values[(batch, *(cell + torch.tensor(corner)).unbind(-1))]
        sdf = sdf + x * y * z * value
        weight_gradient = torch.stack((dx * y * z, x * dy * z, x * y * dz), dim=-1)
        gradient = gradient + weight_gradient * value[..., None]

    outside = (excess != 0).any(dim=-1)
    distance = torch.where(outside, excess.square().sum(dim=-1), 1.0).sqrt()
    away = torch.where(outside[..., None], excess / distance[..., None], 0.0)
    return FieldSample(sdf + torch.where(outside, distance, 0.0), gradient + away)


def mesh_sdf(vertices: Tensor, value: Tensor, gradient: Tensor, *, law: str = "sdf") -> Tensor:
    """Return the vertices where they are, moving as the level set of the field moves.

    MeshSDF (Remelli et al. 2020), Algorithm 2: `dv/df = -n` with `n = grad f / |grad f|` for a
    signed distance (`sdf`); `-n / |grad f|`, the implicit function theorem, for any field
    (`implicit`). The normal takes no part in the gradient. A vertex whose field gradient vanishes
    or is not a number does not move.

    Args:
        vertices: `(V, 3)` world positions.
        value: `(V,)` the field there; gradients flow into it alone.
        gradient: `(V, 3)` the field's world-space gradient there.
        law: `"sdf"` or `"implicit"`.

    Returns:
        `(V, 3)` positions equal to `vertices`.

    Example:
        >>> radius = torch.ones(1, requires_grad=True)
        >>> pole = torch.tensor([[0.0, 0.0, 1.0]])
        >>> moving = mesh_sdf(pole, pole.norm(dim=1) - radius, pole)
        >>> torch.autograd.grad(moving[0, 2], radius)[0].item()
        1.0
    """
    normal = gradient.detach()
    norm = normal.norm(dim=1, keepdim=True)
    known = norm > 0
    direction = torch.where(known, normal / norm, 0.0)
    if law == "implicit":
        direction = torch.where(known, direction / norm, 0.0)
    rise = torch.where(known[:, 0], value - value.detach(), 0.0)
    return vertices.detach() - direction * rise[:, None]


def mesh_sdf_grid(
    values: Tensor,
    vertices: Tensor,
    vertex_offsets: Tensor,
    lower: Sequence[float] = (0.0, 0.0, 0.0),
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    *,
    law: str = "sdf",
) -> Tensor:
    """Return packed vertices attached to the grids that they were extracted from.

    Value and gradient at a vertex are those of `sample_grid`, so a gradient reaches the eight
    samples of the cell that owns the vertex.

    Args:
        values: `(B, X, Y, Z)` samples.
        vertices: `(V, 3)` world positions, those of grid b from `vertex_offsets[b]` on.
        vertex_offsets: `(B + 1,)` int64.
        lower: World position of node (0, 0, 0).
        spacing: World distance between neighbouring nodes along x, y, z.
        law: `"sdf"` or `"implicit"`, see `mesh_sdf`.

    Returns:
        `(V, 3)` positions equal to `vertices`.

    Example:
        >>> values = torch.tensor([-1.0, 1.0]).expand(1, 2, 2, 2).clone().requires_grad_()
        >>> middle = torch.tensor([[0.0, 0.0, 0.5]])
        >>> moving = mesh_sdf_grid(values, middle, torch.tensor([0, 1]), law="implicit")
        >>> torch.autograd.grad(moving[0, 2], values)[0][0, 0, 0].tolist()
        [-0.25, -0.25]
    """
    pieces = []
    for b, (first, last) in enumerate(itertools.pairwise(vertex_offsets.tolist())):
        piece = vertices[first:last].detach()
        sample = sample_grid(values[b : b + 1], piece[None], lower, spacing)
        pieces.append(mesh_sdf(piece, sample.sdf[0], sample.gradient[0], law=law))
    return torch.cat(pieces) if pieces else vertices.detach()
