# SPDX-License-Identifier: Apache-2.0
"""A torus, its views, and what tests of reconstruction need of them."""

import torch

import diffiso
from diffiso import io, shapes
from diffiso.pipelines.sdfdiff import ViewsSettings, make_views

BOX = ((-2.0,) * 3, (2.0,) * 3)


def quiet(line):
    pass


def make_torus(folder, cells, **options):
    """Write a torus around y as torus.ply, and its 26 views to views/; return the folder."""
    ring = shapes.Torus(1.3, 0.5)
    mesh = diffiso.isosurface(ring, -2.0, 2.0, cells, dtype=torch.float64)
    path = io.save_mesh(folder / "torus.ply", mesh)
    make_views(ViewsSettings(str(path), str(folder / "views"), **options), quiet)
    return folder
