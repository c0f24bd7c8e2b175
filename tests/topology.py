# SPDX-License-Identifier: Apache-2.0
"""What a mesh is made of, counted without looking at positions, and what it encloses."""

import itertools

import torch
from fields import Field
from torch import Tensor

from diffiso import BrickGrid, Mesh, marching_cubes, sample_field

AXIS = torch.eye(3, dtype=torch.int64)


def directed_edges(faces: Tensor) -> Tensor:
    """Return `(3 F, 2)` rows of vertices, each face's edges in its winding."""
    faces = faces.long()
    return torch.cat((faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]))


def pair_keys(pairs: Tensor) -> Tensor:
    """Return one number for each ordered pair: sorting numbers is much faster than sorting rows."""
    return pairs[:, 0] * 2**31 + pairs[:, 1]


def euler_number(faces: Tensor) -> int:
    """Return V - E + F over the vertices in use."""
    undirected = pair_keys(directed_edges(faces).sort(dim=1).values).unique()
    return len(faces.unique()) - len(undirected) + len(faces)


def is_closed_and_oriented(faces: Tensor) -> bool:
    """Whether every edge is in exactly two faces, once in each direction."""
    edges = directed_edges(faces)
    forward, uses = pair_keys(edges).unique(return_counts=True)
    backward = pair_keys(edges.flip(1)).unique()
    return bool((uses == 1).all()) and torch.equal(forward, backward)


