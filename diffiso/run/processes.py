# SPDX-License-Identifier: Apache-2.0
"""One process, or several under `torchrun`: the same pipeline serves both.

Between the processes only equal steps may be taken: a collective (`agree`, `any`, `mean`, …)
waits until every process has called it. What ends one process must end all, and be told once.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

Value = TypeVar("Value")

_FIRST_TO_FAIL = "first to fail"
_TIME_TO_TELL = 3.0  # seconds


class ProcessStopped(RuntimeError):
    """Another process of the run cannot go on; it tells why, this one only ends."""


@dataclass(frozen=True)
class Processes:
    """The processes of a run, seen from one of them; made by :func:`processes`.

    Attributes:
        rank: Which of the processes this is, from 0.
        size: How many there are.
        device: Where this process computes.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files and talks to people."""
        return self.rank == 0

    def say(self, text: str) -> None:
        """Print a line, in the first process only."""
        if self.is_first:
            print(text, flush=True)

    def any(self, flag: bool) -> bool:
        """Return in every process whether the flag is set in any of them; a collective.

        Lets all stop together where one wants to: out of time, interrupted, converged.
        """
        if self.size == 1:
            return flag
        votes = torch.tensor(int(flag), device=self.device)
        dist.all_reduce(votes, dist.ReduceOp.MAX)
        return bool(votes)

    def agree(self, ok: bool, message: str = "") -> None:
        """Go on if all is well in every process, else stop in every process; a collective.

        Args:
            ok: Whether this process can go on.
            message: Why it cannot.

        Raises:
            RuntimeError: With the message, if this process cannot go on.
            ProcessStopped: If another one cannot, with the message of the first of those.
        """
        with self.together():
            if not ok:
                raise RuntimeError(message)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Run a block in every process and go on when all have done it; a collective.

        There must be no other collective in the block: use it for what may fail in one process
        only, such as reading files.

        Raises:
            ProcessStopped: If the block failed in another process only. An error of the block in
                this one comes out as it is.
        """
        error: Exception | None = None
        try:
            yield
        except Exception as caught:
            error = caught
        if self.any(error is not None) and error is None:
            raise ProcessStopped(self._reason(None))
        if error is not None:
            if self.size > 1:
                self._reason(str(error))
            raise error

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Give every process the first one's values, in place; a collective."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor.detach(), src=0)

    def share(self, value: Value) -> Value:
        """Return the first process's value in every process; a collective.

        The value travels pickled, between processes of one run only.
        """
        if self.size == 1:
            return value
        box: list[Any] = [value if self.is_first else None]
        dist.broadcast_object_list(box, src=0, device=self.device)
        shared: Value = box[0]
        return shared

    def mean(self, tensor: Tensor) -> Tensor:
        """Return the mean of a tensor over all processes, the same in each; a collective."""
        if self.size == 1:
            return tensor
        total = tensor.detach().clone()
        dist.all_reduce(total)
        return total / self.size

    def mean_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Give every parameter the mean of its gradients over all processes; a collective.

        One message for all of them; where there is no gradient it counts as zero.
        """
        weights = [weight for weight in parameters if weight.requires_grad]
        for weight in weights:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        if self.size == 1 or not weights:
            return
        flat = self.mean(torch.cat([w.grad.flatten() for w in weights if w.grad is not None]))
        for weight, part in zip(
            weights, torch.split(flat, [w.numel() for w in weights]), strict=True
        ):
            weight.grad = part.view_as(weight)

    def _reason(self, mine: str | None) -> str:
        """Return what the first process that cannot go on says; a collective."""
        said: list[str | None] = [None] * self.size
        dist.all_gather_object(said, mine)
        rank, reason = next((k, text) for k, text in enumerate(said) if text is not None)
        return f"{reason} (in process {rank} of {self.size})"


@contextlib.contextmanager
def processes(device: str = "auto", timeout: float = 600.0) -> Iterator[Processes]:
    """Join the processes that `torchrun` started; without it, there is one.

    They talk through gloo on the CPU, and NCCL on CUDA with a GPU for each. An error in one ends
    all: that process raises it, the others end with exit code 1 and say nothing. Those that wait in
    a collective meanwhile are freed by gloo at once, and on CUDA by `torchrun`, which ends what is
    left when one process has failed.

    Args:
        device: `"cpu"`, `"cuda"`, or `"auto"`: CUDA where there is a GPU for each process.
        timeout: Seconds after which a process that waits for another gives up.

    Raises:
        ValueError: If the device is unknown, or there is no GPU for each process.
        RuntimeError: If the processes cannot join.

    Example:
        >>> with processes("cpu") as world:
        ...     world.say(f"{world.size} process on the {world.device}")
        1 process on the cpu
    """
    local, neighbours = _environment("LOCAL_RANK", 0), _environment("LOCAL_WORLD_SIZE", 1)
    place = _device(device, local, neighbours)
    if dist.is_initialized():  # by who called; who began it ends it
        yield Processes(dist.get_rank(), dist.get_world_size(), place)
        return
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield Processes(0, 1, place)
        return
    if place.type == "cuda":
        torch.cuda.set_device(place)
    patience = datetime.timedelta(seconds=timeout)
    store, rank, count = next(rendezvous("env://", timeout=patience))
    # A run after the first in the same processes must not meet what the first left in the store.
    store = PrefixStore(f"diffiso/{store.add(f'diffiso/runs/{rank}', 1)}", store)
    # Its functions take the group of the time of their import for a default and would hold it, and
    # gloo's threads, to the end of Python: one that then gives back a tensor aborts the process.
    importlib.import_module("torch.distributed.nn.functional")
    backend = "nccl" if place.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=patience)
    try:
        yield Processes(rank, count, place)
    except (Exception, KeyboardInterrupt) as error:
        first = not isinstance(error, ProcessStopped) and _is_first_to_fail(store, rank)
        if backend == "gloo":  # NCCL would wait for the others, whom torchrun is about to end
            dist.destroy_process_group()
        if not first:
            # The launcher ends all when one has ended: leave the first one time to tell why.
            time.sleep(_TIME_TO_TELL)
            raise SystemExit(1) from None
        if isinstance(error, RuntimeError) and "gloo" in str(error):
            raise RuntimeError(
                f"process {rank} of {count} lost another one, which ended without a word (killed, "
                f"or out of memory) or did not answer for {timeout:g} seconds"
            ) from error
        raise
    dist.destroy_process_group()


def is_first() -> bool:
    """Return whether this is the only process, or the first of several that have joined."""
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0


def _environment(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"processes: {name} must be a number, got {text!r}") from None


def _device(device: str, local: int, neighbours: int) -> torch.device:
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"processes: device must be 'auto', 'cpu' or 'cuda', got {device!r}")
    have = torch.cuda.device_count() if device != "cpu" and torch.cuda.is_available() else 0
    if device == "cuda" and have < neighbours:
        raise ValueError(
            f"processes: device 'cuda' needs a GPU for each of {neighbours} processes, got {have}"
        )
    if device == "cpu" or have < neighbours:
        return torch.device("cpu")
    return torch.device("cuda", local)


def _is_first_to_fail(store: PrefixStore, rank: int) -> bool:
    """Return whether no other process has failed before this one; the first one tells why.

    Asks the store through which the processes met: it works when the connection between them, or
    one of them, is broken.
    """
    try:
        first: bytes = store.compare_set(_FIRST_TO_FAIL, "", str(rank))
        return first.decode() == str(rank)
    except Exception:  # the process that held the store is gone
        return True
