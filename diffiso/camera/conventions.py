# SPDX-License-Identifier: Apache-2.0
"""Cameras as OpenCV, OpenGL and PyTorch3D write them."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple, Self

import torch
from torch import Tensor

from diffiso.camera._checks import (
    Size,
    as_batch,
    as_size,
    check_alike,
    finite,
    fixed,
    positive,
    refuse,
    rotation,
)
from diffiso.camera.pinhole import Pinhole

FirstRow = Literal["bottom", "top"]


class OpenCVCamera(NamedTuple):
    """Cameras as OpenCV's functions take them.

    Attributes:
        intrinsics: K, (N, 3, 3), pixels.
        rotation: R, (N, 3, 3), world to camera, applied to columns.
        translation: t, (N, 3).
    """

    intrinsics: Tensor
    rotation: Tensor
    translation: Tensor


class OpenGLCamera(NamedTuple):
    """Cameras as OpenGL's pipeline takes them: ``clip = projection @ view @ (x, y, z, 1)``.

    Attributes:
        view: (N, 4, 4), world to eye (x right, y up, z back).
        projection: (N, 4, 4), eye to clip space.
    """

    view: Tensor
    projection: Tensor


class PyTorch3DCamera(NamedTuple):
    """The arguments of PyTorch3D's ``PerspectiveCameras``, under their names there.

    Attributes:
        R: (N, 3, 3), world to view for rows: ``view = world @ R + T``.
        T: (N, 3).
        focal_length: (N, 2), NDC or pixels.
        principal_point: (N, 2), NDC (x left, y up, from the centre) or pixels (from the upper left
            corner).
        image_size: (N, 2), int64, height and width.
        in_ndc: Whether the two above are NDC.
    """

    R: Tensor
    T: Tensor
    focal_length: Tensor
    principal_point: Tensor
    image_size: Tensor
    in_ndc: bool


class Conventions(Pinhole):
    """The part of :class:`diffiso.camera.Camera` that speaks to other libraries."""

    @classmethod
    def from_opencv(
        cls,
        intrinsics: Tensor,
        rotation: Tensor,
        translation: Tensor,
        size: Size,
        *,
        pixel_center: float = 0.5,
    ) -> Self:
        """Return cameras from OpenCV's K, R and t, or COLMAP's pinhole cameras.

        Camera axes: x right, y down, z forward; ``x_camera = R x_world + t``. R is a matrix: turn a
        rotation vector into one first (``cv2.Rodrigues``). Differentiable in all three.

        Args:
            intrinsics: K, (N, 3, 3) or (3, 3), pixels, without skew.
            rotation: (N, 3, 3) or (3, 3), world to camera.
            translation: (N, 3) or (3,), world units; columns (N, 3, 1) as OpenCV gives them too.
            size: Height and width in pixels; one number for a square.
            pixel_center: Where K has the centre of the first pixel: 0.5 as COLMAP and renderers
                count, 0 as OpenCV's own calibration and drawing count.

        Raises:
            ValueError: If a shape does not fit, R is no rotation, or K has skew, a last row other
                than 0, 0, 1, or focal lengths that are not positive.

        Example:
            >>> import torch
            >>> from diffiso.camera import Camera
            >>> K = torch.tensor([[100.0, 0, 32], [0, 100, 24], [0, 0, 1]])
            >>> Camera.from_opencv(K, torch.eye(3), torch.zeros(3), (48, 64)).focal
            tensor([[100., 100.]])
        """
        name = "Camera.from_opencv"
        matrix = as_batch(f"{name}: intrinsics", intrinsics, (3, 3))
        turn = as_batch(f"{name}: rotation", rotation, (3, 3))
        if isinstance(translation, Tensor) and translation.shape[-2:] == (3, 1):
            translation = translation.squeeze(-1)
        offset = as_batch(f"{name}: translation", translation, (3,))
        check_alike(name, intrinsics=matrix, rotation=turn, translation=offset)
        focal = torch.stack([matrix[:, 0, 0], matrix[:, 1, 1]], dim=1)
        off_diagonal = torch.stack([matrix[:, 0, 1], matrix[:, 1, 0]], dim=1)
        refuse(
            [
                positive(f"{name}: focal lengths of intrinsics", focal),
                fixed(f"{name}: skew of intrinsics", off_diagonal, (0, 0), focal[:, :1]),
                fixed(f"{name}: last row of intrinsics", matrix[:, 2], (0, 0, 1)),
            ]
        )
        _refuse_pose(f"{name}: rotation", turn, f"{name}: translation", offset)
        return cls(
            turn,
            offset,
            focal,
            matrix[:, :2, 2] + (0.5 - pixel_center),
            as_size(f"{name}: size", size),
        )

    def to_opencv(self, *, pixel_center: float = 0.5) -> OpenCVCamera:
        """Return K, R and t for OpenCV, COLMAP or gsplat.

        Args:
            pixel_center: Where K shall have the centre of the first pixel: 0.5, or 0 as OpenCV's
                own functions count.

        Example:
            >>> from diffiso.camera import Camera
            >>> Camera.orbit(0, 0, 3, focal=80.0, size=64).to_opencv(pixel_center=0.0).intrinsics
            tensor([[[80.0000,  0.0000, 31.5000],
                     [ 0.0000, 80.0000, 31.5000],
                     [ 0.0000,  0.0000,  1.0000]]])
        """
        shift = self.intrinsics.new_zeros(3, 3)
        shift[:2, 2] = pixel_center - 0.5
        return OpenCVCamera(self.intrinsics + shift, self.rotation, self.translation)

    @classmethod
    def from_opengl(
        cls, view: Tensor, projection: Tensor, size: Size, *, first_row: FirstRow = "bottom"
    ) -> Self:
        """Return cameras from OpenGL's view and projection matrices.

        Eye axes: x right, y up, z back (the camera looks along -z). The matrices stand on the left
        of columns, as in ``clip = projection @ view @ (x, y, z, 1)``; what is laid out for upload,
        column by column, is the transpose. Only the x, y and w rows of the projection are read:
        near, far and the kind of depth (0 to 1, reversed, infinite) do not matter and are not
        kept. Differentiable in both.

        Args:
            view: (N, 4, 4) or (4, 4), world to eye, a rotation and a translation; the inverse of
                Blender's ``matrix_world``.
            projection: (N, 4, 4) or (4, 4), a perspective; its centre may be off.
            size: Height and width of the viewport in pixels; one number for a square.
            first_row: ``"top"`` for a projection that was turned over in y, so that pictures read
                from memory have their first row on top.

        Raises:
            ValueError: If a shape does not fit, ``view`` is not rigid, or ``projection`` is
                orthographic, looks along +z, has skew, or is turned over against ``first_row``.

        Example:
            >>> import torch
            >>> from diffiso.camera import Camera
            >>> projection = torch.diag(torch.tensor([2.0, 2.0, -1.0, 0.0]))
            >>> projection[2:, 2:] = torch.tensor([[-1.02, -0.202], [-1.0, 0.0]])
            >>> Camera.from_opengl(torch.eye(4), projection, 64).focal
            tensor([[64., 64.]])
        """
        name = "Camera.from_opengl"
        _check_first_row(name, first_row)
        height, width = as_size(f"{name}: size", size)
        eye = as_batch(f"{name}: view", view, (4, 4))
        lens = as_batch(f"{name}: projection", projection, (4, 4))
        check_alike(name, view=eye, projection=lens)
        if first_row == "top":
            lens = lens * lens.new_tensor([1.0, -1.0, 1.0, 1.0])[:, None]
        scale = torch.stack([lens[:, 0, 0], lens[:, 1, 1]], dim=1)
        rest = torch.stack([lens[:, 0, 1], lens[:, 0, 3], lens[:, 1, 0], lens[:, 1, 3]], dim=1)
        refuse(
            [
                fixed(f"{name}: last row of view", eye[:, 3], (0, 0, 0, 1)),
                fixed(f"{name}: last row of projection", lens[:, 3], (0, 0, -1, 0)),
                positive(
                    f"{name}: x and y scale of projection with first_row={first_row!r}", scale
                ),
                fixed(f"{name}: skew and shift of projection", rest, (0, 0, 0, 0), scale[:, :1]),
            ]
        )
        turn, offset = eye[:, :3, :3], eye[:, :3, 3]
        _refuse_pose(f"{name}: view", turn, f"{name}: view", offset)
        # x_ndc = 2 x / width - 1 and y_ndc = 1 - 2 y / height, with w = -z = depth.
        pixels = lens.new_tensor([width / 2, height / 2])
        center = torch.stack([1 - lens[:, 0, 2], 1 + lens[:, 1, 2]], dim=1)
        flip = lens.new_tensor([1.0, -1.0, -1.0])
        return cls(
            flip[:, None] * turn, flip * offset, scale * pixels, center * pixels, (height, width)
        )

    def to_opengl(self, near: float, far: float, *, first_row: FirstRow = "bottom") -> OpenGLCamera:
        """Return view and projection matrices for OpenGL, nvdiffrast or a rasteriser like them.

        Eye axes: x right, y up, z back. ``clip = projection @ view @ (x, y, z, 1)`` with x, y and z
        in [-w, w] where visible and w the depth; transpose for upload. OpenGL and nvdiffrast keep
        the bottom row of a picture first, here row 0 is on top: turn their pictures over
        (``image.flip(-3)`` for (N, H, W, C)), or ask for ``first_row="top"``.

        Args:
            near: Distance of the near plane, world units, positive.
            far: Distance of the far plane; infinity is allowed.
            first_row: ``"top"`` turns the projection over in y: pictures read from memory then have
                their first row on top, and faces wind the other way in the window.

        Raises:
            ValueError: If the planes are not in order.

        Example:
            >>> from diffiso.camera import Camera
            >>> camera = Camera.orbit(0, 0, 3, focal=80.0, size=64)
            >>> camera.to_opengl(1.0, 3.0).projection[0]
            tensor([[ 2.5000,  0.0000,  0.0000,  0.0000],
                    [ 0.0000,  2.5000,  0.0000,  0.0000],
                    [ 0.0000,  0.0000, -2.0000, -3.0000],
                    [ 0.0000,  0.0000, -1.0000,  0.0000]])
        """
        _check_first_row("Camera.to_opengl", first_row)
        if not 0 < near < far or math.isinf(near):
            raise ValueError(
                f"Camera.to_opengl: near and far must be 0 < near < far, got {near} and {far}"
            )
        flip = self.rotation.new_tensor([1.0, -1.0, -1.0, 1.0])
        pixels = self.focal.new_tensor([self.size[1] / 2, self.size[0] / 2])
        (sx, sy), (ox, oy) = (self.focal / pixels).unbind(1), (self.principal / pixels).unbind(1)
        if first_row == "top":
            sy, oy = -sy, 2 - oy
        zero, one = torch.zeros_like(sx), torch.ones_like(sx)
        ratio = near / far
        depth = [zero, zero, one * (-(1 + ratio) / (1 - ratio)), one * (-2 * near / (1 - ratio))]
        rows = [sx, zero, 1 - ox, zero, zero, sy, oy - 1, zero, *depth, zero, zero, -one, zero]
        projection = torch.stack(rows, dim=1).view(-1, 4, 4)
        return OpenGLCamera(flip[:, None] * self.world_to_camera, projection)

    @classmethod
    def from_pytorch3d(
        cls,
        R: Tensor,
        T: Tensor,
        focal_length: Tensor,
        principal_point: Tensor,
        size: Size,
        *,
        in_ndc: bool = True,
    ) -> Self:
        """Return cameras from the arguments of PyTorch3D's ``PerspectiveCameras``.

        View axes: x left, y up, z forward; ``view = world @ R + T`` for rows, so that R is the
        transpose of a world-to-camera matrix. In NDC the picture's shorter side spans [-1, 1], the
        longer one [-s, s] with s the ratio of the sides, x left and y up from the centre. In screen
        space (``in_ndc=False``) focal lengths and principal point are pixels, the latter x right
        and y down from the upper left corner. Both have pixel centres at half numbers. A
        ``FoVPerspectiveCameras`` of aspect ratio 1 is the NDC camera with focal length
        ``1 / tan(fov / 2)`` and principal point 0. Differentiable in all four.

        Args:
            R: (N, 3, 3) or (3, 3).
            T: (N, 3) or (3,), world units.
            focal_length: (N, 2), or (N, 1) or (N,) for both axes.
            principal_point: (N, 2) or (2,).
            size: Height and width in pixels (PyTorch3D's ``image_size``); one number for a square.
            in_ndc: Whether focal length and principal point are NDC or pixels.

        Raises:
            ValueError: If a shape does not fit, R is no rotation, or a focal length is not positive
                (negative ones only mirror the picture: turn R instead).

        Example:
            >>> import torch
            >>> from diffiso.camera import Camera
            >>> R, T = torch.eye(3), torch.tensor([0.0, 0.0, 2.0])
            >>> focal_length, principal_point = torch.tensor([[1.2]]), torch.tensor([[0.2, 0.5]])
            >>> camera = Camera.from_pytorch3d(R, T, focal_length, principal_point, (128, 256))
            >>> camera.focal, camera.principal
            (tensor([[76.8000, 76.8000]]), tensor([[115.2000,  32.0000]]))
        """
        name = "Camera.from_pytorch3d"
        height, width = as_size(f"{name}: size", size)
        turn = as_batch(f"{name}: R", R, (3, 3))
        offset = as_batch(f"{name}: T", T, (3,))
        point = as_batch(f"{name}: principal_point", principal_point, (2,))
        if isinstance(focal_length, Tensor):
            if focal_length.dim() == 1:
                focal_length = focal_length[:, None]
            if focal_length.shape[-1:] == (1,):
                focal_length = focal_length.expand(*focal_length.shape[:-1], 2)
        focal = as_batch(f"{name}: focal_length", focal_length, (2,))
        check_alike(name, R=turn, T=offset, focal_length=focal, principal_point=point)
        refuse([positive(f"{name}: focal_length", focal)])
        _refuse_pose(f"{name}: R", turn, f"{name}: T", offset)
        if in_ndc:
            half = min(height, width) / 2
            focal = focal * half
            point = point.new_tensor([width / 2, height / 2]) - point * half
        flip = turn.new_tensor([-1.0, -1.0, 1.0])
        return cls(
            flip[:, None] * turn.transpose(1, 2), flip * offset, focal, point, (height, width)
        )

    def to_pytorch3d(self, *, in_ndc: bool = True) -> PyTorch3DCamera:
        """Return what PyTorch3D's ``PerspectiveCameras`` takes, as keyword arguments.

        ``PerspectiveCameras(**camera.to_pytorch3d()._asdict(), device=...)``; axes and units as in
        ``from_pytorch3d``. Its pictures have row 0 on top as here; its ``zbuf`` is the depth of
        ``project``, while its projected points carry the depth's inverse.

        Args:
            in_ndc: Give focal length and principal point in NDC, as its renderers want them, or in
                pixels.

        Example:
            >>> from diffiso.camera import Camera
            >>> camera = Camera.orbit(0, 0, 3, focal=64.0, size=(64, 128))
            >>> camera.to_pytorch3d().focal_length
            tensor([[2., 2.]])
        """
        height, width = self.size
        flip = self.rotation.new_tensor([-1.0, -1.0, 1.0])
        focal, point = self.focal, self.principal
        if in_ndc:
            half = min(height, width) / 2
            focal = focal / half
            point = (point.new_tensor([width / 2, height / 2]) - point) / half
        sizes: dict[str, Any] = {"dtype": torch.int64, "device": focal.device}
        return PyTorch3DCamera(
            (flip[:, None] * self.rotation).transpose(1, 2),
            flip * self.translation,
            focal,
            point,
            torch.tensor([[height, width]], **sizes).expand(len(self), 2),
            in_ndc,
        )


def _refuse_pose(turn_name: str, turn: Tensor, offset_name: str, offset: Tensor) -> None:
    refuse(rotation(turn_name, turn))
    refuse([finite(offset_name, offset)])


def _check_first_row(name: str, first_row: str) -> None:
    if first_row not in ("bottom", "top"):
        raise ValueError(f"{name}: first_row must be 'bottom' or 'top', got {first_row!r}")
