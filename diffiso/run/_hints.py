# SPDX-License-Identifier: Apache-2.0
"""The types that a setting may have: numbers, texts, choices, lists of these, and None."""

from __future__ import annotations

import types
import typing
from typing import Any

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
_LETTERS = {int: "INT", float: "NUMBER", str: "TEXT"}


def fits(value: Any, hint: Any) -> bool:
    """Return whether a value is of a type; a whole number is a number too."""
    if hint is Any:
        return True
    members = _members(hint)
    if len(members) > 1:
        return any(fits(value, member) for member in members)
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return value in parts
    if origin in (tuple, list):
        if not isinstance(value, origin):
            return False
        same = origin is list or Ellipsis in parts
        if not same and len(value) != len(parts):
            return False
        return all(fits(item, parts[0 if same else k]) for k, item in enumerate(value))
    if isinstance(value, bool) or hint is bool:
        return isinstance(value, bool) and hint is bool
    return isinstance(value, int | float if hint is float else origin or hint)


def rule(hint: Any) -> str:
    """Return in words what a type allows."""
    kinds = _kinds(hint)
    words = []
    for kind in kinds:
        origin, parts = typing.get_origin(kind), typing.get_args(kind)
        if origin is typing.Literal:
            words.append("one of " + ", ".join(str(choice) for choice in parts))
        elif origin in (tuple, list):
            count = "" if Ellipsis in parts or origin is list else f" of {len(parts)}"
            words.append(f"a list{count}, each {rule(parts[0])}")
        else:
            words.append(_WORDS.get(kind, getattr(kind, "__name__", str(kind))))
    if len(kinds) < len(_members(hint)):
        words.append("null")
    return " or ".join(words)


def metavar(hint: Any) -> str:
    """Return what stands for a value in a help text."""
    kinds = _kinds(hint)
    if len(kinds) > 1:
        return "|".join(metavar(kind) for kind in kinds)
    (kind,) = kinds
    origin = typing.get_origin(kind)
    if origin is typing.Literal:
        return "{" + ",".join(str(choice) for choice in typing.get_args(kind)) + "}"
    if origin in (tuple, list):
        parts = typing.get_args(kind)
        return "[" + ",".join("..." if part is ... else metavar(part) for part in parts) + "]"
    return _LETTERS.get(kind, getattr(kind, "__name__", str(kind)).upper())


def _members(hint: Any) -> tuple[Any, ...]:
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


def _kinds(hint: Any) -> tuple[Any, ...]:
    """Return the types of a union, without None."""
    return tuple(kind for kind in _members(hint) if kind is not type(None))
