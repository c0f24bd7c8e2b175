# SPDX-License-Identifier: Apache-2.0
"""Silhouettes of meshes, whose gradient does not depend on how fine the triangles are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor

from diffiso.camera import Camera
from diffiso.ops._registration import call, no_double_backward, no_forward_mode
from diffiso.types import Mesh, MeshBatch

_MOST_FACES = 128


@dataclass(frozen=True)
class SoftRasterizing:
    """Soft Rasterizer's silhouettes (Liu et al. 2019, Eq. 1 and 3), with PyTorch3D's parameters.

    A face covers a pixel by sigmoid(-d / sigma), where d is the squared distance from the pixel's
    centre to the face in the picture, negative inside, and the picture's shorter side is 2 long. A
    pixel is covered as far as not all of the nearest faces over it leave it clear.

    The result depends on how fine the mesh is: a pixel at the border of a face is half covered by
    it, and many small faces must add up; faces of less than 1e-8 in the picture, of which a fine
    mesh far away has many, are left out as in PyTorch3D, and so are those that reach nearer than
    the near plane. It is there to reproduce other work, and to pull outlines that are far apart.
    Cost grows with the blurred area of all faces, so with the radius.

    Attributes:
        sigma: Width of the sigmoid.
        blur_radius: Faces whose squared distance is greater do not count. By default where the
            sigmoid is 1e-4.
        faces_per_pixel: So many faces count at most, the nearest by depth; up to 128.

    Raises:
        ValueError: If a number is out of its range.

    Example:
        >>> import diffiso
        >>> round(diffiso.SoftRasterizing(sigma=1e-4).radius, 7)
        0.000921
    """

    sigma: float = 1e-4
    blur_radius: float | None = None
    faces_per_pixel: int = 50

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not 0 < self.sigma < math.inf:
            raise ValueError(f"SoftRasterizing: sigma must be positive, got {self.sigma}")
        if self.blur_radius is not None and not 0 <= self.blur_radius < math.inf:
            raise ValueError(
                f"SoftRasterizing: blur_radius must not be negative, got {self.blur_radius}"
            )
        if type(self.faces_per_pixel) is not int or not 0 < self.faces_per_pixel <= _MOST_FACES:
            raise ValueError(
                f"SoftRasterizing: faces_per_pixel must be 1 to {_MOST_FACES}, "
                f"got {self.faces_per_pixel!r}"
            )

    @classmethod
    def mesh_sdf(cls) -> Self:
        """Return what MeshSDF's code ran: a radius made for a tenth of its sigma, 25 faces.

        At that radius a face's share is still 0.29, so that coverage ends in a step there.
        """
        return cls(1e-4, cls(1e-5).radius, 25)

    @property
    def radius(self) -> float:
        """The blur radius."""
        if self.blur_radius is not None:
            return self.blur_radius
        return math.log(1 / 1e-4 - 1) * self.sigma


def silhouette(
    mesh: Mesh | MeshBatch | tuple[Tensor, Tensor],
    cameras: Camera,
    size: int | Sequence[int] | None = None,
    *,
    mode: Literal["contour", "soft"] | SoftRasterizing = "contour",
    samples: int = 16,
    near: float = 1e-3,
) -> Tensor:
    """Return how much of each pixel a mesh covers, from 0 to 1.

    Each pixel's share is that of its samples that a face lies over. Gradients come from outlines:
    where an edge with something on one side in the picture and nothing on the other moves by a
    pixel along its normal, coverage changes by the length of that edge in each pixel. They are the
    derivatives of the true coverage, not of the samples, and so do not depend on the number of
    triangles; a hidden edge has none, nor has what is thinner than 1/4000 pixel. Where an outline
    lies on a border between pixels it moves half of either, and half of one on the picture's own.

    Differentiable once in vertices and cameras. On CUDA the gradient uses atomics, unless
    ``torch.use_deterministic_algorithms(True)`` asks for a fixed order; pictures are always the
    same. Works on any triangles: closed or open, of either winding. Cost grows with the number of
    faces and, in the backward, with the length of outlines, and with the square of their number
    where a row of pixels has very many: a hundred cost little, thousands that lie over each other
    (noise, or vertices that faces should share but do not, which make every edge an outline) cost
    seconds. :class:`SoftRasterizing` says what its method leaves out.

    Args:
        mesh: A :class:`Mesh`, a :class:`MeshBatch`, or vertices (V, 3), float32 or float64, in
            world units, and faces (F, 3), int64 or int32.
        cameras: N cameras, of the vertices' dtype; of a batch of B meshes each is seen by N / B of
            them, in their order.
        size: Height and width of the pictures, or one number for a square; by default the cameras'.
        mode: ``"contour"``, as above. ``"soft"``, or a :class:`SoftRasterizing`, for that method;
            then ``samples`` says nothing.
        samples: Samples of a pixel, a power of two up to 64; one on each of as many rows and
            columns of the pixel.
        near: Least depth, world units: what is nearer is cut off, and behind the camera nothing is
            seen.

    Returns:
        (N, H, W), of the vertices' dtype; zero where a camera sees nothing.

    Raises:
        TypeError: If mesh or cameras are none.
        ValueError: If an option is out of its range.
        RuntimeError: If shapes, dtypes or devices do not fit, a vertex is not finite, or a face
            names a vertex that is not there.

    Source:
        The boundary integral is that of Li et al., Differentiable Monte Carlo Ray Tracing through
        Edge Sampling (2018), section 3.1, of a picture that is one where there is a mesh.

    Example:
        >>> import diffiso, torch
        >>> ball = diffiso.isosurface(lambda p: p.norm(dim=1) - 0.5, -1, 1, 32)
        >>> cameras = diffiso.Camera.orbit([0.0, 90.0], 20.0, 3.0, field_of_view=40.0, size=64)
        >>> diffiso.silhouette(ball, cameras).sum(dim=(1, 2)).round()
        tensor([690., 690.])
    """
    vertices, faces, vertex_offsets, face_offsets = _packed(mesh)
    if not isinstance(cameras, Camera):
        raise TypeError(f"silhouette: cameras must be a Camera, got {type(cameras).__name__}")
    if mode == "soft":
        mode = SoftRasterizing()
    if mode != "contour" and not isinstance(mode, SoftRasterizing):
        raise ValueError(
            f"silhouette: mode must be 'contour', 'soft' or a SoftRasterizing, got {mode!r}"
        )
    if type(samples) is not int or samples not in (1, 2, 4, 8, 16, 32, 64):
        raise ValueError(f"silhouette: samples must be a power of two up to 64, got {samples!r}")
    if not 0 < near < math.inf:
        raise ValueError(f"silhouette: near must be positive, got {near}")
    if size is not None:
        cameras = cameras.resized(size)
    projections = cameras.projection_matrices
    no_forward_mode("silhouette", vertices, projections)
    tensors = (
        vertices.contiguous(),
        faces.contiguous(),
        projections.contiguous(),
        vertex_offsets,
        face_offsets,
        list(cameras.size),
        near,
    )
    if isinstance(mode, SoftRasterizing):
        rule = (mode.sigma, mode.radius, mode.faces_per_pixel)
        clear: Tensor = call(torch.ops.diffiso.soft_silhouette, *tensors, *rule)[0]
        return 1 - clear
    coverage: Tensor = call(torch.ops.diffiso.silhouette, *tensors, samples)[0]
    return coverage


def _packed(
    mesh: Mesh | MeshBatch | tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return vertices, faces, and the offsets of each mesh's vertices and faces."""
    if isinstance(mesh, MeshBatch):
        return mesh.vertices, mesh.faces, mesh.vertex_offsets, mesh.face_offsets
    if isinstance(mesh, Mesh):
        mesh = mesh.vertices, mesh.faces
    is_pair = isinstance(mesh, tuple | list) and len(mesh) == 2
    if not is_pair or not all(isinstance(tensor, Tensor) for tensor in mesh):
        given = ", ".join(type(part).__name__ for part in mesh) if is_pair else type(mesh).__name__
        raise TypeError(
            "silhouette: mesh must be a Mesh, a MeshBatch, or tensors of vertices and faces, "
            f"got {given}"
        )
    vertices, faces = mesh
    if faces.device != vertices.device:
        raise RuntimeError(
            f"silhouette: faces must be on the device of vertices, {vertices.device}, "
            f"got {faces.device}"
        )
    of_vertices, of_faces = (
        torch.tensor([0, len(rows) if rows.ndim else 0], device=vertices.device)
        for rows in (vertices, faces)
    )
    return vertices, faces, of_vertices, of_faces


