# SPDX-License-Identifier: Apache-2.0
"""Meshes, point clouds, volumes and pictures in and out of files.

Files are written under a temporary name and renamed when complete: there is never half a file.
Errors name the file. Meshes need trimesh and pictures pillow, both in the extra `pipelines`.
"""

from diffiso.io.cameras import CameraFile, load_cameras, save_cameras
from diffiso.io.clouds import CLOUD_SUFFIXES, PointCloud, load_cloud, save_cloud
from diffiso.io.files import StrPath, check_output, check_output_folder, replacing, write_file
from diffiso.io.images import IMAGE_SUFFIXES, load_image, load_mask, save_gif, save_image
from diffiso.io.meshes import MESH_SUFFIXES, load_mesh, save_mesh
from diffiso.io.volumes import load_volume, save_volume

__all__ = [
    "CLOUD_SUFFIXES",
    "IMAGE_SUFFIXES",
    "MESH_SUFFIXES",
    "CameraFile",
    "PointCloud",
    "StrPath",
    "check_output",
    "check_output_folder",
    "load_cameras",
    "load_cloud",
    "load_image",
    "load_mask",
    "load_mesh",
    "load_volume",
    "replacing",
    "save_cameras",
    "save_cloud",
    "save_gif",
    "save_image",
    "save_mesh",
    "save_volume",
    "write_file",
]
