# SPDX-License-Identifier: Apache-2.0
"""Scores between two clouds of points, by nearest neighbours.

Neighbours come from scipy's KD-tree on the CPU and from all pairs, in chunks, on CUDA.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from diffiso.metrics.inputs import check_clouds
from diffiso.proximity import nearest_neighbors


class FScore(NamedTuple):
    """How much of either cloud lies close to the other.

    Attributes:
        score: Harmonic mean of precision and recall; 0 where both are.
        precision: Share of points close to the reference.
        recall: Share of the reference close to a point.
    """

    score: float
    precision: float
    recall: float

    def __float__(self) -> float:
        """Return the score."""
        return self.score


def chamfer(
    points: Tensor, reference: Tensor, *, squared: bool = True, halved: bool = False
) -> float:
    """Return the Chamfer distance: mean nearest distances of both directions, added.

    Means, also where a paper prints sums: only means give the sizes that they print. With two
    switches, a frame (`fit_frame`) and a number of points this is what papers call

    ===================  =======  ======  ===========  =========  =======
    printed as           squared  halved  frame        points     times
    ===================  =======  ======  ===========  =========  =======
    MeshSDF CD-l2        yes      no      unit_sphere  2,048      1,000
    MeshSDF Table 4      yes      no      unit_sphere  30,000     1
    Pix3D CD-sqrt(l2)    no       no      unit_cube    1,024      1
    Neural-Pull L2-CD    yes      yes     unit_cube    10,000     100
    Points2Surf CD       no       no      unit_cube    10,000     100
    Neural-Pull L1-CD    no       yes     unit_cube    100,000    1
    LGCL CD              no       no      given        30,000     1,000
    ===================  =======  ======  ===========  =========  =======

    Points2Surf spreads its points evenly (`sample_evenly`). LGCL says millimetres, but its figures
    fit squared metres times 1,000: take both. `losses.chamfer` is the differentiable one.

    Args:
        points: (P, 3), world units.
        reference: (R, 3), of the same dtype and on the same device.
        squared: Take squares of distances.
        halved: Halve the sum of both directions.

    Raises:
        ValueError: If a cloud is empty, not (P, 3) or not finite, or the two differ in dtype or
            device.

    Example:
        >>> one, two = torch.tensor([[0.0, 0.0, 0.0]]), torch.tensor([[0.0, 3.0, 4.0]])
        >>> chamfer(one, two), chamfer(one, two, squared=False, halved=True)
        (50.0, 5.0)
    """
    there, back = _nearest("chamfer", points, reference)
    if squared:
        there, back = there.square(), back.square()
    total = float(there.mean() + back.mean())
    return total / 2 if halved else total


def cloud_hausdorff(points: Tensor, reference: Tensor) -> float:
    """Return the Hausdorff distance of two clouds: the largest nearest distance of both directions.

    As in LGCL. For the distance of surfaces see `hausdorff`, which has no sampling floor.

    Args:
        points: (P, 3), world units.
        reference: (R, 3), of the same dtype and on the same device.

    Raises:
        ValueError: As :func:`chamfer`.

    Example:
        >>> cloud_hausdorff(torch.zeros(1, 3), torch.tensor([[0.0, 0.0, 0.0], [0.0, 3.0, 4.0]]))
        5.0
    """
    there, back = _nearest("cloud_hausdorff", points, reference)
    return float(torch.maximum(there.max(), back.max()))


def f_score(
    points: Tensor, reference: Tensor, threshold: float, *, squared: bool = False
) -> FScore:
    """Return the F-score: the harmonic mean of precision and recall at a distance.

    MeshSDF: 10,000 points in the unit cube, 0.05. Neural-Pull: 100,000 points, 0.002 and 0.004,
    with no word on squares; its figures are out of reach unless the threshold is on squares.

    Args:
        points: (P, 3), world units.
        reference: (R, 3), of the same dtype and on the same device.
        threshold: What is close: nearer than this.
        squared: The threshold is on squared distances.

    Raises:
        ValueError: If the threshold is not positive, or as :func:`chamfer`.

    Example:
        >>> points = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
        >>> f_score(points, points[:1], 0.5)
        FScore(score=0.6666666666666666, precision=0.5, recall=1.0)
    """
    if not threshold > 0:
        raise ValueError(f"f_score: threshold must be positive, got {threshold}")
    there, back = _nearest("f_score", points, reference)
    if squared:
        there, back = there.square(), back.square()
    precision = float((there < threshold).double().mean())
    recall = float((back < threshold).double().mean())
    both = precision + recall
    return FScore(2 * precision * recall / both if both else 0.0, precision, recall)


def normal_consistency(
    points: Tensor, normals: Tensor, reference: Tensor, reference_normals: Tensor
) -> float:
    """Return the mean absolute cosine between normals at nearest neighbours, both ways, halved.

    As in Occupancy Networks, with normals of faces; 1 is best, and is not reached by samples.

    Args:
        points: (P, 3), world units.
        normals: (P, 3), of unit length.
        reference: (R, 3), of the same dtype and on the same device.
        reference_normals: (R, 3), of unit length.

    Raises:
        ValueError: If normals and points differ in number, or as :func:`chamfer`.

    Example:
        >>> up, tilted = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.0, -0.6, -0.8]])
        >>> round(normal_consistency(torch.zeros(1, 3), up, torch.zeros(1, 3), tilted), 6)
        0.8
    """
    function = "normal_consistency"
    check_clouds(
        function,
        points=points,
        normals=normals,
        reference=reference,
        reference_normals=reference_normals,
    )
    for name, cloud, arrows in (
        ("points and normals", points, normals),
        ("reference and reference_normals", reference, reference_normals),
    ):
        if len(cloud) != len(arrows):
            raise ValueError(
                f"{function}: {name} must be equally many, got {len(cloud)} and {len(arrows)}"
            )
    nearest = nearest_neighbors(points, reference).indices[:, 0]
    there = (normals * reference_normals[nearest]).sum(dim=1).abs()
    nearest = nearest_neighbors(reference, points).indices[:, 0]
    back = (reference_normals * normals[nearest]).sum(dim=1).abs()
    return float(there.double().mean() + back.double().mean()) / 2


def _nearest(function: str, points: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Return distances (P,) to the reference and (R,) back, in double precision."""
    points, reference = points.detach(), reference.detach()
    check_clouds(function, points=points, reference=reference)
    there = nearest_neighbors(points, reference).distances[:, 0]
    back = nearest_neighbors(reference, points).distances[:, 0]
    return there.double(), back.double()
