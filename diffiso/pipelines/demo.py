# SPDX-License-Identifier: Apache-2.0
"""`diffiso demo`: a mesh becomes a neural field and a mesh again; a sphere becomes a torus."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from diffiso import view
from diffiso.io import check_output, load_mesh, save_gif, save_image, save_mesh
from diffiso.metrics import SurfaceDistance, surface_distance
from diffiso.ops import isosurface
from diffiso.pipelines.extract import describe, summarize
from diffiso.pipelines.fit import FitSettings, extract_field, fit_field
from diffiso.pipelines.morph import (
    MorphSettings,
    MorphStep,
    learn_family,
    target_mesh,
    turn_sphere_into_torus,
)
from diffiso.run import Report, check_settings, seed_all, track
from diffiso.shapes import MeshShape, gyroid_ball
from diffiso.types import Mesh

_FILES = (
    "input.ply",
    "neural.ply",
    "neural.glb",
    "torus.ply",
    "torus.glb",
    "demo.png",
    "morph.gif",
    "report.json",
)


@dataclass(frozen=True)
class DemoSettings:
    """What the demonstration does.

    Attributes:
        output: Folder to write to.
        mesh: Mesh file to fit; None for a procedural shape.
        up: Axis that points up in pictures of the mesh.
        fit: How to fit the neural field.
        morph: How to turn the sphere into a torus.
        samples: Points for distances.
        image_size: Pixels of each picture's side.
        frame_size: Pixels of each frame's side in the animation.
        frames: Frames of the animation.
        seed: Seed of everything drawn.
    """

    output: str = "diffiso-demo"
    mesh: str | None = None
    up: view.Up = "y"
    fit: FitSettings = field(default_factory=FitSettings)
    morph: MorphSettings = field(default_factory=MorphSettings)
    samples: int = 200_000
    image_size: int = 400
    frame_size: int = 300
    frames: int = 36
    seed: int = 0

    def __post_init__(self) -> None:
        """Check every value."""
        check_settings(
            self,
            positive=["samples", "image_size", "frame_size", "frames"],
            not_negative=["seed"],
        )

    @staticmethod
    def quick(
        output: str = "diffiso-demo", mesh: str | None = None, up: view.Up = "y", seed: int = 0
    ) -> DemoSettings:
        """Return settings for a first look: coarse and quick, but the topology still changes."""
        return DemoSettings(
            output,
            mesh,
            up,
            FitSettings(steps=100, batch=2048, samples=20_000, resolution=40),
            MorphSettings(
                points=128,
                training_steps=500,
                steps=50,
                learning_rate=0.04,
                resolution=24,
                surface_points=1000,
            ),
            samples=10_000,
            image_size=120,
            frame_size=120,
            frames=8,
            seed=seed,
        )


@dataclass(frozen=True)
class DemoResult:
    """What came out.

    Attributes:
        fit_distance: Between the mesh and the neural field's surface.
        torus_distance: Between the target torus and the mesh that was a sphere.
        euler_numbers: Of the mesh at every step, from 2 to 0.
        files: What was written.
    """

    fit_distance: SurfaceDistance
    torus_distance: SurfaceDistance
    euler_numbers: list[int]
    files: list[Path]


def demo(settings: DemoSettings, say: Callable[[str], None] = print) -> DemoResult:
    """Run the demonstration and write meshes, a contact sheet, an animation and a report.

    Args:
        settings: What to do.
        say: Takes each line for people.

    Raises:
        FileNotFoundError: If the mesh does not exist.
        ValueError: If the mesh cannot be used.
        OSError: If an output cannot be written.
        RuntimeError: If the sphere did not become a torus.
    """
    generator = seed_all(settings.seed)
    report = Report("demo", settings)
    inputs = [] if settings.mesh is None else [settings.mesh]
    paths = {name: check_output(Path(settings.output) / name, inputs=inputs) for name in _FILES}

    reference = _reference(settings)
    name = settings.mesh or "a ball cut from a gyroid"
    say(f"mesh      {name}: {summarize(reference)}")
    neural = _fit(reference, settings, generator)
    fit_distance = surface_distance(neural, reference, settings.samples, generator)
    say(f"fit       {summarize(neural)}; {fit_distance}; {report.lap('fit'):.0f} s")

    family = learn_family(settings.morph, generator)
    say(f"family    {len(family.shapes)} spheres and tori learned; {report.lap('family'):.0f} s")
    history = turn_sphere_into_torus(family, settings.morph, generator)
    euler_numbers = [step.euler_number for step in history]
    torus_distance = surface_distance(
        history[-1].mesh, target_mesh(settings.morph), settings.samples, generator
    )
    change = f"Euler number {euler_numbers[0]} to {euler_numbers[-1]} in {len(history) - 1} steps"
    say(f"morph     {change}; {torus_distance}; {report.lap('morph'):.0f} s")
    if (euler_numbers[0], euler_numbers[-1]) != (2, 0):
        raise RuntimeError(
            f"demo: a sphere must become a torus (Euler number 2 to 0), got {euler_numbers}"
        )

    save_mesh(paths["input.ply"], reference)
    for name, mesh in (("neural", neural), ("torus", history[-1].mesh)):
        save_mesh(paths[f"{name}.ply"], mesh)
        save_mesh(paths[f"{name}.glb"], mesh)
    save_image(paths["demo.png"], draw_sheet(reference, neural, fit_distance, history, settings))
    save_gif(paths["morph.gif"], draw_morph(history, settings))
    report.lap("pictures")

    report.files += [str(path) for path in paths.values()]
    report.metrics |= {
        "fit": describe(neural) | {"distance": fit_distance.as_dict()},
        "morph": {
            "euler_numbers": euler_numbers,
            "losses": [step.loss for step in history],
            "distance": torus_distance.as_dict(),
        },
    }
    report.write(paths["report.json"])
    say(f"wrote     {Path(settings.output)}/: {', '.join(_FILES)}")
    return DemoResult(fit_distance, torus_distance, euler_numbers, list(paths.values()))


def draw_sheet(
    reference: Mesh,
    neural: Mesh,
    distance: SurfaceDistance,
    history: list[MorphStep],
    settings: DemoSettings,
) -> view.Image:
    """Return the contact sheet: mesh and neural twin from two sides, four steps of the morph."""
    images, captions = [], []
    for azimuth in (30.0, 150.0):
        camera = view.fit_view(reference.vertices, azimuth, up=settings.up)
        images += [
            view.render(mesh, camera, size=settings.image_size, color=color)
            for mesh, color in ((reference, view.CLAY), (neural, view.SLATE))
        ]
        captions += [
            f"mesh\n{len(reference.faces):,} faces",
            f"neural field\nRMS {100 * distance.rms / distance.side:.3f}% of its side",
        ]
    opens = next(k for k, step in enumerate(history) if step.euler_number == 0)
    camera = _morph_view(history)
    for k in (0, max(opens - 1, 0), opens, len(history) - 1):
        images.append(_morph_picture(history[k], camera, settings, settings.image_size))
        captions.append(_morph_caption(k, history[k]))
    return view.contact_sheet(images, captions, columns=4)


def draw_morph(history: list[MorphStep], settings: DemoSettings) -> list[view.Image]:
    """Return the animation's frames: closely spaced while the hole opens, the last one held."""
    share = torch.linspace(0, 1, settings.frames) ** 1.5
    steps = (share * (len(history) - 1)).round().long().tolist()
    camera = _morph_view(history)
    frames = [
        view.contact_sheet(
            [_morph_picture(history[k], camera, settings, settings.frame_size)],
            [_morph_caption(k, history[k])],
        )
        for k in track(sorted(set(steps)), "drawing the animation")
    ]
    return frames + frames[-1:] * 8