def volume_and_area(vertices: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
    """Return enclosed volume and area, differentiable in the vertices."""
    a, b, c = vertices[faces].unbind(1)
    volume = (a * torch.linalg.cross(b, c)).sum() / 6
    return volume, torch.linalg.cross(b - a, c - a).norm(dim=1).sum() / 2


def grid_edge_place(edges: Tensor, lattice: tuple[int, int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Split grid-edge ids into batch `(V,)`, lower node `(V, 3)` and axis `(V,)`."""
    x, y, z = lattice
    node, axis = edges // 3, edges % 3
    place = torch.stack((node // (y * z) % x, node // z % y, node % z), dim=1)
    return node // (x * y * z), place, axis


def in_cell_face(mid_a: Tensor, mid_b: Tensor) -> Tensor:
    """Whether two grid edges, given by doubled midpoints, bound a common face of the lattice."""
    apart = (mid_a - mid_b).abs().sort(dim=1).values
    patterns = torch.tensor([[0, 1, 1], [0, 0, 2]])
    return (apart[:, None] == patterns).all(dim=2).any(dim=1)


def expected_uses(mid_a: Tensor, mid_b: Tensor, present: Tensor) -> Tensor:
    """Return how many faces a mesh edge between two grid edges of one grid must have.

    A mesh edge through the inside of a cell: two. One in a face between two cells: as many as there
    are present cells on both sides of that face. `present` is `(X-1, Y-1, Z-1)`, one for each cell.
    """
    # The middle of a lattice face is halfway between opposite edges. Of two adjacent edges, the one
    # that runs along an axis has the odd coordinate there, and the middle has it too.
    parallel = ((mid_a - mid_b) % 2 == 0).all(dim=1, keepdim=True)
    corner = torch.where(mid_a % 2 == 1, mid_a, torch.where(mid_b % 2 == 1, mid_b, mid_a))
    middle = torch.where(parallel, (mid_a + mid_b) // 2, corner)
    normal = AXIS[(middle % 2 == 0).int().argmax(dim=1)]
    sides = torch.zeros(len(middle), dtype=torch.int64)
    bounds = torch.tensor(present.shape)
    for sign in (-1, 1):
        cell = (middle + sign * normal - 1) // 2
        within = ((cell >= 0) & (cell < bounds)).all(dim=1)
        cell = cell.clamp(min=0).minimum(bounds - 1)
        sides += within & present[cell[:, 0], cell[:, 1], cell[:, 2]]
    return torch.where(in_cell_face(mid_a, mid_b), sides, 2)


def present_cells(values: Tensor) -> Tensor:
    """Return which cells of one grid have no NaN corner."""
    known = ~values.isnan()
    x, y, z = known.shape
    corners = [
        known[dx : dx + x - 1, dy : dy + y - 1, dz : dz + z - 1]
        for dx, dy, dz in itertools.product((0, 1), repeat=3)
    ]
    return torch.stack(corners).all(dim=0)


def check_crack_free(faces: Tensor, edges: Tensor, values: Tensor) -> None:
    """Assert that one grid's mesh is welded, crack-free and consistently oriented.

    Every mesh edge is used as often as `expected_uses` says, never twice in one direction, and two
    uses are opposite. `values` is the lattice the edges are numbered in, padding included.
    """
    assert len(edges.unique()) == len(edges), "two vertices on one grid edge"
    assert torch.equal(faces.long().unique(), torch.arange(len(edges))), "a vertex without a face"
    _, place, axis = grid_edge_place(edges, tuple(values.shape))
    mids = 2 * place + AXIS[axis]
    ways = directed_edges(faces)
    assert len(pair_keys(ways).unique()) == len(ways), "a mesh edge twice in one direction"
    undirected = pair_keys(ways.sort(dim=1).values)
    _, pair, both = undirected.unique(return_inverse=True, return_counts=True)
    expected = expected_uses(mids[ways[:, 0]], mids[ways[:, 1]], present_cells(values))
    assert torch.equal(both[pair], expected), "a crack, or more than two faces on an edge"


def transformed(values: Tensor, permutation: tuple[int, ...], flips: tuple[int, ...]) -> Tensor:
    """Permute a grid's axes, then reflect the new axes in `flips`."""
    return values.permute(permutation).flip(flips).contiguous()


def transformed_edges(
    edges: Tensor,
    shape: tuple[int, int, int],
    permutation: tuple[int, ...],
    flips: tuple[int, ...],
) -> Tensor:
    """Return the ids that the grid edges get under `transformed`."""
    _, place, axis = grid_edge_place(edges, shape)
    order = torch.tensor(permutation)
    new_shape = torch.tensor(shape)[order]
    place, axis = place[:, order], order.argsort()[axis]
    for flip in flips:
        place[:, flip] = new_shape[flip] - 1 - place[:, flip] - (axis == flip).long()
    node = (place[:, 0] * new_shape[1] + place[:, 1]) * new_shape[2] + place[:, 2]
    return 3 * node + axis


def face_segments(faces: Tensor, edges: Tensor, lattice: tuple[int, int, int]) -> Tensor:
    """Return, as ids of grid edges, the directed mesh edges that lie in faces of the lattice.

    They are the loops of all cells; what a triangulation adds inside a cell is left out.
    """
    _, place, axis = grid_edge_place(edges, lattice)
    mids = 2 * place + AXIS[axis]
    ways = directed_edges(faces)
    return edges[ways[in_cell_face(mids[ways[:, 0]], mids[ways[:, 1]])]]


def assert_same_surface(actual: Mesh, expected: Mesh, tolerance: float = 0.0) -> None:
    """Assert that two meshes with edges are one, whatever the order of vertices and faces.

    The same grid edges, on each the same position (to the last bit, unless a tolerance is given),
    and the same faces between them, each with its winding.
    """
    edges, order = actual.edges.sort()
    expected_edges, expected_order = expected.edges.sort()
    assert torch.equal(edges, expected_edges)
    apart = actual.vertices[order] - expected.vertices[expected_order]
    assert apart.numel() == 0 or apart.abs().max() <= tolerance
    triples = []
    for mesh in (actual, expected):
        corners = mesh.edges[mesh.faces.long()]
        # Where a face begins says nothing; with its smallest edge first the winding remains.
        first = corners.argmin(dim=1, keepdim=True)
        turned = corners.gather(1, (first + torch.arange(3)) % 3)
        for column in (2, 1, 0):
            turned = turned[turned[:, column].argsort(stable=True)]
        triples.append(turned)
    assert torch.equal(*triples)


def assert_dense_surface(
    bricks: BrickGrid, field: Field, level: float | Tensor = 0.0, closed: bool = True
) -> None:
    """Assert that the surface of bricks is that of all nodes, to the last bit."""
    cells = [n - 1 for n in bricks.nodes]
    dense = sample_field(field, bricks.lower, bricks.upper, cells, dtype=bricks.values.dtype)
    expected = marching_cubes(dense, level, return_edges=True)
    mesh = marching_cubes(bricks, level, return_edges=True)
    assert len(expected.faces) > 0
    assert_same_surface(mesh, expected)
    if closed:
        assert is_closed_and_oriented(mesh.faces)
