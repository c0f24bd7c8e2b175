# SPDX-License-Identifier: Apache-2.0
"""Other ways to extract the surface of a grid."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bench.cases import Contender, Outputs, Settings
from bench.peers import SLOW_RUNS, find, optional
from diffiso import reference


@optional
def flying_edges(
    grids: Sequence[Tensor], settings: Settings, *, backend: str = "STDThread", cast: bool = False
) -> list[Contender]:
    """VTK's vtkFlyingEdges3D, positions and faces only, at level 0.

    Args:
        grids: (X, Y, Z) each; VTK counts x fastest, so it sees them as (Z, Y, X).
        backend: `STDThread`, the one with threads in VTK's wheels, or `Sequential`.
        cast: Bring float16 grids, which VTK does not read, to float32 within the clock.
    """
    if not settings.on_cpu or find("vtkmodules.vtkFiltersCore") is None:
        return []
    from vtkmodules.util.numpy_support import numpy_to_vtk, vtk_to_numpy
    from vtkmodules.vtkCommonCore import vtkSMPTools
    from vtkmodules.vtkCommonDataModel import vtkImageData
    from vtkmodules.vtkFiltersCore import vtkFlyingEdges3D

    def image_of(grid: Tensor) -> Any:
        image = vtkImageData()
        image.SetDimensions(*reversed(grid.shape))
        image.GetPointData().SetScalars(numpy_to_vtk(grid.numpy().ravel(), deep=False))
        return image

    def surface_of(image: Any) -> Any:
        contour = vtkFlyingEdges3D()
        contour.SetInputData(image)
        contour.SetValue(0, 0.0)
        contour.ComputeNormalsOff()
        contour.ComputeGradientsOff()
        contour.ComputeScalarsOff()
        contour.Update()
        return contour.GetOutput()

    images = [] if cast else [image_of(grid) for grid in grids]

    def run() -> list[Any]:
        threads = 1 if backend == "Sequential" else settings.threads
        ready = vtkSMPTools.GetBackend(), vtkSMPTools.GetEstimatedNumberOfThreads()
        if ready != (backend, threads):
            vtkSMPTools.SetBackend(backend)
            vtkSMPTools.Initialize(threads)
        if cast:
            return [surface_of(image_of(grid.float())) for grid in grids]
        return [surface_of(image) for image in images]

    def outputs(surfaces: list[Any]) -> Outputs:
        # The offsets of the faces are an arithmetic sequence and take no memory.
        found = [s for s in surfaces if s.GetNumberOfPolys() > 0]
        return {
            "vertices": [vtk_to_numpy(s.GetPoints().GetData())[:, ::-1] for s in found],
            "faces": [
                vtk_to_numpy(s.GetPolys().GetConnectivityArray()).reshape(-1, 3) for s in found
            ],
        }

    notes = [backend] * (backend != "STDThread") + ["cast to float32"] * cast
    name = f"VTK Flying Edges ({', '.join(notes)})" if notes else "VTK Flying Edges"
    return [Contender(name, run, outputs)]


@optional
def scikit_image(grid: Tensor, settings: Settings) -> list[Contender]:
    """scikit-image's marching cubes, in the faster of its two methods; it has no threads."""
    measure = find("skimage.measure")
    if not settings.on_cpu or measure is None:
        return []
    array = grid.numpy()
    return [
        Contender(
            "scikit-image",
            lambda: measure.marching_cubes(array, 0.0, method="lorensen"),
            lambda result: {
                "vertices": [result[0]],
                "faces": [result[1]],
                "normals": [result[2]],
                "values": [result[3]],
            },
            runs=SLOW_RUNS,
        )
    ]


@optional
def pymcubes(grid: Tensor, settings: Settings) -> list[Contender]:
    """PyMCubes; it has no threads."""
    mcubes = find("mcubes")
    if not settings.on_cpu or mcubes is None:
        return []
    array = grid.numpy()
    return [
        Contender(
            "PyMCubes",
            lambda: mcubes.marching_cubes(array, 0.0),
            lambda result: {"vertices": [result[0]], "faces": [result[1]]},
            runs=SLOW_RUNS,
        )
    ]


