"""The raster schedule (`spxcore.lower.raster`) as tables for the kernels of `raster`: NumPy only, made once a network and size.

An arena row is a number of every image here, and a place takes `width` of them: its numbers rounded up to a multiple of ALIGN. They lie
as a matrix [images][width], as the places of windows do (`tables`). A row of an image begins with *addresses*: the arena row of the first
place of every tap and result, made from `ADDRESS`. All else in the tables is the same for all rows of a kind.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import require
from ..lower.packing import interleaved
from ..lower.raster import RasterTables
from ..lower.tables import FORM_PAIRS, FORM_RAW, GATE_NONE, int32_columns, joined, rows_of
from .tables import ALIGN, UNIT, Weights, chunk_size

# A row of places of a stage, or every so many of them, as of `RASTER_OP`.
PLACES = int32_columns(
    "bias",  # the bias of place i begins at RasterLayout.bias[RasterLayout.biases[bias + i]]
    "code",  # first number of the code's part, or -1
    "partial",  # arena row of the first place's partial sum, in ALIGN, or -1: taps[begin:late] leave it, and taps[late:end] begin with it
    "channels",  # of the result
    "form",  # of its activation
    "step",  # columns from one place to the next
    "begin",  # chunks[begin:late] run ahead
    "late",  # chunks[late:end] wait for pixels of the row
    "end",
)

# A piece of a tap's inputs.
PIECE = int32_columns(
    "weights",  # first weight, in UNIT
    "begin",  # first input, in ALIGN
    "valid",  # inputs, in ALIGN
    "width",  # of the place they are part of, in ALIGN
    "step",  # arena rows from one place's source to the next one's, in ALIGN
    "inside",  # places [inside, inside_end) read something other than zeros
    "inside_end",
)

# Where something lies in a row of the image: the arena row is first + (row + rise B) % depth * line, in ALIGN, B being how many times S
# rows of the image lie above. A first of -1 is nowhere.
ADDRESS = int32_columns("first", "line", "row", "rise", "depth")

# Some places of some `PLACES`.
ITEM = int32_columns("places", "begin", "end")


@dataclass(frozen=True)
class RasterStage:
    """What a kernel is compiled for.

    Attributes:
        channels: of the result.
        gated: whether a gate follows its sum.
        of_pairs: whether its residual x is read from pairs (elu(x), elu(-x)).
        inputs: K, of a chunk of its taps.
    """

    channels: int
    gated: bool
    of_pairs: bool
    inputs: int


@dataclass(frozen=True)
class RowWork:
    """What a kind of row runs, in *runs*: int [n, 3], number of a stage, and which `items` of it run at once, [begin, end).

    Attributes:
        items: `ITEM` [n].
        ahead: runs before its first pixel.
        steps: runs that wait for pixels of the row: steps[begins[c]:begins[c + 1]] when c of them are drawn.
        begins: int [W + 2].
        whole: all of them, when all pixels of the row are given.
    """

    items: np.ndarray
    ahead: np.ndarray
    steps: np.ndarray
    begins: np.ndarray
    whole: np.ndarray


@dataclass(frozen=True)
class RasterLayout:
    """A network at a size for the kernels.

    Attributes:
        tables: what it was made from.
        columns: channels of a tile of the result.
        single: whether any value is read in a form of one number, so any but FORM_PAIRS.
        stages: see `RasterStage`.
        places: `PLACES`.
        pieces: `PIECE`.
        biases: int32, see `PLACES`.
        bias: float32.
        weights: float32, packed as `tables.Layout.pair_weights`.
        code: float32 [Z, L], every stage's U side by side.
        spots: `ADDRESS` [2], of a row's first parameters and first pixel; B is the number of rows above.
        addresses: `ADDRESS`, of each piece, then of each of `places` the result, its activation and the residual.
        rings: int [n, 2], first arena row of each ring, and rows of a place.
        rows: arena rows.
    """

    tables: RasterTables
    columns: int
    single: bool
    stages: list[RasterStage]
    places: np.ndarray
    pieces: np.ndarray
    biases: np.ndarray
    bias: np.ndarray
    weights: np.ndarray
    code: np.ndarray
    spots: np.ndarray
    addresses: np.ndarray
    rings: np.ndarray
    rows: int

    def work(self, number: int, places: int) -> RowWork:
        """What a kind of row runs. number: of the kind; places: of an item, at most."""
        tables, kind = self.tables, self.tables.kinds[number]
        numbers = np.arange(kind["op"], kind["op_end"])
        ops = tables.ops[numbers]
        in_row, begins = ops["waits"] != 0, tables.step_begins[number]
        one_by_one = tables.steps[begins[0] : begins[-1]]
        step = np.repeat(np.arange(len(begins) - 1), np.diff(begins))
        items = np.stack([numbers, np.zeros_like(numbers), ops["count"]], axis=1)
        found = [
            cut(items[~in_row | (ops["tap_begin"] < ops["tap_late"])], places),
            cut(items[in_row], places),
            np.stack([one_by_one["op"], one_by_one["place"], one_by_one["place"] + 1], axis=1),
        ]
        first = np.cumsum([0] + [len(of) for of in found])
        stages = [tables.ops["stage"][of[:, 0], None] for of in found]
        steps = runs(np.concatenate([step[:, None], stages[2]], axis=1), first[2])
        return RowWork(
            rows_of(ITEM, np.concatenate(found)),
            runs(stages[0], first[0]),
            steps[:, 1:],
            np.searchsorted(steps[:, 0], np.arange(len(begins))),
            runs(stages[1], first[1]),
        )


def runs(keys: np.ndarray, first: int) -> np.ndarray:
    """Rows of keys [n, k] that follow each other and are the same: int [r, k + 2], the key and [begin, end), counted from `first`."""
    begins = np.flatnonzero(np.r_[True, (np.diff(keys, axis=0) != 0).any(axis=1)]) if len(keys) else np.zeros(0, int)
    ends = np.append(begins[1:], len(keys)) if len(keys) else begins
    return np.concatenate([keys[begins], np.stack([begins, ends], axis=1) + first], axis=1)


def cut(items: np.ndarray, places: int) -> np.ndarray:
    """Items [n, 3] in pieces of at most so many places."""
    counts = -(-(items[:, 2] - items[:, 1]) // places)
    of = np.repeat(np.arange(len(items)), counts)
    piece = np.arange(len(of)) - np.repeat(np.cumsum(counts) - counts, counts)
    begin = items[of, 1] + piece * places
    return np.stack([items[of, 0], begin, np.minimum(begin + places, items[of, 2])], axis=1)


def raster_layout(tables: RasterTables) -> RasterLayout:
    """Lay a network's raster schedule out for the kernels.

    Raises:
        SpxError: for a network whose weights, or whose rows of an image, are too many.
    """
    return _Builder(tables).run()


class _Builder:
    """The tables in the making."""

    def __init__(self, tables: RasterTables):
        self.tables = tables
        self.ops, self.taps, self.rings, self.stages = tables.ops, tables.taps, tables.rings, tables.stages
        self.numbers = self.rings["channels"] * np.where(self.rings["form"] == FORM_PAIRS, 2, 1)
        self.widths = -(-self.numbers // ALIGN) * ALIGN
        ends = np.cumsum(self.rings["depth"].astype(np.int64) * self.rings["width"] * self.widths)
        self.firsts, self.rows = np.concatenate([[0], ends[:-1]]), int(ends[-1])
        self.gated = self.stages["gate"] != GATE_NONE
        self.channels = self.stages["outputs"] // np.where(self.gated, 2, 1)
        self.columns = min(chunk_size(int(self.channels.max())), 32)
        # The taps of an op follow those of the one before.
        self.op_of_tap = np.repeat(np.arange(len(self.ops)), self.ops["tap_end"] - self.ops["tap_begin"])
        most = np.ones(len(self.stages), np.int64)
        np.maximum.at(most, self.ops["stage"][self.op_of_tap], self.numbers[self.taps["ring"]])
        self.inputs = np.array([chunk_size(int(n)) for n in most])

    def run(self) -> RasterLayout:
        """The layout."""
        weights = self._weights()
        pieces, sources, begins = self._pieces(weights)
        partials, rows = self._partials()
        require(rows // ALIGN < 1 << 31, "network", "fewer than 2^34 numbers of rows that are kept", rows)
        biases, bias = self._biases()
        ops, of = self.ops, self.stages[self.ops["stage"]]
        form = np.where(of["activated"] >= 0, self.rings["form"][of["activated"]], FORM_PAIRS)
        ends = (begins[ops[name]] for name in ("tap_begin", "tap_late", "tap_end"))
        channels = self.channels[ops["stage"]]
        places = np.stack([ops["bias"], of["code"], partials, channels, form, ops["step"], *ends], axis=1)
        results = [self._addresses(of[name], ops["row"], ops["first"]) for name in ("raw", "activated", "residual")]
        zeros, residual = np.zeros(2, np.int64), self.stages["residual"]
        spots = self._addresses(np.array([self.tables.params, self.tables.pixels]), zeros, zeros)
        spots["rise"] = 1
        of_pairs = (residual >= 0) & (self.rings["form"][residual] == FORM_PAIRS)
        of_stages = zip(self.channels.tolist(), self.gated.tolist(), of_pairs.tolist(), self.inputs.tolist())
        return RasterLayout(
            tables=self.tables,
            columns=self.columns,
            single=bool(((self.rings["form"] != FORM_PAIRS) & (self.rings["form"] != FORM_RAW)).any()),
            stages=[RasterStage(*stage) for stage in of_stages],
            places=rows_of(PLACES, places),
            pieces=pieces,
            biases=biases,
            bias=bias,
            weights=weights.array(),
            code=self._code(),
            spots=spots,
            addresses=joined(ADDRESS, [sources, np.stack(results, axis=1).ravel()]),
            rings=np.stack([self.firsts, self.widths], axis=1),
            rows=rows,
        )

    def _addresses(self, ring: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
        """`ADDRESS` of places; nowhere for a ring of -1."""
        there, of = ring >= 0, self.rings[ring]
        width = self.widths[ring]
        first = np.where(there, (self.firsts[ring] + column * width) // ALIGN, -1)
        line = np.where(there, of["width"] * width // ALIGN, 0)
        return rows_of(ADDRESS, np.stack([first, line, row, of["rise"], of["depth"]], axis=1))

    def _weights(self) -> Weights:
        """The blocks of all taps."""
        tables, packed = self.tables, Weights(self.columns)
        blocks = {first: (inputs, outputs) for first, inputs, outputs in tables.blocks.tolist()}
        found, at = np.unique(self.taps["weights"], return_index=True)
        for first, stage in zip(found.tolist(), self.ops["stage"][self.op_of_tap[at]].tolist()):
            inputs, outputs = blocks[first]
            block = tables.weights[first : first + inputs * outputs].reshape(inputs, outputs)
            gated = bool(self.gated[stage])
            packed.add(first, interleaved(block, gated), gated, int(self.inputs[stage]))
        return packed

    def _pieces(self, weights: Weights) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`PIECE`, their sources' `ADDRESS`, and where the pieces of each tap begin, [taps + 1]."""
        chunks = [weights.first[first] for first in self.taps["weights"].tolist()]
        begins = np.cumsum([0] + [len(of) for of in chunks])
        tap_of = np.repeat(np.arange(len(chunks)), np.diff(begins))
        taps, most = self.taps[tap_of], self.inputs[self.ops["stage"][self.op_of_tap[tap_of]]]
        width, begin = self.widths[taps["ring"]], (np.arange(len(tap_of)) - begins[tap_of]) * most
        aligned = [n // ALIGN for n in (begin, np.minimum(most, width - begin), width, taps["step"] * width)]
        at = np.concatenate([np.zeros(0, int), *map(np.array, chunks)]) // UNIT
        pieces = rows_of(PIECE, np.stack([at, *aligned, taps["inside"], taps["inside_end"]], axis=1))
        return pieces, self._addresses(taps["ring"], taps["row"], taps["column"]), begins

    def _partials(self) -> tuple[np.ndarray, int]:
        """Where each op's partial sums begin, in ALIGN, or -1; and all arena rows. Rows of different kinds share memory."""
        outputs = self.stages["outputs"][self.ops["stage"]]
        leaves = (self.ops["waits"] != 0) & (self.ops["tap_begin"] < self.ops["tap_late"])
        sizes = np.where(leaves, self.ops["count"] * (-(-outputs // ALIGN) * ALIGN), 0).astype(np.int64)
        ends, rows = np.cumsum(sizes), self.rows
        begins = ends - sizes
        for first, last in zip(self.tables.kinds["op"].tolist(), self.tables.kinds["op_end"].tolist()):
            rows = max(rows, self.rows + int(sizes[first:last].sum()))
            begins[first:last] += self.rows - begins[first:last][:1]
        return np.where(leaves, begins // ALIGN, -1), rows

    def _biases(self) -> tuple[np.ndarray, np.ndarray]:
        """Where the bias of each place begins, and the biases, in the order of gates."""
        tables = self.tables
        known: dict[tuple[int, bool], int] = {}
        biases, bias, at = tables.biases.copy(), [], 0
        for stage, first, count in zip(*(self.ops[name].tolist() for name in ("stage", "bias", "count"))):
            outputs, gated, mine = (
                int(self.stages["outputs"][stage]),
                bool(self.gated[stage]),
                slice(first, first + count),
            )
            for old in np.unique(tables.biases[mine]).tolist():
                if (old, gated) not in known:
                    known[old, gated] = at
                    bias.append(interleaved(tables.bias[old : old + outputs], gated))
                    at += outputs
                biases[mine][tables.biases[mine] == old] = known[old, gated]
        return biases, np.concatenate(bias)

    def _code(self) -> np.ndarray:
        """U of all stages, in the order of gates."""
        code = self.tables.code.copy()
        for stage, gated in zip(self.stages, self.gated.tolist()):
            if stage["code"] >= 0:
                mine = slice(stage["code"], stage["code"] + stage["outputs"])
                code[:, mine] = interleaved(code[:, mine], gated)
        return code
