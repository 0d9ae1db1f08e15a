"""Draws the pictures of how-it-works.md, from the plan of the shipped network and the schedule: python docs/pictures.py"""

from pathlib import Path

import numpy as np

import spx
from spx.models.pixelcnnpp import MODEL
from spxcore import Network
from spxcore.plan import plan_at
from spxcore.plan.reach import TIERS, first_row, latest_pixel, tiers

FOLDER = Path(__file__).parent / "images"
CELL = 14
COLOURS = ("#d9d9d9", "#9ecae1", "#fd8d3c", "#cb181d")  # of TIERS
VALUES = {
    "x": "pixels",
    "u_in": "u, first layer",
    "u_down.0.1": "u, 8x8, down",
    "u_down.1.1": "u, 4x4, down",
    "u_up.2.1": "u, 2x2",
    "u_up.1.2": "u, 4x4, up",
    "u_up.0.2": "u, 8x8, up",
    "ul_in_above": "ul, first layer",
    "ul_down.0.1": "ul, 8x8, down",
    "ul_down.1.1": "ul, 4x4, down",
    "ul_up.2.1": "ul, 2x2",
    "ul_up.1.2": "ul, 4x4, up",
    "ul_up.0.2": "ul, 8x8, up",
    "nin_out": "mixture",
}


def svg(width: float, height: float, parts: list[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    return "\n".join([f'{head} font-family="sans-serif" font-size="11">', *parts, "</svg>\n"])


def text(x: float, y: float, words: object, anchor: str = "start") -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{words}</text>'


def square(x: float, y: float, side: float, fill: str) -> str:
    return f'<rect x="{x}" y="{y}" width="{side}" height="{side}" fill="{fill}" stroke="#888" stroke-width="0.5"/>'


def cone() -> str:
    """Which places of each value the window's last pixel needs, and what they depend on."""
    plan = plan_at(spx.load("mnist-8x8").checkpoint.networks["network"].graph, 8, 8)
    target, parts, size = plan.width**2 - 1, [], CELL * plan.width
    needed, tier = plan.needed([target]), tiers(plan, target)
    for number, (value, title) in enumerate(VALUES.items()):
        left, top = (number % 7) * (size + 24) + 8, (number // 7) * (size + 36) + 20
        side = plan.values[value].width
        parts.append(text(left, top - 6, title))
        for place in range(side * side):
            y, x = divmod(place, side)
            fill = COLOURS[tier[value][place]] if needed[value][place] else "none"
            parts.append(square(left + x * size / side, top + y * size / side, size / side, fill))
    bottom = 2 * (size + 36) + 14
    labels = [
        *TIERS[:1],
        "depends on rows above only: ahead",
        "on the current row: a step",
        "on the last pixel: a step",
    ]
    for number, (label, colour) in enumerate(zip([*labels, "not needed"], [*COLOURS, "none"])):
        parts += [square(8 + 190 * number, bottom - 10, 12, colour), text(24 + 190 * number, bottom, label)]
    return svg(7 * (size + 24), bottom + 12, parts)


def raster(side: int = 8, row: int = 4, column: int = 3) -> str:
    """When each place of PixelCNN++ on a whole image is computed, seen from the time after pixel (row, column)."""
    config = MODEL.trained(MODEL.preset("small"), 1, side)
    of = Network(MODEL.networks(config)["network"], {
        name.removeprefix("network."): np.ones(shape, np.float32) for name, shape in MODEL.shapes(config).items()
    })  # fmt: skip
    plan = plan_at(of.graph, side, side, fold=False)
    latest, first, parts, size = latest_pixel(plan), first_row(plan), [], CELL * side
    for number, (value, title) in enumerate(VALUES.items()):
        left, top = (number % 7) * (size + 24) + 8, (number // 7) * (size + 36) + 20
        across = plan.values[value].width
        parts.append(text(left, top - 6, title))
        for place, (pixel, needed) in enumerate(zip(latest[value], first[value])):
            y, x = divmod(place, across)
            within = pixel // side == needed or value in plan.drawn
            when = pixel // side + (not within)  # the row that it is computed in, or before
            fill = COLOURS[0] if when < row else "none"
            if when == row:
                fill = COLOURS[1] if not within else COLOURS[3] if pixel == row * side + column else COLOURS[2]
            if needed == side:
                fill = "none"
            parts.append(square(left + x * size / across, top + y * size / across, size / across, fill))
    bottom = 2 * (size + 36) + 14
    labels = [
        "for earlier rows",
        f"ahead of row {row}",
        f"in row {row}",
        f"after pixel ({row}, {column})",
        "later, or never",
    ]
    for number, (label, colour) in enumerate(zip(labels, [*COLOURS, "none"])):
        parts += [square(8 + 190 * number, bottom - 10, 12, colour), text(24 + 190 * number, bottom, label)]
    return svg(7 * (size + 24), bottom + 12, parts)


def wavefront(m: int = 4, rows: int = 5, columns: int = 20) -> str:
    """The step at which each pixel can be drawn."""
    side, parts = 26, []
    steps = m * np.arange(rows)[:, None] + np.arange(columns)
    for (r, c), step in np.ndenumerate(steps):
        hue = 230 - int(step * 230 / steps.max())
        parts.append(square(50 + c * side, 4 + r * side, side, f"hsl({hue}, 70%, 80%)"))
        parts.append(text(50 + (c + 0.5) * side, 4 + (r + 0.65) * side, step, "middle"))
    parts += [text(44, 4 + (r + 0.65) * side, f"row {r}", "end") for r in range(rows)]
    return svg(58 + columns * side, 8 + rows * side, parts)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "cone.svg").write_text(cone())
    (FOLDER / "raster.svg").write_text(raster())
    (FOLDER / "wavefront.svg").write_text(wavefront())
