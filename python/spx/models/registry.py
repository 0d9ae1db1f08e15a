"""The list of model families: the only place that names them, by strings, so that none is imported before it is asked for."""

from __future__ import annotations

from importlib import import_module

from spxcore.errors import SpxError, require

# Family -> module whose `MODEL` is its `spx.models.model.Model`.
_FAMILIES = {"spatial": "spx.models.spatial", "pixelcnnpp": "spx.models.pixelcnnpp", "gated": "spx.models.gated"}

# Entry points by which another installed package adds families: name = family, value = module.
GROUP = "spx.models"


def _elsewhere() -> dict[str, str]:
    """Families of other installed packages: name -> module."""
    from importlib.metadata import entry_points  # slow to import

    return {entry.name: entry.value for entry in entry_points(group=GROUP)}


def register(name: str, module: str) -> None:
    """Add a family: the dotted name of a module whose `MODEL` is its `spx.models.model.Model`."""
    known = _FAMILIES.setdefault(name, module)
    require(known == module, f"family {name}", "a name that is free", f"one that {known} has")


def names() -> list[str]:
    """All families, those of other installed packages among them."""
    return sorted({*_FAMILIES, *_elsewhere()})


def family(name: str):
    """The `spx.models.model.Model` of a family's name.

    Raises:
        SpxError: if there is none, or its module cannot be imported.
    """
    require(isinstance(name, str), "family", "a name", repr(name)[:80])
    module = _FAMILIES.get(name) or _elsewhere().get(name)
    if module is None:
        known = " or ".join(names())
        raise SpxError(f"family: expected {known}, got {repr(name)[:80]} (another one's package must be installed)")
    try:
        return import_module(module).MODEL
    except (ImportError, AttributeError) as error:
        raise SpxError(f"family {name}: expected a module {module} with a MODEL, got {error}") from error
