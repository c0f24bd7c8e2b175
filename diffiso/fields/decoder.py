# SPDX-License-Identifier: Apache-2.0
"""DeepSDF's decoder: a field for a family of shapes, steered by a latent code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn

from diffiso.fields.encoding import PositionalEncoding
from diffiso.fields.mlp import Activation, Mlp, check_mlp


@dataclass(frozen=True)
class DecoderSettings:
    """What a :class:`DeepSdfDecoder` is made of; plain data, so that a checkpoint can hold it.

    Attributes:
        latent_size: Numbers per latent code.
        width: Units in each hidden layer.
        depth: Hidden layers.
        skips: Hidden layers, counted from 0, that read points and code again.
        activation: Of the hidden layers: relu, or softplus, whose fields are smooth.
        beta: Sharpness of softplus.
        weight_norm: Learn direction and length of each hidden unit's weights apart.
        dropout: Share of the hidden units left out in training.
        frequencies: Frequencies of the positional encoding; 0 for none.
        raw_points: Read the points themselves, beside their encoding.
        final_tanh: Squash values into (-1, 1).
        geometric_init: Start as the distance to a sphere around 0, whatever the code.
        radius: Radius of this sphere, world units.

    Raises:
        ValueError: If a setting is not possible.

    Example:
        >>> DecoderSettings(latent_size=8, width=64).depth
        8
    """

    latent_size: int = 64
    width: int = 128
    depth: int = 8
    skips: tuple[int, ...] = (4,)
    activation: Activation = "relu"
    beta: float = 100.0
    weight_norm: bool = True
    dropout: float = 0.0
    frequencies: int = 0
    raw_points: bool = True
    final_tanh: bool = False
    geometric_init: bool = True
    radius: float = 0.5

    def __post_init__(self) -> None:
        """Check the settings."""
        object.__setattr__(self, "skips", tuple(self.skips))  # a list, where a file was read
        name = "DecoderSettings"
        for key in ("latent_size", "width", "depth", "frequencies"):
            if type(getattr(self, key)) is not int:
                raise ValueError(f"{name}: {key} must be a whole number, got {getattr(self, key)}")
        if self.latent_size < 1:
            raise ValueError(f"{name}: latent_size must be at least 1, got {self.latent_size}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"{name}: dropout must be in [0, 1), got {self.dropout}")
        if self.frequencies < 0:
            raise ValueError(f"{name}: frequencies must not be negative, got {self.frequencies}")
        if not self.raw_points and self.frequencies == 0:
            raise ValueError(f"{name}: raw_points must be true without frequencies")
        if not self.raw_points and self.geometric_init:
            raise ValueError(f"{name}: raw_points must be true for geometric_init")
        if not 0 < self.radius < float("inf"):
            raise ValueError(f"{name}: radius must be positive, got {self.radius}")
        features = 3 * (2 * self.frequencies + self.raw_points)
        check_mlp(
            name,
            features + self.latent_size,
            self.width,
            self.depth,
            self.skips,
            self.activation,
            self.beta,
        )

    @staticmethod
    def paper() -> DecoderSettings:
        """Return DeepSDF's network, which MeshSDF's paper takes over: 8 layers of 512.

        Source:
            Park et al., DeepSDF, section 4; Remelli et al., MeshSDF, supplementary 8.6.
        """
        return DecoderSettings(
            latent_size=256,
            width=512,
            depth=8,
            skips=(4,),
            activation="relu",
            weight_norm=True,
            dropout=0.2,
            final_tanh=True,
            geometric_init=False,
        )

    @staticmethod
    def official() -> DecoderSettings:
        """Return the network of DeepSDF's official code, which is as its paper says."""
        return DecoderSettings.paper()

    @staticmethod
    def meshsdf_toy() -> DecoderSettings:
        """Return the network of MeshSDF's official cow and duck: 8 layers of 128 on waves."""
        return replace(
            DecoderSettings.paper(), latent_size=2, width=128, frequencies=5, raw_points=False
        )

    @staticmethod
    def meshsdf_single_view() -> DecoderSettings:
        """Return the network of MeshSDF's official single-view code: 5 layers of 512, no skip.

        There the last hidden layer has no weight norm; here every hidden layer has.
        """
        return replace(DecoderSettings.paper(), depth=5, skips=(), dropout=0.0)


