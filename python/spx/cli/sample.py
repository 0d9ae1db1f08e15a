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

from spxcore import __version__
from spxcore.engines import CHOICES, PRECISIONS
from spxcore.errors import SpxError, require

from . import run


def size(text: str) -> tuple[int, int]:
    """ "HxW" -> (H, W)."""
    try:
        height, width = text.lower().split("x")
        return int(height), int(width)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected HxW such as 56x112, got {text!r}") from None


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    p = argparse.ArgumentParser(
        prog="spx-sample",
        description="Draw images of any size from a trained Spatial PixelCNN, pixel by pixel and exactly.",
        epilog="examples: spx-sample --res 224 --digit 3 --seed 1 --out three.png; spx-sample --reconstruct my.png --res 560",
    )
    what = p.add_argument_group("what to draw")
    dimensions = what.add_mutually_exclusive_group()
    dimensions.add_argument("--res", type=int, metavar="N", help="height and width in pixels (the data's own)")
    dimensions.add_argument("--size", type=size, metavar="HxW", help="height and width apart")
    what.add_argument("--n", type=int, default=1, metavar="K", help="number of images, or of drawings of each file (1)")
    what.add_argument("--seed", type=int, default=0, metavar="S", help="the same seed draws the same pixels (0)")
    what.add_argument("--digit", type=int, metavar="D", help="class to draw; without it, any")
    what.add_argument("--reconstruct", nargs="+", metavar="FILE", help="draw these images anew, from their codes")
    what.add_argument(
        "--invert", action="store_true", help="the files are dark on light (the model knows light on dark)"
    )
    what.add_argument(
        "--refine",
        type=int,
        default=0,
        metavar="K",
        help="gradient steps that bring their codes nearer to the files (0)",
    )
    what.add_argument("--temperature", type=float, default=1.0, metavar="T", help="factor on the pixels' spread (1)")
    what.add_argument(
        "--mode", "--map", action="store_true", help="MAP sampling: the drawn component's mean, without noise"
    )
    how = p.add_argument_group("how to draw")
    how.add_argument(
        "--checkpoint", default="mnist-8x8", metavar="NAME", help="shipped name, folder, or hub name (mnist-8x8)"
    )
    how.add_argument("--engine", choices=CHOICES, default="auto", help="auto: the fastest that can run here")
    how.add_argument("--fast", action="store_true", help="insist on the fastest engine (what auto does)")
    how.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="fp32",
        help="arithmetic of the network (fp32); tf32: triton and cuda",
    )
    how.add_argument("--threads", type=int, metavar="T", help="CPU threads (all)")
    how.add_argument("--device", metavar="DEVICE", help="cpu, cuda, cuda:1 ... (the engine's own choice)")
    result = p.add_argument_group("result")
    result.add_argument(
        "--out", type=Path, default=Path("sample.png"), metavar="PATH",
        help=".png (several images make a grid) or .npy (uint8 [n, H, W, C]); with {} in the name one file an image (sample.png)",
    )  # fmt: skip
    result.add_argument("--json", action="store_true", help="print one line of JSON on standard output")
    p.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return p


def _outputs(path: Path, n: int) -> list[Path]:
    """The files to write: one, or one an image where the name holds {}."""
    return [Path(str(path).replace("{}", str(i))) for i in range(n)] if "{}" in path.name else [path]


def _check(arguments: argparse.Namespace) -> None:
    """What argparse cannot check, before anything heavy is loaded."""
    for name in ("n", "threads"):
        value = getattr(arguments, name)
        require(value is None or value >= 1, name, "at least 1", value)
    require(arguments.res is None or arguments.res >= 1, "res", "at least the checkpoint's patch size", arguments.res)
    require(arguments.temperature > 0, "temperature", "more than 0", arguments.temperature)
    if arguments.reconstruct and arguments.digit is not None:
        raise SpxError("digit: goes with drawing new images, not with --reconstruct; leave one of them out")
    if arguments.invert and not arguments.reconstruct:
        raise SpxError("invert: goes with --reconstruct")
    require(arguments.refine >= 0, "refine", "0 or more", arguments.refine)
    if arguments.refine and not arguments.reconstruct:
        raise SpxError("refine: goes with --reconstruct")
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


def draw(arguments: argparse.Namespace) -> int:
    """The command's body; returns the exit code."""
    _check(arguments)
    from ..io.pictures import check_writable, read_image, write_images

    files = arguments.reconstruct or []
    n = arguments.n * max(1, len(files))
    paths = _outputs(arguments.out, n)
    for path in paths:
        check_writable(path)

    import numpy as np

    from spxcore import engines
    from spxcore.draw import draw as core_draw
    from spxcore.heads import Sampling

    from ..api import load
    from ..request import Request

    model = load(arguments.checkpoint)
    height, width = arguments.size or (arguments.res or model.family.size(model.config),) * 2
    sampling = Sampling(arguments.temperature, arguments.mode)
    how = {"height": height, "width": width, "n": n, "seed": arguments.seed, "sampling": sampling}
    model.schedule.check_size(height, width)
    if files:
        inputs = [read_image(file, model.head.channels) for file in files]
        inputs = [255 - image if arguments.invert else image for image in inputs]
        codes = np.concatenate([model.encode(image[None], arguments.refine) for image in inputs])
        request = Request(**how, code=np.repeat(codes, arguments.n, axis=0))
    else:
        request = Request(**how, label=arguments.digit)
    drawing = model.drawing(request)
    first = drawing.job(0, np.arange(1), {})  # by which "auto" finds an engine that can draw it
    engine = engines.get(
        arguments.engine, first, precision=arguments.precision, threads=arguments.threads, device=arguments.device
    )
    out = np.zeros((n, height, width, model.head.channels), np.uint8)
    began = time.perf_counter()
    interrupted = False
    with _bar(n * height * width, engine.name) as report:
        try:
            core_draw(drawing, engine, out, report)
        except KeyboardInterrupt:
            interrupted = True
    seconds = time.perf_counter() - began
    if len(paths) > 1:
        for path, image in zip(paths, out):
            write_images(image[None], path)
    else:
        write_images(out, paths[0])
    written = ", ".join(str(path) for path in paths)
    if interrupted:
        print(f"stopped after {seconds:.1f} s; what was drawn so far is in {written}", file=sys.stderr)
        return 130
    rate = n * height * width / seconds
    if arguments.json:
        record = {
            "engine": engine.name,
            "height": height,
            "width": width,
            "n": n,
            "seed": arguments.seed,
            "seconds": round(seconds, 3),
            "pixels_per_second": round(rate, 1),
            "out": [str(path) for path in paths] if len(paths) > 1 else str(paths[0]),
            "sha256": [hashlib.sha256(image.tobytes()).hexdigest() for image in out],
        }
        print(json.dumps(record))
    else:
        images = "image" if n == 1 else "images"
        print(f"{written}: {n} {images} of {height}x{width}, {seconds:.1f} s, {rate:,.0f} pixels/s ({engine.name})")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Entry point of spx-sample."""
    arguments = parser().parse_args(argv)
    return run(lambda: draw(arguments))


if __name__ == "__main__":
    sys.exit(main())
