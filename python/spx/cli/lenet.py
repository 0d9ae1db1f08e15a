"""spx-train-lenet: train the classifier that spx-eval judges with."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from spxcore import __version__

from . import options, run


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    p = argparse.ArgumentParser(prog="spx-train-lenet", description="Train the LeNet that spx-eval judges images with.")
    options.add_data(p)
    p.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="folder to write config.json and weights to"
    )
    p.add_argument("--epochs", type=int, default=15, help="passes over the training set (15)")
    p.add_argument("--seed", type=int, default=0, help="seed of weights, data order and shifts (0)")
    options.add_threads(p)
    p.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return p


def train(arguments: argparse.Namespace) -> int:
    """The command's body; returns the exit code."""
    options.check_counts(arguments)
    import torch

    from ..evaluation.lenet import save_lenet, train_lenet

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    train_set, test_set = (options.load_data(arguments, split) for split in ("train", "test"))
    model, accuracy = train_lenet(
        train_set, test_set, arguments.epochs, arguments.seed,
        progress=lambda epoch, accuracy: print(f"epoch {epoch + 1}: {100 * accuracy:.2f} % of the test set", file=sys.stderr),
    )  # fmt: skip
    about = {"data": arguments.data, "epochs": arguments.epochs, "seed": arguments.seed, "test_accuracy": accuracy}
    save_lenet(model, arguments.out, about)
    print(f"{arguments.out}: {100 * accuracy:.2f} % of the test set")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Entry point of spx-train-lenet."""
    arguments = parser().parse_args(argv)
    return run(lambda: train(arguments))


if __name__ == "__main__":
    sys.exit(main())
