# SPDX-License-Identifier: Apache-2.0
"""Silhouettes by counting, at every point, the faces over it."""

import torch
from torch import Tensor


def silhouette(
    vertices: Tensor,
    faces: Tensor,
    projections: Tensor,
    size: tuple[int, int],
    samples: int = 16,
    pieces: int = 512,
) -> Tensor:
    """Return coverage `(N, H, W)` of one mesh that lies in front of all cameras.

    The value is the share of a pixel's samples with a face over them. The gradient is that of the
    area: every edge of every face is cut into pieces, and where one side of a piece is covered, in
    the picture, and the other is not, what moves it along its normal moves the area of its pixel.
    """
    height, width = size
    pictures = []
    for projection in projections:
        corners = _project(vertices, projection)[0][faces.long()]
        y, x = torch.meshgrid(
            torch.arange(height, dtype=torch.float64),
            torch.arange(width, dtype=torch.float64),
            indexing="ij",
        )
        offsets = sample_offsets(samples)
        points = torch.stack([x, y], dim=-1)[:, :, None] + offsets
        covered = _faces_over(points.view(-1, 2), corners.detach()) > 0
        share = covered.view(height, width, samples).double().mean(dim=2)
        area = _area_by_edges(corners, pieces, height, width)
        pictures.append((share + (area - area.detach())).to(vertices.dtype))
    return torch.stack(pictures) if pictures else vertices.new_empty(0, height, width)


def sample_offsets(samples: int) -> Tensor:
    """Return where a pixel's samples lie in it, `(S, 2)`: a row and a column for each."""
    bits = samples.bit_length() - 1
    columns = [int(f"{s:0{bits}b}"[::-1], 2) if bits else 0 for s in range(samples)]
    rows = torch.arange(samples, dtype=torch.float64)
    return (torch.stack([torch.tensor(columns, dtype=torch.float64), rows], dim=1) + 0.5) / samples


def _project(vertices: Tensor, projection: Tensor) -> tuple[Tensor, Tensor]:
    """Return pixels `(V, 2)` and depth `(V,)`."""
    local = vertices.double() @ projection[:, :3].double().T + projection[:, 3].double()
    return local[:, :2] / local[:, 2:], local[:, 2]


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _faces_over(points: Tensor, corners: Tensor) -> Tensor:
    """Return how many faces, of corners `(F, 3, 2)`, lie over each of the points `(P, 2)`."""
    counts = torch.zeros(len(points), dtype=torch.int64)
    for face in corners:
        sides = [_cross(face[(k + 1) % 3] - face[k], points - face[k]) for k in range(3)]
        left = torch.stack([side > 0 for side in sides]).all(dim=0)
        right = torch.stack([side < 0 for side in sides]).all(dim=0)
        counts += left | right
    return counts


def _area_by_edges(corners: Tensor, pieces: int, height: int, width: int) -> Tensor:
    """Return a picture whose derivative is that of the covered area of each pixel.

    A step of coverage that several edges lie on is shared among them, and what an edge on a border
    between pixels moves among both.
    """
    beside = 1e-6  # pixels
    share = (torch.arange(pieces, dtype=torch.float64) + 0.5) / pieces
    area = torch.zeros(height * width, dtype=torch.float64)
    for face in corners:
        way = torch.sign(_cross(face[1] - face[0], face[2] - face[0]).detach())
        for k in range(3):
            begin, end = face[k], face[(k + 1) % 3]
            along = (end - begin).detach()
            length = along.norm()
            if length == 0 or way == 0:
                continue
            inward = way * torch.stack([-along[1], along[0]]) / length
            middles = begin + share[:, None] * (end - begin)
            at = middles.detach()
            inner, outer = (
                _faces_over(at + side * beside * inward, corners.detach()) for side in (1, -1)
            )
            step = ((inner > 0).double() - (outer > 0).double()) / (inner - outer).clamp(min=1)
            moved = -(middles * inward).sum(dim=1) * step * length / pieces
            # Half for the pixel on either side: two pixels where a border lies between them.
            for side in (1, -1):
                column, row = (at + side * beside * inward).floor().long().unbind(1)
                seen = (column >= 0) & (column < width) & (row >= 0) & (row < height)
                area = area.index_add(0, (row * width + column)[seen], moved[seen] / 2)
    return area.view(height, width)


def soft_silhouette(
    vertices: Tensor,
    faces: Tensor,
    projections: Tensor,
    size: tuple[int, int],
    sigma: float,
    blur_radius: float,
    faces_per_pixel: int,
) -> Tensor:
    """Return what all faces but the nearest leave clear, `(N, H, W)` (Liu et al. 2019, Eq. 1, 3).

    The mesh lies in front of all cameras.
    """
    height, width = size
    scale = 2 / min(size)
    y, x = torch.meshgrid(
        torch.arange(height, dtype=torch.float64),
        torch.arange(width, dtype=torch.float64),
        indexing="ij",
    )
    points = (torch.stack([x, y], dim=-1).view(-1, 2) + 0.5) * scale
    pictures = []
    for projection in projections:
        pixels, depths = _project(vertices, projection)
        clears, places = [], []
        for face in faces.long().tolist():
            corners, depth = pixels[face] * scale, depths[face]
            area = _cross(corners[1] - corners[0], corners[2] - corners[0])
            if area.abs() <= 1e-8:
                continue
            weights = torch.stack(
                [
                    _cross(corners[(k + 1) % 3] - points, corners[(k + 2) % 3] - points)
                    for k in range(3)
                ]
            )
            weights = weights / area
            inside = (weights > 0).all(dim=0)
            square = torch.stack([_square_distance(points, corners, k) for k in range(3)]).amin(0)
            distance = torch.where(inside, -square, square)
            counts = inside | (square < blur_radius)
            nearness = (weights / depth[:, None]).detach()
            nearness = (nearness / nearness.sum(dim=0)).clamp(0, 1)
            place = (nearness * depth.detach()[:, None]).sum(dim=0) / nearness.sum(dim=0)
            places.append(torch.where(counts, place, torch.inf))
            clears.append(torch.where(counts, 1 - torch.sigmoid(-distance / sigma), 1.0))
        if not clears:
            pictures.append(vertices.new_ones(height, width))
            continue
        order = torch.stack(places).argsort(dim=0, stable=True)[:faces_per_pixel]
        clear = torch.stack(clears).gather(0, order).prod(dim=0)
        pictures.append(clear.view(height, width).to(vertices.dtype))
    return torch.stack(pictures) if pictures else vertices.new_empty(0, height, width)


def _square_distance(points: Tensor, corners: Tensor, k: int) -> Tensor:
    """Return the squared distance of points `(P, 2)` to the edge that begins at a corner."""
    begin, edge = corners[k], corners[(k + 1) % 3] - corners[k]
    share = (((points - begin) @ edge) / edge.square().sum()).clamp(0, 1)
    nearest = begin + share[:, None] * edge
    return (points - nearest).square().sum(dim=1)
