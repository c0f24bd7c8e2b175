# SPDX-License-Identifier: Apache-2.0
"""Whole files or none: what every writer shares, and checks of outputs before the work starts."""

from __future__ import annotations

import contextlib
import fcntl
import os
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

StrPath = str | os.PathLike[str]

_ENDING = ".part"


def check_output(
    path: StrPath, suffixes: Sequence[str] = (), *, inputs: Sequence[StrPath] = ()
) -> Path:
    """Return a path that can be written; call it before the work starts.

    What a killed run left of this file under a temporary name is removed. Nothing is made yet: work
    that fails leaves no empty folders.

    Args:
        path: File to be written later.
        suffixes: Endings allowed, lower case with the dot; none allows all.
        inputs: Files that the work reads, which it must not overwrite.

    Raises:
        ValueError: If the suffix is not among those allowed, or the file is one of the inputs.
        OSError: If the path is a folder, or its folder cannot be made or written.

    Example:
        >>> check_output("results/sphere.ply", (".ply", ".obj")).name
        'sphere.ply'
    """
    path = Path(path)
    if suffixes and path.suffix.lower() not in suffixes:
        raise ValueError(
            f"{path}: name must end in {', '.join(suffixes)}, got {path.suffix or 'no suffix'!r}"
        )
    if path.is_dir():
        raise IsADirectoryError(f"{path}: output must be a file, got a folder")
    for given in inputs:
        if path.exists() and Path(given).exists() and path.samefile(given):
            raise ValueError(f"{path}: output must be another file than the input, got {given}")
    place = _place(path)
    _try_folder(place.parent, path)
    remove_stale(place)
    return path


def check_output_folder(path: StrPath) -> Path:
    """Return a folder that files can be written to; call it before the work starts.

    It is not made yet: writing to it does that.

    Args:
        path: Folder to write to later.

    Raises:
        OSError: If the path is a file, or the folder cannot be made or written.

    Example:
        >>> check_output_folder("results/run-1").name
        'run-1'
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"{path}: output must be a folder, got a file")
    _try_folder(_place(path), path)
    return path


def write_file(path: StrPath, data: bytes) -> Path:
    """Write a whole file or none, and return the path; a kill or a power cut leaves no half.

    Args:
        path: File to write; its folder is made where needed.
        data: What the file shall hold.

    Raises:
        OSError: If the file cannot be written; what stood there before is untouched.

    Example:
        >>> write_file("numbers.txt", b"1 2 3").read_bytes()
        b'1 2 3'
    """
    with replacing(path) as file:
        file.write(data)
    return Path(path)


@contextlib.contextmanager
def replacing(path: StrPath) -> Iterator[BinaryIO]:
    """Open a file to be written from start to end, which takes its place when it is complete.

    It is written under a temporary name beside its place, brought to the disk, and renamed. The
    temporary file is locked while it is written: what nobody locks was left by a killed process,
    and is removed before the next write of the same file. A link stays, and what it leads to is
    replaced.

    Args:
        path: File to write; its folder is made where needed.

    Raises:
        OSError: If the file cannot be written; what stood there before is untouched.
    """
    place = _place(Path(path))
    remove_stale(place)
    temporary = _temporary(place)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with _open_locked(temporary) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(place)
        _sync_folder(place.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise OSError(f"{path}: cannot be written ({error.strerror or error})") from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def remove_stale(path: Path) -> None:
    """Remove the temporary files of `path` that no process is writing."""
    start = f".{path.name}."
    try:
        names = [entry.name for entry in os.scandir(path.parent)]
    except OSError:
        return
    for name in names:
        if name.startswith(start) and name.endswith(_ENDING):
            with contextlib.suppress(OSError), path.with_name(name).open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.with_name(name).unlink()


def _place(path: Path) -> Path:
    """Return where a file is really written: links are followed."""
    return Path(os.path.realpath(path))


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{_ENDING}")


def _open_locked(temporary: Path) -> BinaryIO:
    """Open a new file and lock it, again if another process took it for stale in between."""
    while True:
        file = temporary.open("xb")
        with contextlib.suppress(OSError):  # no locks here: then nothing is taken for stale
            fcntl.flock(file, fcntl.LOCK_EX)
        if temporary.exists():
            return file
        file.close()


def _try_folder(folder: Path, wanted: Path) -> None:
    """Try to write to a folder, or to where it would be made; errors name what is wanted there."""
    there = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
    probe = _temporary(there / "probe")
    try:
        remove_stale(there / "probe")
        probe.touch()
        probe.unlink(missing_ok=True)  # another process may have taken it for stale
    except OSError as error:
        raise OSError(f"{wanted}: cannot be written ({error.strerror or error})") from error


def _sync_folder(folder: Path) -> None:
    """Bring a rename to the disk; file systems that cannot sync a folder do it by themselves."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its kind where it has none."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
