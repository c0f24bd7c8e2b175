# SPDX-License-Identifier: Apache-2.0
"""What is measured: cases, their contenders, the floor under them, and the fields they run on."""

import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from bench.units import in_bytes

Outputs = dict[str, Sequence[Any]]
"""Tensors or arrays by name; a batch that was not packed has several of a name."""

Kind = Literal["ours", "other", "part"]
"""diffiso; a peer or the reference, doing the same job; whoever does less, for orientation."""

PLURAL = {
    "node": "nodes",
    "pixel": "pixels",
    "point": "points",
    "ray": "rays",
    "vertex": "vertices",
}


NO_MEMORY = "not enough memory"
NO_DATA = "no data"


@dataclass(frozen=True)
class Settings:
    """Where and how often to measure; `quick` asks for half the sizes, `smoke` for tiny ones."""

    device: torch.device
    threads: int
    runs: int = 7
    smoke: bool = False
    quick: bool = False

    @property
    def on_cpu(self) -> bool:
        return self.device.type == "cpu"

    def lacks(self, needed: int) -> str:
        """Say how much memory is missing of what is needed; empty where it is there."""
        free = free_memory(self.device)
        if needed <= free:
            return ""
        return f"{NO_MEMORY}: it needs about {in_bytes(needed)}, {in_bytes(free)} are free"

    def size(self, full: int, tiny: int) -> int:
        return tiny if self.smoke else full // 2 if self.quick else full


