# SPDX-License-Identifier: Apache-2.0
"""Mitsuba 3's `sdfgrid`, compiled by LLVM; importing this fails where one of the two is missing.

A scene holds one box for each cell with surface, in a tree of Embree's, and rays walk through it in
packets of as many as vector registers hold, 8 or 16. Rays of one packet should lie close together
in both directions of the picture: in tiles of 4 x 4 pixels they take two thirds of the time that
they take row by row. Telling Mitsuba that rays are coherent changes nothing.
"""

from typing import Any, NamedTuple

import drjit
import mitsuba
import torch
from torch import Tensor

from bench.peers.rays import TILE
from diffiso import Camera

# Of older ones some end the process: they cannot select `fminimum` for x86.
LLVM = 17

if not drjit.has_backend(drjit.JitBackend.LLVM) or drjit.detail.llvm_version()[0] < LLVM:
    raise ImportError(f"mitsuba must find LLVM's library, {LLVM} or newer, to run without a GPU")
mitsuba.set_variant("llvm_ad_mono")

GRID = "sdf.grid"


def evaluated(*arrays: Any) -> None:
    """Wait until arrays are there: Dr.Jit only notes what is to be done."""
    drjit.eval(*arrays)
    drjit.sync_thread()


def vectors(rows: Tensor) -> list[Any]:
    return [mitsuba.Float(rows[:, axis].contiguous().numpy()) for axis in range(3)]


def tensor(array: Any) -> Tensor:
    return torch.from_numpy(array.numpy())


class PreparedRays(NamedTuple):
    """Rays in Mitsuba's memory."""

    origins: Any
    directions: Any

    def __call__(self) -> Any:
        return mitsuba.Ray3f(self.origins, self.directions)


def prepare(origins: Tensor, directions: Tensor) -> PreparedRays:
    rays = PreparedRays(mitsuba.Point3f(vectors(origins)), mitsuba.Vector3f(vectors(directions)))
    evaluated(*rays)
    return rays


class CameraRays:
    """Rays through a camera's pixel centres, of depth 1, made where they are traced."""

    def __init__(self, camera: Camera) -> None:
        self.height, self.width = camera.size
        eye, turn = camera.centers[0], camera.rotation[0].T
        lens = torch.diag(torch.cat([camera.focal[0], torch.ones(1)]))
        lens[:2, 2] = camera.principal[0]
        self.origin = mitsuba.Point3f(eye.tolist())
        self.matrix = mitsuba.Matrix3f((turn @ lens.inverse()).tolist())
        drjit.make_opaque(self.origin, self.matrix)

    def __call__(self) -> tuple[Any, Any]:
        """Return rays in tiles, and the pixel of each."""
        index = drjit.arange(mitsuba.UInt32, self.height * self.width)
        tile, within = index // TILE**2, index % TILE**2
        row = tile // (self.width // TILE) * TILE + within // TILE
        column = tile % (self.width // TILE) * TILE + within % TILE
        pixel = mitsuba.Vector3f(mitsuba.Float(column) + 0.5, mitsuba.Float(row) + 0.5, 1.0)
        return mitsuba.Ray3f(self.origin, self.matrix @ pixel), row * self.width + column


class GridScene:
    """A scene of one grid, shaded with the normals of its cells.

    Args:
        values: (X, Y, Z), with nodes from `lower` to `upper` along each axis.
    """

    def __init__(self, values: Tensor, lower: float, upper: float, threads: int) -> None:
        drjit.set_thread_count(threads)
        # Mitsuba takes distances in units of the box for the derivative: it divides by no slope.
        self.extent = upper - lower
        samples = (values.detach() / self.extent).permute(2, 1, 0)[..., None].contiguous()
        self.samples = mitsuba.TensorXf(samples.numpy())
        place = mitsuba.ScalarTransform4f().translate([lower] * 3).scale([self.extent] * 3)
        sdf = {"type": "sdfgrid", "grid": self.samples, "to_world": place, "normals": "analytic"}
        self.scene = mitsuba.load_dict({"type": "scene", "sdf": sdf})
        self.parameters = mitsuba.traverse(self.scene)

    def hits(self, rays: Any) -> Any:
        """Return t alone, infinity at misses."""
        return self.scene.ray_intersect_preliminary(rays, coherent=True).t

    def trace(self, rays: PreparedRays) -> Any:
        t = self.hits(rays())
        evaluated(t)
        return t

    def trace_camera(self, camera: CameraRays) -> Any:
        rays, pixels = camera()
        t = drjit.empty(mitsuba.Float, camera.height * camera.width)
        drjit.scatter(t, self.hits(rays), pixels, mode=drjit.ReduceMode.Permute)
        evaluated(t)
        return t

    def surface(self, rays: PreparedRays) -> Any:
        """Return points, normals and frames too."""
        found = self.scene.ray_intersect(rays(), mitsuba.RayFlags.All, coherent=True)
        evaluated(found)
        return found.t

    def shade(self, rays: PreparedRays) -> Any:
        """Return max(0, n . l) of a light at the rays' origins, not evaluated."""
        found = self.scene.ray_intersect(rays(), mitsuba.RayFlags.All, coherent=True)
        to_light = drjit.normalize(rays.origins - found.p)
        cosine = drjit.maximum(drjit.dot(found.sh_frame.n, to_light), 0)
        return drjit.select(found.is_valid(), cosine, 0)

    def step(self, rays: PreparedRays, weights: Any) -> tuple[Any, Any]:
        """Set the grid's samples, shade, and differentiate the weighted sum by the samples."""
        self.parameters[GRID] = mitsuba.TensorXf(self.samples)
        drjit.enable_grad(self.parameters[GRID])
        self.parameters.update()
        intensity = self.shade(rays)
        drjit.backward(drjit.sum(intensity * weights))
        gradient = drjit.grad(self.parameters[GRID])
        evaluated(intensity, gradient)
        return drjit.detach(intensity), gradient

    def gradient(self, of_samples: Any) -> Tensor:
        """Return the gradient as (X, Y, Z), by the values that were given."""
        return tensor(of_samples)[..., 0].permute(2, 1, 0) / self.extent
