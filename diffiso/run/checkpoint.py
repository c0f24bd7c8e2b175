# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: a run can be killed at any moment and go on from the last one."""

from __future__ import annotations

import dataclasses
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffiso.io import StrPath, replacing

_MARK = "diffiso_checkpoint"
_FORMAT = 1
_DATA = (Tensor, nn.Parameter, bool, int, float, str, type(None))


def save_checkpoint(path: StrPath, state: dict[str, Any]) -> Path:
    """Write a state whole or not at all, and return the path.

    It goes to a temporary file, to the disk, and then takes the place of the one before: a run that
    is killed meanwhile, or loses power, leaves the one before. Temporary files of killed runs are
    removed.

    Args:
        path: File to write; its folder is made where needed.
        state: Tensors, numbers, texts and None, in dictionaries, lists and tuples, such as
            `state_dict()` of modules and optimizers gives. Other objects are refused: a checkpoint
            holds data, never code.

    Raises:
        TypeError: If the state holds anything else; nothing is written.
        OSError: If the file cannot be written; what stood there before is untouched.

    Example:
        >>> model = nn.Linear(3, 1)
        >>> state = {"step": 100, "model": model.state_dict()}
        >>> load_checkpoint(save_checkpoint("run.pt", state))["step"]
        100
    """
    _check_state(state, "state")
    with replacing(path) as file:
        torch.save({_MARK: _FORMAT, "state": state}, file)
    return Path(path)


def load_checkpoint(path: StrPath) -> dict[str, Any]:
    """Return the state that :func:`save_checkpoint` wrote, on the CPU.

    Only data are read, never code. `load_state_dict` takes them to where the module is.

    Args:
        path: File to read.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is cut short or damaged, or is no checkpoint of this library.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: checkpoint not found")
    try:
        with zipfile.ZipFile(path) as archive:  # which torch does not ask for its checksums
            if archive.testzip() is not None:
                raise zipfile.BadZipFile
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path}: a checkpoint must hold data only, got other objects") from error
    except Exception as error:  # both readers raise many kinds
        raise ValueError(
            f"{path}: not a whole checkpoint of diffiso: cut short, damaged or another kind of file"
        ) from error
    if not isinstance(loaded, dict) or _MARK not in loaded:
        raise ValueError(f"{path}: not a checkpoint of diffiso, but another file of torch")
    if loaded[_MARK] != _FORMAT:
        raise ValueError(f"{path}: format must be {_FORMAT}, got {loaded[_MARK]}")
    state: dict[str, Any] = loaded["state"]
    return state


def load_weights(module: nn.Module, weights: dict[str, Tensor], source: StrPath) -> None:
    """Load a module's weights, and say plainly where they are another architecture's.

    Args:
        module: The module to fill.
        weights: What `state_dict()` gave.
        source: Where they come from, for the message.

    Raises:
        ValueError: If names or shapes differ; the module is untouched.

    Example:
        >>> model = nn.Linear(3, 1)
        >>> load_weights(model, nn.Linear(3, 1).state_dict(), "run.pt")
    """
    own = module.state_dict()
    name = type(module).__name__
    missing, foreign = [k for k in own if k not in weights], [k for k in weights if k not in own]
    if missing or foreign:
        raise ValueError(
            f"{source}: of another architecture than this {name}: "
            + "; ".join(
                f"{what} {', '.join(keys[:3])}{' …' if len(keys) > 3 else ''}"
                for what, keys in (("without", missing), ("with", foreign))
                if keys
            )
        )
    for key, mine in own.items():
        if mine.shape != weights[key].shape:
            raise ValueError(
                f"{source}: of another architecture than this {name}: "
                f"{key} must be {tuple(mine.shape)}, got {tuple(weights[key].shape)}"
            )
    module.load_state_dict(weights)


def check_resumed(
    path: StrPath, found: Mapping[str, Any], settings: Any, free: Sequence[str] = ()
) -> None:
    """Refuse to go on from a checkpoint of a run that had other settings.

    Args:
        path: Where the checkpoint is, for the message.
        found: The settings that it holds, as `dataclasses.asdict` gave them.
        settings: Those of the run that wants to go on, a dataclass.
        free: Names that may differ.

    Raises:
        ValueError: If another setting differs.

    Example:
        >>> from diffiso.fields import DecoderSettings
        >>> settings = DecoderSettings(width=128)
        >>> check_resumed("run.pt", dataclasses.asdict(settings), settings)
    """
    for name, value in dataclasses.asdict(settings).items():
        if name not in free and found.get(name) != value:
            raise ValueError(
                f"{path}: settings must be those of the run it resumes, "
                f"got {name} {found.get(name)!r} (now {value!r})"
            )


def _check_state(value: Any, place: str) -> None:
    # By type, not isinstance: of subclasses and what they add, loading would know nothing.
    if type(value) in (dict, OrderedDict):
        for key, item in value.items():
            _check_state(key, f"a key of {place}")
            _check_state(item, f"{place}[{key!r}]")
    elif type(value) in (list, tuple):
        for index, item in enumerate(value):
            _check_state(item, f"{place}[{index}]")
    elif type(value) not in _DATA:
        raise TypeError(
            f"save_checkpoint: {place} must be a tensor, number, text, None, dict, list or tuple, "
            f"got {type(value).__name__}"
        )
