# SPDX-License-Identifier: Apache-2.0
"""The `diffiso` command."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence

from diffiso.build_info import build_info
from diffiso.run import cpu_threads

_EXAMPLES = """\
examples:
  diffiso demo
      fit a neural field to a built-in shape and turn a sphere into a torus (two minutes);
      pictures and meshes land in diffiso-demo/
  diffiso demo --mesh bunny.obj -o bunny-demo
      the same with a closed mesh of yours
  diffiso extract bunny.obj -o bunny.ply --resolution 256
      mesh to signed distances to surface; bunny.png and bunny.json appear beside it
  diffiso extract scan.npy -o scan.glb --level 0.5 --close-boundary
      the level set of a volume (X, Y, Z) of floats, capped where it leaves the box
  diffiso info
      versions, and whether this installation has CUDA kernels
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    0 is success, 2 means that what the user gave cannot be used, 1 that the work failed.

    Args:
        arguments: The command line without the program's name; by default that of the process.
    """
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        with cpu_threads(given.threads):
            _run(given)
    except (ValueError, OSError, ImportError) as error:
        if given.traceback:
            raise
        print(f"diffiso: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        if given.traceback:
            raise
        print(f"diffiso: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("diffiso: interrupted", file=sys.stderr)
        return 130
    return 0


def _run(given: argparse.Namespace) -> None:
    if given.command == "info":
        print(json.dumps(build_info(), indent=2))
    elif given.command == "extract":
        from diffiso.pipelines.extract import ExtractSettings, extract

        extract(
            ExtractSettings(
                given.source,
                given.output,
                given.resolution,
                given.level,
                given.close_boundary,
                given.picture,
                given.up,
                seed=given.seed,
            )
        )
    else:
        from diffiso.pipelines.demo import DemoSettings, demo

        choose = DemoSettings.quick if given.quick else DemoSettings
        demo(choose(output=given.output, mesh=given.mesh, up=given.up, seed=given.seed))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="diffiso",
        description="Signed distance functions to meshes and images, with gradients back.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--seed", type=_count, default=0, help="seed of everything drawn (0)")
    shared.add_argument("--threads", type=_positive, help="CPU threads for torch")
    shared.add_argument("--traceback", action="store_true", help="show where an error came from")

    extract = commands.add_parser(
        "extract",
        parents=[shared],
        help="extract the surface of a mesh's signed distances or of a volume",
        description="Write the level set of a closed mesh's signed distances, or of a volume, "
        "as a mesh; a picture (PNG) and a report (JSON) go beside it.",
    )
    extract.add_argument(
        "source", metavar="MESH|VOLUME.npy", help="PLY, OBJ, GLB, STL, or a float array of rank 3"
    )
    extract.add_argument(
        "-o", "--output", required=True, metavar="OUT.ply", help="also .obj, .glb or .stl"
    )
    extract.add_argument(
        "--resolution", type=_positive, help="cells along the longest side of a mesh (128)"
    )
    extract.add_argument(
        "--level",
        type=_finite,
        default=0.0,
        help="value of the surface (0); grows a mesh by that distance",
    )
    extract.add_argument(
        "--close-boundary", action="store_true", help="cap the solid where it leaves the box"
    )
    extract.add_argument("--no-picture", dest="picture", action="store_false", help="write no PNG")
    extract.add_argument(
        "--up", choices=("y", "z"), default="y", help="axis that points up in the picture (y)"
    )

    demo = commands.add_parser(
        "demo",
        parents=[shared],
        help="fit a neural field to a mesh; turn a sphere into a torus",
        description="Fit a small neural field to a mesh and extract it; learn spheres and tori, "
        "and turn a sphere into a torus by gradient descent through mesh vertices "
        "(MeshSDF, section 4.1).",
    )
    demo.add_argument("--mesh", metavar="FILE", help="closed mesh to fit (a built-in shape)")
    demo.add_argument(
        "-o",
        "--output",
        default="diffiso-demo",
        metavar="FOLDER",
        help="where to write (diffiso-demo)",
    )
    demo.add_argument(
        "--up", choices=("y", "z"), default="y", help="axis that points up in pictures (y)"
    )
    # Its networks are small: a second thread gains little, and loses much where cores are shared.
    demo.set_defaults(threads=1)
    demo.add_argument("--quick", action="store_true", help="coarse, in a few seconds")

    commands.add_parser("info", help="print versions and what was built", parents=[shared])
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be positive, got {text}")
    return value


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be finite, got {text}")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must not be negative, got {text}")
    return value
