# SPDX-License-Identifier: Apache-2.0
"""Settings: one frozen dataclass says what a pipeline can be told, and flags and files follow it.

A field's type, default and line under "Attributes:" are all there is to declare; the checks of its
value stand in the dataclass's `__post_init__`. A field that is itself a dataclass becomes a group
of flags (`--fit.steps`) and a mapping in a file. Needs the extra `pipelines`.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import math
import re
import tomllib
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from diffiso.extras import require
from diffiso.io import StrPath, check_output, write_file
from diffiso.io.files import first_line
from diffiso.run._hints import fits, metavar, rule
from diffiso.run.report import plain

Settings = TypeVar("Settings")

SETTINGS_SUFFIXES = (".json", ".yaml", ".yml", ".toml")


class Setting(NamedTuple):
    """One setting: a field of a settings dataclass, or of a dataclass within it."""

    key: str  # dotted, as in a file: fit.learning_rate
    hint: Any
    default: Any  # dataclasses.MISSING where it must be given
    help: str

    @property
    def flag(self) -> str:
        """Return the flag: --fit.learning-rate."""
        return "--" + self.key.replace("_", "-")


def each_setting(cls: type) -> Iterator[Setting]:
    """Yield the settings of a dataclass, those of dataclasses within it too.

    Raises:
        TypeError: If it is no dataclass.
    """
    if not dataclasses.is_dataclass(cls):
        raise TypeError(f"each_setting: cls must be a dataclass, got {cls!r}")
    return _settings_within(cls, "", None)


def _settings_within(cls: Any, prefix: str, instance: Any) -> Iterator[Setting]:
    """Yield settings; the defaults are those of an instance where a default gives one."""
    hints, words = typing.get_type_hints(cls), _descriptions(cls)
    for field in dataclasses.fields(cls):
        hint, name = hints[field.name], prefix + field.name
        default = _default(field) if instance is None else getattr(instance, field.name)
        if dataclasses.is_dataclass(hint):
            within = None if default is dataclasses.MISSING else default
            yield from _settings_within(hint, f"{name}.", within)
        else:
            yield Setting(name, hint, default, words.get(field.name, ""))


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is dataclasses.MISSING:
        return field.default
    return field.default_factory()


def check_settings(
    settings: Any,
    *,
    positive: Sequence[str] = (),
    not_negative: Sequence[str] = (),
    finite: Sequence[str] = (),
) -> None:
    """Check the types of all settings, and the range of some; call it in `__post_init__`.

    Args:
        settings: A dataclass.
        positive: Settings that must be above 0, or None where their type allows it; of a list,
            each number in it.
        not_negative: Settings that must be 0 or more.
        finite: Settings that must be neither NaN nor infinite; the others must be that too.

    Raises:
        ValueError: If a value is of another type or outside its range; whole numbers must fit 64
            bits, as all that take them want it.

    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class FitSettings:
        ...     steps: int = 1000
        ...     def __post_init__(self):
        ...         check_settings(self, positive=["steps"])
        >>> FitSettings(steps=0)
        Traceback (most recent call last):
        ValueError: FitSettings: steps must be positive, got 0
    """
    name = type(settings).__name__
    for key, hint in typing.get_type_hints(type(settings)).items():
        value = getattr(settings, key)
        if not fits(value, hint):
            raise ValueError(f"{name}: {key} must be {rule(hint)}, got {value!r}")
    for key in (*positive, *not_negative, *finite):
        value = getattr(settings, key)
        for number in value if isinstance(value, tuple | list) else [value]:
            if number is None:
                continue
            if isinstance(number, int) and number >= 2**63:
                raise ValueError(f"{name}: {key} must be below 2^63, got {value}")
            if not math.isfinite(number):
                raise ValueError(f"{name}: {key} must be finite, got {value}")
            if key in positive and number <= 0:
                raise ValueError(f"{name}: {key} must be positive, got {value}")
            if key in not_negative and number < 0:
                raise ValueError(f"{name}: {key} must not be negative, got {value}")


def add_settings(
    parser: Any,
    cls: type,
    *,
    positional: Sequence[str] = (),
    short: Mapping[str, str] | None = None,
    metavars: Mapping[str, str] | None = None,
) -> None:
    """Give a `jsonargparse.ArgumentParser` a flag for each setting, dataclasses within in groups.

    Booleans become a pair, `--picture` and `--no-picture`.

    Args:
        parser: The parser.
        cls: The settings dataclass.
        positional: Settings that are given by place.
        short: Short flags, such as `{"output": "-o"}`.
        metavars: What stands for a value in the help.
    """
    short, metavars = short or {}, metavars or {}
    groups: dict[str, Any] = {}
    for setting in each_setting(cls):
        owner, _, name = setting.key.rpartition(".")
        if owner not in groups:
            title = f"{owner} ({_summary(_owner(cls, owner))})" if owner else "settings"
            groups[owner] = parser.add_argument_group(title)
        options: dict[str, Any] = {"help": _help(setting)}
        if setting.default is not dataclasses.MISSING:
            options["default"] = setting.default
        if setting.key in positional:
            options |= {"type": setting.hint, "metavar": metavars.get(setting.key, name.upper())}
            groups[owner].add_argument(setting.key, **options)
            continue
        if setting.default is dataclasses.MISSING:
            options["required"] = True
        if setting.hint is bool:
            options["action"] = require("jsonargparse").ActionYesNo(no_prefix="no-")
        else:
            options |= {
                "type": setting.hint,
                "metavar": metavars.get(setting.key, metavar(setting.hint)),
            }
        flags = [short[setting.key]] if setting.key in short else []
        groups[owner].add_argument(*flags, setting.flag, **options)


def settings_from(namespace: Any, cls: type[Settings]) -> Settings:
    """Return the settings that a parser with :func:`add_settings` found.

    Args:
        namespace: What the parser returned; what it does not hold keeps its default.
        cls: The settings dataclass.

    Raises:
        ValueError: If the dataclass refuses a value, or needs one that is not there.
    """
    return typing.cast("Settings", _build(cls, namespace, None))


def _build(cls: Any, namespace: Any, instance: Any) -> Any:
    """Return a dataclass of what a namespace holds, and of an instance or defaults for the rest."""
    hints, values = typing.get_type_hints(cls), {}
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        if field.name not in namespace:
            continue
        value = namespace[field.name]
        if dataclasses.is_dataclass(hint):
            default = _default(field) if instance is None else getattr(instance, field.name)
            value = _build(hint, value, None if default is dataclasses.MISSING else default)
        values[field.name] = value
    return cls(**values) if instance is None else dataclasses.replace(instance, **values)


def read_settings(cls: type[Settings], path: StrPath) -> Settings:
    """Return the settings of a file; what it does not name keeps its default.

    Args:
        cls: The settings dataclass.
        path: JSON, YAML or TOML, or the JSON report of an earlier run, which holds its settings.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, names a setting that does not exist, leaves out one that
            must be given, or has a value of another type or outside its range.
        ImportError: If the extra `pipelines` is not installed.

    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class FitSettings:
        ...     steps: int = 1000
        ...     rate: float = 0.01
        >>> read_settings(FitSettings, write_settings("fit.yaml", FitSettings(steps=50)))
        FitSettings(steps=50, rate=0.01)
    """
    found = read_values(cls, path)
    for setting in each_setting(cls):
        if setting.default is dataclasses.MISSING and found.get(setting.key) is None:
            raise ValueError(f"{path}: {setting.key} is missing, it has no default")
    try:
        return settings_from(found, cls)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def write_settings(path: StrPath, settings: Any) -> Path:
    """Write settings as JSON or YAML, after the name's suffix, and return the path.

    Args:
        path: File to write; its folder is made where needed.
        settings: A dataclass.

    Raises:
        ValueError: If the suffix is another.
        OSError: If the file cannot be written.
    """
    path = check_output(path, (".json", ".yaml", ".yml"))
    data = plain(settings)
    if path.suffix.lower() == ".json":
        text = json.dumps(data, indent=2) + "\n"
    else:
        text = require("yaml").safe_dump(data, sort_keys=False)
    return write_file(path, text.encode())


def read_values(cls: type, path: StrPath, command: str | None = None) -> Any:
    """Return what a settings file names, and no more, as a checked `jsonargparse.Namespace`.

    Args:
        cls: The settings dataclass.
        path: As for :func:`read_settings`.
        command: Whose report it may be; None takes that of any.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: As :func:`read_settings`, but nothing needs to be there.
    """
    path = Path(path)
    data = _read(path)
    if isinstance(data, Mapping) and {"command", "settings"} <= set(data):
        if command not in (None, data["command"]):
            raise ValueError(
                f"{path}: settings must be those of {command}, got a report of {data['command']}"
            )
        data = data["settings"]
    if not isinstance(data, Mapping):
        raise ValueError(f"{path}: settings must be names and values, got {type(data).__name__}")
    known = {setting.key: setting for setting in each_setting(cls)}
    given = dict(_flat(data, {key.rpartition(".")[0] for key in known}))
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f", did you mean {near[0]}?" if near else ""
            raise ValueError(f"{path}: there is no setting {key}{hint}")
    package = require("jsonargparse")
    parser = package.ArgumentParser(exit_on_error=False)
    for key in given:
        parser.add_argument(f"--{key}", type=known[key].hint)
    try:
        return parser.parse_object(_nested(given), defaults=False)
    except argparse.ArgumentError as error:
        raise ValueError(f"{path}: {explain(str(error), cls)}") from error


def explain(message: str, cls: type) -> str:
    """Return a parser's message as: key, rule, what came."""
    key = re.search(r'Parser key "([\w.]+)"', message)
    value = re.search(r"(?:Got|Given) value: (.*)", message)
    known = {setting.key: setting for setting in each_setting(cls)}
    if key is None or value is None or key[1] not in known:
        return " ".join(message.split())
    return f"{key[1]} must be {rule(known[key[1]].hint)}, got {value[1]!r}"


