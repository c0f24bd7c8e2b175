# SPDX-License-Identifier: Apache-2.0
"""The table of commands: each is a settings dataclass and a function of a pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Command:
    """One command, and where its pipeline stands; nothing is imported before it is chosen.

    Attributes:
        name: What one types.
        summary: What it does, in a line.
        text: What it does, in a few.
        usage: What must be given.
        examples: Command lines without `diffiso`, and what each does.
        module: Module of `diffiso.pipelines`.
        settings: Name of its settings dataclass there.
        function: Name of the function that takes such settings.
        positional: Settings given by place.
        metavars: What stands for their values in the help.
        presets: Flags that choose a method of the settings dataclass, and what they are good for;
            it takes the settings that have no default, and returns all.
        threads: CPU threads unless told otherwise; None leaves it to torch.
    """

    name: str
    summary: str
    text: str
    usage: str
    examples: tuple[tuple[str, str], ...]
    module: str
    settings: str
    function: str
    positional: tuple[str, ...] = ()
    metavars: Mapping[str, str] = field(default_factory=dict)
    presets: Mapping[str, str] = field(default_factory=dict)
    threads: int | None = None


COMMANDS = (
    Command(
        name="extract",
        summary="mesh or volume in, surface out, with its distance, a picture and a report",
        text="Write the level set of a closed mesh's signed distances, or of a volume, as a mesh. "
        "A picture (.png) and a report (.json) go beside it.",
        usage="MESH|VOLUME.npy -o OUT.ply",
        examples=(
            (
                "extract bunny.obj -o bunny.ply --resolution 256",
                "mesh to signed distances to surface; bunny.png and bunny.json appear beside it",
            ),
            (
                "extract scan.npy -o scan.glb --level 0.5 --close-boundary",
                "the level set of a volume (X, Y, Z) of floats, capped where it leaves the box",
            ),
        ),
        module="extract",
        settings="ExtractSettings",
        function="extract",
        positional=("source",),
        metavars={"source": "MESH|VOLUME.npy", "output": "OUT.ply"},
    ),
    Command(
        name="compare",
        summary="how far two meshes are apart: scores with their floors, and a picture of errors",
        text="Score a mesh against a reference with the metrics of the papers, each beside the "
        "least value that its sampling can show. A report (.json) and a picture (.png) of both "
        "meshes, coloured by their distance, go to the output.",
        usage="MESH REFERENCE [-o OUT.json]",
        examples=(
            ("compare bunny.ply bunny.obj", "print a table, write comparison.json and .png"),
            (
                "compare bunny.ply bunny.obj --colored errors.glb",
                "also the mesh itself, coloured by its distance",
            ),
        ),
        module="compare",
        settings="CompareSettings",
        function="compare_files",
        positional=("mesh", "reference"),
        metavars={"mesh": "MESH", "reference": "REFERENCE", "output": "OUT.json"},
    ),
    Command(
        name="shapes",
        summary="a folder of closed meshes to try things on, made from nothing",
        text="Write procedural solids as closed meshes (.ply), and a picture of them.",
        usage="[-o FOLDER]",
        examples=(("shapes -o solids --count 20", "twenty solids to train on"),),
        module="shapes",
        settings="ShapesSettings",
        function="make_shapes",
        metavars={"output": "FOLDER"},
    ),
    Command(
        name="train",
        summary="one network and a latent code a shape for a folder of meshes",
        text="Learn the closed meshes of a folder: one network for all, a latent code for each "
        "(DeepSDF; MeshSDF, Eq. 1). Can be killed and resumed, and runs under torchrun.",
        usage="MESH_FOLDER [-o FOLDER]",
        examples=(
            (
                "train solids -o run",
                "learn the closed meshes in solids/; everything lands in run/",
            ),
            ("train solids -o run --resume", "go on after it was stopped"),
        ),
        module="auto_decoder",
        settings="TrainSettings",
        function="train",
        positional=("source",),
        metavars={"source": "MESH_FOLDER", "output": "FOLDER"},
        presets={"official": "those of DeepSDF's code, for a GPU and thousands of shapes"},
    ),
    Command(
        name="encode",
        summary="find the latent code of a mesh that a trained network has not seen",
        text="Find the latent code with which a trained network comes nearest to a closed mesh, "
        "and write its surface; a picture (.png) and a report (.json) go beside it.",
        usage="RUN_FOLDER MESH [-o OUT.ply]",
        examples=(
            ("encode run stool.obj -o stool.ply", "the network of `diffiso train`, another mesh"),
        ),
        module="auto_decoder",
        settings="EncodeSettings",
        function="encode",
        positional=("checkpoint", "mesh"),
        metavars={"checkpoint": "RUN_FOLDER", "mesh": "MESH", "output": "OUT.ply"},
    ),
    Command(
        name="refine",
        summary="move a latent code until its mesh fits silhouettes or a surface",
        text="Move a latent code of a trained network by gradients through its mesh (MeshSDF, "
        "4.1 and 4.2), to silhouettes that cameras saw or to a closed mesh, also of another "
        "topology. A sheet of pictures (.png), an animation (.gif), a report (.json) and a "
        "checkpoint (.pt) go beside the mesh. Can be killed and resumed, and runs under torchrun.",
        usage="RUN_FOLDER VIEWS_FOLDER|MESH [-o OUT.ply]",
        examples=(
            (
                "refine run stool-views --reference stool.obj -o stool.ply",
                "the network of `diffiso train`, the pictures of `diffiso views stool.obj`",
            ),
            ("refine run stool.obj -o stool.ply", "to a surface"),
        ),
        module="mesh_sdf",
        settings="RefineSettings",
        function="refine",
        positional=("checkpoint", "target"),
        metavars={
            "checkpoint": "RUN_FOLDER",
            "target": "VIEWS_FOLDER|MESH",
            "output": "OUT.ply",
            "reference": "MESH",
        },
        presets={
            "paper": "those of MeshSDF's single-view refinement",
            "official": "those of its published demonstration",
        },
    ),
    Command(
        name="finetune",
        summary="move a network's weights until its meshes come nearer to those it learned",
        text="Move the weights of a trained network by the distance of its meshes from those that "
        "it learned, through their vertices (MeshSDF, 8.5). What comes out is a run folder like "
        "that of `diffiso train`. Can be killed and resumed, and runs under torchrun.",
        usage="RUN_FOLDER MESH_FOLDER [-o FOLDER]",
        examples=(("finetune run solids -o finer", "the network of `diffiso train solids`"),),
        module="mesh_sdf",
        settings="FinetuneSettings",
        function="finetune",
        positional=("checkpoint", "source"),
        metavars={"checkpoint": "RUN_FOLDER", "source": "MESH_FOLDER", "output": "FOLDER"},
    ),
    Command(
        name="views",
        summary="pictures of a mesh from many sides, with cameras, to reconstruct it from",
        text="Take diffuse pictures of a mesh, lit from each camera, with masks and a camera file "
        "(transforms.json); by default SDFDiff's 26 views. Everything lands in a folder.",
        usage="MESH [-o FOLDER]",
        examples=(
            ("views bunny.obj -o bunny-views", "26 pictures, 26 masks and transforms.json"),
            (
                "views bunny.obj -o ring --rig ring --count 12 --elevation 30",
                "from a ring around it",
            ),
        ),
        module="sdfdiff",
        settings="ViewsSettings",
        function="make_views",
        positional=("mesh",),
        metavars={"mesh": "MESH", "output": "FOLDER"},
    ),
    Command(
        name="reconstruct",
        summary="pictures and cameras in, mesh out, by differentiable rendering",
        text="Find the solid that pictures show, on a grid from coarse to fine (SDFDiff, section "
        "5), and write it as a mesh; a sheet of pictures (.png), a turntable (.gif), a report "
        "(.json) and a checkpoint (.pt) go beside it. Can be killed and resumed.",
        usage="VIEWS_FOLDER [-o OUT.ply]",
        examples=(
            (
                "reconstruct bunny-views -o bunny.ply --reference bunny.obj",
                "the pictures of `diffiso views`; scores against the mesh that they show",
            ),
            (
                "reconstruct photos -o thing.ply --use masks --box '[-1,1]'",
                "from masks alone, of any transforms.json",
            ),
        ),
        module="sdfdiff",
        settings="ReconstructSettings",
        function="reconstruct",
        positional=("views",),
        metavars={"views": "VIEWS_FOLDER", "output": "OUT.ply", "reference": "MESH"},
        presets={
            "paper": "those of the paper, colours only",
            "official": "those of its published program, colours only",
        },
    ),
    Command(
        name="demo",
        summary="fit a neural field to a mesh; turn a sphere into a torus",
        text="Fit a small neural field to a mesh and extract it; learn spheres and tori, and turn "
        "a sphere into a torus by gradient descent through mesh vertices (MeshSDF, section 4.1).",
        usage="[--mesh FILE] [-o FOLDER]",
        examples=(
            ("demo", "on a built-in shape, in two minutes; pictures and meshes in diffiso-demo/"),
            ("demo --mesh bunny.obj -o bunny-demo", "on a closed mesh of yours"),
        ),
        module="demo",
        settings="DemoSettings",
        function="demo",
        metavars={"mesh": "FILE", "output": "FOLDER"},
        presets={"quick": "coarse, in a few seconds"},
        # Its networks are small: a second thread gains little, and loses much on shared cores.
        threads=1,
    ),
)
