"""A plan as tables for the kernels of `windows`: NumPy only, made once a network. The one home of their layout.

Kernels read a row's columns by name: `windows.OPERATION.residual` is made from the type `OPERATION` here.

Arena rows of a program are `lanes` numbers wide here. A place, `width` numbers rounded up to a multiple of 8 (ALIGN), takes the rows
[first, first + width): as a matrix [lanes][width], so that a tile of windows is one piece of memory and every load and store a wide
one. The padding holds zeros. In bf16 the ahead part's pairs of concat_elu are bf16, in the first half of their rows; all other numbers
are float32.

A gate's two halves stand side by side, (a_0, b_0, a_1, b_1 ...), in weights, biases, the code's part and partial sums.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import require
from ..lower.packing import interleaved
from ..lower.tables import FORM_PAIRS, columns_of, int32_columns, rows_of
from ..lower.window import Packed, WindowProgram, inputs_of, pack, window_programs
from ..plan import Plan, Stage
from .tuning import Blocks

ALIGN = 8
UNIT = 16  # addresses are stored divided by UNIT or ALIGN, so that the compiler can prove loads aligned
RAW_K = 16  # inputs of a chunk of raw numbers (pixels, what a place is told, residual stream, forms of one number)


PAIRS = ("elu", "concat_elu")  # forms that are read as pairs (elu(x_c), elu(-x_c))

# Some places of one stage that one tile computes at once.
GROUP = int32_columns(
    "op",  # its operations are operations[op : op + count]
    "count",
    "pairs",  # chunks[pairs : pairs_end] are pairs of concat_elu
    "pairs_end",
    "raws",  # chunks[raws : raws_end] are raw numbers
    "raws_end",
    "gated",  # 1: a sigmoid(b), a and b being the halves of the sum
    "channels",  # of the result
    "new_stage",  # of a step: 1 for the first group of a stage, which reads what the stages before it wrote
)

# A place of a stage: first numbers in `bias` and in the code's part, and arena rows; -1 where they are not used.
OPERATION = int32_columns(
    "bias",
    "code",
    "partial",  # the ahead part leaves the sum there, and a step starts from it
    "residual",  # added at the end
    "raw",  # where the result goes
    "activated",  # where its activation goes
    "form",  # of that, as of `OP`
)

# A piece of a tap's inputs.
CHUNK = int32_columns(
    "weights",  # first weight, in UNIT
    "begin",  # first input, in UNIT
    "valid",  # inputs, in ALIGN
    "width",  # of the place they are part of, in ALIGN
)

# A step: groups[groups : groups_end], pixels[pixels : pixels_end], arena row of the parameters of the pixel it draws.
PART = int32_columns("groups", "groups_end", "pixels", "pixels_end", "params")

# A pixel of the current row that a step reads: column in the window, arena row.
PIXEL = int32_columns("column", "row")

# What a program reads at a place: pixels of the rows above (input -1), or one of the network's other inputs, which has height x width
# places, counted from 0.
INPUT = int32_columns("program", "input", "place", "row", "height", "width")

# A program at a size, for a number of images; see `windows` for lanes and groups.
PROGRAM = int32_columns(
    "arena",  # first number of its arena, in UNIT
    "lanes",  # in UNIT
    "group",  # lanes of a group
    "left",  # 1 if it draws the first window of a row
    "row_low",  # the first and the last row of the image it draws
    "row_high",
    "window_row",  # the row of the window that these are in
)

# Where the tables of a network begin in the one array that kernels are given, in UNIT.
DIRECTORY = int32_columns(
    "operations", "parts", "first_part", "pixels", "inputs",
    "ahead_groups", "ahead_chunks", "ahead_sources", "step_groups", "step_chunks", "step_sources",
)  # fmt: skip

# What is drawn. The programs' rows follow it, then the images' numbers.
JOB = np.dtype(
    [
        ("wave", np.int32),  # that is drawn next
        ("images", np.int32),  # N
        ("height", np.int32),
        ("width", np.int32),
        ("blocks", np.int32),  # of a row
        ("numbers", np.int32),  # where the images' numbers begin
        ("code", np.int32),  # numbers of U z of an image
        ("map_images", np.int32),  # 1 if all images have the same maps, else N
        ("map_height", np.int32),
        ("map_width", np.int32),
        ("seed_low", np.uint32),
        ("seed_high", np.uint32),
        ("draw", np.uint32),  # fourth word of the pixels' Philox counters
        ("temperature", np.float32),
    ]
)


@dataclass(frozen=True)
class Groups:
    """Groups of the ahead part, or of the steps.

    Attributes:
        groups: `GROUP` [n].
        chunks: `CHUNK` [c], what groups read.
        sources: int32 [c, places]: first arena row of a chunk for each place of its group, -1 for none.
    """

    groups: np.ndarray
    chunks: np.ndarray
    sources: np.ndarray


@dataclass(frozen=True)
class AheadStage:
    """A stage that runs ahead.

    Attributes:
        channels: of its result.
        gated: whether a gate follows its sum.
        groups: each program's numbers of groups, int arrays.
    """

    channels: int
    gated: bool
    groups: list[np.ndarray]


@dataclass(frozen=True)
class Layout:
    """A network's plan for the kernels.

    Attributes:
        side: m, of the window, in pixels.
        pixel: numbers of a pixel, as the network sees it.
        told: D, numbers of a place of the other inputs; 0 without.
        pair_k: inputs of a chunk of pairs of concat_elu.
        columns: channels of a tile of the result.
        pair_weights, raw_weights: float32, packed chunks [tiles of the result][outputs of the tile][inputs]: inputs side by
            side, as tensor cores want them in tf32.
        bias: float32, in the order of `Packed.bias`.
        code: float32 [Z, L], every stage's U side by side.
        operations: `OPERATION` [n].
        ahead, steps: a group has up to `Blocks.places` places, of the steps `Blocks.step_places`.
        stages: those that run ahead, in order.
        parts: `PART`, every program's steps.
        first_part: int [programs].
        step_pixels: `PIXEL`, of the current row.
        inputs: `INPUT`.
        rows: int [programs], arena rows.
        places: int32 [operations, 3]: program, stage and place of each operation, for tests.
    """

    side: int
    pixel: int
    told: int
    pair_k: int
    columns: int
    pair_weights: np.ndarray
    raw_weights: np.ndarray
    bias: np.ndarray
    code: np.ndarray
    operations: np.ndarray
    ahead: Groups
    steps: Groups
    stages: list[AheadStage]
    parts: np.ndarray
    first_part: np.ndarray
    step_pixels: np.ndarray
    inputs: np.ndarray
    rows: np.ndarray
    places: np.ndarray

    def flat(self) -> np.ndarray:
        """All tables that the kernels read, one after the other, each at a multiple of UNIT, after the `DIRECTORY` of where: int32."""
        tables = (
            self.operations, self.parts, self.first_part, self.step_pixels, self.inputs,
            self.ahead.groups, self.ahead.chunks, self.ahead.sources, self.steps.groups, self.steps.chunks, self.steps.sources,
        )  # fmt: skip
        found, directory, at = [], [], padded(len(columns_of(DIRECTORY)), UNIT)
        for table in tables:
            numbers = np.ascontiguousarray(table).view(np.int32).ravel()
            directory.append(at // UNIT)
            found.append(np.pad(numbers, (0, -len(numbers) % UNIT)))
            at += len(found[-1])
        require(at < 1 << 31, "network", "tables of fewer than 2^31 numbers", at)
        return np.concatenate([np.pad(np.array(directory, np.int32), (0, -len(directory) % UNIT)), *found])


def padded(numbers: int, to: int) -> int:
    """The next multiple."""
    return -(-numbers // to) * to


def chunk_size(numbers: int) -> int:
    """The largest of 64, 32, 16 that pads little: at most 15 % more than the least."""
    least = min(padded(numbers, k) for k in (64, 32, 16))
    return next(k for k in (64, 32, 16) if padded(numbers, k) <= 1.15 * least)


class Weights:
    """Packs weight blocks chunk by chunk; remembers where each went."""

    def __init__(self, columns: int):
        self.columns, self.at = columns, 0
        self.packed: list[np.ndarray] = []
        self.first: dict[int, list[int]] = {}

    def add(self, key: int, block: np.ndarray, gated: bool, k: int) -> None:
        """block: [inputs, outputs], outputs in the order of `interleaved`."""
        inputs, outputs = block.shape
        width = self.columns * (2 if gated else 1)
        full = np.zeros((padded(inputs, k), padded(outputs, width)), np.float32)
        full[:inputs, :outputs] = block
        tiles = full.reshape(-1, k, full.shape[1] // width, width).transpose(0, 2, 3, 1)  # [chunks, tiles, width, k]
        self.first[key] = [self.at + i * tiles[0].size for i in range(len(tiles))]
        self.packed.append(np.ascontiguousarray(tiles).ravel())
        self.at += self.packed[-1].size

    def array(self) -> np.ndarray:
        require(self.at < 1 << 31, "network", "fewer than 2^31 weights", self.at)
        return np.concatenate([*self.packed, np.zeros(0, np.float32)])


class _Builder:
    """The tables in the making."""

    def __init__(self, plan: Plan, shared: Packed, programs: list[WindowProgram], blocks: Blocks):
        self.plan, self.shared, self.programs, self.blocks = plan, shared, programs, blocks
        of = {FORM_PAIRS: 1}  # the most channels of a value that is read so
        for value, form in shared.activations.items():
            of[form] = max(of.get(form, 1), plan.values[value].channels)
        self.pair_k, filters = chunk_size(2 * of[FORM_PAIRS]), max(of.values())
        self.columns = min(chunk_size(filters), 32)
        self.pairs, self.raws = Weights(self.columns), Weights(self.columns)
        self.pack_weights()
        self.groups: list[tuple[int, ...]] = []
        self.chunks: list[tuple[int, ...]] = []
        self.sources: list = []

    def take_groups(self, places: int) -> Groups:
        """The groups that were added since the last call. places: of each."""
        sources = np.array(self.sources, np.int32).reshape(-1, places)
        found = Groups(rows_of(GROUP, self.groups), rows_of(CHUNK, self.chunks), sources)
        self.groups, self.chunks, self.sources = [], [], []
        return found

    def pack_weights(self) -> None:
        for stage in self.plan.stages:
            gated, starts = stage.gate != "none", self.shared.first[stage.name].weights
            for source, start in zip(stage.sources, starts):
                pairs = source.form in PAIRS
                inputs = self.plan.values[source.value].channels * (2 if pairs else 1)
                size = inputs * stage.outputs
                for i in range(len(source.weights)):
                    block = self.shared.weights[start + i * size : start + (i + 1) * size]
                    block = interleaved(block.reshape(inputs, stage.outputs), gated)
                    packed, k = (self.pairs, self.pair_k) if pairs else (self.raws, RAW_K)
                    packed.add(start + i * size, block, gated, k)

    def add_group(
        self, stage: Stage, program: WindowProgram, ops: np.ndarray, base: int, places: int, new: bool
    ) -> int:
        """One group of operations `ops` of a stage; `base`: operations before this program's. Returns its number."""
        gated = stage.gate != "none"
        row, ranges = [base + int(ops[0]), len(ops)], []
        for packed, k, pairs in ((self.pairs, self.pair_k, 1), (self.raws, RAW_K, 0)):
            begin = len(self.chunks)
            table: dict[tuple[int, int, int], np.ndarray] = {}  # (weights, inputs, turn) -> source row of each place
            for p, op in enumerate(program.ops[ops]):
                turn: dict[int, int] = {}  # a block used twice by one place (never so far) gets another chunk
                taps = program.taps[op["tap_begin"] : op["tap_end"]]
                for tap in taps[taps["pairs"] == pairs]:
                    weights, inputs = int(tap["weights"]), int(tap["inputs"])
                    turn[weights] = turn.get(weights, -1) + 1
                    key = (weights, inputs, turn[weights])
                    table.setdefault(key, np.full(places, -1))[p] = tap["source"]
            for (weights, inputs, _), sources in table.items():
                for i, at in enumerate(packed.first[weights]):
                    width = padded(inputs, ALIGN)
                    self.chunks.append((at // UNIT, i * k // UNIT, min(k, width - i * k) // ALIGN, width // ALIGN))
                    self.sources.append(sources.tolist())
            ranges += [begin, len(self.chunks)]
        channels = stage.outputs // (2 if gated else 1)
        self.groups.append((*row, *ranges, gated, channels, new))
        return len(self.groups) - 1

    def run(self) -> Layout:
        plan, programs = self.plan, self.programs
        base = np.cumsum([0] + [len(program.ops) for program in programs])
        stages = self.stages_ahead(base)
        ahead = self.take_groups(self.blocks.places)
        parts, step_pixels, first_part = self.steps_of(base)
        bias, code = self.shared.bias.copy(), self.shared.code.copy()
        for stage in plan.stages:
            at, column, _ = self.shared.first[stage.name]
            gated = stage.gate != "none"
            bias[at : at + stage.bias.size] = interleaved(stage.bias.astype(np.float32), gated).ravel()
            if column >= 0:
                code[:, column : column + stage.outputs] = interleaved(stage.code, gated)
        x, *others = inputs_of(plan)
        return Layout(
            side=plan.width,
            pixel=plan.values[x].channels,
            told=plan.values[others[0]].channels if others else 0,
            pair_k=self.pair_k,
            columns=self.columns,
            pair_weights=self.pairs.array(),
            raw_weights=self.raws.array(),
            bias=bias,
            code=code,
            operations=self.operations(),
            ahead=ahead,
            steps=self.take_groups(self.blocks.step_places),
            stages=stages,
            parts=rows_of(PART, parts),
            first_part=np.array(first_part, np.int32),
            step_pixels=rows_of(PIXEL, step_pixels),
            inputs=self.inputs(),
            rows=np.array([program.rows for program in programs]),
            places=np.concatenate(
                [np.insert(program.origin, 0, n, axis=1) for n, program in enumerate(programs)]
            ).astype(np.int32),
        )  # fmt: skip

    def operations(self) -> np.ndarray:
        """The operations of all programs."""
        ops = np.concatenate([program.ops for program in self.programs])
        result = np.zeros(len(ops), OPERATION)
        for name in ("bias", "code", "raw", "activated", "form"):
            result[name] = ops[name]
        result["partial"] = np.maximum(ops["partial_in"], ops["partial_out"])
        result["residual"] = np.maximum(ops["residual"], ops["residual_ahead"])
        return result

    def stages_ahead(self, base: np.ndarray) -> list[AheadStage]:
        """Adds the groups of the ahead part. base: operations before each program's."""
        places, stages = self.blocks.places, []
        for number, stage in enumerate(self.plan.stages):
            found = []
            for program, first in zip(self.programs, base):
                ops = np.flatnonzero(program.origin[: program.begins[1], 0] == number)
                together = [ops[i : i + places] for i in range(0, len(ops), places)]
                groups = [self.add_group(stage, program, some, first, places, False) for some in together]
                found.append(np.array(groups, int))
            if any(len(groups) for groups in found):
                gated = stage.gate != "none"
                stages.append(AheadStage(stage.outputs // (2 if gated else 1), gated, found))
        return stages

    def steps_of(self, base: np.ndarray) -> tuple[list, list, list]:
        """Adds the groups of the steps; returns rows of `parts`, `step_pixels` and `first_part`."""
        places, m = self.blocks.step_places, self.plan.width
        parts: list[tuple[int, ...]] = []
        step_pixels: list[tuple[int, int]] = []
        first_part: list[int] = []
        for program, first in zip(self.programs, base):
            first_part.append(len(parts))
            row = program.targets[0] // m * m
            for t, target in enumerate(program.targets):
                begin = len(self.groups)
                ops = np.arange(program.begins[1 + t], program.begins[2 + t])
                for number in np.unique(program.origin[ops, 0]):
                    mine = ops[program.origin[ops, 0] == number]
                    for i in range(0, len(mine), places):
                        self.add_group(self.plan.stages[number], program, mine[i : i + places], first, places, i == 0)
                seen = program.pixels[(program.pixels["place"] >= row) & (program.pixels["place"] < target)]
                pixels = [(place - row, at) for place, at in seen.tolist()]
                end = len(step_pixels) + len(pixels)
                parts.append((begin, len(self.groups), len(step_pixels), end, program.params[t]))
                step_pixels += pixels
        return parts, step_pixels, first_part

    def inputs(self) -> np.ndarray:
        """What programs read of the rows above, and of the other inputs."""
        (_, *others), m = inputs_of(self.plan), self.plan.width
        sizes = [(self.plan.values[name].height, self.plan.values[name].width) for name in others]
        rows = []
        for n, program in enumerate(self.programs):
            above = program.pixels[program.pixels["place"] < program.targets[0] // m * m]
            rows += [(n, -1, place, at, m, m) for place, at in above.tolist()]
            rows += [(n, k, place, at, *sizes[k]) for k, place, at in program.told.tolist()]
        return rows_of(INPUT, rows)


def network_layout(plan: Plan, blocks: Blocks) -> Layout:
    """Lay a network's plan out for the kernels.

    Programs are numbered 2 i + left as `window_programs` gives them.
    """
    shared = pack(plan)
    return _Builder(plan, shared, window_programs(plan, shared, ALIGN), blocks).run()
