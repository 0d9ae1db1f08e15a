"""The report of an evaluation as Markdown tables."""

from __future__ import annotations


def with_error(value: float, error: float | None, digits: int) -> str:
    """A figure as our tables print it beside a published one: with its standard error, if there is one."""
    return f"{value:.{digits}f}" + (f" +- {error:.{digits}f}" if error is not None else "")


# Rows of the table of sizes: figure, of what, and its name.
_SHOWN = (
    ("ms_ssim", "samples", "MS-SSIM of samples"),
    ("confidence", "samples", "confidence of samples"),
    ("ink_pieces", "samples", "pieces of ink / ground, samples"),
    ("accuracy", "reconstructions", "accuracy of reconstructions"),
    ("contour_ratio", "reconstructions", "contour ratio of reconstructions"),
    ("ink_pieces", "reconstructions", "pieces of ink / ground, reconstructions"),
)


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
        lines += [f"| bits per dimension, {found['images']} test images | this checkpoint | paper |", "|---|---|---|"]
        if at_most:
            lines.append(f"| patch likelihood alone | {with_error(found['patch_bits'], found['patch_error'], 4)} | |")
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
