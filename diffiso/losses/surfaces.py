# SPDX-License-Identifier: Apache-2.0
"""What meshes and clouds are trained by."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from diffiso.losses._checks import check_alike
from diffiso.proximity import SurfaceTree, closest_points, nearest_neighbors
from diffiso.types import Mesh


def mesh_laplacian(mesh: Mesh) -> Tensor:
    """Return the way from each vertex to the middle of its neighbours: the uniform Laplacian.

    The mean of its squared length is a loss for smooth meshes of even triangles. Differentiable in
    the vertices.

    Args:
        mesh: Triangles.

    Returns:
        (V, 3), world units; zero for a vertex without a neighbour.

    Example:
        >>> vertices = torch.tensor([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
        >>> mesh_laplacian(Mesh(vertices, torch.tensor([[0, 1, 2]])))[0]
        tensor([1., 1., 0.])
    """
    count, faces = len(mesh.vertices), mesh.faces.long()
    begin, end = faces.flatten(), faces.roll(-1, dims=1).flatten()
    edges = torch.minimum(begin, end) * count + torch.maximum(begin, end)
    edges = torch.unique(edges[begin != end])  # an edge counts once, however many faces share it
    ends = torch.cat([edges // count, edges % count])
    others = torch.cat([edges % count, edges // count])
    sums = torch.zeros_like(mesh.vertices).index_add(0, ends, mesh.vertices[others])
    neighbors = torch.bincount(ends, minlength=count)[:, None]
    return torch.where(neighbors > 0, sums / neighbors.clamp(min=1) - mesh.vertices, 0.0)


def chamfer(
    points: Tensor,
    target: Tensor,
    *,
    squared: bool = True,
    directions: Literal["sum", "mean"] = "sum",
) -> Tensor:
    """Return the Chamfer distance of two clouds, differentiable in both.

    With a the mean over ``points`` of the distance to the nearest point of ``target``, squared or
    not, and b that over ``target`` to ``points``: a + b, or (a + b) / 2. In the seeds' papers:

    - MeshSDF, Eq. 14 and 18: ``squared``, ``"sum"`` (printed as sums over the points; only means
      give numbers of the printed size);
    - MeshSDF, Eq. 21: not ``squared``, ``"sum"``;
    - Neural-Pull's L2-CD and L1-CD: ``squared`` and not, ``"mean"``.

    Clouds drawn from one surface are not at distance zero: the more points, the nearer. Points that
    coincide get gradient zero.

    Args:
        points: (P, 3) or (B, P, 3), world units.
        target: (Q, 3) or (B, Q, 3).
        squared: Take squared distances.
        directions: ``"sum"`` or ``"mean"`` of the two directions.

    Returns:
        A scalar, or (B,); squared world units if ``squared``, else world units.

    Raises:
        ValueError: If shapes, dtypes or devices do not fit, a cloud is empty or not finite.
        ImportError: If the extra `pipelines` is not installed.

    Example:
        >>> points = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
        >>> chamfer(points, torch.tensor([[0.0, 0.0, 2.0]]))
        tensor(8.5000)
        >>> chamfer(points, torch.tensor([[0.0, 0.0, 2.0]]), squared=False)
        tensor(4.1180)
    """
    for name, cloud in (("points", points), ("target", target)):
        if cloud.dim() not in (2, 3) or cloud.shape[-1] != 3 or cloud.numel() == 0:
            raise ValueError(
                f"chamfer: {name} must be (P, 3) or (B, P, 3), not empty, got {tuple(cloud.shape)}"
            )
    if points.shape[:-2] != target.shape[:-2]:
        raise ValueError(
            f"chamfer: target must be one cloud for each of points {tuple(points.shape)}, "
            f"got {tuple(target.shape)}"
        )
    check_alike("chamfer", points, target)
    if directions not in ("sum", "mean"):
        raise ValueError(f'chamfer: directions must be "sum" or "mean", got {directions!r}')
    if points.dim() == 3:
        pairs = zip(points, target, strict=True)
        return torch.stack(
            [chamfer(p, t, squared=squared, directions=directions) for p, t in pairs]
        )
    there = points - target[nearest_neighbors(points.detach(), target.detach()).indices[:, 0]]
    back = target - points[nearest_neighbors(target.detach(), points.detach()).indices[:, 0]]
    both = _mean_length(there, squared) + _mean_length(back, squared)
    return both if directions == "sum" else both / 2


def point_to_surface(
    points: Tensor,
    surface: Mesh | SurfaceTree,
    *,
    squared: bool = True,
    reach: float | None = None,
) -> Tensor:
    """Return the mean distance of points to a surface, exact to triangles.

    Differentiable in the points and in a mesh's vertices. A point on the surface gets gradient
    zero.

    Args:
        points: (P, 3), world units.
        surface: Triangles, open or closed; a :class:`diffiso.proximity.SurfaceTree` where they stay
            the same.
        squared: Take squared distances.
        reach: World units: longer distances count as this, and pull nothing; None lets all pull.

    Returns:
        A scalar; squared world units if ``squared``, else world units.

    Raises:
        ValueError: If shapes, dtypes or devices do not fit, there are no points or faces, something
            is not finite, or the reach is not positive.
        ImportError: If the extra `pipelines` is not installed.

    Example:
        >>> vertices = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
        >>> mesh = Mesh(vertices, torch.tensor([[0, 1, 2]]))
        >>> point_to_surface(torch.tensor([[0.25, 0.25, 3.0]]), mesh)
        tensor(9.)
    """
    if points.dim() != 2 or points.shape[1] != 3 or len(points) == 0:
        raise ValueError(
            f"point_to_surface: points must be (P, 3), not empty, got {tuple(points.shape)}"
        )
    mesh = surface.mesh if isinstance(surface, SurfaceTree) else surface
    check_alike("point_to_surface", points, mesh.vertices)
    if reach is not None and not reach > 0:
        raise ValueError(f"point_to_surface: reach must be positive, got {reach}")
    nearest = closest_points(surface, points)
    corners = mesh.vertices[mesh.faces[nearest.faces]]
    apart = points - (corners * nearest.barycentric[..., None]).sum(dim=1)
    if reach is None:
        return _mean_length(apart, squared)
    far = nearest.distances > reach
    within = _mean_length(torch.where(far[:, None], 0.0, apart), squared)
    return within + far.to(apart).mean() * (reach**2 if squared else reach)


def surface_loss(
    mesh: Mesh,
    target: Mesh | SurfaceTree,
    target_points: Tensor,
    generator: torch.Generator | None = None,
    *,
    reach: float | None = None,
) -> Tensor:
    """Return the surface loss of MeshSDF, Eq. 5: mean squared distances, both ways.

    Differentiable in the mesh's vertices. As many points are drawn on the mesh as there are target
    points.

    Args:
        mesh: The surface that moves.
        target: The surface to reach; a :class:`diffiso.proximity.SurfaceTree` is faster where it is
            used again.
        target_points: (N, 3) points on the target, for instance ``target.sample(n).points``.
        generator: Source of the draws.
        reach: World units: longer distances count as this, and pull nothing. Where one surface has
            a part that the other lacks, it would pull on whatever is nearest.

    Returns:
        A scalar in squared world units.

    Raises:
        ValueError: If a surface has no area, or there are no target points.
        ImportError: If the extra `pipelines` is not installed.

    Source:
        Remelli et al., MeshSDF, Eq. 5, with means over both surfaces.

    Example:
        >>> import diffiso
        >>> radius = torch.tensor(0.5, requires_grad=True)
        >>> mesh = diffiso.isosurface(lambda p: p.norm(dim=1) - radius, -1, 1, 16)
        >>> target = diffiso.isosurface(lambda p: p.norm(dim=1) - 0.7, -1, 1, 16)
        >>> loss = surface_loss(mesh, target, target.sample(1000).points)
        >>> bool((loss - 2 * 0.2**2).abs() < 0.002)
        True
        >>> loss.backward()
        >>> bool((radius.grad + 4 * 0.2).abs() < 0.02)
        True
    """
    points = mesh.sample(len(target_points), generator).points
    rest = target if isinstance(target, SurfaceTree) else target.detach()
    there = point_to_surface(points, rest, reach=reach)
    return there + point_to_surface(target_points.detach(), mesh, reach=reach)


def _mean_length(vectors: Tensor, squared: bool) -> Tensor:
    if squared:
        return vectors.square().sum(dim=-1).mean()
    length: Tensor = torch.linalg.vector_norm(vectors, dim=-1)
    return length.mean()
