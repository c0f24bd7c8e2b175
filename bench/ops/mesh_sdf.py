# SPDX-License-Identifier: Apache-2.0
"""The MeshSDF gradient of a grid's surface, forward and backward, beside its recipe in torch."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

import diffiso
from bench.cases import (
    Case,
    Contender,
    Floor,
    Growth,
    Kind,
    Outputs,
    Settings,
    gyroid,
    over_threads,
    random,
    spheres,
)
from bench.peers import SLOW_RUNS
from bench.peers.grid_sample import grid_sample
from diffiso import Grid, reference
from diffiso.ops.mesh_sdf import Law

LAWS: tuple[Law, ...] = ("sdf", "implicit")


def outputs(gradients: Tensor) -> Outputs:
    return {"gradients": [gradients], "length": [gradients.norm()]}


def both_ways(
    attach: Callable[[], Tensor], values: Tensor, weights: Tensor
) -> Callable[[], Tensor]:
    return lambda: torch.autograd.grad(attach(), values, weights)[0]


def by_hand(values: Tensor, vertices: Tensor, law: Law, batch: int) -> Callable[[], Tensor]:
    """MeshSDF as one writes it with torch: grid_sample again at the vertices, normal, injection."""
    size = torch.tensor(values.shape, device=values.device)
    # torch divides the points of a batch evenly: repeat the last ones.
    padded = torch.cat([vertices, vertices[: -len(vertices) % batch]])
    places = (2 * padded / (size - 1) - 1).flip(1).contiguous().requires_grad_()
    to_index = (2 / (size - 1)).float()

    def attach() -> Tensor:
        value = grid_sample(values, places, batch)
        (slope,) = torch.autograd.grad(value.sum(), places, retain_graph=True)
        normal = slope.flip(1) * to_index
        norm = normal.norm(dim=1, keepdim=True)
        direction = normal / (norm if law == "sdf" else norm.square())
        moved = padded - direction * (value - value.detach())[:, None]
        return moved[: len(vertices)]

    return attach


def case(
    name: str, values: Tensor, law: Law, threads: int, *, with_reference: bool, jump: float = 0.25
) -> Case:
    mesh = diffiso.marching_cubes(values)
    assert isinstance(mesh, diffiso.Mesh)
    vertices, weights = mesh.vertices, torch.ones_like(mesh.vertices)
    attached = values.clone().requires_grad_()

    def contender(name: str, attach: Callable[[], Tensor], kind: Kind = "other") -> Contender:
        # Vertices lie on faces of cells, where slopes jump: torch takes those of the other cell.
        # That turns what single vertices pass on, not how much all pass on together.
        run = both_ways(attach, attached, weights)
        allowed = {"gradients": jump, "length": jump / 10}
        return Contender(name, run, outputs, kind, allowed=allowed)

    contenders = [
        contender(
            "diffiso",
            lambda: diffiso.mesh_sdf(Grid(attached), vertices, law=law),
            kind="ours",
        ),
        *[
            contender(
                "grid_sample by hand" + f", in {batch} parts" * (batch > 1),
                by_hand(attached, vertices, law, batch),
            )
            for batch in sorted({1, threads})
        ],
    ]
    if with_reference:
        offsets = torch.tensor([0, len(vertices)])

        def attach() -> Tensor:
            return reference.mesh_sdf_grid(attached[None], vertices, offsets, law=law)

        run = both_ways(attach, attached, weights)
        contenders.append(Contender("pure-torch reference", run, outputs, runs=SLOW_RUNS))
    floor = Floor([vertices, weights], writes=[values, vertices])
    return Case(f"{name}, law {law}", contenders, values.numel(), "node", floor)


def cases(settings: Settings) -> Iterator[Case]:
    threads = settings.threads if settings.on_cpu else 1
    for law in LAWS:
        nodes = settings.size(256, 20)
        name = f"gyroid {nodes}^3"
        values = gyroid(nodes, settings.device)
        yield case(name, values, law, threads, with_reference=False)
    nodes = settings.size(64, 8)
    values = random(nodes, settings.device)
    yield case(
        f"random {nodes}^3", values, "sdf", threads, with_reference=settings.on_cpu, jump=0.6
    )


def growths(settings: Settings) -> Iterator[Growth]:
    def step(plain: Tensor) -> Callable[[], Tensor]:
        """Of (B, X, Y, Z) values."""
        meshes = diffiso.marching_cubes(plain)
        assert isinstance(meshes, diffiso.MeshBatch)
        values = plain.clone().requires_grad_()
        vertices, offsets = meshes.vertices, meshes.vertex_offsets
        return both_ways(
            lambda: diffiso.mesh_sdf(Grid(values), vertices, vertex_offsets=offsets),
            values,
            torch.ones_like(vertices),
        )

    size, device = settings.size, settings.device
    nodes = [size(n, n // 8) for n in (32, 64, 128, 256)]
    yield Growth("nodes along an axis", nodes, lambda n: step(gyroid(n, device)[None]))
    side = size(64, 8)
    yield Growth(f"grids of {side}^3", [1, 4, 16], lambda n: step(spheres(n, side, device)))
    yield from over_threads(step(gyroid(nodes[-1], device)[None]), settings)