@torch.no_grad()
def _reference(settings: DemoSettings) -> Mesh:
    if settings.mesh is not None:
        return load_mesh(settings.mesh)
    mesh = isosurface(gyroid_ball(), -1.0, 1.0, settings.fit.resolution)
    assert isinstance(mesh, Mesh)
    return mesh


def _fit(reference: Mesh, settings: DemoSettings, generator: torch.Generator) -> Mesh:
    shape = MeshShape(reference, name=settings.mesh or "mesh")
    neural = extract_field(fit_field(shape, settings.fit, generator), settings.fit.resolution)
    if len(neural.faces) == 0:
        raise RuntimeError("demo: the fitted field has no surface")
    return neural


def _morph_view(history: list[MorphStep]) -> view.View:
    ends = torch.cat([history[0].mesh.vertices, history[-1].mesh.vertices])
    return view.fit_view(ends, 30.0, 35.0, up="z", margin=1.25)


def _morph_picture(
    step: MorphStep, camera: view.View, settings: DemoSettings, size: int
) -> view.Image:
    ground = -settings.morph.start_radius
    return view.render(step.mesh, camera, size=size, color=view.SAGE, ground=ground)


def _morph_caption(index: int, step: MorphStep) -> str:
    return f"step {index}, Euler number {step.euler_number}\nsurface loss {step.loss:.2g}"
