# SPDX-License-Identifier: Apache-2.0
"""A study of `mesh_sdf_study.py`: a network fine-tuned through its meshes.

A network learns 64 chairs, or cars, from signed distances until its loss is flat. From there on it
learns by the distance of its meshes (MeshSDF, supplementary 8.5), or, for as many seconds of the
processor and at the better of two rates, goes on as before. All three also find the codes of 16
shapes that none has seen, from signed distances as DeepSDF does. Networks and meshes stay in
DIR/runs, for other runs of the same family and seed.
"""

from __future__ import annotations

import copy
import math
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

import diffiso
from diffiso import Mesh, NarrowBand, io, shapes
from diffiso.fields import DecoderSettings, LatentField
from diffiso.metrics import PROTOCOLS, surface_distance
from diffiso.pipelines.auto_decoder import (
    AutoDecoder,
    EncodeSettings,
    SampleSettings,
    TrainingShape,
    TrainSettings,
    find_code,
    read_mesh_folder,
    train,
)
from diffiso.pipelines.auto_decoder.data import cached_samples, draw_samples
from diffiso.pipelines.auto_decoder.training import TrainState, train_steps
from diffiso.pipelines.mesh_sdf import FinetuneSettings, FinetuneState
from diffiso.pipelines.mesh_sdf.finetune import finetune_steps
from diffiso.run import processes, step_generator, track

Row = dict[str, Any]

FAMILIES = {"chairs": shapes.chairs, "cars": shapes.cars}
RUNS = [(family, seed) for seed in range(3) for family in FAMILIES]
TRAIN_SHAPES, TEST_SHAPES = 64, 16
CELLS = 128  # of all meshes that are judged
POINTS = 50_000  # on each surface, for distances
RATES = (5e-4, 5e-5)  # at which plain training goes on
STEPS = 16_000
SAMPLES = SampleSettings(count=100_000)
CHAMFER = "chamfer_squared_30k"


class Score(NamedTuple):
    """How far a surface is from the mesh that it stands for."""

    rms: float
    chamfer: float


def made(folder: Path, family: str, seed: int) -> tuple[Path, Path]:
    """Return the folders of the meshes to learn and of those to find, made if not there."""
    parts = folder / "runs" / f"{family}-{seed}"
    learned, found = parts / "learned", parts / "found"
    solids = FAMILIES[family](TRAIN_SHAPES + TEST_SHAPES, torch.Generator().manual_seed(seed))
    for index, solid in enumerate(track(solids, f"making {family}")):
        path = (learned if index < TRAIN_SHAPES else found) / f"{index:03d}.ply"
        if not path.is_file():
            with torch.no_grad():
                mesh = diffiso.isosurface(solid, -1.0, 1.0, CELLS, dtype=torch.float64)
            assert isinstance(mesh, Mesh)
            io.save_mesh(path, mesh)
    return learned, found


def settings_of(learned: Path, seed: int) -> TrainSettings:
    return TrainSettings(
        str(learned),
        decoder=DecoderSettings(
            latent_size=32, width=128, depth=5, skips=(2,), frequencies=5, weight_norm=False
        ),
        samples=SAMPLES,
        steps=STEPS,
        seed=seed,
    )


def learn(
    settings: TrainSettings,
    shapes: list[TrainingShape],
    samples: torch.Tensor,
    path: Path,
    start: AutoDecoder | None = None,
) -> tuple[AutoDecoder, float, list[tuple[int, float]]]:
    """Return a network, the processor's seconds that it took, and its losses.

    It starts from another one, if given; from the checkpoint at the path, if there is one.
    """
    digests = [shape.digest for shape in shapes]
    state = TrainState.start(settings, shapes, torch.device("cpu"))
    if path.is_file():
        state.load(path, settings, digests)
    elif start is not None:
        state.model.load_state_dict(start.state_dict())
    began = time.process_time()
    with processes("cpu") as group:
        train_steps(state, samples, settings, group, lambda: state.save(path, settings, digests))
    return state.model.eval(), time.process_time() - began, [tuple(r) for r in state.history]


@torch.no_grad()
def score(field: LatentField, shape: TrainingShape) -> Score:
    band = NarrowBand(-1.0, 1.0, CELLS, coarsest=CELLS // 2, close_boundary=True)
    mesh = diffiso.isosurface(field, band=band)
    assert isinstance(mesh, Mesh)
    if len(mesh.faces) == 0:
        return Score(math.inf, math.inf)
    mesh = Mesh(mesh.vertices.double(), mesh.faces)
    distance = surface_distance(mesh, shape.mesh, POINTS, torch.Generator().manual_seed(0))
    found = PROTOCOLS[CHAMFER].score(mesh, shape.mesh, torch.Generator().manual_seed(0))
    return Score(distance.rms / distance.side, found.value)
