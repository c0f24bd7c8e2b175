# SPDX-License-Identifier: Apache-2.0
"""Pinhole cameras: points to pixels, pixels to rays, and what other libraries call a camera."""

from diffiso.camera.camera import Camera, Up
from diffiso.camera.conventions import OpenCVCamera, OpenGLCamera, PyTorch3DCamera
from diffiso.camera.pinhole import Projection, Rays
from diffiso.camera.rigs import fibonacci_rig, ring_rig, sdfdiff_rig

__all__ = [
    "Camera",
    "OpenCVCamera",
    "OpenGLCamera",
    "Projection",
    "PyTorch3DCamera",
    "Rays",
    "Up",
    "fibonacci_rig",
    "ring_rig",
    "sdfdiff_rig",
]
