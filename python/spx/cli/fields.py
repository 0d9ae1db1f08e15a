"""Options of commands from the fields of settings and requests: their names, help, choices and ranges are written once, there."""

from __future__ import annotations

import argparse
from dataclasses import MISSING, Field, fields
from typing import Any

from .values import Number, text, text_or_nothing


def field_of(owner: type, name: str) -> Field:
    """The field of that name of a dataclass."""
    return next(f for f in fields(owner) if f.name == name)


def option_names(f: Field) -> tuple[str, ...]:
    """What a user writes for a field."""
    return f.metadata.get("options", ("--" + f.name.replace("_", "-"),))


def add_option(group: argparse._ActionsContainer, owner: type, name: str, default: object = None, **more) -> None:
    """An option of a field: see `spx.fields.setting`. The help ends with the value of an option that is not given.

    Args:
        group: what the option is added to.
        owner: a dataclass.
        name: of its field; the parsed arguments have the value by that name.
        default: the value of an option that is not given. False: a switch. `argparse.SUPPRESS`: none, the field's own holds, and
            a yes or no has two options.
        more: arguments of `add_argument` that a field cannot say, such as `nargs`; they go before the field's.
    """
    f = field_of(owner, name)
    made: dict[str, Any] = {"dest": name, "default": default, "help": f.metadata["help"].replace("%", "%%")}
    shown = f.default if default is argparse.SUPPRESS else default
    if shown is not False or default is argparse.SUPPRESS:
        made["help"] += _brackets(shown)
    if isinstance(f.default, bool):
        made["action"] = "store_true" if default is False else argparse.BooleanOptionalAction
    else:
        made["metavar"] = f.metadata.get("metavar") or "|".join(f.metadata.get("choices", ())) or name.upper()
        if isinstance(f.default, tuple):
            made |= {"type": type(f.default[0]), "nargs": len(f.default)}
        else:
            made["type"] = str if f.default in (MISSING, None) else type(f.default)
    made |= more
    if made.get("type") in (int, float):
        made["type"] = Number(made["type"], f.metadata.get("range"))
    elif made.get("type") is str:
        made["type"] = text_or_nothing if f.default == "" else text
    group.add_argument(*option_names(f), **made)


def _brackets(value: object) -> str:
    """A value as the end of an option's help: " (0.5)"; nothing for none."""
    if value is MISSING or value is None or value == "":
        return ""
    if isinstance(value, tuple):
        return f" ({' '.join(map(str, value))})"
    return f" ({value:.6g})" if isinstance(value, float) else f" ({value})"
