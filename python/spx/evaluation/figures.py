"""The paper's figures: samples side by side (1), reconstructions at growing sizes (5, 6), and where in the image the bits are."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..io.files import write_atomically, writing
from ..io.pictures import grid
from .drawings import Drawings

# Images in a row of the figures; fewer where they are larger.
_COLUMNS = 10
# Above this size a figure has the image to itself (paper, figure 6).
_ROW_LIMIT = 224


def why_not() -> str | None:
    """Why figures cannot be drawn here; None if they can."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        return f"need matplotlib ({error}): pip install 'spx[eval]'"
    return None


def _save(picture, path: Path) -> Path:
    with writing(path, name="out"):
        write_atomically(path, lambda p: picture.save(p, format="PNG"))
    return path


def samples(drawings: Drawings, size: int, folder: Path, count: int = 2 * _COLUMNS) -> Path:
    """Figure 1: samples 0, 1, 2 ... at one size, nothing chosen. Writes samples-<size>.png."""
    return _save(grid(drawings.samples(size, count), _COLUMNS), folder / f"samples-{size}.png")


def reconstructions(drawings: Drawings, size: int, folder: Path, count: int = _COLUMNS) -> Path:
    """Figures 5 and 6: the first test images drawn anew at one size. Writes reconstructions-<size>.png."""
    return _save(grid(drawings.reconstructions(size, count), _COLUMNS), folder / f"reconstructions-{size}.png")


def originals(drawings: Drawings, folder: Path, count: int = _COLUMNS) -> Path:
    """Figure 5 (a) and (b): the test images, and below them what their codes alone tell of them."""
    images, model = drawings.originals[:count], drawings.model
    decoded = model.family.decoded(model.checkpoint, images)
    if decoded is None or decoded.shape[1:3] != images.shape[1:3]:  # a VAE's side may be smaller than the data's
        return _save(grid(images, _COLUMNS), folder / "originals.png")
    return _save(grid(np.concatenate([images, decoded]), len(images)), folder / "originals.png")


def likelihood_map(bits: np.ndarray, folder: Path) -> Path:
    """Bits of each pixel [H, W], the mean over the test images and the windows that cover it. Writes likelihood.png."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.4, 3.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    shown = axes.imshow(bits, cmap="magma", vmin=0)
    axes.set(xlabel="column", ylabel="row")
    figure.colorbar(shown, label="bits")
    path = folder / "likelihood.png"
    with writing(path, name="out"):
        write_atomically(path, lambda p: figure.savefig(p, format="png"))
    return path


def paper_figures(drawings: Drawings, report: dict, sizes: tuple[int, ...], folder: Path) -> list[Path]:
    """All of them: samples at the sizes judged, originals and reconstructions at the given sizes, the map of bits.

    Args:
        drawings: what is drawn already is not drawn again.
        report: of `evaluate`, which tells the sizes and numbers of the samples and has the map.
        sizes: of the reconstructions; above 224 a single image each.
        folder: where they go; made if need be.
    """
    with writing(folder, name="out"):
        folder.mkdir(parents=True, exist_ok=True)
    written = []
    for size, row in report["sizes"].items():
        if "samples" in row:
            count = min(row["samples"]["images"], 2 * _COLUMNS if int(size) <= _ROW_LIMIT else 1)
            written.append(samples(drawings, int(size), folder, count))
    if "source" in drawings.model.family.offers(drawings.model.config):
        written.append(originals(drawings, folder))
        for size in sizes:
            written.append(reconstructions(drawings, size, folder, _COLUMNS if size <= _ROW_LIMIT else 1))
    if "likelihood" in report:
        written.append(likelihood_map(np.array(report["likelihood"]["map"]), folder))
    return written