@optional
def libigl(grid: Tensor, settings: Settings) -> list[Contender]:
    """libigl's; it takes the place of every node, in double precision, and has no threads."""
    igl = find("igl")
    if not settings.on_cpu or igl is None:
        return []
    # It counts x fastest: seen as (Z, Y, X), with coordinates in that order.
    nodes = torch.cartesian_prod(*[torch.arange(float(n)) for n in grid.shape]).double().numpy()
    values = grid.double().flatten().numpy()
    shape = tuple(reversed(grid.shape))
    return [
        Contender(
            "libigl",
            lambda: igl.marching_cubes(values, nodes, *shape, 0.0),
            lambda result: {"vertices": [result[0]], "faces": [result[1]]},
            runs=SLOW_RUNS,
        )
    ]


@optional
def warp(grids: Sequence[Tensor], settings: Settings) -> list[Contender]:
    """Warp's dense marching cubes; on the CPU it has no threads."""
    package, geometry = find("warp"), find("warp.geometry")
    if package is None or geometry is None:
        return []
    package.config.log_level = package.LOG_ERROR  # or it greets, and misses a GPU
    package.init()
    held = [package.from_torch(grid) for grid in grids]

    def run() -> list[Any]:
        if settings.on_cpu:
            return [geometry.IsoSurfaceMarchingCubes.extract(grid, 0.0) for grid in held]
        # On torch's stream, whose events are the clock.
        with package.ScopedStream(package.stream_from_torch()):
            return [geometry.IsoSurfaceMarchingCubes.extract(grid, 0.0) for grid in held]

    def outputs(meshes: list[Any]) -> Outputs:
        return {
            "vertices": [package.to_torch(mesh[0]) for mesh in meshes],
            "faces": [package.to_torch(mesh[1]).view(-1, 3) for mesh in meshes],
        }

    return [Contender("Warp", run, outputs, runs=SLOW_RUNS, through_torch=False)]


def reference_marching_cubes(grid: Tensor, settings: Settings) -> list[Contender]:
    """diffiso's own pure-torch reference; slow, for small grids, on the CPU."""
    if not settings.on_cpu:
        return []
    level = torch.zeros(1)
    return [
        Contender(
            "pure-torch reference",
            lambda: reference.marching_cubes(grid[None], level),
            lambda surface: {"vertices": [surface.vertices], "faces": [surface.faces]},
            runs=SLOW_RUNS,
        )
    ]


@optional
def diso(grids: Sequence[Tensor], settings: Settings) -> list[Contender]:
    """diso's DiffMC, without a deformation; it pads the grid and hence closes surfaces."""
    package = find("diso") if settings.device.type == "cuda" else None
    if package is None:
        return []
    extract = package.DiffMC(dtype=torch.float32).to(settings.device)
    return [
        Contender(
            "diso DiffMC",
            lambda: [extract(grid, None, normalize=False) for grid in grids],
            outputs_of_pairs,
            through_torch=False,
        )
    ]


@optional
def isoext(grids: Sequence[Tensor], settings: Settings) -> list[Contender]:
    """isoext, in the method that closes surfaces and in the fastest."""
    package = find("isoext") if settings.device.type == "cuda" else None
    if package is None:
        return []
    held = []
    for grid in grids:
        # In index coordinates, as ours.
        last = [float(n - 1) for n in grid.shape]
        held.append(package.UniformGrid(list(grid.shape), aabb_min=[0.0] * 3, aabb_max=last))
        held[-1].set_values(grid)

    def contender(method: str) -> Contender:
        return Contender(
            f"isoext ({method})",
            lambda: [package.marching_cubes(grid, method=method) for grid in held],
            outputs_of_pairs,
            through_torch=False,
        )

    return [contender("nagae"), contender("lorensen")]


@optional
def torchmcubes(grids: Sequence[Tensor], settings: Settings) -> list[Contender]:
    """torchmcubes; on a GPU it gives three vertices a face, which are not compared."""
    package = find("torchmcubes") if settings.device.type == "cuda" else None
    if package is None:
        return []
    return [
        Contender(
            "torchmcubes",
            lambda: [package.marching_cubes(grid, 0.0) for grid in grids],
            lambda meshes: {"faces": [mesh[1] for mesh in meshes]},
        )
    ]


def outputs_of_pairs(meshes: Sequence[tuple[Tensor, Tensor]]) -> Outputs:
    return {"vertices": [m[0] for m in meshes], "faces": [m[1] for m in meshes]}
