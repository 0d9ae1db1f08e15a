"""Programs as a GPU's thread blocks run them: one matrix product after the other (`csrc/cuda/products.h`).

A *pass* is some places of one stage that share their weights: a product [places x windows][inputs] [inputs][outputs]. A
place without one of the taps reads zeros for it. Places whose taps differ share a pass where that costs fewer products than two
passes would.

The arena of a window is words of 32 bits. A number of a value that is read as it is takes one, fp32. concat_elu of a number takes
one in bf16, the pair (elu(x), elu(-x)), and two in fp32 and tf32. A place starts at a multiple of 4 words, so that the
places of a row of 25 filters lie in different banks of shared memory.

Inputs come in chunks of up to 16 words of one place; weights are packed as the lanes of a warp read them, a chunk by 8 outputs (a
tile) at a time, those of a pass one after the other. So nothing that a warp loads depends on another load, and it can load
ahead. A gate's halves stand side by side, (a_0, b_0, a_1, b_1 ...), in weights, biases, latents and partial sums: one lane has both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import require
from .model import Plan, Stage
from .program import OP, Program, Tables, _Lowering, tables

PRECISIONS = ("fp32", "tf32", "bf16")

ALIGN = 4  # words
CHUNK = 16  # words of inputs
TILE_ROWS, TILE_COLUMNS = 16, 8  # of a product of a warp

# What reading a chunk's weights costs, in products with them: 512 bytes at 24 a cycle, a multiprocessor's share of an H100's
# second-level cache, take as long as the tensor cores for about four tiles of rows. An estimate; passes merge by it.
WEIGHTS_COST = 4

# Columns of the tables, the same as the structs of csrc/cuda/tables.h.
PROGRAM = ("part", "steps", "pixel", "pixel_current", "pixel_end", "conditioning", "conditioning_end", "params")
PASS = ("row", "rows", "weights", "chunks", "kinds", "sources", "columns", "gated", "sync")
ROW = ("bias", "latent", "partial_in", "partial_out", "residual", "raw", "act")

RAW = 256  # added to a chunk's words in `Passes.kinds` if they are fp32 numbers rather than activations


@dataclass(frozen=True)
class Passes:
    """A network's window programs for the cuda engine. Tables are int32 [n, fields].

    Attributes:
        precision: one of `PRECISIONS`.
        words: of a window's arena, of the largest program.
        programs: [2 m, PROGRAM], in the order of `window_programs`: its first part, steps, and ranges of the tables below.
        parts: int32 [n + 1], first pass of each part; a program's parts are its ahead part and then its steps.
        passes: [n, PASS]; its rows are rows[row : row + rows]; chunk q has weights[weights + 128 tiles q :] and kinds[kinds + q], and
            for row r begins at sources[sources + q rows + r]; sync: whether it has to wait for the passes before it.
        rows: [n, ROW], one a place: first bias and latent number, arena words; -1 unused.
        kinds: int32, a chunk's words, plus RAW.
        sources: int32, arena words, -1 for zeros.
        weights: uint32 [chunks][tiles][128] a pass, packed; passes whose weights are the same have them together.
        bias, latent: float32 [n] and [Z, L].
        pixels: [n, 2] window place and arena word; conditioning: [n, 3] resolution, place, arena word.
        params: int32, arena word of each target's mixture parameters.
    """

    precision: str
    words: int
    programs: np.ndarray
    parts: np.ndarray
    passes: np.ndarray
    rows: np.ndarray
    kinds: np.ndarray
    sources: np.ndarray
    weights: np.ndarray
    bias: np.ndarray
    latent: np.ndarray
    pixels: np.ndarray
    conditioning: np.ndarray
    params: np.ndarray


def interleaved(numbers: np.ndarray, gated: bool) -> np.ndarray:
    """[..., 2 nf] as (a, b) -> (a_0, b_0, a_1, b_1 ...) for a gated stage."""
    if not gated:
        return numbers
    halves = numbers.reshape(*numbers.shape[:-1], 2, -1)
    return np.swapaxes(halves, -1, -2).reshape(numbers.shape)


def round_bf16(x: np.ndarray) -> np.ndarray:
    """float32 -> the upper 16 bits of the nearest bf16, halves to even; uint32."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16


