# SPDX-License-Identifier: Apache-2.0
"""The `diffiso` command."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import operator
import os
import re
import sys
import textwrap
from collections.abc import Sequence
from typing import Any, NoReturn

from diffiso import __version__
from diffiso.build_info import build_info
from diffiso.commands import COMMANDS, Command
from diffiso.extras import require
from diffiso.run import add_settings, cpu_threads, settings_from
from diffiso.run.report import plain
from diffiso.run.settings import each_setting, explain, read_values


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    0 is success, 2 means that what the user gave cannot be used, 1 that the work failed.

    Args:
        arguments: The command line without the program's name; by default that of the process.
    """
    given = [_dashed(word) for word in (sys.argv[1:] if arguments is None else arguments)]
    name, rest = _top_parser().parse_args(given[:1]).command, given[1:]
    try:
        if name == "info":
            _info(rest)
        else:
            _run(next(command for command in COMMANDS if command.name == name), rest)
    except BrokenPipeError:  # whoever read the output has gone: nobody is left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (
        ValueError, OSError, ImportError, RuntimeError, MemoryError, KeyboardInterrupt
    ) as error:  # fmt: skip
        if "--traceback" in rest:
            raise
        stopped = isinstance(error, KeyboardInterrupt)
        words = "interrupted" if stopped else str(error) or "out of memory"
        print(f"diffiso: {words}", file=sys.stderr)
        return 130 if stopped else 1 if isinstance(error, RuntimeError | MemoryError) else 2
    return 0


def _info(arguments: Sequence[str]) -> None:
    text = "Print versions, and what was built, as JSON."
    parser = argparse.ArgumentParser(prog="diffiso info", description=text)
    _add_traceback(parser)
    parser.parse_args(arguments)
    print(json.dumps(build_info(), indent=2))


def _run(command: Command, arguments: Sequence[str]) -> None:
    pipeline = importlib.import_module(f"diffiso.pipelines.{command.module}")
    cls = getattr(pipeline, command.settings)
    parser = _command_parser(command, cls)
    running = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    running.error = parser.error  # type: ignore[method-assign]
    _add_running(running, command)
    how, rest = running.parse_known_args(arguments)

    values = require("jsonargparse").Namespace()
    presets = [preset for preset in command.presets if getattr(how, preset)]
    if len(presets) > 1:
        parser.error(f"only one preset can hold, got {' and '.join(f'--{p}' for p in presets)}")
    for preset in presets:
        needed = [s.key for s in each_setting(cls) if s.default is dataclasses.MISSING]
        other = getattr(cls, preset)(**dict.fromkeys(needed, ""))
        for setting in each_setting(cls):
            if setting.key not in needed:
                values[setting.key] = operator.attrgetter(setting.key)(other)
    if how.settings is not None:
        values.update(read_values(cls, how.settings, command.name))
    found = parser.parse_args(rest, namespace=values)
    try:
        settings = settings_from(found, cls)
    except ValueError as error:
        parser.error(str(error))
    if how.print_settings:
        print(json.dumps(plain(settings), indent=2))
        return
    with cpu_threads(how.threads):
        getattr(pipeline, command.function)(settings)


def _command_parser(command: Command, cls: type) -> Any:
    prog = f"diffiso {command.name}"
    parser = require("jsonargparse").ArgumentParser(
        prog=prog,
        usage=f"{prog} {command.usage} [options]",
        description=textwrap.fill(command.text, 88),
        epilog=f"examples:\n{_examples([command])}\n{_SETTINGS_FILES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )

    def fail(message: str, error: Exception | None = None) -> NoReturn:
        print(f"usage: {parser.usage}", file=sys.stderr)
        print(f"{prog}: error: {explain(message, cls)} (see {prog} --help)", file=sys.stderr)
        raise SystemExit(2)

    parser.error = fail
    short = {"output": "-o"}
    add_settings(parser, cls, positional=command.positional, short=short, metavars=command.metavars)
    _add_running(parser.add_argument_group("running"), command)
    return parser


def _add_running(parser: Any, command: Command) -> None:
    """Add what says how to run, not what to do, and therefore stands in no settings."""
    for preset, text in command.presets.items():
        parser.add_argument(f"--{preset}", action="store_true", help=f"other defaults: {text}")
    parser.add_argument("--settings", metavar="FILE", help="settings file; flags override it")
    parser.add_argument(
        "--print-settings", action="store_true", help="print all settings as JSON, do nothing"
    )
    parser.add_argument(
        "--threads",
        type=_positive,
        default=command.threads,
        metavar="INT",
        help=f"CPU threads for torch ({command.threads or 'its own choice'})",
    )
    _add_traceback(parser)


def _add_traceback(parser: Any) -> None:
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")


def _top_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="diffiso",
        usage="diffiso COMMAND [options]",
        description=f"{_WHAT}\n\n{_table()}",
        epilog=f"examples:\n{_examples(COMMANDS)}\n{_SETTINGS_FILES}\n{_MORE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [*(command.name for command in COMMANDS), "info"]
    parser.add_argument("command", choices=names, metavar="COMMAND", help=argparse.SUPPRESS)
    parser.add_argument("--version", action="version", version=f"diffiso {__version__}")
    return parser


_WHAT = "Signed distance functions to meshes and images, with gradients back."
_SETTINGS_FILES = """\
settings files:
  --settings FILE reads settings from JSON, YAML or TOML, where a name is a flag without its
  dashes in front and with _ for -, and groups are mappings: {"resolution": 256}. The report (.json)
  of an earlier run is such a file, and repeats that run. Flags override the file.
"""
_MORE = "diffiso COMMAND --help lists everything that a command can be told, with its defaults."


def _table() -> str:
    rows = [(command.name, command.summary) for command in COMMANDS]
    rows.append(("info", "versions, and whether this installation has CUDA kernels"))
    width = 2 + max(len(name) for name, _ in rows)
    return "commands:\n" + "".join(f"  {name:<{width}}{summary}\n" for name, summary in rows)


def _examples(commands: Sequence[Command]) -> str:
    return "".join(
        f"  diffiso {line}\n      {text}\n"
        for command in commands
        for line, text in command.examples
    )


def _dashed(word: str) -> str:
    """Return a flag with dashes where it has underscores, as names in settings files have."""
    return re.sub(r"^--[\w.-]+", lambda match: match[0].replace("_", "-"), word)


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a positive whole number, got {text!r}")
    return number
