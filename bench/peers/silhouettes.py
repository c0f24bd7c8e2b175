# SPDX-License-Identifier: Apache-2.0
"""Other ways to a silhouette: those that move outlines by their edges, and the soft one."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from bench.cases import Contender, Outputs, Settings
from bench.peers import find, optional
from diffiso import SoftRasterizing

if TYPE_CHECKING:
    from bench.ops.silhouette import Picture


class Deodr:
    """DEODR's: a z-buffer, and contour edges drawn over it one pixel wide.

    Which faces share an edge is found once, outside the clock.
    It works on one thread, in double precision. Pictures are what it draws of a white mesh before
    black; like ours, they are one where the mesh is, and change across outlines.
    """

    def __init__(self, scene: "Picture") -> None:
        renderer = find("deodr.differentiable_renderer")
        adjacency = find("deodr.triangulated_mesh").TriMeshAdjacencies
        self.points = scene.vertices.double().numpy()
        self.faces = scene.faces.numpy().astype(np.uint32)
        self.matrix = scene.camera.projection_matrices[0].double().numpy()
        self.weights = scene.weights[0, :, :, None].double().numpy()
        self.adjacency = adjacency(self.faces, clockwise=False, nb_vertices=len(self.points))
        height, width = scene.camera.size
        count = len(self.points)
        self.scene = renderer.Scene2D(
            faces=self.faces,
            faces_uv=self.faces,
            ij=np.zeros((count, 2)),
            depths=np.zeros(count),
            textured=np.zeros(len(self.faces), dtype=bool),
            uv=np.zeros((count, 2)),
            shade=np.zeros(count),
            colors=np.ones((count, 1)),
            shaded=np.zeros(len(self.faces), dtype=bool),
            edgeflags=np.zeros((len(self.faces), 3), dtype=bool),
            height=height,
            width=width,
            nb_colors=1,
            texture=np.zeros((0, 0)),
            background_color=np.zeros(1),
            clockwise=False,
            backface_culling=True,
            integer_pixel_centers=False,
        )
        self.place()

    def place(self) -> None:
        """Project the vertices, and find the edges between front and back."""
        local = self.points @ self.matrix[:, :3].T + self.matrix[:, 3]
        self.scene.depths = local[:, 2].copy()
        self.scene.ij = local[:, :2] / local[:, 2:]
        self.scene.edgeflags = np.asarray(self.adjacency.edge_on_silhouette(self.scene.ij))

    def draw(self) -> tuple[Any, Any]:
        """Render and go back, to places in the picture."""
        self.scene.clear_gradients()
        image, _ = self.scene.render(sigma=1)
        self.scene.render_backward(self.weights)
        return image, self.scene.ij_b

    def step(self) -> tuple[Any, Any]:
        """From vertices to the picture and back."""
        self.place()
        image, grad = self.draw()
        depth = self.scene.depths[:, None]
        along = (grad * self.scene.ij).sum(axis=1, keepdims=True)
        of_matrix = np.concatenate([grad, -along], axis=1) / depth
        return image, of_matrix @ self.matrix[:, :3]


def outputs(found: tuple[Any, Any]) -> Outputs:
    image, gradient = (torch.from_numpy(np.ascontiguousarray(part)) for part in found)
    return {
        "coverage": [image.flatten()],
        "gradients": [gradient],
        "pull": [gradient.sum(dim=0)],
    }


# Peers draw ramps beyond the outline, or give it to pixels on one side, where we give the share of
# the pixel: that matters more in coarse pictures; and they hand what pixels pull to other vertices.
ALLOWED = {"coverage": 0.35, "gradients": 0.7, "pull": 0.2}


@optional
def deodr(scene: "Picture", settings: Settings) -> list[Contender]:
    if not settings.on_cpu or find("deodr.differentiable_renderer") is None:
        return []
    peer = Deodr(scene)
    return [
        Contender("DEODR", peer.step, outputs, allowed=ALLOWED),
        Contender("DEODR, drawing alone", peer.draw, outputs, "part"),
    ]


def by_torch(
    name: str, scene: "Picture", render: Callable[[Tensor], Tensor], **options: Any
) -> Contender:
    """A renderer of torch's: coverage (H, W) of vertices, and their gradient."""
    points = scene.vertices.clone().requires_grad_()

    def run() -> tuple[Tensor, Tensor]:
        image = render(points)
        (gradient,) = torch.autograd.grad(image, points, scene.weights[0])
        return image.detach(), gradient

    def outputs(found: tuple[Tensor, Tensor]) -> Outputs:
        image, gradient = found
        return {"coverage": [image.flatten()], "gradients": [gradient], "pull": [gradient.sum(0)]}

    return Contender(name, run, outputs, **options)