def _read(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: settings file not found")
    suffix = path.suffix.lower()
    if suffix not in SETTINGS_SUFFIXES:
        raise ValueError(
            f"{path}: name must end in {', '.join(SETTINGS_SUFFIXES)}, "
            f"got {path.suffix or 'no suffix'!r}"
        )
    try:
        text = path.read_text()
        if suffix == ".json":
            return json.loads(text)
        return tomllib.loads(text) if suffix == ".toml" else require("yaml").safe_load(text) or {}
    except (ImportError, OSError):
        raise
    except Exception as error:  # each format has errors of its own
        raise ValueError(
            f"{path}: cannot be read as {suffix[1:].upper()} ({first_line(error)})"
        ) from error


def _flat(data: Mapping[str, Any], owners: set[str], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and values; mappings are opened where a dataclass stands."""
    for name, value in data.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and key in owners:
            yield from _flat(value, owners, f"{key}.")
        elif value is None and key in owners:
            continue  # YAML's way to leave a group empty
        else:
            yield key, value


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for key, value in flat.items():
        *owners, name = key.split(".")
        place = data
        for owner in owners:
            place = place.setdefault(owner, {})
        place[name] = value
    return data


def _owner(cls: type, owner: str) -> type:
    for name in owner.split("."):
        cls = typing.get_type_hints(cls)[name]
    return cls


def _summary(cls: type) -> str:
    text = (cls.__doc__ or cls.__name__).strip().splitlines()[0].rstrip(".")
    text = re.sub(r":\w+:`([^`]+)`", r"\1", text).split(";")[0]
    return text[:1].lower() + text[1:]


def _descriptions(cls: type) -> dict[str, str]:
    document = require("docstring_parser").parse(cls.__doc__ or "")
    return {
        entry.arg_name: " ".join((entry.description or "").split()) for entry in document.params
    }


def _help(setting: Setting) -> str:
    text = setting.help.rstrip(".").replace("%", "%%")
    if setting.default is dataclasses.MISSING or setting.default is None:
        return text
    value = plain(setting.default)
    if isinstance(value, bool):
        value = "yes" if value else "no"
    return f"{text} ({'none' if value in ([], '') else value})"
