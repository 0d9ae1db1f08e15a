"""From a graph to the raster schedule at a size: which rows are computed for a row of the image, and which places wait for its pixels.

Every place is computed once, for the first row of the image that needs its row. Of a row of places that reads no pixel of that row
of the image all columns run *ahead*, before its first pixel. Of any other row, the taps on rows that are there run ahead too and leave
partial sums; the rest runs in *steps*: step c has the places whose latest pixel is the c-th of the row. So a row of taps waits
everywhere or nowhere.

All maps repeat after S = `Graph.pixels` rows, so most rows of an image are alike. The tables hold each *kind* of row once. Its rows of
places count from the first one that S (R // S) rows of the image do not reach, R being the row in work. A value is kept as a *ring* of
rows, as many as somebody still reads, with zeros on the left and on the right.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import reduce
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from ..errors import require
from ..graph import Graph, Stage, Taps
from ..plan.reach import first_rows, row_reads
from ..walk.numbers import Numbers
from .tables import (
    FORM_GATED,
    FORM_PAIRS,
    FORM_RAW,
    KIND,
    RASTER_OP,
    RASTER_STAGE,
    RASTER_STEP,
    RASTER_TAP,
    RING,
    RING_ROW,
    columns_of,
    rows_of,
)
from .window import Packed, gate_of, pack


class RasterTables(NamedTuple):
    """The raster schedule as native code reads it; `csrc/cpu/raster.h`.

    Attributes:
        height, width: of the image, in pixels.
        period: S.
        rings: `RING` [n].
        pixels: the ring of drawn pixels.
        planes: int32 [K], the rings of the other inputs, in the graph's order.
        params: the ring that pixels are drawn from.
        parameters: P.
        stages: `RASTER_STAGE` [n].
        kinds: `KIND` [k].
        rows: int32 [H], the kind of each row of the image.
        ops: `RASTER_OP`, those of a kind side by side, in the order they run.
        taps: `RASTER_TAP`.
        biases: int32, where the bias of each place of each op begins in `bias`.
        loads: `RING_ROW`, rows of the inputs besides the pixels that a kind begins with.
        steps: `RASTER_STEP`, places in the order they run.
        step_begins: int32 [k, W + 2], steps[step_begins[c]:step_begins[c + 1]] run when c pixels of the row are drawn.
        weights, blocks, code: as of `spxcore.lower.window.Packed`.
        bias: float32.
    """

    height: int
    width: int
    period: int
    rings: np.ndarray
    pixels: int
    planes: np.ndarray
    params: int
    parameters: int
    stages: np.ndarray
    kinds: np.ndarray
    rows: np.ndarray
    ops: np.ndarray
    taps: np.ndarray
    biases: np.ndarray
    loads: np.ndarray
    steps: np.ndarray
    step_begins: np.ndarray
    weights: np.ndarray
    blocks: np.ndarray
    bias: np.ndarray
    code: np.ndarray


def raster_tables(graph: Graph, height: int, width: int, tanh_gate: bool = False) -> RasterTables:
    """The raster schedule of a network at a size.

    Args:
        graph: the network.
        height, width: in pixels.
        tanh_gate: whether the engine has that form.

    Raises:
        SpxError: for a network that native code cannot run, or that no raster order draws.
    """
    tables = _Lowering(graph, height, width, np.float32, tanh_gate).run()
    return tables._replace(bias=summed(tables.bias))


def summed(terms: np.ndarray) -> np.ndarray:
    """Terms [n, numbers] summed in their order, one after the other."""
    return reduce(np.add, terms)


class RasterNumbers:
    """The numbers of a network's raster tables for any tensors, without its graph. Nothing in the other tables depends on tensors.

    Args:
        numbers: the network's.
        height, width: of the tables.
    """

    def __init__(self, numbers: Numbers, height: int, width: int):
        self.numbers, places = numbers, _Lowering(numbers.places(), height, width, np.int64, True).run()
        self.weights, self.bias, self.code = places.weights, places.bias, places.code

    def __call__(self, tensors: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`RasterTables.weights`, `bias` and `code`."""
        vector = self.numbers(tensors)
        return vector.take(self.weights), summed(vector.take(self.bias)), vector.take(self.code)


