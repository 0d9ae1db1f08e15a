"""spx-train: train a model on images."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from dataclasses import Field, fields
from pathlib import Path

from spxcore import __version__
from spxcore.errors import SpxError

from ..models import registry
from ..models.model import FIRST_FAMILY
from ..models.settings import Settings
from ..training.settings import resumed, saved_fields
from . import options, run
from .fields import add_option


def settings_fields(family: type[Settings]) -> list[Field]:
    """The fields of a family's settings that are options."""
    return [f for f in fields(family) if not f.metadata.get("hidden")]


def parser(family: str = FIRST_FAMILY) -> argparse.ArgumentParser:
    """The command's arguments: the settings of a family's runs by name, and how to run it."""
    p = argparse.ArgumentParser(
        prog="spx-train",
        description="Train a model. The preset's name picks the recipe; every setting of it can be replaced.",
        epilog="examples: spx-train --data mnist --data-dir DIR --preset small-8x8 --out RUN; spx-train --out RUN --resume; "
        "torchrun --nproc-per-node 2 -m spx.cli.train --data-dir DIR --preset small-8x8 --out RUN",
    )
    p.add_argument("--out", type=Path, required=True, metavar="RUN", help="folder of the run")
    p.add_argument(
        "--resume", action="store_true", help="continue the run in --out, bit for bit, with its own settings"
    )
    p.add_argument("--device", metavar="DEVICE", help="cpu, cuda ... (cuda if there is one)")
    options.add_threads(p)
    p.add_argument("--quiet", action="store_true", help="no progress bar")
    p.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
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


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The arguments, by the options of the family that is asked for or that the run to resume is of.

    Raises:
        SpxError: if there is no such family, or no run to resume.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--model")
    first.add_argument("--resume", action="store_true")
    first.add_argument("--out", type=Path)
    asked, _ = first.parse_known_args(argv)
    family = asked.model or FIRST_FAMILY
    if asked.resume and asked.out:
        family = saved_fields(asked.out).get("model", FIRST_FAMILY)
    return parser(family).parse_args(argv)


def settings_of(arguments: argparse.Namespace) -> Settings:
    """The settings asked for; on --resume the run's own."""
    given = {name: value for name, value in vars(arguments).items() if name not in _HOW}
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    if arguments.resume:
        return resumed(arguments.out, given)
    return registry.family(given.pop("model", FIRST_FAMILY)).preset(given.pop("preset", None), **given)


_HOW = ("out", "resume", "device", "threads", "quiet")


def train(arguments: argparse.Namespace) -> int:
    """The command's body; returns the exit code."""
    settings = settings_of(arguments)
    options.check_counts(arguments)

    import torch
    import torch.distributed as dist

    from spxcore.engines.base import torch_device

    from ..training.trainer import Trainer

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
        if trainer.processes.first:
            print(f"done: {folder} (draw with: spx-sample --checkpoint {folder} --res 224)")
        return 0
    except SpxError:
        if distributed and dist.get_rank() > 0:
            return 2  # process 0 says it
        raise
    except KeyboardInterrupt:
        if trainer is not None and trainer.processes.first:
            print(f"stopped; continue with: spx-train --out {arguments.out} --resume", file=sys.stderr)
        return 130
    finally:
        if distributed:
            dist.destroy_process_group()


def main(argv: list[str] | None = None) -> int:
    """Entry point of spx-train."""
    return run(lambda: train(parse(argv)))


if __name__ == "__main__":
    sys.exit(main())
