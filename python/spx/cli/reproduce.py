"""spx-reproduce: the paper's tables 1 to 3, ours beside them, and the ablations, at one budget a row."""

from __future__ import annotations

import argparse
import sys

from .command import Command, Work


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    from ..fields import ANY
    from . import options
    from .values import Number, path, text, text_or_nothing

    p = argparse.ArgumentParser(
        prog="spx-reproduce",
        description="Train and evaluate rows at one budget: those of the paper's tables 1 to 3, the same with our conditioning, and "
        "the ablations. Stop it at any time: the same command goes on.",
        epilog="examples: spx-reproduce --list; spx-reproduce --data-dir DIR --out OUT --budget 2000; "
        "spx-reproduce --data-dir DIR --out OUT --budget 10m --rows 'paper-8-*' ours-8 'ablation-*'",
    )
    p.add_argument("--list", action="store_true", help="list the rows and end")
    p.add_argument(
        "--rows", type=text, nargs="+", metavar="ROW", help="names or shell patterns of the rows to run (all)"
    )
    p.add_argument("--out", type=path, metavar="OUT", help="folder of the runs, results.json and results.md")
    p.add_argument(
        "--budget", default="2000", help="budget of a row: steps such as 2000, or minutes such as 10m (2000)"
    )
    p.add_argument(
        "--vae",
        type=text_or_nothing,
        default="",
        metavar="NAME",
        help="checkpoint whose frozen VAE the rows share (train one)",
    )
    p.add_argument(
        "--vae-steps",
        type=Number(int, ANY),
        default=6000,
        metavar="K",
        help="optimiser steps of the shared frozen VAE (6000)",
    )
    options.add_data(p, reading=False)
    options.add_lenet(p)
    p.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="arithmetic of training (fp32)")
    p.add_argument("--compile", action="store_true", help="compile the networks with torch.compile in training")
    options.add_amounts(p)
    p.add_argument(
        "--seed", type=Number(int, ANY), default=0, metavar="S", help="seed of training, samples and codes (0)"
    )
    options.add_device(p, "device of training: cpu, cuda ... (cuda if there is one)")
    options.add_engine(p, precision=False)
    options.add_version(p)
    return p


def reproduce(arguments: argparse.Namespace) -> Work:
    """Look at everything that is asked for, the data, the classifier and the checkpoint. The work: train and evaluate the rows."""
    from spxcore.errors import require

    from ..reproduce.rows import Budget, rows, select
    from . import options

    if arguments.list:
        return lambda: "\n".join(f"{row.name:32s} {row.group:16s} {row.text}" for row in rows())
    chosen = select(arguments.rows)
    Budget.of(arguments.budget)
    require(arguments.out is not None, "out", "a folder", None)
    contours = (112,) if arguments.contours is None else tuple(arguments.contours)
    require(all(n >= 28 for n in contours), "contours", "sizes of at least 28", list(contours))
    options.needs_lenet(arguments)

    import torch

    from spxcore import engines
    from spxcore.engines.base import torch_device

    from ..checkpoints import read_checkpoint
    from ..evaluation.lenet import load_lenet
    from ..evaluation.metrics import why_no_contours
    from ..io.files import check_folder
    from ..reproduce.run import Reproduction
    from ..reproduce.settings import Settings

    reason = why_no_contours()
    require(reason is None, "contours", "scikit-image", reason)
    check_folder(arguments.out, ("settings.json", "results.json", "results.md"))
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    load_lenet(arguments.lenet or None)
    if arguments.vae:
        read_checkpoint(arguments.vae)
    given = {name: getattr(arguments, name) for name in Settings.__dataclass_fields__}
    settings = Settings(**{**given, "lenet": arguments.lenet or "", "contours": contours})
    device = str(torch_device(arguments.device))
    engine = engines.get(arguments.engine, threads=arguments.threads)
    work = Reproduction(settings, arguments.out, device, engine, lambda line: print(line, file=sys.stderr, flush=True))
    for split in ("train", "test"):  # what is wrong with the data is said before hours of training
        options.load_data(arguments, split)
    return lambda: work.run(chosen).read_text(encoding="utf-8").removesuffix("\n")


main = Command("spx-reproduce", lambda _: parser(), reproduce)

if __name__ == "__main__":
    sys.exit(main())