@dataclass
class _Ring:
    """Rows of one value, as it is or activated. left, right: columns of zeros; last: the last row of the image that reads each row."""

    value: str
    form: int
    last: np.ndarray
    left: int = 0
    right: int = 0


@dataclass
class _Kind:
    """What the tables of one kind of row grow by."""

    waits: dict[tuple[str, int], np.ndarray] = field(
        default_factory=dict
    )  # of rows that wait: pixels of the row each place needs
    order: list[np.ndarray] = field(default_factory=list)  # [n, 3] step, op, place


class _Lowering:
    """See the module."""

    def __init__(self, graph: Graph, height: int, width: int, dtype: type, tanh_gate: bool):
        self.graph, self.height, self.width = graph, height, width
        for name, value in graph.values.items():
            good = value.level is not None and value.level >= 0
            require(good, f"value {name}", "a map no larger than the image", f"level {value.level}")
        self.size = {name: value.size(height, width) for name, value in graph.values.items()}
        self.period = graph.pixels
        self.packed: Packed = pack(graph, dtype, tanh_gate)
        self.pixels = graph.drawn[0]
        self.need = self._needed()
        self.rings: dict[tuple[str, bool], _Ring] = {}
        self._find_rings()
        self.ring_number = {key: number for number, key in enumerate(self.rings)}
        self.ops: list[tuple[int, ...]] = []
        self.taps: list[tuple[int, ...]] = []
        self.biases: list[np.ndarray] = []
        self.bias_count = 0
        self.bias: list[np.ndarray] = []
        self.bias_at: dict[tuple[str, bytes], int] = {}
        self.bias_numbers = 0

    # ---- rows ----

    def rise(self, value: str) -> int:
        """Rows of a value's map that S rows of the image are."""
        return self.period >> (self.graph.values[value].level or 0)

    def _reads(self, stage: Stage) -> Iterator[tuple[str, bool, Taps]]:
        """What a stage reads: value, whether activated, taps."""
        for read in stage.reads:
            yield read.value, read.form != "raw", read.taps
        if stage.residual is not None:
            yield stage.residual, self._in_pairs(stage.residual), Taps.point()

    def _in_pairs(self, value: str) -> bool:
        """Whether a residual is read from pairs (elu(x), elu(-x)), of which x is made exactly: so it need not be kept twice."""
        return self.packed.activations.get(value) == FORM_PAIRS

    def _row_reads(self, taps: Taps, out: str, value: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """See `row_reads`."""
        return row_reads(taps, self.size[out][0], self.size[value][0])

    def _needed(self) -> dict[str, np.ndarray]:
        """The first row of the image that needs each row of each value; H if none does."""
        need = first_rows(self.graph, self.height, self.width)
        x = need[self.pixels]
        require(
            bool((x >= np.arange(len(x))).all()),
            "network",
            "pixels that depend on the rows above and their own",
            "others",
        )
        need[self.pixels] = np.minimum(x, np.arange(len(x)))  # a pixel is there when it is drawn
        return need

    def _find_rings(self) -> None:
        """Which values are kept, in which form, by whom their rows are read last, and how far beyond their borders."""

        def ring(value: str, activated: bool) -> _Ring:
            form = self.packed.activations[value] if activated else FORM_RAW
            return self.rings.setdefault((value, activated), _Ring(value, form, np.full(self.size[value][0], -1)))

        for name in self.graph.inputs:
            ring(name, False)
        for stage in self.graph.stages:
            need = self.need[stage.output]
            for value, activated, taps in self._reads(stage):
                kept = ring(value, activated)
                for y, source in self._row_reads(taps, stage.output, value):
                    live = need[y] < self.height
                    np.maximum.at(kept.last, source[live], need[y][live])
                columns = np.arange(self.size[stage.output][1])
                for phase, dx in np.unique(taps.offsets[:, [1, 3]], axis=0).tolist():
                    x = columns[phase :: taps.period] // taps.period * taps.step + dx
                    if len(x):
                        kept.left = max(kept.left, -int(x[0]))
                        kept.right = max(kept.right, int(x[-1]) - self.size[value][1] + 1)
        output = ring(self.graph.output, False)
        output.last = np.maximum(output.last, np.arange(self.height))

    def _depth(self, ring: _Ring) -> int:
        """Rows of a ring: row y + depth is written after the last reader of row y."""
        written, rows = self.need[ring.value], len(ring.last)
        for depth in range(1, rows):
            later = written[depth:]
            if ((later > ring.last[:-depth]) | (later == self.height) | (ring.last[:-depth] < 0)).all():
                return depth
        return rows

    # ---- kinds of rows ----

    def _features(self, stage: Stage) -> np.ndarray:
        """What tells one row of a stage's places from another, int8 [h, n]: of each tap whether its row is outside, old or new."""
        out = stage.output
        height, need = self.size[out][0], self.need[out]
        found = []
        for value, _, taps in self._reads(stage):
            for y, source in self._row_reads(taps, out, value):
                found.append(np.full(height, -1))
                found[-1][y] = self.need[value][source] == need[y]
        for part in stage.biases:
            found.append(np.arange(height) >= part.taps.first[0])
            for y, _ in self._row_reads(part.taps, out, out):
                found.append(np.zeros(height))
                found[-1][y] = 1
        return np.stack(found, axis=1).astype(np.int8)

    def _signatures(self) -> list[tuple]:
        """What rows of the image that are alike have in common, for each of them."""
        signatures: list[list] = [[row % self.period] for row in range(self.height)]
        rows = [(name, np.zeros((self.size[name][0], 0), np.int8)) for name in self.graph.inputs]
        rows += [(stage.output, self._features(stage)) for stage in self.graph.stages]
        for name, features in rows:
            for y, row in enumerate(self.need[name].tolist()):
                if row < self.height:
                    base = row // self.period * self.rise(name)
                    signatures[row].append((name, y - base, features[y].tobytes()))
        return [tuple(signature) for signature in signatures]

    def _rows_of(self, value: str, row: int) -> np.ndarray:
        """A value's rows that are computed for a row of the image."""
        return np.flatnonzero(self.need[value] == row)

    def run(self) -> RasterTables:
        """The tables."""
        known: dict[tuple, int] = {}
        rows: list[int] = []
        kinds: list[tuple[int, ...]] = []
        loads: list[tuple[int, int]] = []
        steps: list[np.ndarray] = []
        begins: list[np.ndarray] = []
        for row, signature in enumerate(self._signatures()):
            if signature not in known:
                known[signature] = len(kinds)
                first_op, first_load = len(self.ops), len(loads)
                kind = self._kind(row)
                for name in self.graph.inputs:
                    if name != self.pixels:
                        base = row // self.period * self.rise(name)
                        loads += [(self.ring_number[name, False], y - base) for y in self._rows_of(name, row).tolist()]
                order = np.concatenate([np.zeros((0, 3), np.int64), *kind.order])
                order = order[np.argsort(order[:, 0], kind="stable")]
                start = sum(len(places) for places in steps)
                begins.append(start + np.searchsorted(order[:, 0], np.arange(self.width + 2)))
                steps.append(order[:, 1:])
                kinds.append((first_op, len(self.ops), first_load, len(loads)))
            rows.append(known[signature])
        inputs = [name for name in self.graph.inputs if name != self.pixels]
        return RasterTables(
            self.height,
            self.width,
            self.period,
            self._ring_table(),
            self.ring_number[self.pixels, False],
            np.array([self.ring_number[name, False] for name in inputs], np.int32),
            self.ring_number[self.graph.output, False],
            self.graph.values[self.graph.output].channels,
            self._stage_table(),
            rows_of(KIND, np.array(kinds)),
            np.array(rows, np.int32),
            rows_of(RASTER_OP, np.array(self.ops)),
            rows_of(RASTER_TAP, np.array(self.taps)),
            np.concatenate(self.biases).astype(np.int32),
            rows_of(RING_ROW, np.array(loads, np.int32)),
            rows_of(RASTER_STEP, np.concatenate(steps)),
            np.array(begins, np.int32),
            self.packed.weights,
            self.packed.blocks,
            self._bias_terms(),
            self.packed.code,
        )

    def _ring_table(self) -> np.ndarray:
        table = np.zeros(len(self.rings), RING)
        for number, ring in enumerate(self.rings.values()):
            channels, width = self.graph.values[ring.value].channels, self.size[ring.value][1]
            numbers = (
                channels // 2 if ring.form == FORM_GATED else channels,
                ring.form,
                width,
                ring.left,
                ring.right,
                self._depth(ring),
                self.rise(ring.value),
            )
            for column, n in zip(columns_of(RING), numbers):
                table[column][number] = n
        return table

    def _stage_table(self) -> np.ndarray:
        number = self.ring_number
        return rows_of(
            RASTER_STAGE,
            np.array(
                [
                    (
                        len(stage.bias),
                        gate_of(stage, self.packed.activations),
                        self.packed.first[stage.name].code,
                        number.get((stage.output, False), -1),
                        number.get((stage.output, True), -1),
                        -1 if stage.residual is None else number[stage.residual, self._in_pairs(stage.residual)],
                    )
                    for stage in self.graph.stages
                ]
            ),
        )

    # ---- operations ----

    def _kind(self, row: int) -> _Kind:
        """The operations of a row of the image."""
        kind = _Kind()
        kind.waits[self.pixels, row] = np.arange(1, self.width + 1)
        for number, stage in enumerate(self.graph.stages):
            for y in self._rows_of(stage.output, row).tolist():
                self._row(kind, number, stage, y, row)
        return kind

    def _row(self, kind: _Kind, number: int, stage: Stage, y: int, row: int) -> None:
        """The operations of a row of places: one for each phase of the columns, and for columns that something is moved into."""
        out, width = stage.output, self.size[stage.output][1]
        period = max([1, *(read.taps.period for read in stage.reads)])
        waits, in_row = np.zeros(width, np.int64), False
        pieces = []
        bias = self._bias_of(stage, y)
        for phase in range(min(period, width)):
            x = np.arange(phase, width, period)
            taps: list[tuple] = []
            edges = {0, len(x)}
            for read, first in zip(stage.reads, self.packed.first[stage.name].weights):
                block = read.weights.shape[1] * (2 if read.form == "elu" else 1) * read.weights.shape[2]
                for source_y, dx, number_of_block in self._taps_of(read.taps, y, phase, self.size[read.value]):
                    column = x // read.taps.period * read.taps.step + dx
                    inside = (column >= 0) & (column < self.size[read.value][1])
                    shown = inside & (x >= read.taps.first[1])
                    if not shown.any():
                        continue
                    begin, end = int(np.argmax(shown)), len(x) - int(np.argmax(shown[::-1]))
                    if bool((inside & ~shown).any()):
                        edges.add(begin)
                    late = kind.waits.get((read.value, source_y))
                    if late is not None:
                        in_row = True
                        waits[x[begin:end]] = np.maximum(waits[x[begin:end]], late[column[begin:end]])
                    taps.append((late is not None, read, source_y, column, begin, end, first + number_of_block * block))
            pieces.append((x, taps, sorted(edges)))
        if stage.residual is not None and (stage.residual, y) in kind.waits:
            in_row = True
            waits = np.maximum(waits, kind.waits[stage.residual, y])
        if in_row:
            kind.waits[out, y] = waits
        base = row // self.period
        for x, taps, ends in pieces:
            for left, right in pairwise(ends):
                begin_tap, op = len(self.taps), len(self.ops)
                middle = begin_tap
                for waits_too in (False, True):
                    middle = len(self.taps)
                    for is_late, read, source_y, column, begin, end, weights in taps:
                        begin, end = max(begin, left), min(end, right)
                        if is_late != waits_too or begin >= end:
                            continue
                        step = int(column[1] - column[0]) if len(column) > 1 else 0
                        self.taps.append(
                            (
                                self.ring_number[read.value, read.form != "raw"],
                                source_y - base * self.rise(read.value),
                                int(column[left]),
                                step,
                                weights,
                                begin - left,
                                end - left,
                            )
                        )
                self.ops.append(
                    (
                        number,
                        y - base * self.rise(out),
                        int(x[left]),
                        period,
                        right - left,
                        self.bias_count,
                        begin_tap,
                        middle,
                        len(self.taps),
                        int(in_row),
                    )
                )
                self.biases.append(bias[x[left:right]])
                self.bias_count += right - left
                if in_row:
                    places = np.arange(right - left)
                    kind.order.append(np.stack([waits[x[left:right]], np.full(len(places), op), places], axis=1))

    def _taps_of(self, taps: Taps, y: int, phase: int, source: tuple[int, int]) -> Iterator[tuple[int, int, int]]:
        """The row, dx and block of each tap of a row of places with a phase, those whose row is there."""
        for phase_y, phase_x, dy, dx, block in taps.offsets.tolist():
            row = y // taps.period * taps.step + dy
            if (
                (y % taps.period, phase % taps.period) == (phase_y, phase_x)
                and 0 <= row < source[0]
                and y >= taps.first[0]
            ):
                yield row, dx, block

    def _bias_of(self, stage: Stage, y: int) -> np.ndarray:
        """Where the bias of each place of a row begins."""
        width = self.size[stage.output][1]
        every = np.ones(width, bool)
        terms = [(term, every) for term in np.atleast_2d(stage.bias)]  # and which places have it
        for part in stage.biases:
            down, right = part.taps.first
            shown = (np.arange(width) >= right) & (y >= down)
            terms.append((part.bias, shown))
            if part.ones is not None:  # the channel of ones has as many places as the result
                reads = np.zeros((len(part.ones), width), bool)
                for phase in range(part.taps.period):
                    x = np.arange(phase, width, part.taps.period)
                    for _, dx, block in self._taps_of(part.taps, y, phase, self.size[stage.output]):
                        column = x // part.taps.period * part.taps.step + dx
                        reads[block, x] = (column >= 0) & (column < width)
                terms += [(ones, shown & read) for ones, read in zip(part.ones, reads)]
        numbers, has = np.stack([term for term, _ in terms]), np.stack([places for _, places in terms], axis=1)
        kinds, of_place = np.unique(has, axis=0, return_inverse=True)
        return np.array([self._bias_number(stage.name, numbers, kind) for kind in kinds])[of_place.reshape(-1)]

    def _bias_number(self, stage: str, terms: np.ndarray, has: np.ndarray) -> int:
        """Where a bias begins, the sum of those terms [n, outputs] of a stage that it has [n]."""
        key = stage, has.tobytes()
        if key not in self.bias_at:
            self.bias_at[key] = self.bias_numbers
            self.bias.append(np.where(has[:, None], terms, 0).astype(terms.dtype))
            self.bias_numbers += terms.shape[1]
        return self.bias_at[key]

    def _bias_terms(self) -> np.ndarray:
        """The terms of all biases side by side [n, numbers]; zeros where a bias has fewer."""
        most = max(map(len, self.bias))
        return np.concatenate([np.pad(terms, ((0, most - len(terms)), (0, 0))) for terms in self.bias], axis=1)
