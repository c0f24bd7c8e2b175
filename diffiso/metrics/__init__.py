# SPDX-License-Identifier: Apache-2.0
"""How far one surface is from another, in every way that papers print, with floors.

Three kinds of scores:

- between surfaces, exact to triangles, 0 for equal ones: `surface_distance`, `hausdorff`,
  `vertex_distance`, and `volume_iou` of what they enclose;
- between clouds of points: `chamfer`, `cloud_hausdorff`, `f_score`, `normal_consistency`,
  `earth_mover`, `surface_iou`;
- the latter between samples of meshes, beside what a perfect surface would score: `on_meshes` with
  any metric, and `PROTOCOLS` with papers' counts, frames and scales.

`compare` makes a table of them, `error_map` shows where the errors are. All are for judging, not
for training: `losses` has gradients.
"""

from diffiso.metrics.clouds import FScore, chamfer, cloud_hausdorff, f_score, normal_consistency
from diffiso.metrics.comparison import ALL_METRICS, DEFAULT_METRICS, Comparison, Row, compare
from diffiso.metrics.error_map import ErrorMap, error_map
from diffiso.metrics.frames import Frame, FrameName, fit_frame
from diffiso.metrics.overlap import surface_iou, volume_iou
from diffiso.metrics.protocols import PROTOCOLS, Protocol
from diffiso.metrics.sampling import (
    CloudMetric,
    Score,
    SurfaceCloud,
    on_meshes,
    sample_evenly,
    sampling_limit,
)
from diffiso.metrics.surfaces import (
    Hausdorff,
    SurfaceDistance,
    VertexDistance,
    hausdorff,
    surface_distance,
    vertex_distance,
)
from diffiso.metrics.transport import EarthMover, earth_mover

__all__ = [
    "ALL_METRICS",
    "DEFAULT_METRICS",
    "PROTOCOLS",
    "CloudMetric",
    "Comparison",
    "EarthMover",
    "ErrorMap",
    "FScore",
    "Frame",
    "FrameName",
    "Hausdorff",
    "Protocol",
    "Row",
    "Score",
    "SurfaceCloud",
    "SurfaceDistance",
    "VertexDistance",
    "chamfer",
    "cloud_hausdorff",
    "compare",
    "earth_mover",
    "error_map",
    "f_score",
    "fit_frame",
    "hausdorff",
    "normal_consistency",
    "on_meshes",
    "sample_evenly",
    "sampling_limit",
    "surface_distance",
    "surface_iou",
    "vertex_distance",
    "volume_iou",
]
