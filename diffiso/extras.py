# SPDX-License-Identifier: Apache-2.0
"""Optional packages, imported where they are used."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

_PACKAGES = {"igl": "libigl", "PIL": "pillow", "yaml": "pyyaml"}


def require(module: str) -> Any:
    """Return a module of the extra `pipelines`, imported.

    Raises:
        ImportError: If it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        top = module.split(".")[0]
        package = _PACKAGES.get(top, top)
        raise ImportError(f"{package} is missing: pip install 'diffiso[pipelines]'") from error


def available(package: str) -> bool:
    """Return whether a top-level package can be imported, without importing it."""
    return importlib.util.find_spec(package) is not None
