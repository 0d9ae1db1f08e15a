"""spx-eval: the paper's evaluation of a checkpoint."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from spxcore import __version__
from spxcore.engines import CHOICES
from spxcore.errors import SpxError, require

from . import run

# Tables 1 to 3 of Akoury & Nguyen 2017, the row of the small network on 8x8 patches with VAE and coordinates.
PAPER = {
    "bound_bits": 1.67,
    "28": {"ms_ssim": (0.18, 0.27), "confidence": 95.1, "accuracy": 96.2},
    "56": {"ms_ssim": (0.13, 0.20), "confidence": 94.1, "accuracy": 95.3},
}


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    p = argparse.ArgumentParser(
        prog="spx-eval",
        description="Evaluate a checkpoint as the paper does: bits per dimension over all patch positions of the test images, "
        "MS-SSIM of samples, confidence and accuracy of a LeNet; and the contours of large reconstructions.",
    )
    p.add_argument(
        "--checkpoint", default="mnist-8x8", metavar="NAME", help="shipped name, folder, or hub name (mnist-8x8)"
    )
    p.add_argument("--data", default="mnist", help="mnist, fashion-mnist or idx (mnist)")
    p.add_argument("--data-dir", default="data", metavar="DIR", help="folder of the IDX files (data)")
    p.add_argument("--lenet", metavar="FOLDER", help="classifier made by spx-train-lenet (the shipped one, for MNIST)")
    p.add_argument(
        "--res", type=int, nargs="*", default=[28, 56], metavar="N", help="sizes judged by the classifier (28 56)"
    )
    p.add_argument("--samples", type=int, default=1000, metavar="K", help="samples at each size; 0 none (1000)")
    p.add_argument(
        "--reconstructions", type=int, default=1000, metavar="K", help="reconstructions at each size; 0 none (1000)"
    )
    p.add_argument("--pairs-of", type=int, default=500, metavar="K", help="samples whose pairs MS-SSIM compares (500)")
    p.add_argument("--subset", type=int, metavar="K", help="images of the likelihood; 0 leaves it out (all)")
    p.add_argument(
        "--contours", type=int, nargs="*", default=[112], metavar="N", help="sizes whose contours are measured (112)"
    )
    p.add_argument("--contour-images", type=int, default=8, metavar="K", help="reconstructions at each of them (8)")
    p.add_argument("--seed", type=int, default=0, metavar="S", help="of samples and codes (0)")
    p.add_argument("--engine", choices=CHOICES, default="auto", help="auto: the fastest that can run here")
    p.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="arithmetic of the drawing (fp32)")
    p.add_argument("--threads", type=int, metavar="T", help="CPU threads (all)")
    p.add_argument("--out", type=Path, metavar="FOLDER", help="folder for report.json, report.md and likelihood.png")
    p.add_argument("--json", action="store_true", help="print the report as one line of JSON")
    p.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return p


def markdown(report: dict) -> str:
    """The report as Markdown tables, the paper's row beside it."""
    lines = []
    if "likelihood" in report:
        found = report["likelihood"]
        lines += [
            "| bits per dimension | this checkpoint | paper |",
            "|---|---|---|",
            f"| patch likelihood alone | {found['patch_bits']:.4f} | |",
            f"| KL to the {found['prior']} prior | {found['kl_bits']:.4f} | |",
            f"| bound | <= {found['bound_bits']:.4f} +- {found['bound_error']:.4f} ({found['images']} images) "
            f"| <= {PAPER['bound_bits']} |",
            "",
        ]
    if report["sizes"]:
        lines += ["| size | | this checkpoint | test images | paper |", "|---|---|---|---|---|"]
    for size, row in report["sizes"].items():
        paper, real = PAPER.get(size, {}), row["test images"]
        for what, of, name in (
            ("ms_ssim", "samples", "MS-SSIM of samples"),
            ("confidence", "samples", "confidence of samples"),
            ("accuracy", "reconstructions", "accuracy of reconstructions"),
        ):
            if what not in row[of]:
                continue
            own, known = row[of], paper.get(what, "")
            if what == "ms_ssim":
                cells = [f"{r['ms_ssim']:.3f} +- {r['ms_ssim_deviation']:.2f}" for r in (own, real)]
                known = f"{known[0]} +- {known[1]}" if known else ""
            else:
                cells = [f"{r[what]:.1f}" for r in (own, real)]
            lines.append(f"| {size} | {name} | {cells[0]} | {cells[1]} | {known} |")
    if report["contours"]:
        lines += ["", "| size | contour ratio (worst) | extra pieces of ink / ground |", "|---|---|---|"]
        for size, shape in report["contours"].items():
            ratio = f"{shape['contour_ratio']:.3f} ({shape['contour_worst']:.3f})"
            lines.append(f"| {size} | {ratio} | {shape['extra_ink']:.1f} / {shape['extra_ground']:.1f} |")
    return "\n".join(lines) + "\n"


