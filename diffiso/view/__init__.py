# SPDX-License-Identifier: Apache-2.0
"""Shaded pictures of triangle meshes and grids, contact sheets and turntables.

Pictures are ray traced, meshes on the CPU and grids where they are: they need no display and no
OpenGL, and the same surface gives the same picture. Needs the extra `pipelines`.
"""

from diffiso.camera import Up
from diffiso.view.cameras import View, fit_view
from diffiso.view.colors import CLAY, SAGE, SLATE, Color, error_colors, grey_image
from diffiso.view.diffuse import DiffusePictures, render_diffuse
from diffiso.view.drawing import Image, render, render_views, turntable
from diffiso.view.sheets import ColorBar, contact_sheet

__all__ = [
    "CLAY",
    "SAGE",
    "SLATE",
    "Color",
    "ColorBar",
    "DiffusePictures",
    "Image",
    "Up",
    "View",
    "contact_sheet",
    "error_colors",
    "fit_view",
    "grey_image",
    "render",
    "render_diffuse",
    "render_views",
    "turntable",
]