def _fake(
    vertices: Tensor,
    faces: Tensor,
    projections: Tensor,
    vertex_offsets: Tensor,
    face_offsets: Tensor,
    size: list[int],
    near: float,
    samples: int,
) -> tuple[Tensor, Tensor, Tensor]:
    edges = torch.library.get_ctx().new_dynamic_size()
    pictures = projections.shape[0]
    return (
        vertices.new_empty(pictures, *size),
        vertices.new_empty((edges, 4), dtype=torch.int64),
        vertices.new_empty(pictures + 1, dtype=torch.int64),
    )


def _fake_backward(
    grad_coverage: Tensor, vertices: Tensor, projections: Tensor, *rest: Any
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(vertices), torch.empty_like(projections)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    vertices, _, projections, vertex_offsets, _, ctx.size, ctx.near, _ = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(vertices, projections, vertex_offsets, *output[1:])


def _backward(
    ctx: Any, grad: Tensor | None, *of_contours: Tensor | None
) -> tuple[Tensor | None, ...]:
    grads: tuple[Tensor | None, Tensor | None] = None, None
    if grad is not None:
        grads = torch.ops.diffiso.silhouette_backward(
            grad.contiguous(),
            *ctx.saved_tensors,
            ctx.size,
            ctx.near,
            torch.are_deterministic_algorithms_enabled(),
        )
    return (
        grads[0] if ctx.needs_input_grad[0] else None,
        None,  # faces
        grads[1] if ctx.needs_input_grad[2] else None,
        None,  # vertex_offsets
        None,  # face_offsets
        None,  # size
        None,  # near
        None,  # samples
    )


def _fake_soft(
    vertices: Tensor,
    faces: Tensor,
    projections: Tensor,
    vertex_offsets: Tensor,
    face_offsets: Tensor,
    size: list[int],
    *rest: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    shape = (projections.shape[0], *size)
    depths = vertices.new_empty(shape, dtype=torch.float64)
    return vertices.new_empty(shape), depths, vertices.new_empty(shape, dtype=torch.int64)


def _fake_soft_backward(
    grad_clear: Tensor,
    clear: Tensor,
    cut_depth: Tensor,
    cut_face: Tensor,
    vertices: Tensor,
    faces: Tensor,
    projections: Tensor,
    *rest: Any,
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(vertices), torch.empty_like(projections)


def _setup_soft(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.options = inputs[5:]
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*output, *inputs[:5])


def _backward_soft(
    ctx: Any, grad: Tensor | None, *of_cut: Tensor | None
) -> tuple[Tensor | None, ...]:
    grads: tuple[Tensor | None, Tensor | None] = None, None
    if grad is not None:
        grads = torch.ops.diffiso.soft_silhouette_backward(
            grad.contiguous(),
            *ctx.saved_tensors,
            *ctx.options,
            torch.are_deterministic_algorithms_enabled(),
        )
    return (
        grads[0] if ctx.needs_input_grad[0] else None,
        None,  # faces
        grads[1] if ctx.needs_input_grad[2] else None,
        *[None] * 7,  # offsets, and what is no tensor
    )


torch.library.register_fake("diffiso::silhouette", _fake)
torch.library.register_fake("diffiso::silhouette_backward", _fake_backward)
torch.library.register_autograd("diffiso::silhouette", _backward, setup_context=_setup_context)
no_double_backward("silhouette")

torch.library.register_fake("diffiso::soft_silhouette", _fake_soft)
torch.library.register_fake("diffiso::soft_silhouette_backward", _fake_soft_backward)
torch.library.register_autograd(
    "diffiso::soft_silhouette", _backward_soft, setup_context=_setup_soft
)
no_double_backward("soft_silhouette")
