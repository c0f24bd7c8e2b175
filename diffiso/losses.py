# SPDX-License-Identifier: Apache-2.0
"""What fields, grids, meshes and clouds are trained by. All are means, differentiable once or more.

Nearest points count as constants, which is exact to first order. Losses that search them need the
extra `pipelines`.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from diffiso.proximity import closest_points, nearest_neighbors
from diffiso.types import Grid, Mesh


def clamped_l1(prediction: Tensor, target: Tensor, clamp: float | None = None) -> Tensor:
    """Return the mean absolute difference of signed distances, both clamped to a band.

    A prediction beyond the band gets no gradient, not even where it has the wrong sign: start a
    network with values inside the band.

    Args:
        prediction: (...), world units.
        target: The same shape.
        clamp: Half the band's width, world units; None for no band.

    Returns:
        A scalar, world units.

    Raises:
        ValueError: If shapes, dtypes or devices differ, there are no values, or the clamp is not
            positive.

    Source:
        Park et al., DeepSDF, Eq. 4; Remelli et al., MeshSDF, Eq. 1 (a mean over all its sums).

    Example:
        >>> clamped_l1(torch.tensor([0.3, 0.0]), torch.tensor([0.2, 0.05]), clamp=0.1)
        tensor(0.0250)
    """
    if prediction.shape != target.shape:
        raise ValueError(
            f"clamped_l1: target must have the prediction's shape {tuple(prediction.shape)}, "
            f"got {tuple(target.shape)}"
        )
    _check_alike("clamped_l1", prediction, target)
    if prediction.numel() == 0:
        raise ValueError(
            f"clamped_l1: prediction must have values, got shape {tuple(prediction.shape)}"
        )
    if clamp is not None:
        if not clamp > 0:
            raise ValueError(f"clamped_l1: clamp must be positive, got {clamp}")
        prediction, target = prediction.clamp(-clamp, clamp), target.clamp(-clamp, clamp)
    return (prediction - target).abs().mean()


def eikonal(gradients: Tensor, *, squared: bool = False, mask: Tensor | None = None) -> Tensor:
    """Return how far gradients are from length one, on average.

    With g a gradient, the mean of (|g| - 1)^2, as the papers print it; or, ``squared``, that of
    | |g|^2 - 1 |, as SDFDiff's code has it, which is twice as steep near length one and has no
    square root. Where a gradient is zero, the length counts as constant.

    Args:
        gradients: (..., 3), of a field at points, per world unit.
        squared: Compare squared lengths.
        mask: (...), bool, the points that count; None for all. If it leaves none, the loss is zero
            and still attached.

    Returns:
        A scalar.

    Raises:
        ValueError: If shapes do not fit, or there are no gradients.

    Source:
        Gropp et al., IGR, Eq. 2; SDFDiff, Eq. 2 (an integral, here a mean); LGCL, Eq. 6.

    Example:
        >>> gradients = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
        >>> eikonal(gradients), eikonal(gradients, squared=True)
        (tensor(0.5000), tensor(1.5000))
    """
    if gradients.dim() == 0 or gradients.shape[-1] != 3 or gradients.numel() == 0:
        raise ValueError(
            f"eikonal: gradients must be (..., 3), not empty, got {tuple(gradients.shape)}"
        )
    if mask is not None:
        if mask.dtype != torch.bool or mask.shape != gradients.shape[:-1]:
            raise ValueError(
                f"eikonal: mask must be {tuple(gradients.shape[:-1])} bool, "
                f"got {tuple(mask.shape)} {mask.dtype}"
            )
        gradients = gradients[mask]  # picked, not multiplied: what is left out may be NaN
    if squared:
        off = (gradients.square().sum(dim=-1) - 1).abs()
    else:
        # The length of zero has no second derivative: torch's is NaN, and would reach the weights.
        zero = torch.linalg.vector_norm(gradients.detach(), dim=-1) == 0
        lengths = torch.linalg.vector_norm(gradients.masked_fill(zero[..., None], 1.0), dim=-1)
        off = (lengths.masked_fill(zero, 0.0) - 1).square()
    return off.sum() / max(off.numel(), 1)


def grid_gradient(grid: Grid) -> Tensor:
    """Return a grid's gradient at its inner nodes by central differences.

    Args:
        grid: (X, Y, Z) or (B, X, Y, Z) samples, 3 or more along each axis.

    Returns:
        (X - 2, Y - 2, Z - 2, 3), with a leading B for a batch, per world unit.

    Raises:
        ValueError: If an axis has fewer than 3 nodes.

    Source:
        SDFDiff, section 5.1.

    Example:
        >>> plane = torch.arange(5.0).reshape(5, 1, 1).expand(5, 5, 5)
        >>> grid_gradient(Grid(plane, spacing=(0.5, 1.0, 1.0)))[0, 0, 0]
        tensor([2., 0., 0.])
    """
    parts = [
        (after - before) / (2 * step)
        for before, _, after, step in _along_axes("grid_gradient", grid)
    ]
    return torch.stack(parts, dim=-1)


def grid_laplacian(grid: Grid) -> Tensor:
    """Return a grid's Laplacian at its inner nodes by the 7-point stencil.

    SDFDiff's loss for smoothness is the mean of its square over a narrow band.

    Args:
        grid: (X, Y, Z) or (B, X, Y, Z) samples, 3 or more along each axis.

    Returns:
        (X - 2, Y - 2, Z - 2), with a leading B for a batch, per squared world unit.

    Raises:
        ValueError: If an axis has fewer than 3 nodes.

    Source:
        SDFDiff, section 6.

    Example:
        >>> parabola = torch.arange(5.0).square().reshape(5, 1, 1).expand(5, 5, 5)
        >>> grid_laplacian(Grid(parabola)).unique()
        tensor([2.])
    """
    parts = [
        (before - 2 * middle + after) / step**2
        for before, middle, after, step in _along_axes("grid_laplacian", grid)
    ]
    return parts[0] + parts[1] + parts[2]


def narrow_band_mask(values: Tensor, width: float) -> Tensor:
    """Return where a field is near its surface: |value| at most ``width``; NaN is not near.

    Args:
        values: (...), world units.
        width: World units; SDFDiff takes 1.6 voxels.

    Returns:
        (...), bool.

    Raises:
        ValueError: If the width is negative or NaN.

    Source:
        SDFDiff, Eq. 3.

    Example:
        >>> narrow_band_mask(torch.tensor([-0.3, 0.1, 0.2]), 0.2)
        tensor([False,  True,  True])
    """
    if not width >= 0:
        raise ValueError(f"narrow_band_mask: width must not be negative, got {width}")
    return values.detach().abs() <= width


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
    _check_alike("chamfer", points, target)
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
    points: Tensor, mesh: Mesh, *, squared: bool = True, reach: float | None = None
) -> Tensor:
    """Return the mean distance of points to a surface, exact to triangles.

    Differentiable in the points and in the mesh's vertices. A point on the surface gets gradient
    zero.

    Args:
        points: (P, 3), world units.
        mesh: Triangles, open or closed.
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
    _check_alike("point_to_surface", points, mesh.vertices)
    if reach is not None and not reach > 0:
        raise ValueError(f"point_to_surface: reach must be positive, got {reach}")
    nearest = closest_points(mesh, points)
    corners = mesh.vertices[mesh.faces[nearest.faces]]
    apart = points - (corners * nearest.barycentric[..., None]).sum(dim=1)
    if reach is None:
        return _mean_length(apart, squared)
    far = nearest.distances > reach
    within = _mean_length(torch.where(far[:, None], 0.0, apart), squared)
    return within + far.to(apart).mean() * (reach**2 if squared else reach)


