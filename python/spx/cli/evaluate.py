"""spx-eval: the paper's evaluation of a checkpoint."""

from __future__ import annotations

import argparse
import json
import sys

from .bars import bars
from .command import Command, Work


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    from ..fields import ANY, POSITIVE, SEED
    from . import options
    from .values import Number, path

    sizes = Number(int, options.SIDE)
    p = argparse.ArgumentParser(
        prog="spx-eval",
        description="Evaluate a checkpoint of any model as the paper does: bits per dimension of the test images, MS-SSIM of samples, "
        "confidence and accuracy of a LeNet where it fits (grey images of 28 pixels a side or more); and the contours of large "
        "reconstructions, where a model can reconstruct.",
    )
    options.add_checkpoint(p)
    options.add_data(p)
    options.add_lenet(p)
    p.add_argument(
        "--res",
        type=sizes,
        nargs="*",
        metavar="N",
        help="sizes at which images are judged (the data's own, and twice that)",
    )
    options.add_amounts(p)
    p.add_argument(
        "--refine", type=Number(int, ANY), default=10, metavar="K",
        help="gradient steps on the code of each image whose likelihood is computed; 0: the encoder's codes, as in the paper (10)",
    )  # fmt: skip
    p.add_argument("--no-nearest", action="store_true", help="leave out the distances to the training images")
    spread = Number(float, POSITIVE)
    p.add_argument("--temperature", type=spread, default=1.0, metavar="T", help="factor on the pixels' spread (1)")
    p.add_argument("--seed", type=Number(int, SEED), default=0, metavar="S", help="seed of samples and codes (0)")
    options.add_engine(p)
    options.add_device(p, "cpu, cuda ...: of the drawing and all else (the engine's own choice, and cpu for all else)")
    p.add_argument("--out", type=path, metavar="FOLDER", help="folder for report.json, report.md and the figures")
    p.add_argument(
        "--figures", type=sizes, nargs="*", metavar="N",
        help="sizes of the reconstructions in --out; above 224 one image each (the data's own, twice, four and eight times that)",
    )  # fmt: skip
    p.add_argument("--json", action="store_true", help="print the report as one line of JSON")
    options.add_version(p)
    return p


def _sizes(arguments: argparse.Namespace, model, side: int) -> dict[str, tuple[int, ...]]:
    """The sizes of --res, --contours and --figures, checked; those not given follow the data's side."""
    from spxcore.errors import require

    smallest, found = max(side, model.family.side(model.config, "network")), {}
    for name, factors in (("res", (1, 2)), ("contours", (4,)), ("figures", (1, 2, 4, 8))):
        told = getattr(arguments, name)
        found[name] = tuple(factor * side for factor in factors) if told is None else tuple(told)
        require(all(size >= smallest for size in found[name]), name, f"sizes of at least {smallest}", list(found[name]))
    if "source" not in model.family.offers(model.config):  # reconstructions are what they are of
        require(not arguments.contours, "contours", "a model that can reconstruct", model.family.name)
        found["contours"] = ()
    return found


def _lenet(arguments: argparse.Namespace, model, shape: tuple[int, ...]):
    """The classifier, for test images of a shape [C, H, W]; None where it does not fit."""
    from spxcore.errors import require

    from ..evaluation.lenet import load_lenet, why_not

    reason = why_not(shape[0], min(shape[1:]), model.head.levels)
    if not arguments.lenet and (reason or arguments.data != "mnist"):
        return None  # the shipped one knows MNIST alone
    what = (
        "grey images, which the classifier and the contours are for"
        if shape[0] != 1
        else "what the classifier can judge"
    )
    require(reason is None, "data", what, reason, "leave --lenet out")
    return load_lenet(arguments.lenet)


def judge(arguments: argparse.Namespace) -> Work:
    """Look at everything that is asked for, the data and the checkpoint. The work: evaluate."""
    from ..io.files import check_folder

    if arguments.out:
        check_folder(arguments.out, ("report.json", "report.md"))

    from dataclasses import replace

    from spxcore import __version__
    from spxcore.engines.base import torch_device
    from spxcore.errors import SpxError

    from ..api import load
    from ..evaluation import figures, metrics
    from ..evaluation.drawings import Drawings
    from ..evaluation.evaluate import Amounts, Evaluation, evaluate
    from ..evaluation.report import markdown
    from ..io.files import write_json, write_text
    from ..request import Request
    from . import options

    for name, reason in (("contours", metrics.why_no_contours()), ("out", arguments.out and figures.why_not())):
        if reason:
            raise SpxError(f"{name}: {reason}")
    test = options.load_data(arguments, "test")
    train = None if arguments.no_nearest else options.load_data(arguments, "train")
    model = load(arguments.checkpoint)
    device = str(torch_device(arguments.device)) if arguments.device else "cpu"
    model.checkpoint = replace(model.checkpoint, device=device)
    _check_images(test.images, model)
    lenet = _lenet(arguments, model, test.images.shape[1:])
    sizes = _sizes(arguments, model, test.images.shape[2])
    engine = options.engine_for(arguments, model.drawing(Request(model.family.size(model.config))))
    amounts = Amounts(
        sizes["res"], sizes["contours"], arguments.samples, arguments.reconstructions, arguments.pairs_of,
        arguments.large_pixels, arguments.subset, arguments.refine,
    )  # fmt: skip
    _check_memory(amounts, len(test), model.head.channels)

    def work() -> str:
        with bars() as progress:
            originals = test.images.transpose(0, 2, 3, 1)
            drawings = Drawings(model, originals, engine, arguments.seed, arguments.temperature, progress)
            judged = evaluate(Evaluation(drawings, test, amounts, lenet, train, progress, device))
            report = {
                "checkpoint": arguments.checkpoint, "version": __version__, "engine": engine.name,
                "precision": arguments.precision, "seed": arguments.seed, "temperature": arguments.temperature,
                "paper": model.family.published(model.config, arguments.data),
                **judged,
            }  # fmt: skip
            if arguments.out:
                write_json(arguments.out / "report.json", report)
                write_text(arguments.out / "report.md", markdown(report))
                figures.paper_figures(drawings, report, sizes["figures"], arguments.out)
        return json.dumps(report) if arguments.json else markdown(report).removesuffix("\n")

    return work


def _check_memory(amounts, count: int, channels: int) -> None:
    """Raise an `SpxError` now, not after the likelihood, if what is drawn at a size cannot be held. count: test images."""
    from spxcore.memory import require_memory

    for size in {*amounts.sizes, *amounts.contour_sizes}:
        wanted = max(amounts.samples if size in amounts.sizes else 0, min(amounts.reconstructions, count))
        require_memory("images", 4 * amounts.at(size, wanted, count) * size * size * channels)


def _check_images(images, model) -> None:
    """Raise an `SpxError` unless test images uint8 [N, C, H, W] are of the kind that a model draws."""
    from spxcore.errors import require

    head = model.head
    require(images.shape[1] == head.channels, "data", f"images of {head.channels} channels", f"{images.shape[1]}")
    require(images.max() < head.levels, "data", f"levels 0 to {head.levels - 1}, as the model's", int(images.max()))


main = Command("spx-eval", lambda _: parser(), judge)

if __name__ == "__main__":
    sys.exit(main())