def _write(report: dict, folder: Path) -> None:
    """report.json, report.md and the map of bits over the image."""
    import numpy as np

    from ..files import write_atomically
    from ..pictures import write_images

    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "report.json", lambda path: path.write_text(json.dumps(report, indent=2) + "\n"))
        write_atomically(folder / "report.md", lambda path: path.write_text(markdown(report)))
    except OSError as error:
        raise SpxError(f"out: {folder} cannot be written ({error.strerror}); choose another --out") from error
    if "likelihood" in report:
        bits = np.array(report["likelihood"]["map"])
        levels = (255 * bits / bits.max()).round().astype(np.uint8)
        write_images(np.kron(levels, np.ones((8, 8), np.uint8))[None, :, :, None], folder / "likelihood.png")


def judge(arguments: argparse.Namespace) -> int:
    """The command's body; returns the exit code."""
    for name in ("samples", "reconstructions", "subset"):
        value = getattr(arguments, name)
        require(value is None or value >= 0, name, "0 or more", value)
    for name in ("threads", "contour_images"):
        value = getattr(arguments, name)
        require(value is None or value >= 1, name, "at least 1", value)
    from tqdm import tqdm

    from spxcore import engines

    from .. import data
    from ..api import load
    from ..evaluate import evaluate
    from ..lenet import load_lenet

    if arguments.contours:
        try:
            import skimage.measure  # noqa: F401
        except ImportError as error:
            raise SpxError(
                f"contours: need scikit-image ({error}): pip install 'spx[eval]', or --contours alone"
            ) from error
    test = data.load(arguments.data, arguments.data_dir, "test")
    if arguments.lenet is None:
        require(arguments.data == "mnist", "lenet", "a folder made by spx-train-lenet for data other than MNIST", None)
    model, lenet = load(arguments.checkpoint), load_lenet(arguments.lenet)
    side = test.images.shape[2]
    smallest = max(side, model.patch)
    for name, sizes in (("res", arguments.res), ("contours", arguments.contours)):
        require(all(size >= smallest for size in sizes), name, f"sizes of at least {smallest}", sizes)
    engine = engines.get(arguments.engine, precision=arguments.precision, threads=arguments.threads)
    bars: dict[str, tqdm] = {}

    def progress(part: str, share: float) -> None:
        if part not in bars:
            for bar in bars.values():
                bar.close()
            bars[part] = tqdm(
                total=1.0, desc=part, disable=None, bar_format="{desc}: {percentage:3.0f}% {bar} {remaining}"
            )
        bars[part].update(share - bars[part].n)

    report = evaluate(
        model, test, lenet, engine, sizes=tuple(arguments.res), samples=arguments.samples,
        reconstructions=arguments.reconstructions, pairs_of=arguments.pairs_of, subset=arguments.subset,
        contour_sizes=tuple(arguments.contours), contour_images=arguments.contour_images, seed=arguments.seed, progress=progress,
    )  # fmt: skip
    for bar in bars.values():
        bar.close()
    report = {"checkpoint": arguments.checkpoint, "engine": engine.name, "precision": arguments.precision, **report}
    if arguments.out:
        _write(report, arguments.out)
    print(json.dumps(report) if arguments.json else markdown(report), end="\n" if arguments.json else "")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Entry point of spx-eval."""
    arguments = parser().parse_args(argv)
    return run(lambda: judge(arguments))


if __name__ == "__main__":
    sys.exit(main())
