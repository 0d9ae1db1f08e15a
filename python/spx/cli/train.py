"""spx-train: train a Spatial PixelCNN on a folder of IDX images."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from dataclasses import MISSING, fields
from pathlib import Path

from spxcore import __version__
from spxcore.errors import SpxError, require

from ..recipe import PRIORS, SCHEDULES, VAE_MODES, Recipe, recipe
from . import run

_CHOICES = {"vae": VAE_MODES, "prior": PRIORS, "schedule": SCHEDULES, "precision": ("fp32", "bf16")}


def _described() -> dict[str, str]:
    """Help texts of the recipe's settings, from its docstring, so that they have one home."""
    lines = Recipe.__doc__.split("Attributes:")[1].strip().splitlines()
    return dict(line.strip().split(": ", 1) for line in lines)


def parser() -> argparse.ArgumentParser:
    """The command's arguments: the recipe's settings by name, and how to run it."""
    p = argparse.ArgumentParser(
        prog="spx-train",
        description="Train a Spatial PixelCNN. The preset's name picks the recipe; every setting of it can be replaced.",
        epilog="examples: spx-train --data mnist --data-dir DIR --preset small-8x8 --out RUN; spx-train --out RUN --resume; "
        "torchrun --nproc-per-node 2 -m spx.cli.train --data-dir DIR --preset small-8x8 --out RUN",
    )
    p.add_argument("--out", type=Path, required=True, metavar="RUN", help="folder of the run")
    p.add_argument(
        "--resume", action="store_true", help="continue the run in --out, bit for bit, with its own settings"
    )
    p.add_argument("--device", metavar="DEVICE", help="cpu, cuda ... (cuda if there is one)")
    p.add_argument("--threads", type=int, metavar="T", help="CPU threads (all)")
    p.add_argument("--quiet", action="store_true", help="no progress bar")
    p.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    settings = p.add_argument_group(
        "settings of the recipe (in brackets: of ours; paper- and pixelcnnpp- presets have the paper's)"
    )
    texts = _described()
    for field in fields(Recipe):
        option, text = "--" + field.name.replace("_", "-"), texts[field.name].replace("%", "%%")
        if field.default is not MISSING:
            shown = " ".join(map(str, field.default)) if field.name == "sizes" else field.default
            text += f" ({shown})"
        common = {"dest": field.name, "default": argparse.SUPPRESS, "help": text}
        if isinstance(field.default, bool):
            settings.add_argument(option, action=argparse.BooleanOptionalAction, **common)
        elif field.name == "sizes":
            settings.add_argument(option, type=int, nargs=2, metavar=("MIN", "MAX"), **common)
        else:
            kind = str if field.default is MISSING else type(field.default)
            settings.add_argument(option, type=kind, choices=_CHOICES.get(field.name), **common)
    return p


def _recipe(arguments: argparse.Namespace) -> Recipe:
    """The recipe asked for; on --resume the run's own, from which only --data-dir may differ (the data may have moved)."""
    given = {field.name: getattr(arguments, field.name) for field in fields(Recipe) if hasattr(arguments, field.name)}
    if not arguments.resume:
        name = given.pop("preset", None)
        require(name is not None, "preset", "a name such as small-8x8", None)
        return recipe(name, **given)
    path = arguments.out / "recipe.json"
    try:
        saved = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise SpxError(f"{arguments.out}: expected a run to resume, got no recipe.json there; check --out") from error
    except ValueError as error:
        raise SpxError(f"{path}: damaged ({error})") from error
    for name, value in given.items():
        if name != "data_dir" and (list(value) if name == "sizes" else value) != saved.get(name):
            raise SpxError(
                f"{name}: expected {saved.get(name)}, as the run in {arguments.out} was started, got {value}"
            )
    try:
        return Recipe(**{**saved, **({"data_dir": given["data_dir"]} if "data_dir" in given else {})})
    except TypeError as error:
        raise SpxError(f"{path}: not a recipe of this version ({error})") from error


def train(arguments: argparse.Namespace) -> int:
    """The command's body; returns the exit code."""
    settings = _recipe(arguments)
    require(arguments.threads is None or arguments.threads >= 1, "threads", "at least 1", arguments.threads)

    import torch
    import torch.distributed as dist

    from spxcore.engines.base import torch_device

    from ..train import Trainer

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = torch_device(arguments.device)
    distributed = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if distributed:
        if device.type == "cuda":
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")

    def stop(*_):  # a cluster's SIGTERM ends a run as Ctrl-C does
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    trainer = None
    try:
        trainer = Trainer(settings, arguments.out, arguments.resume, device, progress=not arguments.quiet)
        folder = trainer.train()
        if trainer.rank == 0:
            print(f"done: {folder} (draw with: spx-sample --checkpoint {folder} --res 224)")
        return 0
    except SpxError:
        if distributed and dist.get_rank() > 0:
            return 2  # rank 0 says it
        raise
    except KeyboardInterrupt:
        if trainer is not None and trainer.rank == 0:
            print(f"stopped; continue with: spx-train --out {arguments.out} --resume", file=sys.stderr)
        return 130
    finally:
        if distributed:
            dist.destroy_process_group()


def main(argv: list[str] | None = None) -> int:
    """Entry point of spx-train."""
    arguments = parser().parse_args(argv)
    return run(lambda: train(arguments))


if __name__ == "__main__":
    sys.exit(main())
