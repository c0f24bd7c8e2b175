# SPDX-License-Identifier: Apache-2.0
"""Seeds, and generators that depend on nothing but a seed and counters."""

from __future__ import annotations

import hashlib

import torch


def seed_all(seed: int) -> torch.Generator:
    """Seed torch's global generator and return a torch generator of the same seed.

    Args:
        seed: A non-negative integer.

    Raises:
        ValueError: If the seed is negative.

    Example:
        >>> torch.equal(torch.rand(3, generator=seed_all(1)), torch.rand(3, generator=seed_all(1)))
        True
    """
    if seed < 0:
        raise ValueError(f"seed_all: seed must not be negative, got {seed}")
    torch.manual_seed(seed)
    return torch.Generator().manual_seed(seed)


def step_generator(
    seed: int, *counters: int, device: torch.device | str = "cpu"
) -> torch.Generator:
    """Return a generator for one step of a run, made from the seed and the step's counters alone.

    No state is carried from step to step: a run that resumes at step 1000 draws there what the
    unbroken run draws, and each process may draw its own part of a step. Different counters give
    unrelated numbers, also where they differ in one bit (BLAKE2 mixes them).

    Args:
        seed: A non-negative integer, the run's.
        *counters: Non-negative integers that tell the step, such as epoch, batch, process.
        device: Where the generator draws; each kind of device has numbers of its own.

    Raises:
        ValueError: If a number is negative.

    Example:
        >>> first = torch.rand(3, generator=step_generator(7, 1000))
        >>> torch.equal(first, torch.rand(3, generator=step_generator(7, 1000)))
        True
        >>> torch.equal(first, torch.rand(3, generator=step_generator(7, 1001)))
        False
    """
    return torch.Generator(device).manual_seed(step_seed(seed, *counters))


def step_seed(seed: int, *counters: int) -> int:
    """Return the seed of :func:`step_generator`, for what takes a seed and no generator.

    Args:
        seed: A non-negative integer, the run's.
        *counters: Non-negative integers that tell the step.

    Returns:
        A number below 2^63.

    Raises:
        ValueError: If a number is negative.

    Example:
        >>> step_seed(7, 1000) == step_seed(7, 1000), step_seed(7, 1000) == step_seed(7, 100, 0)
        (True, False)
    """
    numbers = (seed, *counters)
    if min(numbers) < 0:
        raise ValueError(f"step_seed: seed and counters must not be negative, got {numbers}")
    text = ",".join(str(int(number)) for number in numbers)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def step_choice(count: int, batch: int, step: int, seed: int, *counters: int) -> list[int]:
    """Return which of some things a step takes: one permutation of all after the other.

    Args:
        count: How many things there are.
        batch: How many a step takes, at most all.
        step: Which step.
        seed: A non-negative integer, the run's.
        *counters: Non-negative integers that tell one such choice from another.

    Returns:
        Sorted indices, `batch` of them; fewer where two permutations meet in a step and have one in
        common.

    Example:
        >>> sorted(step_choice(4, 2, 0, 7) + step_choice(4, 2, 1, 7))
        [0, 1, 2, 3]
    """
    places = range(step * batch, (step + 1) * batch)
    orders = {
        epoch: torch.randperm(count, generator=step_generator(seed, *counters, epoch))
        for epoch in {place // count for place in places}
    }
    return sorted({int(orders[place // count][place % count]) for place in places})
