"""spx-train-lenet: train the classifier that spx-eval judges with."""

from __future__ import annotations

import argparse
import sys

from .command import Command, Work


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    from ..fields import ANY, Range
    from . import options
    from .values import Number, path

    p = argparse.ArgumentParser(prog="spx-train-lenet", description="Train the LeNet that spx-eval judges images with.")
    options.add_data(p)
    p.add_argument(
        "--out", type=path, required=True, metavar="FOLDER", help="folder to write config.json and weights to"
    )
    epochs = Number(int, Range(1, 1 << 20))
    p.add_argument("--epochs", type=epochs, default=15, help="passes over the training set (15)")
    p.add_argument("--seed", type=Number(int, ANY), default=0, help="seed of weights, data order and shifts (0)")
    options.add_threads(p)
    options.add_version(p)
    return p


def train(arguments: argparse.Namespace) -> Work:
    """Read the images. The work: train."""
    from ..io.files import check_folder
    from ..io.tensors import CONFIG, WEIGHTS

    check_folder(arguments.out, (CONFIG, WEIGHTS))

    import torch

    from ..evaluation.lenet import check_images, save_lenet, train_lenet
    from . import options

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    train_set, test_set = (options.load_data(arguments, split) for split in ("train", "test"))
    for images in (train_set, test_set):
        check_images(images)

    def progress(epoch: int, accuracy: float) -> None:
        print(f"epoch {epoch + 1}: {100 * accuracy:.2f} % of the test set", file=sys.stderr)

    def work() -> str:
        model, accuracy = train_lenet(train_set, test_set, arguments.epochs, arguments.seed, progress)
        about = {"data": arguments.data, "epochs": arguments.epochs, "seed": arguments.seed, "test_accuracy": accuracy}
        save_lenet(model, arguments.out, about)
        return f"{arguments.out}: {100 * accuracy:.2f} % of the test set"

    return work


main = Command("spx-train-lenet", lambda _: parser(), train)

if __name__ == "__main__":
    sys.exit(main())
