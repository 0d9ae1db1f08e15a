"""The finished rows as Markdown tables, what is published beside them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from spxcore import __version__

from ..evaluation.report import with_error
from ..models.model import Row
from .rows import Budget, rows

if TYPE_CHECKING:
    from .settings import Settings

# Sizes of the columns.
_SIZES = (28, 56)


def markdown(done: dict[str, dict], settings: Settings) -> str:
    """Tables of the rows that are finished, published figures in brackets; the rows that were not run by name.

    Args:
        done: the report of each finished row, by its name.
        settings: of the folder of rows.
    """
    head = ["row", "steps", "minutes", "patch", "KL", "bound", "MS-SSIM", "confidence", "accuracy", "pieces 28"]
    head += [f"{what} {n}" for n in settings.contours for what in ("contours", "pieces")]
    frozen = f"of {settings.vae}" if settings.vae else f"{settings.vae_steps} steps, once"
    comparable = settings.data == "mnist"
    lines = [
        f"Each row trained for {Budget.of(settings.budget)} (frozen VAEs: {frozen}), {settings.precision}, seed {settings.seed}. "
        f"Bits per dimension of {settings.subset or 'all'} test images; MS-SSIM and confidence of {settings.samples} samples, accuracy "
        f"of {settings.reconstructions} reconstructions, at 28x28 / 56x56; pieces of ink / ground, of samples at 28x28, of "
        "reconstructions at the sizes of contours."
    ]
    if comparable:
        lines[0] += " In brackets: the paper, trained until convergence."
    everything = rows()
    for group in dict.fromkeys(row.group for row in everything):
        shown = [row for row in everything if row.group == group and row.name in done]
        bases = {row.base for row in shown if row.base in done}  # rows stand beside the one that they change
        shown = [replace(row, beside=None) for row in everything if row.name in bases] + shown
        if shown:
            title = group[0].upper() + group[1:]
            lines += ["", f"**{title}**", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
            cells = (
                _cells(row, row.beside if comparable else None, done[row.name], settings.contours) for row in shown
            )
            lines += [f"| {' | '.join(row)} |" for row in cells]
    not_run = [row.name for row in everything if row.name not in done]
    if not_run:
        lines += ["", f"Not run: {', '.join(not_run)}."]
    machines = sorted({report["machine"] for report in done.values()})
    return "\n".join(lines) + f"\n\n{'; '.join(machines)}; spx {__version__}.\n"


def _cells(row: Row, known: dict | None, report: dict, contours: tuple[int, ...]) -> list[str]:
    """A row of the table, `known` in brackets; what was not measured stays empty."""

    def pair(values: list[float | None], digits: int) -> str:
        return "" if None in values else " / ".join(f"{value:.{digits}f}" for value in values)

    def at(size: int, of: str, *what: str) -> list[float | None]:
        found = report["sizes"].get(str(size), {}).get(of, {})
        return [found.get(name) for name in what]

    def beside(own: str, theirs: str) -> str:
        return f"{own} ({theirs})" if own and theirs else own

    bits = report.get("likelihood")
    result = [f"`{row.name}` {row.text}", str(report["steps"]), f"{report['train_seconds'] / 60:.1f}"]
    result += [f"{bits[name]:.3f}" if bits else "" for name in ("patch_bits", "kl_bits")]
    bound = ""
    if bits:
        limit = "<= " if bits["prior"] != "none" else ""
        bound = limit + with_error(bits["bound_bits"], bits["bound_error"], 3)
    result.append(beside(bound, f"{'<= ' * known['bound']}{known['bits']}" if known else ""))
    for what, of, digits in (
        ("ms_ssim", "samples", 2),
        ("confidence", "samples", 1),
        ("accuracy", "reconstructions", 1),
    ):
        own = pair([at(size, of, what)[0] for size in _SIZES], digits)
        figures = known[what].values() if known else ()
        theirs = [figure[0] if isinstance(figure, tuple | list) else figure for figure in figures]
        result.append(beside(own, pair(theirs, digits)))
    result.append(pair(at(28, "samples", "ink_pieces", "ground_pieces"), 2))
    for size in contours:
        result.append(pair(at(size, "reconstructions", "contour_ratio"), 2))
        result.append(pair(at(size, "reconstructions", "ink_pieces", "ground_pieces"), 2))
    return result