def surface_loss(
    mesh: Mesh,
    target: Mesh,
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
        target: The surface to reach.
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
    there = point_to_surface(points, target.detach(), reach=reach)
    return there + point_to_surface(target_points.detach(), mesh, reach=reach)


def _mean_length(vectors: Tensor, squared: bool) -> Tensor:
    if squared:
        return vectors.square().sum(dim=-1).mean()
    length: Tensor = torch.linalg.vector_norm(vectors, dim=-1)
    return length.mean()


def _check_alike(function: str, points: Tensor, other: Tensor) -> None:
    if points.dtype != other.dtype or points.device != other.device:
        raise ValueError(
            f"{function}: both sides must have one dtype and device, got {points.dtype} on "
            f"{points.device} and {other.dtype} on {other.device}"
        )


def _along_axes(function: str, grid: Grid) -> list[tuple[Tensor, Tensor, Tensor, float]]:
    """Return for each axis the samples before, at and after the inner nodes, and the spacing."""
    if not isinstance(grid, Grid):
        raise TypeError(f"{function}: grid must be a Grid, got {type(grid).__name__}")
    values = grid.values
    if values.dim() not in (3, 4) or min(values.shape[-3:]) < 3:
        raise ValueError(
            f"{function}: values must be (X, Y, Z) or (B, X, Y, Z), 3 nodes or more each, "
            f"got {tuple(values.shape)}"
        )
    parts = []
    for axis, step in zip((-3, -2, -1), grid.spacing, strict=True):
        inner = values
        for other in {-3, -2, -1} - {axis}:
            inner = inner.narrow(other, 1, values.shape[other] - 2)
        before, middle, after = (
            inner.narrow(axis, start, values.shape[axis] - 2) for start in (0, 1, 2)
        )
        parts.append((before, middle, after, step))
    return parts