def free_memory(device: torch.device) -> float:
    """Return how many bytes are free; without end where Linux does not tell."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    try:
        text = Path("/proc/meminfo").read_text()
    except OSError:
        return math.inf
    found = re.search(r"^MemAvailable:\s+(\d+) kB", text, re.MULTILINE)
    return min(1024 * int(found[1]) if found else math.inf, free_in_group())


def free_in_group() -> float:
    """Return how many bytes a container leaves; without end outside of one."""
    group = Path("/sys/fs/cgroup")
    try:
        most, used = ((group / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        return math.inf if most == "max" else int(most) - int(used)
    except (OSError, ValueError):
        return math.inf


def outputs_of_mesh(mesh: Any) -> Outputs:
    found: Outputs = {"vertices": [mesh.vertices], "faces": [mesh.faces]}
    return found if mesh.edges is None else {**found, "edges": [mesh.edges]}


def outputs_of_tensors(result: Any) -> Outputs:
    """A tensor, or those of a tuple."""
    return {"tensors": [result] if isinstance(result, Tensor) else list(result)}


@dataclass(frozen=True)
class Contender:
    """One way to do what the case asks for.

    Attributes:
        run: Does it once. Inputs stand ready in the form this contender likes best.
        outputs: Names the tensors or arrays in what `run` returned, outside the clock.
        runs: Fewer runs, for the slow.
        like: Whose outputs it shall have: a contender above; by default the first one.
        allowed: By how much outputs may differ, by name, where that is not what `agreement` says.
        through_torch: Whether its memory comes from torch's allocator; only such memory is seen on
            a GPU.
    """

    name: str
    run: Callable[[], Any]
    outputs: Callable[[Any], Outputs] = outputs_of_tensors
    kind: Kind = "other"
    runs: int | None = None
    through_torch: bool = True
    like: str | None = None
    allowed: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Floor:
    """What no implementation can avoid: these inputs read once, such outputs written once."""

    reads: Sequence[Tensor]
    writes: Sequence[Tensor] = ()

    @property
    def bytes(self) -> int:
        return sum(tensor.nbytes for tensor in (*self.reads, *self.writes))

    @property
    def what(self) -> str:
        parts = ["inputs read"] * bool(self.reads) + ["outputs zeroed"] * bool(self.writes)
        return " and ".join(parts) + " once"

    def passes(self) -> dict[str, Callable[[], object]]:
        """Two ways to do only that, of which the faster counts.

        Both are reductions of torch over 8-byte words, whatever the values are, with all threads:
        which of the two comes closer to the memory's speed depends on the machine.
        """
        words = [
            tensor.flatten()[: tensor.numel() // 4 * 4].view(torch.int64)
            for tensor in self.reads
            if tensor.numel() >= 4
        ]

        def run(reduce: Callable[[Tensor], Tensor]) -> list[Tensor]:
            read = [reduce(tensor) for tensor in words]
            return read + [torch.zeros_like(tensor) for tensor in self.writes]

        return {"sum": lambda: run(torch.sum), "amax": lambda: run(torch.amax)}


@dataclass(frozen=True)
class Case:
    """Contenders for one job; the first is the one that others are compared with.

    Attributes:
        samples: How many `unit`s there are: scratch memory is counted per unit.
        calls: How often the clock lets each contender run at a time, for very short ones.
    """

    name: str
    contenders: Sequence[Contender]
    samples: int
    unit: str = "node"
    floor: Floor | None = None
    calls: int = 1


@dataclass(frozen=True)
class LeftOut:
    """A case that cannot be measured here, and why."""

    name: str
    why: str


@dataclass(frozen=True)
class Growth:
    """How the time of a call grows: what runs at each of some sizes.

    Attributes:
        over: What grows, such as "rays".
        sizes: From small to large.
        build: Returns what runs at a size; inputs are ready.
    """

    over: str
    sizes: Sequence[int]
    build: Callable[[int], Callable[[], Any]]


def over_threads(run: Callable[[], Any], settings: Settings) -> Iterator[Growth]:
    """One job with one thread, two, four: on the CPU, as far as there are as many."""

    def build(threads: int) -> Callable[[], Any]:
        def with_threads() -> Any:
            torch.set_num_threads(threads)
            try:
                return run()
            finally:
                torch.set_num_threads(settings.threads)

        return with_threads

    if settings.on_cpu and settings.threads > 1:
        sizes = [2**n for n in range(settings.threads.bit_length())]
        yield Growth("threads", sizes, build)


def sphere(nodes: int, device: torch.device, radius: float = 0.7) -> Tensor:
    """Signed distance on [-1, 1]^3, (nodes, nodes, nodes) float32."""
    x = torch.linspace(-1, 1, nodes, device=device)
    values = x[:, None, None].square() + x[:, None].square() + x.square()
    return values.sqrt_().sub_(radius)


def gyroid(nodes: int, device: torch.device) -> Tensor:
    """The gyroid over 2.5 periods, [-7.9, 7.9]^3: 3,186,090 vertices on 512 nodes."""
    x = torch.linspace(-7.9, 7.9, nodes, device=device)
    sin, cos = x.sin(), x.cos()
    values = sin[:, None, None] * cos[:, None] + sin[:, None] * cos
    return values.add_(cos[:, None, None] * sin)


def random(nodes: int, device: torch.device) -> Tensor:
    """Independent normal samples: a surface in nearly every cell."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn((nodes, nodes, nodes), generator=generator).to(device)


def spheres(batch: int, nodes: int, device: torch.device) -> Tensor:
    """Spheres of growing radius, (batch, nodes, nodes, nodes)."""
    radii = torch.linspace(0.3, 0.9, batch).tolist()
    return torch.stack([sphere(nodes, device, radius) for radius in radii])


def random_points(count: int, device: torch.device) -> Tensor:
    """Points spread evenly over [-1, 1]^3, in no order, (count, 3)."""
    generator = torch.Generator().manual_seed(0)
    return (torch.rand((count, 3), generator=generator) * 2 - 1).to(device)


class DentedSphere(torch.nn.Module):
    """A sphere's distance with dents from a small network of random weights."""

    def __init__(self, width: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        sizes = [3, width, width, width, 1]
        self.weights = torch.nn.ParameterList(
            torch.randn((a, b), generator=generator) * math.sqrt(2 / a)
            for a, b in itertools.pairwise(sizes)
        )

    def forward(self, points: Tensor) -> Tensor:
        hidden = 2 * points
        for weight in self.weights[:-1]:
            hidden = torch.nn.functional.softplus(hidden @ weight, beta=10)
        return points.norm(dim=1) - 0.6 + 0.05 * (hidden @ self.weights[-1])[:, 0]
