"""Dependencies: of a plan's places on the pixels of a window, and of a graph's places on the pixels of an image of any size."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..graph import Graph, Taps
from .plan import PLACE, ROW, SOURCE, Plan

# What a place depends on, see `tiers`.
TIERS = ("constant", "rows above", "current row", "last pixel")


def tiers(plan: Plan, target: int) -> dict[str, np.ndarray]:
    """What each place depends on, seen from pixel `target` of the window: index into `TIERS`, int [places] a value.

    0 constant: no pixel. 1: pixels in rows above the target's only. 2: some pixel of the target's row. 3: the pixel just before
    the target, the last one drawn.
    """
    start, result = target // plan.width * plan.width, {}
    for name, on in plan.dependencies().items():
        tier = np.where(on.any(axis=1), 1, 0)
        tier[on[:, start:].any(axis=1)] = 2
        if target > start:
            tier[on[:, target - 1]] = 3
        result[name] = tier
    return result


def macs_by_tier(plan: Plan, target: int) -> list[int]:
    """Multiply-adds whose tap depends on: nothing, rows above, the current row, the last pixel; [4]."""
    tier, result = tiers(plan, target), np.zeros(4, np.int64)
    for stage in plan.stages:
        macs = stage.tap_macs()
        for index, source in enumerate(stage.sources):
            mine = stage.taps[:, SOURCE] == index
            np.add.at(result, tier[source.value][stage.taps[mine, PLACE]], macs[mine])
    return [int(count) for count in result]


def latest_pixel(plan: Plan) -> dict[str, np.ndarray]:
    """The latest pixel that each place depends on, by its number y * width + x, or -1 for none; int64 [places] a value."""
    result = {name: np.full(value.places, -1) for name, value in plan.values.items()}
    result |= {name: np.arange(plan.values[name].places) for name in plan.drawn}
    for stage in plan.stages:
        out = np.full(len(stage.places), -1) if stage.residual is None else result[stage.residual][stage.places]
        for index, source in enumerate(stage.sources):
            taps = stage.taps[stage.taps[:, SOURCE] == index]
            np.maximum.at(out, taps[:, ROW], result[source.value][taps[:, PLACE]])
        result[stage.output][stage.places] = out
    return result


def first_rows(graph: Graph, height: int, width: int) -> dict[str, np.ndarray]:
    """The first row of the image that each row of each value is needed for, or the height for none; int64 [rows] a value."""
    sizes = {name: value.size(height, width)[0] for name, value in graph.values.items()}
    result = {name: np.full(rows, height) for name, rows in sizes.items()}
    result[graph.output] = np.arange(height)
    for stage in reversed(graph.stages):
        reads = [(read.value, read.taps) for read in stage.reads]
        reads += [(stage.residual, Taps.point())] if stage.residual else []
        for value, taps in reads:
            for y, source in row_reads(taps, sizes[stage.output], sizes[value]):
                np.minimum.at(result[value], source, result[stage.output][y])
    return result


def row_reads(taps: Taps, rows: int, source_rows: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of `rows` rows of a result those that read something, and the row of the source that each reads, for each offset down."""
    for phase, dy in np.unique(taps.offsets[:, [0, 2]], axis=0).tolist():
        y = np.arange(phase, rows, taps.period)
        source = y // taps.period * taps.step + dy
        inside = (source >= 0) & (source < source_rows) & (y >= taps.first[0])
        yield y[inside], source[inside]


def macs_ahead(plan: Plan, graph: Graph) -> int:
    """Multiply-adds of the raster schedule that run ahead of a row: their taps lie on rows above. plan: of the graph, at some size."""
    latest, first, total = latest_pixel(plan), first_rows(graph, plan.height, plan.width), 0
    for stage in plan.stages:
        row = latest[stage.output][stage.places] // plan.width
        row = np.where(row == first[stage.output][stage.places // plan.values[stage.output].width], row, row + 1)
        macs = stage.tap_macs()
        for index, source in enumerate(stage.sources):
            mine = stage.taps[:, SOURCE] == index
            taps = stage.taps[mine]
            known = latest[source.value][taps[:, PLACE]] // plan.width < row[taps[:, ROW]]
            total += int(macs[mine][known].sum())
    return total


# What one place depends on: row of the image -> rightmost column in it, both relative to the place's own period.
Rows = dict[int, int]


def reach(graph: Graph) -> dict[str, dict[tuple[int, int], Rows]]:
    """How far each place sees, without a size.

    All maps repeat after S = `graph.pixels` pixels, so a place of a map of level k has one of (S / 2^k)^2 phases, and what it
    depends on is the same, relative to its period, wherever it lies. Near the border it may depend on less.

    Returns:
        For each value that has a map and each phase (y, x) of its places: {row: rightmost column}, in pixels relative to
        (S (y // phases), S (x // phases)). The largest row, with its column, is the latest pixel that the place depends on.
    """
    side = graph.pixels
    phases = {
        name: side >> value.level if value.level >= 0 else side << -value.level
        for name, value in graph.values.items()
        if value.level is not None
    }
    rows: dict[str, dict[tuple[int, int], Rows]] = {
        name: {(y, x): {} for y in range(count) for x in range(count)} for name, count in phases.items()
    }
    for name in graph.drawn:
        for (y, x), of in rows[name].items():
            of[y] = x
    for stage in graph.stages:
        reads = [(read.value, read.taps) for read in stage.reads]
        reads += [(stage.residual, Taps.point())] if stage.residual else []
        for phase, of in rows.get(stage.output, {}).items():
            for value, taps in reads:
                if value in phases:
                    _add(of, phase, taps, rows[value], phases[value], side)
    return rows


def _add(of: Rows, phase: tuple[int, int], taps: Taps, source: dict, phases: int, side: int) -> None:
    """What a place of a phase sees through some taps. phases: of the source, along an axis."""
    for phase_y, phase_x, dy, dx, _ in taps.offsets.tolist():
        if (phase[0] % taps.period, phase[1] % taps.period) != (phase_y, phase_x):
            continue
        y, x = (p // taps.period * taps.step + d for p, d in zip(phase, (dy, dx)))
        for row, column in source[y % phases, x % phases].items():
            row, column = row + y // phases * side, column + x // phases * side
            of[row] = max(of.get(row, column), column)
