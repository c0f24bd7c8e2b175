# SPDX-License-Identifier: Apache-2.0
"""`diffiso views`: pictures of a mesh from many sides, with cameras, to reconstruct it from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from diffiso import view
from diffiso.camera import Camera, Up, fibonacci_rig, ring_rig, sdfdiff_rig
from diffiso.io import check_output_folder, load_cameras, load_mesh, save_cameras, save_image
from diffiso.metrics import Frame, fit_frame
from diffiso.pipelines.views import CAMERA_FILE
from diffiso.run import Report, check_settings, step_generator, track
from diffiso.types import Mesh

_SHEET_SIDE = 160  # pixels of each picture on the sheet for people


@dataclass(frozen=True)
class ViewsSettings:
    """Which pictures to make of a mesh; lengths are those of the views' own frame.

    Attributes:
        mesh: A mesh file, best closed.
        output: Folder to write to.
        rig: "sdfdiff" looks from a cube's faces, edges and corners (26 views), "ring" from a ring
            around the up axis, "fibonacci" from all over a sphere.
        count: Cameras of a ring or of the sphere; SDFDiff's are 26.
        elevation: Of a ring, degrees.
        distance: From the cameras to the middle of the box.
        field_of_view: Opening angle, degrees.
        size: Pixels of each picture's side.
        box: Half the side of the box around the origin, in which to reconstruct.
        extent: Longest side of the mesh, whose bounding box is moved to the middle.
        normals: "face" takes those of the triangles, which pictures of the mesh itself have;
            "smooth" interpolates them, as if the mesh were finer than it is.
        strength: Intensity of the light at each camera, at distance 1 where it falls off.
        falloff: Whether the light grows weaker with the squared distance.
        samples: Rays through each pixel.
        image_noise: Standard deviation of noise on intensities.
        pose_noise: Standard deviation of noise on camera positions, on each axis; the file has the
            positions without.
        up: Axis that points up.
        seed: Seed of the noise.
    """

    mesh: str
    output: str = "diffiso-views"
    rig: Literal["sdfdiff", "ring", "fibonacci"] = "sdfdiff"
    count: int = 26
    elevation: float = 20.0
    distance: float = 5.0
    field_of_view: float = 60.0
    size: int = 512
    box: float = 2.0
    extent: float = 3.6
    normals: Literal["face", "smooth"] = "face"
    strength: float = 10.0
    falloff: bool = True
    samples: int = 16
    image_noise: float = 0.0
    pose_noise: float = 0.0
    up: Up = "y"
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: If one is not possible.
        """
        check_settings(
            self,
            positive=(
                "count",
                "distance",
                "field_of_view",
                "size",
                "box",
                "extent",
                "strength",
                "samples",
            ),
            not_negative=("image_noise", "pose_noise", "seed"),
            finite=("elevation",),
        )
        if self.extent > 2 * self.box:
            raise ValueError(
                f"ViewsSettings: extent must be at most twice the box, {2 * self.box:g}, "
                f"got {self.extent:g}"
            )
        if self.field_of_view >= 180:
            raise ValueError(
                f"ViewsSettings: field_of_view must be below 180, got {self.field_of_view:g}"
            )
        if self.rig == "sdfdiff" and (self.count != 26 or self.up != "y"):
            raise ValueError(
                "ViewsSettings: count must be 26 and up y for SDFDiff's cameras, "
                f"got {self.count} and {self.up}"
            )


class ViewsResult(NamedTuple):
    """What came out.

    Attributes:
        cameras: Where the file says that the pictures were taken.
        pictures: What they show, without noise.
        frame: From the mesh's coordinates to the views'.
        path: The camera file.
    """

    cameras: Camera
    pictures: view.DiffusePictures
    frame: Frame
    path: Path


