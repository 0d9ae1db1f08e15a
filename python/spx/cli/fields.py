"""Options of commands from the fields of settings and requests: their names, help, choices and ranges are written once, there."""

from __future__ import annotations

import argparse
from dataclasses import Field, fields

from spxcore.errors import require


def field_of(owner: type, name: str) -> Field:
    """The field of that name of a dataclass."""
    return next(f for f in fields(owner) if f.name == name)


def add_option(group: argparse._ActionsContainer, owner: type, name: str, **more) -> None:
    """An option of a field: see `spx.fields.setting`.

    Args:
        group: what the option is added to.
        owner: a dataclass.
        name: of its field; the parsed arguments have the value by that name.
        more: arguments of `add_argument` that a field cannot say, such as `type` or `nargs`.
    """
    f = field_of(owner, name)
    names = f.metadata.get("options", ("--" + name.replace("_", "-"),))
    more = {"dest": name, "help": f.metadata["help"].replace("%", "%%"), **more}
    if more.get("action") != "store_true":
        more = {"metavar": f.metadata.get("metavar"), "choices": f.metadata.get("choices"), **more}
    group.add_argument(*names, **more)


def check_option(owner: type, name: str, value: float | None) -> None:
    """Raise an `SpxError` unless a number is in its field's range; None is no value, and right."""
    f = field_of(owner, name)
    option = f.metadata.get("options", ("--" + name.replace("_", "-"),))[-1].removeprefix("--")
    require(value is None or f.metadata["range"].holds(value), option, str(f.metadata["range"]), value)
