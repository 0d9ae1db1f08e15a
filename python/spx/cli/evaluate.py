"""spx-eval: the paper's evaluation of a checkpoint."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from spxcore import __version__
from spxcore.engines import CHOICES, PRECISIONS
from spxcore.errors import SpxError, require

from ..models.spatial.paper import row_of, with_error
from . import run


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
    p.add_argument(
        "--subset", type=int, metavar="K", help="test images of the likelihood, spread evenly; 0 leaves it out (all)"
    )
    p.add_argument(
        "--refine", type=int, default=10, metavar="K",
        help="gradient steps on the code of each image whose likelihood is computed; 0: the encoder's codes, as the paper's (10)",
    )  # fmt: skip
    p.add_argument(
        "--contours", type=int, nargs="*", default=[112], metavar="N", help="sizes of reconstructions only (112)"
    )
    p.add_argument(
        "--large-pixels", type=int, default=1_000_000, metavar="P",
        help="pixels drawn of each kind at sizes above 56: as many images as they make, at least one (1000000)",
    )  # fmt: skip
    p.add_argument("--no-nearest", action="store_true", help="leave out the distances to the training images")
    p.add_argument("--temperature", type=float, default=1.0, metavar="T", help="factor on the pixels' spread (1)")
    p.add_argument("--seed", type=int, default=0, metavar="S", help="of samples and codes (0)")
    p.add_argument("--engine", choices=CHOICES, default="auto", help="auto: the fastest that can run here")
    p.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="fp32",
        help="arithmetic of the drawing (fp32); tf32: triton and cuda",
    )
    p.add_argument("--threads", type=int, metavar="T", help="CPU threads (all)")
    p.add_argument("--out", type=Path, metavar="FOLDER", help="folder for report.json, report.md and the figures")
    p.add_argument(
        "--figures", type=int, nargs="*", default=[28, 56, 112, 224], metavar="N",
        help="sizes of the reconstructions in --out; above 224 one image each (28 56 112 224)",
    )  # fmt: skip
    p.add_argument("--json", action="store_true", help="print the report as one line of JSON")
    p.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return p


def markdown(report: dict) -> str:
    """The report as Markdown tables, real test images and the paper's row beside it."""
    paper = report["paper"] or {}
    lines = []
    if "likelihood" in report:
        found = report["likelihood"]
        at_most = "<= " if found["prior"] != "none" else ""
        known = f"{at_most}{paper['bits']}" if "bits" in paper else ""
        alone, name = found.get("encoder alone"), "bound" if at_most else "all"
        if alone:
            name += f", codes refined by {found['refine']} gradient steps"
        lines += [
            f"| bits per dimension, {found['images']} test images | this checkpoint | paper |",
            "|---|---|---|",
            f"| patch likelihood alone | {with_error(found['patch_bits'], found['patch_error'], 4)} | |",
        ]
        if at_most:
            lines.append(
                f"| KL to the {found['prior']} prior that samples are drawn from | {found['kl_bits']:.4f} "
                f"({found['kl_nats']:.1f} nats) | |"
            )
        lines += [
            f"| {name} | {at_most}{with_error(found['bound_bits'], found['bound_error'], 4)} "
            f"| {'' if alone else known} |",
        ]
        if alone:  # which is how the paper measured
            bound = with_error(alone["bound_bits"], alone["bound_error"], 4)
            lines.append(f"| bound, the encoder's codes ({alone['images']} images) | <= {bound} | {known} |")
        lines.append("")
    if report["sizes"]:
        lines += ["| size | | images | this checkpoint | test images | paper |", "|---|---|---|---|---|---|"]
    for size, row in report["sizes"].items():
        for what, of, name in _SHOWN:
            if what not in row.get(of, {}):
                continue
            own, real, known = row[of], row["test images"], paper.get(what, {}).get(size, "")
            count = own["ms_ssim_images" if what == "ms_ssim" else "images"]
            if what == "ms_ssim":
                cells = [f"{r['ms_ssim']:.3f} +- {r['ms_ssim_deviation']:.2f}" for r in (own, real)]
            elif what == "confidence":
                cells = [with_error(r[what], r["confidence_error"], 1) for r in (own, real)]
            elif what == "accuracy":
                cells = [f"{r[what]:.1f}" for r in (own, real)]
            elif what == "contour_ratio":
                cells = [f"{with_error(own[what], own['contour_error'], 3)} (worst {own['contour_worst']:.3f})", "1"]
            else:
                cells = [f"{r['ink_pieces']:.2f} / {r['ground_pieces']:.2f}" for r in (own, real)]
            known = " +- ".join(map(str, known)) if isinstance(known, (list, tuple)) else known
            lines.append(f"| {size} | {name} | {count} | {cells[0]} | {cells[1]} | {known} |")
    if "memorisation" in report:
        lines += [
            "",
            "| distance to the nearest training image's | | median | closest 1 % | nearer than 1 % of the test images' |",
            "|---|---|---|---|---|",
        ]
        for what, found in report["memorisation"].items():
            for of, name in (("samples", f"{found['compared']} samples"), ("test", "as many test images")):
                share = f"{found['nearer']:.1f} %" if of == "samples" else "1 %"
                lines.append(
                    f"| {what} | {name} | {found[f'{of}_median']:.2f} | {found[f'{of}_closest']:.2f} | {share} |"
                )
    parts = {"bits": report["likelihood"]} if "likelihood" in report else {}
    parts |= {f"{size}x{size}": row for size, row in report["sizes"].items()}
    took = ", ".join(f"{name} {part['seconds']:.0f} s" for name, part in parts.items())
    lines += ["", f"Took {report['seconds']:.0f} s{f' ({took})' if took else ''}, {report['engine']} engine."]
    return "\n".join(lines) + "\n"


