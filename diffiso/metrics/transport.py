# SPDX-License-Identifier: Apache-2.0
"""Earth mover's distance between clouds, by auction, with a proof of how close it came."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffiso.metrics.inputs import check_clouds
from diffiso.run import cpu_threads

_START = 1 / 2  # first step of the auction, as a share of the range of costs
_FALL = 6.0  # by how much the step falls from one auction to the next
_LEAST = 1e-13  # smallest step as a share of the largest cost: below, rounding would stop prices


@dataclass(frozen=True, eq=False)
class EarthMover:
    """A one-to-one assignment of two clouds, and a bound on how far it is from the best one.

    Attributes:
        cost: Mean distance over the assignment, world units.
        epsilon: Proved: `cost` is at most (1 + epsilon) times the least possible. Infinite where
            nothing could be proved, which takes clouds that are all but equal.
        assignment: (P,) int64, for each point the index of its partner in the reference.
    """

    cost: float
    epsilon: float
    assignment: Tensor

    def __float__(self) -> float:
        """Return the cost."""
        return self.cost


def earth_mover(points: Tensor, reference: Tensor, *, epsilon: float = 1e-2) -> EarthMover:
    """Return the earth mover's distance: the mean distance of the cheapest assignment.

    An auction: points without a partner bid for the reference point that is cheapest to them, cost
    and price together, and raise its price by what makes the second cheapest equal, plus a step.
    Auctions are repeated with ever smaller steps from the prices of the last. Prices are a dual
    solution: they prove a lower bound of the cost, and the search ends when the assignment is
    within `epsilon` of it. Nearly always it is closer to the optimum than it can prove.

    MeshSDF: 2,048 points in the unit sphere, times 100; Pix3D: 1,024 in the unit cube. Runs on the
    clouds' device; deterministic; takes 16 bytes for each pair of points.

    Args:
        points: (P, 3), world units.
        reference: (P, 3), equally many, of the same dtype and on the same device.
        epsilon: How close to the optimum, relative; smaller takes longer.

    Raises:
        ValueError: If `epsilon` is not positive, clouds differ in number, dtype or device, are
            empty, not (P, 3) or not finite, or their distances are too large for float64.

    Source:
        Bertsekas, The auction algorithm, Annals of Operations Research 14, 1988; used for clouds
        by Fan, Su and Guibas, A point set generation network, 2017.

    Example:
        >>> points = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
        >>> found = earth_mover(points, torch.tensor([[1.0, 0.5, 0.0], [0.0, 0.5, 0.0]]))
        >>> found.cost, found.assignment.tolist()
        (0.5, [1, 0])
    """
    points, reference = points.detach(), reference.detach()
    check_clouds("earth_mover", points=points, reference=reference)
    if len(points) != len(reference):
        raise ValueError(
            "earth_mover: points and reference must be equally many, "
            f"got {len(points)} and {len(reference)}"
        )
    if not 0 < epsilon < math.inf:
        raise ValueError(f"earth_mover: epsilon must be positive and finite, got {epsilon}")
    cost = torch.cdist(
        points.double(), reference.double(), compute_mode="donot_use_mm_for_euclid_dist"
    )
    price, largest = cost.new_zeros(len(cost)), float(cost.max())
    # Prices rise to at most as many times the largest cost as there are points, and are summed.
    if not math.isfinite(2.0 * len(cost) ** 2 * largest):
        raise ValueError(
            f"earth_mover: distances must be finite and so their sums, got up to {largest:g}"
        )
    primal, dual = math.inf, 0.0
    assignment = torch.arange(len(cost), device=cost.device)
    if largest == 0:
        return EarthMover(0.0, 0.0, assignment)
    step = max(_START * (largest - float(cost.min())), _LEAST * largest)
    while True:
        # Rounds are short: more threads would wait more than they work.
        with cpu_threads(None if cost.is_cuda else 1):
            partner, price = _auction(cost, price, step)
        paid = float(cost.gather(1, partner[:, None]).sum())
        if paid < primal:
            primal, assignment = paid, partner
        dual = max(dual, float((cost + price).amin(dim=1).sum() - price.sum()))
        if primal <= (1 + epsilon) * dual or step <= _LEAST * largest:
            break
        step = max(step / _FALL, _LEAST * largest)
    # A dual that rounding lifted above the primal proves the optimum.
    proved = 0.0 if primal <= dual else primal / dual - 1 if dual > 0 else math.inf
    return EarthMover(primal / len(cost), proved, assignment)


def _auction(cost: Tensor, price: Tensor, step: float) -> tuple[Tensor, Tensor]:
    """Return each bidder's item (P,) and the prices (P,) that an auction ends with.

    All bidders without an item bid at once. Each ends with an item that costs it, price included,
    at most `step` more than the cheapest.
    """
    count, device = len(cost), cost.device
    price = price.clone()
    item = torch.full((count,), -1, device=device)  # of each bidder
    bidder = torch.full((count,), -1, device=device)  # of each item
    free = torch.arange(count, device=device)
    while len(free):
        dear = cost[free] + price
        cheapest, wanted = dear.min(dim=1)
        dear.scatter_(1, wanted[:, None], math.inf)
        second = dear.amin(dim=1) if count > 1 else cheapest
        bid = price[wanted] + (second - cheapest) + step
        best = torch.full_like(price, -math.inf).scatter_reduce_(0, wanted, bid, "amax")
        # Of equal bids that of the first bidder counts.
        highest = bid == best[wanted]
        winner = torch.full((count,), count, device=device)
        winner.scatter_reduce_(0, wanted[highest], free[highest], "amin")
        sold = (winner < count).nonzero()[:, 0]
        before = bidder[sold]
        item[before[before >= 0]] = -1
        bidder[sold] = winner[sold]
        item[winner[sold]] = sold
        price[sold] = best[sold]
        free = (item < 0).nonzero()[:, 0]
    return item, price
