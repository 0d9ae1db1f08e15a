"""spx-sample: draw images from a checkpoint at any size."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .command import Command, Work

if TYPE_CHECKING:
    import numpy as np

# What is said where `unseen` pixels are given.
UNSEEN = (
    "note: pixels that are given below or to the right of drawn ones are kept, but the network cannot see them ahead"
)

# The most files of one command.
_FILES = 1 << 20


def parser() -> argparse.ArgumentParser:
    """The command's arguments: the fields of a request, and how to draw it."""
    from spxcore.heads import Sampling

    from ..data.settings import ALPHAS, Reading
    from ..fields import POSITIVE
    from ..request import Request
    from . import options
    from .fields import add_option
    from .request import given, size
    from .values import Number, path, text

    p = argparse.ArgumentParser(
        prog="spx-sample",
        description="Draw images from a trained model, pixel by pixel and exactly.",
        epilog="examples: spx-sample --res 224 --digit 3 --seed 1 --out three.png; spx-sample --reconstruct my.png --res 560; "
        "spx-sample --complete my.png --given top:0.5 --n 4",
    )
    what = p.add_argument_group("what to draw")
    dimensions = what.add_mutually_exclusive_group()
    add_option(dimensions, Request, "height", type=int)
    add_option(dimensions, Request, "width", type=size)
    add_option(what, Request, "n", 1, type=int)
    add_option(what, Request, "seed", 0)
    add_option(what, Request, "label", type=int)
    files = what.add_mutually_exclusive_group()
    add_option(files, Request, "source", nargs="+", type=text)
    add_option(files, Request, "given", nargs="+", type=text)
    what.add_argument(
        "--given", type=given, dest="where", metavar="WHERE",
        help="the part that is kept: top:, bottom:, left: or right: and a share, or a mask file that is light there (top:0.5)",
    )  # fmt: skip
    what.add_argument(
        "--invert", action="store_true", help="the files are dark on light (the model knows light on dark)"
    )
    add_option(what, Reading, "alpha", choices=ALPHAS, metavar=None)
    add_option(what, Request, "refine", 0)
    add_option(what, Sampling, "temperature", 1.0, type=Number(float, POSITIVE))
    add_option(what, Sampling, "mode", False)
    how = p.add_argument_group("how to draw")
    options.add_checkpoint(how)
    options.add_engine(how)
    how.add_argument("--fast", action="store_true", help="the fastest engine that can run here, as --engine auto")
    options.add_device(how, "cpu, cuda, cuda:1 ... (the engine's own choice)")
    result = p.add_argument_group("result")
    result.add_argument(
        "--out", type=path, default=Path("sample.png"), metavar="PATH",
        help=".png (several images make a grid) or .npy (uint8 [n, H, W, C]); {} in the name: one file an image (sample.png)",
    )  # fmt: skip
    result.add_argument("--json", action="store_true", help="print one line of JSON on standard output")
    options.add_version(p)
    return p


def _outputs(path: Path, n: int) -> list[Path]:
    """The files to write, each of which can be written: one, or one an image where the name holds {}."""
    from spxcore.errors import require

    from ..io.pictures import check_writable

    if "{}" not in path.name:
        check_writable(path)
        return [path]
    require(n <= _FILES, "n", f"at most {_FILES}, with a file an image", n)
    paths = [path.with_name(path.name.replace("{}", str(i))) for i in range(n)]
    for one in paths:
        check_writable(one)
    return paths


def _check(arguments: argparse.Namespace) -> None:
    """Which options go together."""
    from spxcore.errors import SpxError

    height = arguments.height
    if arguments.source and arguments.label is not None:
        raise SpxError("digit: goes with drawing new images, not with --reconstruct; leave one of them out")
    for name in ("invert", "refine"):
        if getattr(arguments, name) and not arguments.source:
            raise SpxError(f"{name}: goes with --reconstruct")
    if arguments.where and not arguments.given:
        raise SpxError("given: goes with --complete")
    if arguments.alpha and not (arguments.source or arguments.given):
        raise SpxError("alpha: goes with --reconstruct or --complete")
    if arguments.given and (height or arguments.width):
        raise SpxError(
            "size: goes with drawing new images, not with --complete, which keeps the file's; leave one of them out"
        )
    if arguments.fast and arguments.engine != "auto":
        raise SpxError(f"fast: picks the engine by itself; leave it or --engine {arguments.engine} out")


@contextmanager
def _bar(pixels: int, name: str) -> Iterator[Callable[[int], None] | None]:
    """A bar where someone watches, and what tells it of pixels drawn; nothing in logs and pipes."""
    if not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm

    with tqdm(total=pixels, unit="px", unit_scale=True, desc=name) as bar:
        yield bar.update


def _finished(arguments: argparse.Namespace, engine: str, images: np.ndarray, paths: list[Path], seconds: float) -> str:
    """What is printed in the end: a sentence, or a line of JSON."""
    n, height, width, _ = images.shape
    rate = n * height * width / seconds
    if not arguments.json:
        what = "image" if n == 1 else "images"
        written = ", ".join(map(str, paths))
        return f"{written}: {n} {what} of {height}x{width}, {seconds:.1f} s, {rate:,.0f} pixels/s ({engine})"
    record = {
        "engine": engine, "height": height, "width": width, "n": n, "seed": arguments.seed, "seconds": round(seconds, 3),
        "pixels_per_second": round(rate, 1), "out": [str(path) for path in paths] if len(paths) > 1 else str(paths[0]),
        "sha256": [hashlib.sha256(image.tobytes()).hexdigest() for image in images],
    }  # fmt: skip
    return json.dumps(record)


def draw(arguments: argparse.Namespace) -> Work:
    """Look at everything but the pixels. The work: draw them."""
    _check(arguments)
    paths = _outputs(arguments.out, arguments.n * max(1, len(arguments.source or arguments.given or [])))

    import numpy as np

    from spxcore.draw import draw as core_draw

    from ..api import load
    from ..io.files import Unwritten
    from ..io.pictures import write_images
    from ..signals import Stopped
    from . import options
    from .request import request, unseen

    model = load(arguments.checkpoint)
    asked = request(arguments, model)
    drawing = model.drawing(asked)
    engine = options.engine_for(arguments, drawing)
    out = np.zeros((asked.n, asked.height, asked.width, model.head.channels), np.uint8)

    def work() -> str:
        if asked.given is not None and unseen(asked.given.mask):
            print(UNSEEN, file=sys.stderr)
        began = time.perf_counter()
        stop: BaseException | None = None
        with _bar(out[..., 0].size, engine.name) as report:
            try:
                core_draw(drawing, engine, out, report)
            except BaseException as error:  # whatever it is: what is drawn is not lost
                stop = error
        seconds = time.perf_counter() - began
        lost = []
        for path, images in zip(paths, out[:, None] if len(paths) > 1 else [out]):
            try:
                write_images(images, path)
            except Unwritten as error:
                lost.append(str(error))
        if lost:
            raise Unwritten("; ".join(lost))
        if stop is not None:
            written = ", ".join(map(str, paths))
            text = f"stopped after {seconds:.1f} s; what was drawn so far is in {written}"
            if isinstance(stop, KeyboardInterrupt):
                raise Stopped(getattr(stop, "number", Stopped().number), text) from stop
            print(text, file=sys.stderr)
            raise stop
        return _finished(arguments, engine.name, out, paths, seconds)

    return work


main = Command("spx-sample", lambda _: parser(), draw)

if __name__ == "__main__":
    sys.exit(main())