def round_tf32(x: np.ndarray) -> np.ndarray:
    """float32 -> the bits of the nearest number with 10 bits of mantissa, halves away from zero; uint32."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return bits + 0x1000 & 0xFFFFE000


def pack(block: np.ndarray, pairs: bool, precision: str) -> np.ndarray:
    """Weights [inputs, outputs] as a warp reads them, uint32 [chunks, tiles, 128].

    In bf16 a word of pairs meets two weights. A raw number is split into (high, low) and meets the same weight twice.
    """
    if precision == "bf16":
        bits = round_bf16(block)
        words = bits[::2] | bits[1::2] << 16 if pairs else bits | bits << 16
    else:
        words = round_tf32(block) if precision == "tf32" else np.ascontiguousarray(block).view(np.uint32)
    chunks, tiles = -(-words.shape[0] // CHUNK), -(-words.shape[1] // TILE_COLUMNS)
    full = np.zeros((chunks * CHUNK, tiles * TILE_COLUMNS), np.uint32)
    full[: words.shape[0], : words.shape[1]] = words
    if precision == "fp32":  # [chunk][tile][word][column]
        return full.reshape(chunks, CHUNK, tiles, TILE_COLUMNS).transpose(0, 2, 1, 3).reshape(chunks, tiles, 128)
    # [chunk][tile][lane][4]. Lane 4 column + k holds words k, 4 + k, 8 + k, 12 + k: the fragments of B of two products.
    full = full.reshape(chunks, 4, 4, tiles, TILE_COLUMNS)
    return full.transpose(0, 3, 4, 2, 1).reshape(chunks, tiles, 128)


def step_precision(precision: str) -> str:
    """Of the steps: in bf16 they are tf32, because what follows the pixel just drawn goes almost straight into the next one's mixture."""
    return "tf32" if precision == "bf16" else precision


class _Joined:
    """Arrays one after the other."""

    def __init__(self):
        self.parts, self.length = [], 0

    def add(self, part: np.ndarray) -> int:
        """Append it; returns where it begins."""
        self.parts.append(part)
        self.length += len(part)
        return self.length - len(part)

    def array(self, dtype: type, width: int | None = None) -> np.ndarray:
        """All of them, [n] or [n, width]."""
        shape = (0,) if width is None else (0, width)
        return np.ascontiguousarray(np.concatenate([np.zeros(shape, dtype), *self.parts]), dtype)


class _LoweringBf16(_Lowering):
    """What runs ahead keeps a number's concat_elu in one word."""

    def width(self, value: str, form: str, of_steps: bool) -> int:
        return super().width(value, form if of_steps else "raw", of_steps)


