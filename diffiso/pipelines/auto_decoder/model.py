# SPDX-License-Identifier: Apache-2.0
"""What `diffiso train` learns: a decoder, latent codes, and the shapes' frames."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from diffiso.fields import DecoderSettings, DeepSdfDecoder, LatentField, LatentTable
from diffiso.io import StrPath
from diffiso.metrics import Frame
from diffiso.pipelines.auto_decoder.data import Normalize
from diffiso.run import load_checkpoint, load_weights

CHECKPOINT = "checkpoint.pt"


class AutoDecoder(nn.Module):
    """A decoder and the latent codes of the shapes that it learned.

    Args:
        settings: The decoder's.
        names: One name a shape.
        frames: Each shape's way from world units into the frame of [-1, 1]^3.
        normalize: How shapes are brought there.

    Attributes:
        decoder: (points, code) to signed distances, in the frame of [-1, 1]^3.
        codes: (S, L) latent codes.
    """

    def __init__(
        self,
        settings: DecoderSettings,
        names: list[str],
        frames: list[Frame],
        normalize: Normalize = "sphere",
    ) -> None:
        super().__init__()
        self.decoder = DeepSdfDecoder(settings)
        self.codes = LatentTable(len(names), settings.latent_size)
        self.names = names
        self.frames = frames
        self.normalize = normalize

    def field(self, shape: str | int) -> LatentField:
        """Return a shape's field, a callable (P, 3) -> (P,), in the frame of [-1, 1]^3.

        Args:
            shape: Its name or index.

        Raises:
            KeyError: If there is no shape of that name.
        """
        return self.decoder.field(self.codes.weight[self.index(shape)].detach())

    def index(self, shape: str | int) -> int:
        """Return a shape's index by its name."""
        if isinstance(shape, int):
            return shape
        if shape not in self.names:
            raise KeyError(f"AutoDecoder: shape must be one of {self.names}, got {shape!r}")
        return self.names.index(shape)

    @staticmethod
    def load(path: StrPath) -> AutoDecoder:
        """Return what a run of `diffiso train` learned.

        Args:
            path: The run's folder or its checkpoint.

        Raises:
            FileNotFoundError: If there is no checkpoint.
            ValueError: If it is not one of an auto-decoder, or of another architecture.
        """
        path = checkpoint_file(path)
        state = load_checkpoint(path)
        try:
            settings = DecoderSettings(**state["settings"]["decoder"])
            frames = [
                Frame((center[0], center[1], center[2]), scale) for center, scale in state["frames"]
            ]
            normalize = state["settings"]["normalize"]
            model = AutoDecoder(settings, list(state["names"]), frames, normalize)
            weights = state["model"]
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{path}: must be a checkpoint of diffiso train, got another ({error})"
            ) from error
        load_weights(model, weights, path)
        return model.eval()


def checkpoint_file(path: StrPath) -> Path:
    """Return the checkpoint of a run that is named by its folder or by the file itself."""
    path = Path(path)
    return path / CHECKPOINT if path.is_dir() else path
