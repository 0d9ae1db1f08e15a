"""Options that several commands have: each is declared and checked here."""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from typing import TYPE_CHECKING

from spxcore import __version__, engines
from spxcore.engines import CHOICES, PRECISIONS
from spxcore.errors import require

from ..data.settings import DataSettings
from ..fields import ANY, COUNT, Range
from .fields import add_option
from .values import Number, text

if TYPE_CHECKING:
    from spxcore.drawing import Drawing
    from spxcore.engines import Engine

IMAGES = Range(0, 1 << 32)  # an image's number has 32 bits
SIDE = Range(1, 1 << 20)
THREADS = Range(1, 1 << 16)


def add_version(p: argparse.ArgumentParser) -> None:
    """--version"""
    p.add_argument("--version", action="version", version=f"%(prog)s {__version__}")


def add_device(p: argparse._ActionsContainer, help: str) -> None:
    """--device"""
    p.add_argument("--device", type=text, metavar="DEVICE", help=help)


def add_checkpoint(p: argparse._ActionsContainer) -> None:
    """--checkpoint"""
    p.add_argument(
        "--checkpoint",
        type=text,
        default="mnist-8x8",
        metavar="NAME",
        help="shipped name, folder, or hub name: owner/name, or owner/name@revision (mnist-8x8)",
    )


def add_data(p: argparse._ActionsContainer, reading: bool = True) -> None:
    """The fields of `DataSettings`: --data and --data-dir and, if `reading`, how pictures become images of one size."""
    own = ("data", "data_dir")
    for f in sorted(fields(DataSettings), key=lambda f: f.name not in own):
        if reading or f.name in own:
            add_option(p, DataSettings, f.name, f.default)


def load_data(arguments: argparse.Namespace, split: str):
    """The images of those options: `spx.data.Images`."""
    from ..data import load

    asked = DataSettings(
        **{f.name: getattr(arguments, f.name) for f in fields(DataSettings) if hasattr(arguments, f.name)}
    )
    return load(asked.data, asked.data_dir, split, asked, progress=sys.stderr.isatty())


def add_lenet(p: argparse._ActionsContainer) -> None:
    """--lenet"""
    p.add_argument(
        "--lenet",
        type=text,
        metavar="FOLDER",
        help="classifier made by spx-train-lenet (MNIST: the shipped one; else spx-eval judges by none)",
    )


def add_threads(p: argparse._ActionsContainer) -> None:
    """--threads"""
    p.add_argument("--threads", type=Number(int, THREADS), metavar="T", help="CPU threads (all)")


def add_engine(p: argparse._ActionsContainer, precision: bool = True) -> None:
    """--engine, --threads and, if `precision`, that of the drawing."""
    p.add_argument("--engine", choices=CHOICES, default="auto", help="auto: the fastest that can run here")
    if precision:
        text = "arithmetic of the drawing (fp32); tf32: triton and cuda"
        p.add_argument("--precision", choices=PRECISIONS, default="fp32", help=text)
    add_threads(p)


def engine_for(arguments: argparse.Namespace, drawing: Drawing) -> Engine:
    """The engine of those options, for a drawing; "auto" chooses by its first batch.

    Raises:
        SpxError: if it cannot.
    """
    from spxcore.draw import batches

    how = {name: getattr(arguments, name) for name in ("precision", "threads", "device")}
    return engines.get(arguments.engine, drawing.job(0, next(batches(drawing)), {}), **how)


def add_amounts(p: argparse._ActionsContainer) -> None:
    """How much is measured: the fields of `spx.evaluation.evaluate.Amounts` but the sizes that are judged."""
    p.add_argument(
        "--samples", type=Number(int, IMAGES), default=1000, metavar="K", help="samples at each size; 0: none (1000)"
    )
    p.add_argument(
        "--reconstructions",
        type=Number(int, IMAGES),
        default=1000,
        metavar="K",
        help="reconstructions at each size; 0: none (1000)",
    )
    p.add_argument(
        "--pairs-of",
        type=Number(int, COUNT),
        default=500,
        metavar="K",
        help="samples whose pairs MS-SSIM compares (500)",
    )
    p.add_argument(
        "--subset", type=Number(int, ANY), metavar="K", help="test images whose likelihood is computed; 0: none (all)"
    )
    p.add_argument(
        "--contours",
        type=Number(int, SIDE),
        nargs="*",
        metavar="N",
        help="sizes at which only reconstructions are judged (four times the data's own)",
    )
    p.add_argument(
        "--large-pixels", type=Number(int, COUNT), default=1_000_000, metavar="P",
        help="pixels of each kind that are drawn at a size above 56; at least one image (1000000)",
    )  # fmt: skip


def needs_lenet(arguments: argparse.Namespace) -> None:
    """Raise an `SpxError` if the shipped classifier, which knows MNIST, would have to judge other data."""
    known = bool(arguments.lenet) or arguments.data == "mnist"
    require(known, "lenet", "a folder made by spx-train-lenet for data other than MNIST", None)
