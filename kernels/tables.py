"""A plan as tables for the kernels of `program`: NumPy only, made once a network.

Arena rows of a program are `lanes` numbers wide here. A place, `width` numbers rounded up to a multiple of 8 (ALIGN), takes the rows
[first, first + width): as a matrix [lanes][width], so that a tile of windows is one piece of memory and every load and store a wide
one. The padding holds zeros. Activations are bf16 in bf16 mode, in the first half of their rows.

A gate's two halves stand side by side, (a_0, b_0, a_1, b_1 ...), in weights, biases, latents and partial sums.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import require
from ..plan.model import Plan, Stage
from ..plan.program import OP, Program, Tables, tables, window_programs
from .tuning import Blocks

ALIGN = 8
UNIT = 16  # tables count in these, or in ALIGN, where numbers are multiples of them: so the compiler knows that loads are aligned
RAW_K = 16  # inputs of a chunk of raw numbers (pixels, conditioning, residual stream)

# Columns of the device tables. A group is some places of one stage that one tile computes at once.
GROUP = ("op", "count", "acts", "acts_end", "raws", "raws_end", "gated", "channels", "new_stage")
OPERATION = ("bias", "latent", "partial", "residual", "raw", "act")  # first numbers and arena rows; -1 unused
CHUNK = (
    "weights",
    "begin",
    "valid",
    "width",
)  # of a tap's inputs: weights and first of them in UNIT, number and place's width in ALIGN
PART = ("groups", "groups_end", "pixels", "pixels_end", "params")  # of a step


@dataclass(frozen=True)
class Groups:
    """Groups of the ahead part, or of the steps.

    Attributes:
        groups: int32 [n, len(GROUP)].
        chunks: int32 [c, len(CHUNK)]: what a group reads, chunks[acts:acts_end] of activations, then chunks[raws:raws_end].
        sources: int32 [c, places]: first arena row of a chunk for each place of its group, -1 for none.
    """

    groups: np.ndarray
    chunks: np.ndarray
    sources: np.ndarray


@dataclass(frozen=True)
class Network:
    """A network's plan for the kernels.

    Attributes:
        act_k: inputs of a chunk of activations (concat_elu).
        columns: channels of a tile of the result.
        act_weights, raw_weights: float32, packed chunks [tiles of the result][outputs of the tile][inputs]: inputs side by
            side, as tensor cores want them in tf32.
        bias: float32, in the order of `Tables.bias`.
        latent: float32 [Z, L].
        operations: int32 [n, len(OPERATION)].
        ahead, steps: see `Groups`; a group has up to `Blocks.places` places, of the steps `Blocks.step_places`.
        stages: for each stage that runs ahead its channels, whether it is gated, and each program's groups, int arrays.
        parts: int32 [n, len(PART)], every program's steps.
        first_part: int [programs].
        step_pixels: int32 [n, 2]: window column and arena row of the current row's pixels.
        inputs: int32 [n, 4]: program, -1 and place of a pixel or resolution and place of conditioning, arena row.
        rows: int [programs], arena rows.
        places: int32 [operations, 3]: program, stage and place of each operation, for tests.
    """

    act_k: int
    columns: int
    act_weights: np.ndarray
    raw_weights: np.ndarray
    bias: np.ndarray
    latent: np.ndarray
    operations: np.ndarray
    ahead: Groups
    steps: Groups
    stages: list[tuple[int, bool, list[np.ndarray]]]
    parts: np.ndarray
    first_part: np.ndarray
    step_pixels: np.ndarray
    inputs: np.ndarray
    rows: np.ndarray
    places: np.ndarray


def padded(numbers: int, to: int) -> int:
    """The next multiple."""
    return -(-numbers // to) * to


def chunk_size(numbers: int) -> int:
    """The largest of 64, 32, 16 that pads little: at most 15 % more than the least."""
    least = min(padded(numbers, k) for k in (64, 32, 16))
    return next(k for k in (64, 32, 16) if padded(numbers, k) <= 1.15 * least)


def interleaved(numbers: np.ndarray, gated: bool) -> np.ndarray:
    """[..., 2 nf] as (a, b) -> (a_0, b_0, a_1, b_1 ...) for a gated stage."""
    if not gated:
        return numbers
    halves = numbers.reshape(*numbers.shape[:-1], 2, numbers.shape[-1] // 2)
    return np.ascontiguousarray(np.swapaxes(halves, -1, -2)).reshape(numbers.shape)


def int32(rows, width: int) -> np.ndarray:
    """A table of rows, [n, width]."""
    return np.array(rows, np.int32).reshape(-1, width)


class _Weights:
    """Packs weight blocks chunk by chunk; remembers where each went."""

    def __init__(self, columns: int):
        self.columns, self.packed, self.at, self.first = columns, [], 0, {}

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

    def __init__(self, plan: Plan, shared: Tables, programs: list[Program], blocks: Blocks):
        self.plan, self.shared, self.programs, self.blocks = plan, shared, programs, blocks
        filters = max(stage.bias.shape[1] // 2 for stage in plan.stages if stage.residual is not None)
        self.act_k, self.columns = chunk_size(2 * filters), min(chunk_size(filters), 32)
        self.acts, self.raws = _Weights(self.columns), _Weights(self.columns)
        self.pack_weights()
        self.groups, self.chunks, self.sources = [], [], []

    def take_groups(self, places: int) -> Groups:
        """The groups that were added since the last call, of so many places."""
        found = Groups(int32(self.groups, len(GROUP)), int32(self.chunks, len(CHUNK)), int32(self.sources, places))
        self.groups, self.chunks, self.sources = [], [], []
        return found

    def pack_weights(self) -> None:
        for stage in self.plan.stages:
            gated, starts = stage.residual is not None, self.shared.first[stage.name][2]
            for source, start in zip(stage.sources, starts):
                acts = source.form != "raw"
                inputs = self.plan.values[source.value].channels * (2 if acts else 1)
                size = inputs * stage.outputs
                for i in range(len(source.weights)):
                    block = self.shared.weights[start + i * size : start + (i + 1) * size]
                    block = interleaved(block.reshape(inputs, stage.outputs), gated)
                    (self.acts if acts else self.raws).add(
                        start + i * size, block, gated, self.act_k if acts else RAW_K
                    )

    def add_group(self, stage: Stage, program: Program, ops: np.ndarray, base: int, places: int, new: bool) -> int:
        """One group of operations `ops` of a stage; `base`: operations before this program's. Returns its number."""
        gated = stage.residual is not None
        row, ranges = [base + int(ops[0]), len(ops)], []
        for packed, k, pairs in ((self.acts, self.act_k, 1), (self.raws, RAW_K, 0)):
            begin = len(self.chunks)
            table: dict[tuple[int, int], np.ndarray] = {}  # (weights, inputs' width) -> source row of each place
            for p, op in enumerate(ops):
                first, end = program.ops[op, OP.index("tap_begin")], program.ops[op, OP.index("tap_end")]
                turn: dict[int, int] = {}  # a block used twice by one place (never so far) gets another chunk
                for source, weights, inputs, of_pairs in program.taps[first:end].tolist():
                    if of_pairs != pairs:
                        continue
                    turn[weights] = turn.get(weights, -1) + 1
                    key = (weights, inputs, turn[weights])
                    table.setdefault(key, np.full(places, -1))[p] = source
            for (weights, inputs, _), sources in table.items():
                for i, at in enumerate(packed.first[weights]):
                    width = padded(inputs, ALIGN)
                    self.chunks.append((at // UNIT, i * k // UNIT, min(k, width - i * k) // ALIGN, width // ALIGN))
                    self.sources.append(sources.tolist())
            ranges += [begin, len(self.chunks)]
        channels = stage.outputs // (2 if gated else 1)
        self.groups.append((*row, *ranges, gated, channels, new))
        return len(self.groups) - 1

    def run(self) -> Network:
        plan, programs, places = self.plan, self.programs, self.blocks.places
        base = np.cumsum([0] + [len(program.ops) for program in programs])
        column = {name: OP.index(name) for name in OP}
        operations = []
        for program in programs:
            o = program.ops
            partial = np.maximum(o[:, column["partial_in"]], o[:, column["partial_out"]])
            residual = np.maximum(o[:, column["residual"]], o[:, column["residual_ahead"]])
            fields = [
                o[:, column["bias"]],
                o[:, column["latent"]],
                partial,
                residual,
                o[:, column["raw"]],
                o[:, column["act"]],
            ]
            operations.append(np.stack(fields, axis=1))

        stages = []
        for number, stage in enumerate(plan.stages):
            found = []
            for program, first in zip(programs, base):
                ops = np.flatnonzero(program.origin[: program.begins[1], 0] == number)
                together = [ops[i : i + places] for i in range(0, len(ops), places)]
                found.append(
                    np.array([self.add_group(stage, program, some, first, places, False) for some in together], int)
                )
            if any(len(groups) for groups in found):
                stages.append(
                    (stage.outputs // (1 if stage.residual is None else 2), stage.residual is not None, found)
                )
        ahead = self.take_groups(places)
        places = self.blocks.step_places

        parts, step_pixels, first_part = [], [], []
        for program, first in zip(programs, base):
            first_part.append(len(parts))
            row = program.targets[0] // plan.patch
            for t, target in enumerate(program.targets):
                begin = len(self.groups)
                ops = np.arange(program.begins[1 + t], program.begins[2 + t])
                for number in np.unique(program.origin[ops, 0]):
                    mine = ops[program.origin[ops, 0] == number]
                    for i in range(0, len(mine), places):
                        self.add_group(plan.stages[number], program, mine[i : i + places], first, places, i == 0)
                at = program.pixels
                at = at[(at[:, 0] >= row * plan.patch) & (at[:, 0] < target)]
                pixels = np.stack([at[:, 0] - row * plan.patch, at[:, 1]], axis=1)
                parts.append(
                    (begin, len(self.groups), len(step_pixels), len(step_pixels) + len(pixels), program.params[t])
                )
                step_pixels += pixels.tolist()

        inputs = []
        for n, program in enumerate(programs):
            above = program.pixels[program.pixels[:, 0] < program.targets[0] // plan.patch * plan.patch]
            inputs += [(n, -1, place, at) for place, at in above.tolist()]
            inputs += [(n, *row) for row in program.conditioning.tolist()]

        bias, latent = self.shared.bias.copy(), self.shared.latent.copy()
        for stage in plan.stages:
            at, column_of = self.shared.first[stage.name][:2]
            gated = stage.residual is not None
            bias[at : at + stage.bias.size] = interleaved(stage.bias.astype(np.float32), gated).ravel()
            if column_of >= 0:
                latent[:, column_of : column_of + stage.outputs] = interleaved(stage.latent, gated)

        return Network(
            act_k=self.act_k,
            columns=self.columns,
            act_weights=self.acts.array(),
            raw_weights=self.raws.array(),
            bias=bias,
            latent=latent,
            operations=np.concatenate(operations).astype(np.int32),
            ahead=ahead,
            steps=self.take_groups(places),
            stages=stages,
            parts=int32(parts, len(PART)),
            first_part=np.array(first_part),
            step_pixels=int32(step_pixels, 2),
            inputs=int32(inputs, 4),
            rows=np.array([program.rows for program in programs]),
            places=np.concatenate(
                [np.insert(program.origin, 0, n, axis=1) for n, program in enumerate(programs)]
            ).astype(np.int32),
        )  # fmt: skip


def network_tables(plan: Plan, blocks: Blocks) -> Network:
    """Lay a network's plan out for the kernels.

    Programs are numbered 2 i + left as `window_programs` gives them.
    """
    shared = tables(plan)
    return _Builder(plan, shared, window_programs(plan, shared, ALIGN), blocks).run()
