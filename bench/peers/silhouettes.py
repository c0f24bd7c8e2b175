# SPDX-License-Identifier: Apache-2.0
"""DEODR's silhouettes: a z-buffer, and contour edges drawn over it one pixel wide."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bench.cases import Contender, Outputs, Settings
from bench.peers import find

if TYPE_CHECKING:
    from bench.ops.silhouette import Picture


class Deodr:
    """A mesh before a camera. Which faces share an edge is found once, outside the clock.

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


# It draws a ramp one pixel wide beyond the outline, where we give the share of the pixel: that
# matters more in coarse pictures; and it hands what a pixel pulls to other vertices than we do.
ALLOWED = {"coverage": 0.35, "gradients": 0.7, "pull": 0.2}


def deodr(scene: "Picture", settings: Settings) -> list[Contender]:
    if not settings.on_cpu or find("deodr.differentiable_renderer") is None:
        return []
    peer = Deodr(scene)
    return [
        Contender("DEODR", peer.step, outputs, allowed=ALLOWED),
        Contender("DEODR, drawing alone", peer.draw, outputs, "part"),
    ]