# Rows of the table of sizes: figure, of what, and its name.
_SHOWN = (
    ("ms_ssim", "samples", "MS-SSIM of samples"),
    ("confidence", "samples", "confidence of samples"),
    ("ink_pieces", "samples", "pieces of ink / ground, samples"),
    ("accuracy", "reconstructions", "accuracy of reconstructions"),
    ("contour_ratio", "reconstructions", "contour ratio of reconstructions"),
    ("ink_pieces", "reconstructions", "pieces of ink / ground, reconstructions"),
)


def paper_row(config) -> dict | None:
    """The paper's row of a network as plain values, sizes as strings; None if it has none."""
    row = row_of(config)
    if row is None:
        return None
    by_size = {
        name: {str(size): value for size, value in getattr(row, name).items()}
        for name in ("ms_ssim", "confidence", "accuracy")
    }
    return {"network": row.network, "bits": row.bits, **by_size}


def _write(report: dict, folder: Path) -> None:
    """report.json and report.md."""
    from ..io.files import write_atomically

    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "report.json", lambda path: path.write_text(json.dumps(report, indent=2) + "\n"))
        write_atomically(folder / "report.md", lambda path: path.write_text(markdown(report)))
    except OSError as error:
        raise SpxError(f"out: {folder} cannot be written ({error.strerror}); choose another --out") from error


def judge(arguments: argparse.Namespace) -> int:
    """The command's body; returns the exit code."""
    for name in ("samples", "reconstructions", "subset", "refine"):
        value = getattr(arguments, name)
        require(value is None or value >= 0, name, "0 or more", value)
    for name in ("threads", "large_pixels", "pairs_of"):
        value = getattr(arguments, name)
        require(value is None or value >= 1, name, "at least 1", value)
    require(arguments.temperature > 0, "temperature", "more than 0", arguments.temperature)
    from tqdm import tqdm

    from spxcore import engines

    from .. import data, figures, metrics
    from ..api import load
    from ..evaluate import Drawings, evaluate
    from ..lenet import load_lenet

    for name, reason in (("contours", metrics.why_no_contours()), ("out", arguments.out and figures.why_not())):
        if reason:
            raise SpxError(f"{name}: {reason}")
    test = data.load(arguments.data, arguments.data_dir, "test")
    train = None if arguments.no_nearest else data.load(arguments.data, arguments.data_dir, "train")
    if arguments.lenet is None:
        require(arguments.data == "mnist", "lenet", "a folder made by spx-train-lenet for data other than MNIST", None)
    model, lenet = load(arguments.checkpoint), load_lenet(arguments.lenet)
    channels, side = test.images.shape[1:3]
    require(channels == 1, "data", "grey images, which the classifier and the contours are for", f"{channels} channels")
    smallest = max(side, model.schedule.side)
    for name in ("res", "contours", "figures"):
        sizes = getattr(arguments, name)
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

    drawings = Drawings(
        model, test.images.transpose(0, 2, 3, 1), engine, arguments.seed, arguments.temperature, progress
    )
    report = evaluate(
        model, test, lenet, drawings, train=train, sizes=tuple(arguments.res), contour_sizes=tuple(arguments.contours),
        samples=arguments.samples, reconstructions=arguments.reconstructions, pairs_of=arguments.pairs_of,
        large_pixels=arguments.large_pixels, subset=arguments.subset, refine=arguments.refine, progress=progress,
    )  # fmt: skip
    report = {
        "checkpoint": arguments.checkpoint, "version": __version__, "engine": engine.name,
        "precision": arguments.precision, "seed": arguments.seed, "temperature": arguments.temperature,
        "paper": paper_row(model.config.network) if arguments.data == "mnist" else None, **report,
    }  # fmt: skip
    if arguments.out:
        _write(report, arguments.out)
        figures.paper_figures(drawings, report, tuple(arguments.figures), arguments.out)
    for bar in bars.values():
        bar.close()
    print(json.dumps(report) if arguments.json else markdown(report), end="\n" if arguments.json else "")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Entry point of spx-eval."""
    arguments = parser().parse_args(argv)
    return run(lambda: judge(arguments))


if __name__ == "__main__":
    sys.exit(main())