@optional
def nvdiffrast(scene: "Picture", settings: Settings) -> list[Contender]:
    """nvdiffrast: a mask of faces, and its pixels at the outline blended."""
    package = find("nvdiffrast.torch") if settings.device.type == "cuda" else None
    if package is None:
        return []
    context = package.RasterizeCudaContext(device=settings.device)
    height, width = scene.camera.size
    faces = scene.faces.int()
    # Rows of the matrix are pixels times depth, and depth; the first row of pictures is at -1.
    u, v, depth = scene.camera.projection_matrices[0]
    clip = torch.stack([2 * u / width - depth, 2 * v / height - depth, depth, depth])
    clip[2, 3] -= 0.1  # normalised depth grows with distance

    def render(points: Tensor) -> Tensor:
        places = torch.nn.functional.pad(points, (0, 1), value=1.0) @ clip.T
        found, _ = package.rasterize(context, places[None], faces, resolution=[height, width])
        mask = (found[..., 3:] > 0).float()
        return package.antialias(mask, found, places[None], faces)[0, ..., 0]

    return [by_torch("nvdiffrast", scene, render, allowed=ALLOWED, through_torch=False)]


@optional
def drtk(scene: "Picture", settings: Settings) -> list[Contender]:
    """DRTK: faces by pixel, and a gradient from neighbours that show different ones."""
    package = find("drtk") if settings.device.type == "cuda" else None
    if package is None:
        return []
    height, width = scene.camera.size
    faces = scene.faces.int()
    matrix = scene.camera.projection_matrices[0]

    def render(points: Tensor) -> Tensor:
        local = torch.nn.functional.pad(points, (0, 1), value=1.0) @ matrix.T
        # Its pixel centres have whole coordinates.
        pixels = torch.cat([local[:, :2] / local[:, 2:] - 0.5, local[:, 2:]], dim=1)[None]
        index = package.rasterize(pixels, faces, height, width)
        _, places = package.render(pixels, faces, index)
        mask = (index != -1).float()[:, None]
        image = package.edge_grad_estimator(
            v_pix=pixels, vi=faces, bary_img=places, img=mask, index_img=index
        )
        return image[0, 0]

    return [by_torch("DRTK", scene, render, allowed=ALLOWED)]


@optional
def pytorch3d(scene: "Picture", settings: Settings) -> list[Contender]:
    """PyTorch3D's soft silhouettes, with the parameters of ours."""
    package = find("pytorch3d.renderer") if settings.device.type == "cuda" else None
    if package is None:
        return []
    structures = find("pytorch3d.structures")
    soft = SoftRasterizing.mesh_sdf()
    cameras = package.PerspectiveCameras(
        **scene.camera.to_pytorch3d()._asdict(), device=settings.device
    )
    rasterizer = package.MeshRasterizer(
        cameras=cameras,
        raster_settings=package.RasterizationSettings(
            image_size=scene.camera.size,
            blur_radius=soft.radius,
            faces_per_pixel=soft.faces_per_pixel,
        ),
    )
    shader = package.SoftSilhouetteShader(
        blend_params=package.BlendParams(sigma=soft.sigma, gamma=1e-4)
    )
    renderer = package.MeshRenderer(rasterizer=rasterizer, shader=shader)

    def render(points: Tensor) -> Tensor:
        image: Tensor = renderer(structures.Meshes(verts=[points], faces=[scene.faces]))
        return image[0, ..., 3]

    # The faces that count where more overlap than it keeps depend on their order.
    allowed = {"coverage": 1e-3, "gradients": 0.05, "pull": 0.05}
    return [by_torch("PyTorch3D", scene, render, like="diffiso, soft", allowed=allowed)]


def peers(scene: "Picture", settings: Settings) -> list[Contender]:
    return [
        contender
        for find_them in (deodr, nvdiffrast, drtk, pytorch3d)
        for contender in find_them(scene, settings)
    ]
