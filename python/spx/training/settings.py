"""Settings of a run: from options, and from the folder of a run that goes on. No torch here."""

from __future__ import annotations

from pathlib import Path

from spxcore.errors import SpxError, require

from ..io.reading import read_object
from ..models import registry
from ..models.model import FIRST_FAMILY
from ..models.settings import Settings

# The settings' file in a run's folder.
FILE = "recipe.json"


def saved_fields(folder: Path) -> dict:
    """What a run's recipe.json says, as of this version.

    Raises:
        SpxError: if there is none, or it is damaged or of no family known here.
    """
    path = folder / FILE
    require(path.exists(), str(folder), "a run to resume", f"no {FILE} there", "check --out")
    saved = read_object(path, "start the run again, in another --out")
    return registry.family(saved.get("model", FIRST_FAMILY)).Settings.upgrade(saved)


def resumed(folder: Path, given: dict) -> Settings:
    """The settings of a run that goes on; from them only `data_dir` may differ, since the data may have moved.

    Args:
        folder: of the run.
        given: settings asked for.

    Raises:
        SpxError: for another value, or a file that is none of a run.
    """
    saved = saved_fields(folder)
    for name, value in given.items():
        value = list(value) if isinstance(value, tuple) else value
        if name != "data_dir" and value != saved.get(name):
            raise SpxError(f"{name}: expected {saved.get(name)}, as the run in {folder} was started, got {value}")
    moved = {"data_dir": given["data_dir"]} if "data_dir" in given else {}
    try:
        return registry.family(saved["model"]).Settings(**{**saved, **moved})
    except TypeError as error:
        raise SpxError(f"{folder / FILE}: not a recipe of this version ({error})") from error
    except SpxError as error:
        raise SpxError(f"{folder / FILE}: {error}") from error
