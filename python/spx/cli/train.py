"""spx-train: train a model on images."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import Field, fields
from typing import TYPE_CHECKING

from .command import Command, Work

if TYPE_CHECKING:
    from ..models.settings import Settings


def settings_fields(family: type[Settings]) -> list[Field]:
    """The fields of a family's settings that are options."""
    return [f for f in fields(family) if not f.metadata.get("hidden")]


def parser(family: str | None = None) -> argparse.ArgumentParser:
    """The command's arguments: the settings of a family's runs by name, None for the first family, and how to run it."""
    from ..models import registry
    from ..models.model import FIRST_FAMILY
    from . import options
    from .fields import add_option
    from .values import path

    family = family or FIRST_FAMILY
    p = argparse.ArgumentParser(
        prog="spx-train",
        description="Train a model. The preset's name picks the recipe; every setting of it can be replaced.",
        epilog="examples: spx-train --data mnist --data-dir DIR --preset small-8x8 --out RUN; spx-train --out RUN --resume; "
        "torchrun --nproc-per-node 2 -m spx.cli.train --data-dir DIR --preset small-8x8 --out RUN",
    )
    p.add_argument("--out", type=path, required=True, metavar="RUN", help="folder of the run")
    p.add_argument(
        "--resume", action="store_true", help="continue the run in --out, bit for bit, with its own settings"
    )
    options.add_device(p, "cpu, cuda ... (cuda if there is one)")
    options.add_threads(p)
    p.add_argument("--quiet", action="store_true", help="no progress bar")
    options.add_version(p)
    settings = p.add_argument_group(f"settings of a {family} run (in brackets: unless the preset has another)")
    settings.add_argument(
        "--model",
        default=argparse.SUPPRESS,
        help=f"family of the model: {', '.join(registry.names())} ({FIRST_FAMILY})",
    )
    own = registry.family(family).Settings
    for f in settings_fields(own):
        if f.name != "model":
            add_option(settings, own, f.name, argparse.SUPPRESS)
    return p


def parser_for(argv: list[str]) -> argparse.ArgumentParser:
    """The options of the family that is asked for, or that the run to resume is of.

    Raises:
        SpxError: if there is no such family, or no run to resume.
    """
    from ..models.model import FIRST_FAMILY
    from ..training.settings import saved_fields
    from .values import path

    first = argparse.ArgumentParser(prog="spx-train", add_help=False, allow_abbrev=False)
    first.add_argument("--model")
    first.add_argument("--resume", action="store_true")
    first.add_argument("--out", type=path)
    asked, _ = first.parse_known_args(argv)
    if asked.resume and asked.out:
        return parser(saved_fields(asked.out).get("model", FIRST_FAMILY))
    return parser(asked.model)


def settings_of(arguments: argparse.Namespace) -> Settings:
    """The settings asked for; on --resume the run's own."""
    from ..models import registry
    from ..models.model import FIRST_FAMILY
    from ..training.settings import resumed

    given = {name: value for name, value in vars(arguments).items() if name not in _HOW}
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    if arguments.resume:
        return resumed(arguments.out, given)
    return registry.family(given.pop("model", FIRST_FAMILY)).preset(given.pop("preset", None), **given)


_HOW = ("out", "resume", "device", "threads", "quiet")


def train(arguments: argparse.Namespace) -> Work:
    """Look at the settings, the folder and the device. The work: read the images, look at them, train."""
    from spxcore.errors import SpxError

    from ..io.files import check_folder
    from ..training.settings import FILE

    settings = settings_of(arguments)
    check_folder(arguments.out, (FILE,))

    import torch
    import torch.distributed as dist

    from spxcore.engines.base import torch_device

    from ..signals import Stopped
    from ..training.trainer import Trainer

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = torch_device(arguments.device)
    distributed = int(os.environ.get("WORLD_SIZE", "1")) > 1

    def work() -> str:
        nonlocal device
        if distributed:
            if device.type == "cuda":
                device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
                torch.cuda.set_device(device)
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        trainer = None
        try:
            trainer = Trainer(settings, arguments.out, arguments.resume, device, progress=not arguments.quiet)
            folder = trainer.train()
            done = f"done: {folder} (draw with: spx-sample --checkpoint {folder})"
            return done if trainer.processes.first else ""
        except SpxError:
            if distributed and dist.get_rank() > 0:
                raise SystemExit(2) from None  # process 0 says it
            raise
        except KeyboardInterrupt as stop:
            if trainer is None:
                raise
            way = f"stopped; continue with: spx-train --out {arguments.out} --resume"
            raise Stopped(getattr(stop, "number", Stopped().number), way) from stop
        finally:
            if distributed:
                dist.destroy_process_group()

    return work


main = Command("spx-train", parser_for, train)

if __name__ == "__main__":
    sys.exit(main())
