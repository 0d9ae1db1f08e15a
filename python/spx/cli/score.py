"""spx-score: what pictures cost under a model, in bits per dimension."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .bars import bars
from .command import Command, Work

if TYPE_CHECKING:
    import numpy as np

    from spxcore.engines import Engine

    from ..api import Sampler
    from ..models.likelihood import Score


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    from ..data.settings import ALPHAS, Reading
    from ..request import Request
    from . import options
    from .fields import add_option
    from .values import path, text

    p = argparse.ArgumentParser(
        prog="spx-score",
        description="Print what pictures cost under a model, in bits per dimension. Fewer bits: the model expects such a picture more.",
        epilog="examples: spx-score a.png b.png; spx-score samples.npy --json; spx-score a.png --map bits.png",
    )
    p.add_argument(
        "files", nargs="+", type=text, metavar="FILE",
        help="a picture, or a .npy file of uint8 [H, W], [N, H, W] or [N, H, W, C]; light on dark, as the model's training images",
    )  # fmt: skip
    p.add_argument("--invert", action="store_true", help="the files are dark on light (the model knows light on dark)")
    add_option(p, Reading, "alpha", choices=ALPHAS, metavar=None)
    add_option(p, Request, "seed", 0)
    options.add_checkpoint(p)
    options.add_engine(p)
    options.add_device(p, "cpu, cuda, cuda:1 ... (the engine's own choice)")
    p.add_argument(
        "--map", type=path, metavar="PATH",
        help="write the bits of each pixel, without the code's: .png (a grid; white is the most that a pixel costs) or .npy "
        "(float32 [N, H, W])",
    )  # fmt: skip
    p.add_argument("--json", action="store_true", help="print one JSON object")
    options.add_version(p)
    return p


def _pictures(name: str, channels: int, alpha: str) -> dict[str, np.ndarray]:
    """The images of a file, uint8 [H, W, C], each by its name."""
    from spxcore.errors import require

    from ..io.pictures import read_image

    if not name.lower().endswith(".npy"):
        return {name: read_image(name, channels, alpha)}
    import numpy as np

    from ..data.arrays import read_arrays
    from ..data.images import checked

    levels = read_arrays(Path(name), ("images",))["images"]
    levels = levels[None] if levels.ndim == 2 else levels
    images = checked(name, levels, np.zeros(len(levels), np.int64)).images.transpose(0, 2, 3, 1)
    require(images.shape[3] == channels, name, f"{channels} channels, as the model's", images.shape[3])
    return {f"{name}[{i}]": image for i, image in enumerate(images)} if len(images) > 1 else {name: images[0]}


def _text(records: list[dict], bound: bool) -> str:
    """A line a picture, and their mean."""
    lines = []
    for record in records:
        code = f" ({record['code_bits_per_dimension']:.4f} of them its code's)" if bound else ""
        lines.append(f"{record['name']}: {record['bits_per_dimension']:.4f} bits per dimension{code}")
    if len(records) > 1:
        mean = sum(record["bits_per_dimension"] for record in records) / len(records)
        lines.append(f"mean of {len(records)}: {mean:.4f} bits per dimension")
    if bound:
        lines.append("upper bounds: a picture may cost less by another code")
    return "\n".join(lines)


def _score(model: Sampler, by_size: dict, seed: int, engines: dict[tuple, Engine]) -> dict[tuple, Score]:
    """The score of the images of each size."""
    import numpy as np

    found = {}
    for size, images in by_size.items():
        with bars() as progress:
            found[size] = model.family.score(model.checkpoint, np.stack(images), seed, engines[size], progress)
    return found


def _write_map(bits: np.ndarray, path: Path) -> float:
    """Write the bits of each pixel float32 [N, H, W], as numbers or as grey levels. The most that a pixel costs."""
    import numpy as np

    from ..io.pictures import write_images

    most = float(bits.max())
    grey = (bits * (255 / most if most > 0 else 0)).round().clip(0, 255).astype(np.uint8)[..., None]
    write_images(bits if path.suffix.lower() == ".npy" else grey, path, "map")
    return most


def score(arguments: argparse.Namespace) -> Work:
    """Read the checkpoint and the pictures. The work: score them."""
    from spxcore.errors import require

    from ..io.pictures import check_writable

    if arguments.map:
        check_writable(arguments.map, "map")
        inputs = {os.path.realpath(file) for file in arguments.files}
        require(
            os.path.realpath(arguments.map) not in inputs, "map", "another file than those that are read", arguments.map
        )

    from ..api import load
    from ..request import Request
    from . import options

    model = load(arguments.checkpoint)
    images: list[tuple[str, np.ndarray]] = []
    for file in arguments.files:
        found = _pictures(file, model.head.channels, arguments.alpha or "refuse")
        images += [(name, 255 - image if arguments.invert else image) for name, image in found.items()]
    by_size: dict[tuple, list[np.ndarray]] = {}
    for _, image in images:
        by_size.setdefault(image.shape[:2], []).append(image)
    require(not arguments.map or len(by_size) == 1, "map", "pictures of one size", f"{len(by_size)} sizes")
    drawings = {size: model.drawing(Request(*size)) for size in by_size}
    engines = {size: options.engine_for(arguments, drawing) for size, drawing in drawings.items()}

    def work() -> str:
        scores = _score(model, by_size, arguments.seed, engines)
        left = {size: iter(range(len(group))) for size, group in by_size.items()}
        records = []
        for name, image in images:
            i, found = next(left[image.shape[:2]]), scores[image.shape[:2]]
            bits = float(found.bits[i])
            records.append({
                "name": name, "height": image.shape[0], "width": image.shape[1], "bits_per_dimension": bits,
                "code_bits_per_dimension": float(found.code_bits[i]), "nats": bits * image.size * math.log(2),
            })  # fmt: skip
        bound = not model.family.exact and any(found.code_bits.any() for found in scores.values())
        record = {"checkpoint": arguments.checkpoint, "engine": next(iter(engines.values())).name, "seed": arguments.seed,
                  "upper_bound": bound, "images": records}  # fmt: skip
        text = _text(records, bound)
        if arguments.map:
            (found,) = scores.values()
            most = _write_map(found.pixel_bits, arguments.map)
            record |= {"map": str(arguments.map), "most": most}
            text += f"\n{arguments.map}: the bits of each pixel, at most {most:.2f}"
        return json.dumps(record) if arguments.json else text

    return work


main = Command("spx-score", lambda _: parser(), score)

if __name__ == "__main__":
    sys.exit(main())