class DeepSdfDecoder(nn.Module):
    """A family of signed distance fields: points and latent codes in, values out.

    Smooth in points and codes with softplus; with relu second derivatives in the points are zero.
    The code is worked into the network once per shape, not once per point.

    Args:
        settings: What it is made of; kept as ``settings``.

    Source:
        Park et al., DeepSDF, section 4; Remelli et al., MeshSDF, Eq. 1.

    Example:
        >>> import torch, diffiso
        >>> from diffiso.fields import DecoderSettings, DeepSdfDecoder
        >>> decoder = DeepSdfDecoder(DecoderSettings(latent_size=4, width=64, depth=5))
        >>> decoder(torch.rand(8, 100, 3), torch.zeros(8, 4)).shape
        torch.Size([8, 100])
        >>> code = torch.zeros(4, requires_grad=True)
        >>> mesh = diffiso.isosurface(decoder.field(code), -1, 1, 16)
        >>> mesh.vertices.norm(dim=1).mean().backward()
        >>> code.grad.shape
        torch.Size([4])
    """

    def __init__(self, settings: DecoderSettings | None = None) -> None:
        super().__init__()
        self.settings = settings = settings or DecoderSettings()
        self.encoding = PositionalEncoding(settings.frequencies, raw=settings.raw_points)
        self.mlp = Mlp(
            self.encoding.size,
            settings.latent_size,
            width=settings.width,
            depth=settings.depth,
            skips=settings.skips,
            activation=settings.activation,
            beta=settings.beta,
            weight_norm=settings.weight_norm,
        )
        if settings.geometric_init:
            self.mlp.start_as_sphere(settings.radius, self.encoding)

    @classmethod
    def paper(cls) -> DeepSdfDecoder:
        """Return a decoder of :meth:`DecoderSettings.paper`."""
        return cls(DecoderSettings.paper())

    @classmethod
    def official(cls) -> DeepSdfDecoder:
        """Return a decoder of :meth:`DecoderSettings.official`."""
        return cls(DecoderSettings.official())

    @classmethod
    def meshsdf_toy(cls) -> DeepSdfDecoder:
        """Return a decoder of :meth:`DecoderSettings.meshsdf_toy`."""
        return cls(DecoderSettings.meshsdf_toy())

    def forward(self, points: Tensor, code: Tensor) -> Tensor:
        """Return values (..., P) at points for latent codes.

        Args:
            points: (..., P, 3), world units.
            code: (..., L), one for each set of points; or (L,) for all of them.

        Raises:
            ValueError: If shapes do not fit.
        """
        return self.evaluate(points, code, self.settings.dropout if self.training else 0.0)

    def field(self, code: Tensor) -> LatentField:
        """Return the field of one latent code (L,), which keeps its graph.

        It never leaves units out, also in training: a field has one value at a point.

        Raises:
            ValueError: If the code's shape is another.
        """
        return LatentField(self, code)

    def evaluate(self, points: Tensor, code: Tensor, dropout: float) -> Tensor:
        """Return :meth:`forward`'s values with a share of the hidden units left out."""
        size = self.settings.latent_size
        if points.dim() < 2 or points.shape[-1] != 3:
            raise ValueError(
                f"DeepSdfDecoder: points must be (..., P, 3), got {tuple(points.shape)}"
            )
        shared = code.dim() == 1
        if code.shape[-1:] != (size,) or not (shared or code.shape[:-1] == points.shape[:-2]):
            raise ValueError(
                f"DeepSdfDecoder: code must be ({size},), or {(*points.shape[:-2], size)} for "
                f"points {tuple(points.shape)}, got {tuple(code.shape)}"
            )
        values: Tensor = self.mlp(self.encoding(points), code, dropout=dropout)
        return torch.tanh(values) if self.settings.final_tanh else values


class LatentField(nn.Module):
    """One shape of a family: a decoder with its latent code held fast.

    A callable (P, 3) -> (P,), as :func:`diffiso.isosurface` wants it; gradients reach the code, its
    history and the decoder's weights.

    Args:
        decoder: The family.
        code: (L,); a parameter becomes one of this module too.

    Raises:
        ValueError: If the code's shape is another.

    Example:
        >>> decoder = DeepSdfDecoder(DecoderSettings(latent_size=4, width=32, depth=3, skips=()))
        >>> LatentField(decoder, torch.zeros(4))(torch.rand(5, 3)).shape
        torch.Size([5])
    """

    def __init__(self, decoder: DeepSdfDecoder, code: Tensor) -> None:
        super().__init__()
        if tuple(code.shape) != (decoder.settings.latent_size,):
            raise ValueError(
                f"LatentField: code must be ({decoder.settings.latent_size},), "
                f"got {tuple(code.shape)}"
            )
        self.decoder = decoder
        self.code = code

    def forward(self, points: Tensor) -> Tensor:
        """Return values (..., P) at points (..., P, 3), both in world units."""
        return self.decoder.evaluate(points, self.code, dropout=0.0)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move the code too, which a module would leave behind; it keeps its history."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if not isinstance(self.code, nn.Parameter):
            self.code = fn(self.code)
        return self