def make_views(settings: ViewsSettings, say: Callable[[str], None] = print) -> ViewsResult:
    """Write pictures of a mesh, their masks and a `transforms.json` to a folder.

    Pictures are traced once, from the triangles: nothing that reconstructs from them has seen the
    resolution of any grid. Each is two PNG files of 16 bits, linear and grey, since eight bits are
    no finer than what a cell of a grid of 64 changes: `shading/` holds intensities before black, as
    shares of `light.white` in the camera file, and `masks/` the share of each pixel that shows the
    mesh. The camera file also holds the box, the light, and the frame that leads from the mesh's
    coordinates to the views': `(x - center) * scale`.

    Args:
        settings: What to do.
        say: Takes each line for people.

    Raises:
        FileNotFoundError: If the mesh does not exist.
        ValueError: If the mesh cannot be used or no camera sees it.
        OSError: If an output cannot be written.
    """
    output = check_output_folder(settings.output)
    report = Report("views", settings)
    mesh = load_mesh(settings.mesh)
    frame = _frame(mesh, settings)
    say(f"mesh      {settings.mesh}: {len(mesh.vertices):,} vertices, {len(mesh.faces):,} faces")
    cameras = _rig(settings)
    pictures = view.render_diffuse(
        frame.mesh(mesh),
        _moved(cameras, settings),
        strength=settings.strength,
        falloff=settings.falloff,
        smooth=settings.normals == "smooth",
        samples=settings.samples,
    )
    report.lap("pictures")
    cut = _cut_off(pictures.coverage)
    seen = int((pictures.coverage.amax(dim=(1, 2)) > 0).sum())
    if seen == 0:
        raise ValueError(f"{settings.mesh}: a camera must see the mesh, got none that does")
    say(f"views     {len(cameras)} of {settings.size}^2 pixels, {cut} cut the mesh off")

    noisy = _noisy(pictures.intensity, settings)
    white = max(float(noisy.max()), 1e-9)
    names = [f"{index:03d}.png" for index in range(len(cameras))]
    _remove_earlier(output)
    for index, name in enumerate(track(names, "writing pictures")):
        save_image(output / "shading" / name, noisy[index] / white, bits=16)
        save_image(output / "masks" / name, pictures.coverage[index], bits=16)
    light = {"strength": settings.strength, "falloff": settings.falloff, "white": white}
    sides = {"lower": [-settings.box] * 3, "upper": [settings.box] * 3}
    extra = {
        "box": sides,
        "frame": {"center": list(frame.center), "scale": frame.scale},
        "light": light,
    }
    path = save_cameras(
        output / CAMERA_FILE,
        cameras,
        [f"shading/{name}" for name in names],
        masks=[f"masks/{name}" for name in names],
        extra=extra,
    )
    save_image(output / "views.png", sheet(noisy / white))
    report.lap("files")
    report.metrics |= {"views": len(cameras), "views_that_see": seen, "views_cut_off": cut}
    report.metrics |= {"white": white, "frame": extra["frame"]}
    report.files += [str(path), str(output / "views.png")]
    report.write(output / "report.json")
    say(f"wrote     {output}/: {CAMERA_FILE}, shading/, masks/, views.png, report.json")
    return ViewsResult(cameras, pictures, frame, path)


def sheet(pictures: Tensor) -> view.Image:
    """Return linear grey pictures (N, H, W) side by side, small, for people."""
    side = max(1, pictures.shape[1] // _SHEET_SIDE)
    small = torch.nn.functional.avg_pool2d(pictures[:, None], side)[:, 0]
    return view.contact_sheet([view.grey_image(picture) for picture in small])


def _remove_earlier(output: Path) -> None:
    """Remove the views that an earlier call wrote, cameras first: pictures of two never mix."""
    file = output / CAMERA_FILE
    if not file.is_file():
        return
    _, images = load_cameras(file)
    file.unlink()
    for image in map(Path, images):
        if image.parent == Path("shading"):
            (output / image).unlink(missing_ok=True)
            (output / "masks" / image.name).unlink(missing_ok=True)


def _frame(mesh: Mesh, settings: ViewsSettings) -> Frame:
    try:
        cube = fit_frame(mesh, "unit_cube")
    except ValueError as error:
        raise ValueError(f"{settings.mesh}: {error}") from error
    return Frame(cube.center, cube.scale * settings.extent)


def _rig(settings: ViewsSettings) -> Camera:
    angle, size, double = settings.field_of_view, settings.size, torch.float64
    if settings.rig == "sdfdiff":
        return sdfdiff_rig(size, distance=settings.distance, field_of_view=angle, dtype=double)
    if settings.rig == "ring":
        return ring_rig(
            settings.count,
            settings.elevation,
            settings.distance,
            size=size,
            field_of_view=angle,
            up=settings.up,
            dtype=double,
        )
    return fibonacci_rig(
        settings.count,
        settings.distance,
        size=size,
        field_of_view=angle,
        up=settings.up,
        dtype=double,
    )


def _moved(cameras: Camera, settings: ViewsSettings) -> Camera:
    """Return the cameras that take the pictures: with noise on their places, looking inward."""
    if settings.pose_noise == 0:
        return cameras
    draws = torch.randn(
        len(cameras), 3, dtype=torch.float64, generator=step_generator(settings.seed, 0)
    )
    return Camera.look_at(
        cameras.centers + settings.pose_noise * draws,
        up=-cameras.rotation[:, 1],  # as it was: those above and below have none of the world's
        size=cameras.size,
        field_of_view=settings.field_of_view,
    )


def _noisy(intensity: Tensor, settings: ViewsSettings) -> Tensor:
    """Return intensities with noise; below 0 there is nothing that a picture could show."""
    if settings.image_noise == 0:
        return intensity
    draws = torch.randn(intensity.shape, generator=step_generator(settings.seed, 1))
    return (intensity + settings.image_noise * draws).clamp(min=0)


def _cut_off(coverage: Tensor) -> int:
    """Return how many pictures show the mesh at their rim."""
    rim = coverage.clone()
    rim[:, 1:-1, 1:-1] = 0
    return int((rim.amax(dim=(1, 2)) > 0).sum())
