# SPDX-License-Identifier: Apache-2.0
"""Auto-decoders: `diffiso train` learns a folder of meshes, `diffiso encode` finds another's code.

DeepSDF (Park et al., 2019) with the loss of MeshSDF, Eq. 1.
"""

from diffiso.pipelines.auto_decoder.data import (
    MeshFolder,
    SampleSettings,
    TrainingShape,
    read_mesh_folder,
    read_shape,
)
from diffiso.pipelines.auto_decoder.encode import (
    EncodeResult,
    EncodeSettings,
    encode,
    find_code,
)
from diffiso.pipelines.auto_decoder.model import AutoDecoder
from diffiso.pipelines.auto_decoder.results import ShapeResult, judge, learned_surface
from diffiso.pipelines.auto_decoder.settings import TrainSettings
from diffiso.pipelines.auto_decoder.train import TrainResult, train

__all__ = [
    "AutoDecoder",
    "EncodeResult",
    "EncodeSettings",
    "MeshFolder",
    "SampleSettings",
    "ShapeResult",
    "TrainResult",
    "TrainSettings",
    "TrainingShape",
    "encode",
    "find_code",
    "judge",
    "learned_surface",
    "read_mesh_folder",
    "read_shape",
    "train",
]