class _Builder:
    """The tables in the making."""

    def __init__(self, plan: Plan, shared: Tables, precision: str):
        self.plan, self.shared, self.precision = plan, shared, precision
        # A block's first number in Tables.weights -> its weights and whether they meet pairs; and packed, [chunks, tiles, 128].
        self.blocks: dict[int, tuple[np.ndarray, bool]] = {}
        self.packed: dict[tuple[int, str], np.ndarray] = {}
        self.weights, self.kinds, self.known = _Joined(), _Joined(), {}
        self.passes, self.rows, self.sources = [], _Joined(), _Joined()
        self.find_blocks()

    def find_blocks(self) -> None:
        for stage in self.plan.stages:
            for source, start in zip(stage.sources, self.shared.first[stage.name][2]):
                pairs = source.form != "raw"
                inputs = self.plan.values[source.value].channels * (2 if pairs else 1)
                size = inputs * stage.outputs
                for first in range(start, start + len(source.weights) * size, size):
                    block = self.shared.weights[first : first + size].reshape(inputs, stage.outputs)
                    self.blocks[first] = interleaved(block, stage.residual is not None), pairs

    def pack(self, first: int, precision: str) -> np.ndarray:
        """A block's weights as a warp reads them, [chunks, tiles, 128]."""
        if (first, precision) not in self.packed:
            self.packed[first, precision] = pack(*self.blocks[first], precision)
        return self.packed[first, precision]

    def words_of(self, first: int, precision: str) -> int:
        """Words of a block's inputs."""
        block, pairs = self.blocks[first]
        return len(block) // 2 if pairs and precision == "bf16" else len(block)

    def add_stage(self, stage: Stage, program: Program, ops: np.ndarray, windows: int, precision: str) -> None:
        """The passes of a stage in one part. ops: numbers of its operations in `program`; windows: run at once, about."""
        slots = []  # of each op: {(weights, pairs, how often that block came before): source}
        for op in program.ops[ops]:
            mine: dict[tuple[int, int, int], int] = {}
            for source, weights, _, pairs in program.taps[op[OP.index("tap_begin")] : op[OP.index("tap_end")]].tolist():
                turn = sum(key[0] == weights for key in mine)
                mine[weights, pairs, turn] = source
            slots.append(mine)

        def cost(slots_of_pass, count: int) -> int:
            chunks = sum(len(self.pack(weights, precision)) for weights, _, _ in slots_of_pass)
            return chunks * (-(-count * windows // TILE_ROWS) + WEIGHTS_COST)

        classes: dict[tuple, list[int]] = {}
        for number, mine in enumerate(slots):
            classes.setdefault(tuple(sorted(mine)), []).append(number)
        groups = [(dict.fromkeys(key), members) for key, members in classes.items()]
        groups.sort(key=lambda group: -len(group[0]))
        merged: list[tuple[dict, list[int]]] = []
        for keys, members in groups:
            for other, others in merged:
                union = other | keys
                apart = cost(other, len(others)) + cost(keys, len(members))
                if cost(union, len(others) + len(members)) <= apart:
                    other.update(keys)
                    others += members
                    break
            else:
                merged.append((dict(keys), list(members)))
        for number, (keys, members) in enumerate(merged):
            members.sort()
            found = [slots[i] for i in members]
            self.add_pass(stage, program, ops[members], found, list(keys), number == 0, precision)

    def add_pass(
        self,
        stage: Stage,
        program: Program,
        ops: np.ndarray,
        slots: list[dict],
        keys: list,
        sync: bool,
        precision: str,
    ) -> None:
        keys = sorted(keys, key=lambda key: (not key[1], key))  # activations first, then raw numbers
        blocks = tuple(key[0] for key in keys)
        packed = [self.pack(first, precision) for first in blocks]
        if (blocks, precision) not in self.known:
            kinds = [
                min(CHUNK, self.words_of(first, precision) - i * CHUNK) + (0 if pairs else RAW)
                for (first, pairs, _), chunks in zip(keys, packed)
                for i in range(len(chunks))
            ]
            weights = np.concatenate([np.zeros(0, np.uint32), *(chunks.ravel() for chunks in packed)])
            self.known[blocks, precision] = self.weights.add(weights), self.kinds.add(np.array(kinds)), len(kinds)
        weights, kinds, chunks = self.known[blocks, precision]
        sources = self.sources.length
        for key, of_key in zip(keys, packed):
            first = np.array([mine.get(key, -1) for mine in slots])
            for i in range(len(of_key)):
                self.sources.add(np.where(first < 0, -1, first + i * CHUNK))
        column = {name: program.ops[ops, i] for i, name in enumerate(OP)}
        residual = np.maximum(column["residual"], column["residual_ahead"])
        names = ("bias", "latent", "partial_in", "partial_out", "residual", "raw", "act")
        row = self.rows.add(np.stack([residual if name == "residual" else column[name] for name in names], axis=1))
        gated = stage.residual is not None
        self.passes.append((row, len(ops), weights, chunks, kinds, sources, stage.outputs, gated, sync))

    def run(self, programs: list[Program]) -> Passes:
        m, table, parts = self.plan.patch, [], []
        pixels, conditioning, params = _Joined(), _Joined(), _Joined()
        for number, program in enumerate(programs):
            above = int((program.pixels[:, 0] < number // 2 * m).sum())  # they are sorted by place
            pixel, place = pixels.add(program.pixels), conditioning.add(program.conditioning)
            ends = pixel + above, pixels.length, place, conditioning.length
            table.append((len(parts), len(program.targets), pixel, *ends, params.add(program.params)))
            for part in range(len(program.begins) - 1):
                parts.append(len(self.passes))
                ops = np.arange(program.begins[part], program.begins[part + 1])
                stages = program.origin[ops, 0]
                for stage in dict.fromkeys(stages.tolist()):
                    windows = 2 if part == 0 and number % 2 == 0 else 1
                    precision = step_precision(self.precision) if part else self.precision
                    self.add_stage(self.plan.stages[stage], program, ops[stages == stage], windows, precision)
        parts.append(len(self.passes))
        require(self.weights.length < 1 << 31, "network", "fewer than 2^31 packed weights", self.weights.length)
        bias = [interleaved(stage.bias, stage.residual is not None).ravel() for stage in self.plan.stages]
        latent = [interleaved(s.latent, s.residual is not None) for s in self.plan.stages if s.latent is not None]
        return Passes(
            self.precision,
            max(program.rows for program in programs),
            np.array(table, np.int32),
            np.array(parts, np.int32),
            np.array(self.passes, np.int32),
            self.rows.array(np.int32, len(ROW)),
            self.kinds.array(np.int32),
            self.sources.array(np.int32),
            self.weights.array(np.uint32),
            np.concatenate(bias).astype(np.float32),
            np.concatenate([np.zeros((self.plan.latent, 0)), *latent], axis=1).astype(np.float32),
            pixels.array(np.int32, 2),
            conditioning.array(np.int32, 3),
            params.array(np.int32),
        )


def window_passes(plan: Plan, precision: str = "fp32") -> Passes:
    """The window programs of a plan, see `program.window_programs`, as passes.

    Args:
        plan: for a whole window, of `compile_network`.
        precision: "fp32": multiply-adds; "tf32", "bf16": inputs of the tensor cores, sums in fp32; see `step_precision` too.
    """
    require(precision in PRECISIONS, "precision", ", ".join(PRECISIONS), repr(precision))
    shared, m, depends = tables(plan), plan.patch, plan.dependencies()
    lowering = _LoweringBf16 if precision == "bf16" else _Lowering
    programs = []
    for i in range(m):
        for name, targets in (("last column", [i * m + m - 1]), ("all columns", [i * m + c for c in range(m)])):
            programs.append(lowering(plan, shared, targets, i, depends, ALIGN).run(f"row {i}, {name}"))
    return _Builder(plan, shared, precision).run(programs)
