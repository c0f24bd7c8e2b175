# SPDX-License-Identifier: Apache-2.0
"""Reconstruction from many views: `diffiso views` takes pictures, `diffiso reconstruct` uses them.

SDFDiff (Jiang et al., 2020), section 5, and what is better today.
"""

from diffiso.pipelines.sdfdiff.energy import Energy, EnergySettings, RenderSettings, energy
from diffiso.pipelines.sdfdiff.make_views import ViewsResult, ViewsSettings, make_views
from diffiso.pipelines.sdfdiff.optimize import State, first_state, optimize
from diffiso.pipelines.sdfdiff.reconstruct import (
    ReconstructResult,
    read_views,
    reconstruct,
)
from diffiso.pipelines.sdfdiff.schedule import Greedy, ScheduleSettings, picture_size
from diffiso.pipelines.sdfdiff.settings import OptimizerSettings, ReconstructSettings
from diffiso.pipelines.views import Views, load_views

__all__ = [
    "Energy",
    "EnergySettings",
    "Greedy",
    "OptimizerSettings",
    "ReconstructResult",
    "ReconstructSettings",
    "RenderSettings",
    "ScheduleSettings",
    "State",
    "Views",
    "ViewsResult",
    "ViewsSettings",
    "energy",
    "first_state",
    "load_views",
    "make_views",
    "optimize",
    "picture_size",
    "read_views",
    "reconstruct",
]
