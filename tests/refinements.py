# SPDX-License-Identifier: Apache-2.0
"""A small network, views, and what tests of refinement need of them."""

import dataclasses

import torch

import diffiso
from diffiso import io
from diffiso.fields import DecoderSettings
from diffiso.pipelines.auto_decoder import AutoDecoder, SampleSettings, TrainSettings, train
from diffiso.pipelines.mesh_sdf import RefineSettings
from diffiso.pipelines.sdfdiff import ViewsSettings, make_views
from diffiso.run import load_checkpoint, save_checkpoint

CENTER, SIZE = (5.0, -2.0, 1.0), 3.0


def quiet(line):
    pass


def write_solid(path, solid):
    """Away from the origin and of another size than the network's frame."""
    mesh = diffiso.isosurface(solid, -1.0, 1.0, 32)
    io.save_mesh(path, diffiso.Mesh(SIZE * mesh.vertices + torch.tensor(CENTER), mesh.faces))


def make_folder(root):
    """A network that knows two balls that were squeezed, a solid between them, and its views."""
    for name, height in (("flat", 0.45), ("between", 0.6), ("tall", 0.8)):
        place = root / ("solids" if name != "between" else ".")
        place.mkdir(exist_ok=True)
        squeezed = torch.tensor([1.0, height, 1.0])
        write_solid(place / f"{name}.ply", lambda p, s=squeezed: (p / s).norm(dim=1) * 0.5 - 0.45)
    settings = TrainSettings(
        str(root / "solids"),
        str(root / "run"),
        decoder=DecoderSettings(
            latent_size=2, width=24, depth=3, skips=(), activation="softplus", beta=20.0,
            weight_norm=False,
        ),
        samples=SampleSettings(4000),
        steps=300,
        learning_rate=1e-2,
        points_per_shape=128,
        resolution=12,
        distance_samples=500,
        device="cpu",
    )  # fmt: skip
    train(settings, quiet)
    views = ViewsSettings(
        str(root / "between.ply"), str(root / "views"), rig="ring", count=3, size=48
    )
    make_views(views, quiet)
    return root


def quick(folder, output, target="views", **changes):
    settings = RefineSettings(
        str(folder / "run"),
        str(folder / target),
        output=str(output),
        reference=str(folder / "between.ply") if target == "views" else None,
        start_shape="flat",
        steps=30,
        learning_rate=0.03,
        resolution=20,
        refresh_every=10,
        surface_points=500,
        samples=2000,
        picture=False,
    )
    return dataclasses.replace(settings, **changes)


def lifted(folder, tmp_path):
    """The same network with a field that is positive everywhere."""
    state = load_checkpoint(folder / "run" / "checkpoint.pt")
    model = AutoDecoder.load(folder / "run")
    with torch.no_grad():
        [p for p in model.decoder.parameters() if p.shape == (1,)][-1].add_(5.0)
    save_checkpoint(tmp_path / "lifted.pt", state | {"model": model.state_dict()})
    return str(tmp_path / "lifted.pt")
