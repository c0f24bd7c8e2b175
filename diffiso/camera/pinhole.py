# SPDX-License-Identifier: Apache-2.0
"""What a camera is, and what it does with points and pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from diffiso.camera._checks import (
    Size,
    as_batch,
    as_size,
    check_alike,
    finite,
    positive,
    refuse,
    rotation,
)


class Projection(NamedTuple):
    """Points seen by cameras.

    Attributes:
        pixels: (N, P, 2), x to the right and y down, in pixels from the picture's upper left corner
            (the first pixel's centre is 0.5, 0.5); NaN for points not in front of the camera.
        depth: (N, P), world units along the camera's z axis; negative behind the camera.
    """

    pixels: Tensor
    depth: Tensor


class Rays(NamedTuple):
    """Rays through pixels, in world coordinates.

    Attributes:
        origins: (N, H, W, 3) or (N, P, 3): the camera's centre, a view without memory of its own.
        directions: As ``origins``.
    """

    origins: Tensor
    directions: Tensor


@dataclass(frozen=True, eq=False)
class Pinhole:
    """The part of :class:`diffiso.camera.Camera` that knows one convention only, its own."""

    rotation: Tensor
    translation: Tensor
    focal: Tensor
    principal: Tensor
    size: tuple[int, int]

    def __post_init__(self) -> None:
        """Give every tensor its batch dimension, and check them."""
        object.__setattr__(self, "size", as_size("Camera: size", self.size))
        shapes = {"rotation": (3, 3), "translation": (3,), "focal": (2,), "principal": (2,)}
        tensors = {
            name: as_batch(f"Camera: {name}", getattr(self, name), shape)
            for name, shape in shapes.items()
        }
        count = check_alike("Camera", **tensors)
        for name, tensor in tensors.items():
            whole = tensor if tensor.shape[0] == count else tensor.expand(count, *shapes[name])
            object.__setattr__(self, name, whole)
        refuse(
            [
                *rotation("Camera: rotation", self.rotation),
                finite("Camera: translation", self.translation),
                positive("Camera: focal", self.focal),
                finite("Camera: principal", self.principal),
            ]
        )

    # A batch of cameras.

    def __len__(self) -> int:
        """Return the number of cameras."""
        return self.rotation.shape[0]

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> Self:
        """Return some of the cameras; an int gives a batch of one."""
        if isinstance(index, int):
            if not -len(self) <= index < len(self):
                raise IndexError(f"Camera: index must be below {len(self)}, got {index}")
            index = slice(index % len(self), index % len(self) + 1)
        rows: Any = index
        return replace(
            self,
            rotation=self.rotation[rows],
            translation=self.translation[rows],
            focal=self.focal[rows],
            principal=self.principal[rows],
        )

    def __iter__(self) -> Iterator[Self]:
        """Yield every camera as a batch of one."""
        return (self[i] for i in range(len(self)))

    @classmethod
    def cat(cls, cameras: Sequence[Self]) -> Self:
        """Return one batch of all cameras, in order.

        Args:
            cameras: Batches of one picture size, dtype and device.

        Raises:
            ValueError: If there are none, or they differ in size, dtype or device.

        Example:
            >>> from diffiso.camera import Camera
            >>> front, side = (Camera.orbit(a, 0, 3, focal=80.0, size=64) for a in (0.0, 90.0))
            >>> len(Camera.cat([front, side]))
            2
        """
        if len(cameras) == 0:
            raise ValueError("Camera.cat: cameras must hold at least one, got none")
        first = cameras[0]
        for camera in cameras:
            mine = (camera.size, camera.rotation.dtype, camera.rotation.device)
            if mine != (first.size, first.rotation.dtype, first.rotation.device):
                raise ValueError(
                    "Camera.cat: cameras must be of one size, dtype and device, got "
                    f"{first.size}, {first.rotation.dtype}, {first.rotation.device} and "
                    f"{mine[0]}, {mine[1]}, {mine[2]}"
                )
        return cls(
            torch.cat([camera.rotation for camera in cameras]),
            torch.cat([camera.translation for camera in cameras]),
            torch.cat([camera.focal for camera in cameras]),
            torch.cat([camera.principal for camera in cameras]),
            first.size,
        )

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Return the cameras with every tensor's ``to(...)``: a device, a dtype or both."""
        return replace(
            self,
            rotation=self.rotation.to(*args, **kwargs),
            translation=self.translation.to(*args, **kwargs),
            focal=self.focal.to(*args, **kwargs),
            principal=self.principal.to(*args, **kwargs),
        )

    # Where they stand.

    @property
    def centers(self) -> Tensor:
        """Positions of the cameras in the world, (N, 3)."""
        # The inverse of a rotation is its transpose: c = -R^T t.
        return (self.rotation * -self.translation[:, :, None]).sum(dim=1)

    @property
    def world_to_camera(self) -> Tensor:
        """Matrices (N, 4, 4) from world to camera coordinates (x right, y down, z forward)."""
        return _rigid(self.rotation, self.translation)

    @property
    def camera_to_world(self) -> Tensor:
        """Matrices (N, 4, 4) whose columns are right, down, forward and the position."""
        return _rigid(self.rotation.transpose(1, 2), self.centers)

    @property
    def intrinsics(self) -> Tensor:
        """Matrices K, (N, 3, 3), in pixels, with the first pixel's centre at 0.5."""
        (fx, fy), (cx, cy) = self.focal.unbind(1), self.principal.unbind(1)
        zero, one = torch.zeros_like(fx), torch.ones_like(fx)
        return torch.stack([fx, zero, cx, zero, fy, cy, zero, zero, one], dim=1).view(-1, 3, 3)

    @property
    def projection_matrices(self) -> Tensor:
        """Matrices K [R | t], (N, 3, 4): of (x, y, z, 1) to pixels times depth, and depth."""
        right, down, forward = torch.cat([self.rotation, self.translation[:, :, None]], 2).unbind(1)
        (fx, fy), (cx, cy) = self.focal[..., None].unbind(1), self.principal[..., None].unbind(1)
        return torch.stack([fx * right + cx * forward, fy * down + cy * forward, forward], dim=1)

    # Points to pixels and back.

    def project(self, points: Tensor) -> Projection:
        """Return where points appear, and how deep they lie.

        Differentiable in points, pose and intrinsics. A point that is not in front of its camera
        has NaN pixels, so that no comparison takes it for a visible one, and passes them no
        gradient; its depth is there.

        Args:
            points: (P, 3), seen by all cameras, or (N, P, 3), world coordinates.

        Raises:
            ValueError: If the shape, dtype or device does not fit.

        Example:
            >>> import torch
            >>> from diffiso.camera import Camera
            >>> camera = Camera.look_at((0, 0, 4), (0, 0, 0), field_of_view=90.0, size=(20, 40))
            >>> camera.project(torch.tensor([[0.0, 0, 0], [2.0, 1.0, 0.0]]))
            Projection(pixels=tensor([[[20.0000, 10.0000],
                     [25.0000,  7.5000]]]), depth=tensor([[4., 4.]]))
        """
        points = self._per_camera("Camera.project: points", points, (3,))
        # Sums of products, not matmul: autocast and TF32 would move the pixels.
        x, y, z = points[..., 0:1], points[..., 1:2], points[..., 2:3]
        of_x, of_y, of_z = self.rotation[:, None].unbind(-1)
        local = x * of_x + y * of_y + z * of_z + self.translation[:, None]
        depth = local[..., 2]
        front = (depth > 0)[..., None]
        slopes = local[..., :2] / torch.where(front, depth[..., None], 1.0)
        pixels = slopes * self.focal[:, None] + self.principal[:, None]
        return Projection(torch.where(front, pixels, torch.nan), depth)

    def unproject(self, pixels: Tensor, depth: Tensor) -> Tensor:
        """Return the world points, (N, P, 3), that appear at pixels: what ``project`` undoes.

        Differentiable in pixels, depth, pose and intrinsics.

        Args:
            pixels: (P, 2) or (N, P, 2), the first pixel's centre at 0.5.
            depth: (P,) or (N, P), world units along the camera's z axis, not along the ray.

        Raises:
            ValueError: If shapes, dtypes or devices do not fit.

        Example:
            >>> import torch
            >>> from diffiso.camera import Camera
            >>> camera = Camera.look_at((0, 0, 4), (0, 0, 0), field_of_view=90.0, size=(20, 40))
            >>> camera.unproject(torch.tensor([[25.0, 7.5]]), torch.tensor([4.0]))
            tensor([[[2., 1., 0.]]])
        """
        pixels = self._per_camera("Camera.unproject: pixels", pixels, (2,))
        depth = self._per_camera("Camera.unproject: depth", depth, ())
        if depth.shape[1] != pixels.shape[1]:
            raise ValueError(
                f"Camera.unproject: depth must be one per pixel, got {depth.shape[1]} for "
                f"{pixels.shape[1]}"
            )
        directions = self._directions(pixels[..., 0], pixels[..., 1])
        return self.centers[:, None] + depth[..., None] * directions

    def rays(self, pixels: Tensor | None = None, *, unit: bool = True) -> Rays:
        """Return rays through the centres of all pixels, row 0 on top, or through given pixels.

        Differentiable in pose, intrinsics and pixels.

        Args:
            pixels: (P, 2) or (N, P, 2), the first pixel's centre at 0.5; by default all, as
                (N, H, W).
            unit: Directions of length one; otherwise of depth one, so that the length along a ray
                is the depth that ``project`` gives.

        Raises:
            ValueError: If the shape, dtype or device of ``pixels`` does not fit.

        Example:
            >>> from diffiso.camera import Camera
            >>> camera = Camera.look_at((0, 0, 4), (0, 0, 0), field_of_view=90.0, size=(2, 2))
            >>> rays = camera.rays(unit=False)
            >>> rays.directions[0, 0]
            tensor([[-0.5000,  0.5000, -1.0000],
                    [ 0.5000,  0.5000, -1.0000]])
        """
        if pixels is None:
            height, width = self.size
            options: dict[str, Any] = {"dtype": self.focal.dtype, "device": self.focal.device}
            x = torch.arange(width, **options)[None, None, :] + 0.5
            y = torch.arange(height, **options)[None, :, None] + 0.5
        else:
            pixels = self._per_camera("Camera.rays: pixels", pixels, (2,))
            x, y = pixels.unbind(-1)
        directions = self._directions(x, y)
        if unit:
            directions = directions / torch.linalg.vector_norm(directions, dim=-1, keepdim=True)
        centers = self.centers.view(len(self), *[1] * (directions.dim() - 2), 3)
        return Rays(centers.expand_as(directions), directions)

    # Other pictures from the same place.

    def resized(self, size: Size) -> Self:
        """Return the cameras whose pictures show the same with another number of pixels.

        Args:
            size: Height and width; one number for a square. Where the ratio changes, pictures are
                stretched, and the two focal lengths part.

        Raises:
            ValueError: If ``size`` is not positive.

        Example:
            >>> from diffiso.camera import Camera
            >>> camera = Camera.orbit(0, 0, 3, focal=80.0, size=(48, 64)).resized((24, 32))
            >>> camera.focal, camera.principal
            (tensor([[40., 40.]]), tensor([[16., 12.]]))
        """
        height, width = as_size("Camera.resized: size", size)
        # Pixel coordinates start at the corner, so that they only scale.
        scale = self.focal.new_tensor([width / self.size[1], height / self.size[0]])
        return replace(
            self, focal=self.focal * scale, principal=self.principal * scale, size=(height, width)
        )

    def cropped(self, top: int, left: int, size: Size) -> Self:
        """Return the cameras of a rectangle cut out of the pictures.

        Args:
            top: First row of the rectangle; negative adds rows above the picture.
            left: First column of the rectangle.
            size: Height and width of the rectangle; it may reach beyond the picture.

        Raises:
            ValueError: If ``size`` is not positive.

        Example:
            >>> from diffiso.camera import Camera
            >>> Camera.orbit(0, 0, 3, focal=80.0, size=64).cropped(8, 16, (32, 32)).principal
            tensor([[16., 24.]])
        """
        whole = as_size("Camera.cropped: size", size)
        corner = self.principal.new_tensor([left, top])
        return replace(self, principal=self.principal - corner, size=whole)

    def _directions(self, x: Tensor, y: Tensor) -> Tensor:
        """Return world directions of depth one through pixels of shape (1 or N, ...)."""
        ones = [1] * (x.dim() - 1)
        focal, principal = (t.view(-1, *ones, 2) for t in (self.focal, self.principal))
        across = ((x - principal[..., 0]) / focal[..., 0])[..., None]
        down = ((y - principal[..., 1]) / focal[..., 1])[..., None]
        right, below, forward = self.rotation.reshape(-1, *ones, 3, 3).unbind(-2)
        return across * right + (down * below + forward)

    def _per_camera(self, name: str, values: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return values (1 or N, P, *shape) from (P, *shape) or (N, P, *shape)."""
        if not isinstance(values, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(values).__name__}")
        batch = values[None] if values.dim() == len(shape) + 1 else values
        fits = batch.dim() == len(shape) + 2 and batch.shape[2:] == shape
        if not fits or (values is batch and batch.shape[0] != len(self)):
            tail = "".join(f", {n}" for n in shape)
            raise ValueError(
                f"{name} must be (P{tail or ','}) or (N, P{tail}) for N = {len(self)} cameras, "
                f"got {tuple(values.shape)}"
            )
        if values.dtype != self.focal.dtype or values.device != self.focal.device:
            raise ValueError(
                f"{name} must be {self.focal.dtype} on {self.focal.device} as the cameras, "
                f"got {values.dtype} on {values.device}"
            )
        return batch


def _rigid(matrices: Tensor, offsets: Tensor) -> Tensor:
    upper = torch.cat([matrices, offsets[:, :, None]], dim=2)
    last = upper.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(len(upper), 1, 4)
    return torch.cat([upper, last], dim=1)
