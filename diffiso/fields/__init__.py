# SPDX-License-Identifier: Apache-2.0
"""Fields that learn: plain modules, callables (P, 3) -> (P,), ready for `diffiso.isosurface`.

`DeepSdfDecoder` is a family of fields with a latent code for each shape; its `field(code)` is one.
"""

from diffiso.fields.decoder import DecoderSettings, DeepSdfDecoder, LatentField
from diffiso.fields.encoding import PositionalEncoding
from diffiso.fields.geometric import GeometricField
from diffiso.fields.grid import BrickField, FeatureGridField, GridField
from diffiso.fields.latent import LatentTable
from diffiso.fields.mlp import Mlp
from diffiso.fields.siren import Siren

__all__ = [
    "BrickField",
    "DecoderSettings",
    "DeepSdfDecoder",
    "FeatureGridField",
    "GeometricField",
    "GridField",
    "LatentField",
    "LatentTable",
    "Mlp",
    "PositionalEncoding",
    "Siren",
]
