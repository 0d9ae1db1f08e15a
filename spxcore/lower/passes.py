"""Programs as a GPU's thread blocks run them: one matrix product after the other (`csrc/cuda/products.h`).

A *product* is some places of one stage that share their weights: [places x windows][inputs] [inputs][outputs]. A place without one of
the taps reads zeros for it. Places whose taps differ share a product where that costs fewer multiplications than two products would.

The arena of a window is words of 32 bits. A number that is read as it is, or through relu, takes one, fp32. concat_elu of a number takes
one in bf16, the pair (elu(x), elu(-x)), and two in fp32 and tf32. A place starts at a multiple of 4 words, so that the
places of a row of 25 filters lie in different banks of shared memory.

Inputs come in chunks of up to 16 words of one place; weights are packed as the threads of a warp read them, a chunk by 8 outputs (a
tile) at a time, those of a product one after the other. So nothing that a warp loads depends on another load, and it can load
ahead. A gate's halves stand side by side, (a_0, b_0, a_1, b_1 ...), in weights, biases, codes and partial sums: one thread has both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import require
from ..plan.plan import Plan
from .packing import interleaved, round_bf16, round_tf32
from .tables import FORM_PAIRS, INPUT, PIXEL, PLACE, PRODUCT, PROGRAM, TOLD, rows_of
from .window import Packed, WindowProgram, full_program, inputs_of, window_programs
from .window import pack as pack_plan

PRECISIONS = ("fp32", "tf32", "bf16")

ALIGN = 4  # words
CHUNK_WORDS = 16  # most inputs of a chunk
TILE_ROWS, TILE_COLUMNS = 16, 8  # of a product of a warp

# What reading a chunk's weights costs, in products with them: 512 bytes at 24 a cycle, a multiprocessor's share of an H100's
# second-level cache, take as long as the tensor cores for about four tiles of rows. An estimate; products merge by it.
WEIGHTS_COST = 4

RAW = 256  # added to a chunk's words in `Products.kinds` if they are fp32 numbers rather than pairs


@dataclass(frozen=True)
class Products:
    """A network's programs for the cuda engine. `csrc/tables.h` says what the columns of its tables mean.

    Attributes:
        precision: one of `PRECISIONS`.
        side: m of the window; 0 for a network that is evaluated only.
        words: of a window's arena, of the largest program.
        parameters: P, numbers of a target.
        inputs: `INPUT` [n], in the order of `window.inputs_of`.
        programs: `PROGRAM` [2 m], in the order of `window_programs`, or [1].
        parts: int32 [n + 1], first product of each part; a program's parts are its ahead part and then its steps.
        products: `PRODUCT` [n].
        places: `PLACE` [n].
        kinds: int32, a chunk's words, plus RAW.
        sources: int32, arena words; ~word for zeros, of a word that another place of the product reads there.
        weights: uint32 [chunks][tiles][128] a product, packed; products whose weights are the same have them together.
        bias, code: float32 [n] and [Z, L].
        pixels, told: `PIXEL` [n], `TOLD` [n].
        params: int32, arena word of each target's parameters.
    """

    precision: str
    side: int
    words: int
    parameters: int
    inputs: np.ndarray
    programs: np.ndarray
    parts: np.ndarray
    products: np.ndarray
    places: np.ndarray
    kinds: np.ndarray
    sources: np.ndarray
    weights: np.ndarray
    bias: np.ndarray
    code: np.ndarray
    pixels: np.ndarray
    told: np.ndarray
    params: np.ndarray

    @property
    def code_numbers(self) -> int:
        """L, numbers of U z."""
        return self.code.shape[1]


def pack(block: np.ndarray, pairs: bool, precision: str) -> np.ndarray:
    """Weights [inputs, outputs] as a warp reads them, uint32 [chunks, tiles, 128].

    In bf16 a word of pairs meets two weights. A raw number is split into (high, low) and meets the same weight twice.
    """
    if precision == "bf16":
        bits = round_bf16(block)
        words = bits[::2] | bits[1::2] << 16 if pairs else bits | bits << 16
    else:
        words = round_tf32(block) if precision == "tf32" else np.ascontiguousarray(block).view(np.uint32)
    chunks, tiles = -(-words.shape[0] // CHUNK_WORDS), -(-words.shape[1] // TILE_COLUMNS)
    full = np.zeros((chunks * CHUNK_WORDS, tiles * TILE_COLUMNS), np.uint32)
    full[: words.shape[0], : words.shape[1]] = words
    if precision == "fp32":  # [chunk][tile][pair of words][pair of columns][2][2]
        full = full.reshape(chunks, CHUNK_WORDS // 2, 2, tiles, TILE_COLUMNS // 2, 2)
        return full.transpose(0, 3, 1, 4, 2, 5).reshape(chunks, tiles, 128)
    # [chunk][tile][lane][4]. Lane 4 column + k holds words k, 4 + k, 8 + k, 12 + k: the fragments of B of two products.
    full = full.reshape(chunks, 4, 4, tiles, TILE_COLUMNS)
    return full.transpose(0, 3, 4, 2, 1).reshape(chunks, tiles, 128)


def step_precision(precision: str) -> str:
    """Precision of the steps. bf16 would round what the next pixel's parameters depend on most, so the steps use tf32."""
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

    def array(self, dtype: np.dtype | type) -> np.ndarray:
        """All of them, [n]."""
        return np.ascontiguousarray(np.concatenate([np.zeros(0, dtype), *self.parts]), dtype)


class _Builder:
    """The tables in the making."""

    def __init__(self, plan: Plan, packed: Packed, precision: str):
        self.plan, self.packed, self.precision = plan, packed, precision
        # A block's first number in Packed.weights -> its weights and whether they meet pairs; and as words, [chunks, tiles, 128].
        self.blocks: dict[int, tuple[np.ndarray, bool]] = {}
        self.words: dict[tuple[int, str], np.ndarray] = {}
        self.weights, self.kinds, self.places, self.sources = _Joined(), _Joined(), _Joined(), _Joined()
        self.known: dict[tuple, tuple[int, int, int]] = {}  # blocks, precision -> first weight, first kind, chunks
        self.products: list[tuple] = []
        self.find_blocks()

    def find_blocks(self) -> None:
        for stage in self.plan.stages:
            for source, start in zip(stage.sources, self.packed.first[stage.name].weights):
                pairs = source.form != "raw" and self.packed.activations[source.value] == FORM_PAIRS
                inputs = self.plan.values[source.value].channels * (2 if pairs else 1)
                size = inputs * stage.outputs
                for first in range(start, start + len(source.weights) * size, size):
                    block = self.packed.weights[first : first + size].reshape(inputs, stage.outputs)
                    self.blocks[first] = interleaved(block, stage.gate != "none"), pairs

    def pack(self, first: int, precision: str) -> np.ndarray:
        """A block's weights as a warp reads them, [chunks, tiles, 128]."""
        if (first, precision) not in self.words:
            self.words[first, precision] = pack(*self.blocks[first], precision)
        return self.words[first, precision]

    def words_of(self, first: int, precision: str) -> int:
        """Words of a block's inputs."""
        block, pairs = self.blocks[first]
        return len(block) // 2 if pairs and precision == "bf16" else len(block)

    def add_stage(self, program: WindowProgram, ops: np.ndarray, windows: int, precision: str) -> None:
        """The products of a stage in one part. ops: numbers of its operations in `program`; windows: run at once, about."""
        slots = []  # of each op: {(weights, pairs, how often that block came before): source}
        for op in program.ops[ops]:
            mine: dict[tuple[int, int, int], int] = {}
            for source, weights, _, pairs in program.taps[op["tap_begin"] : op["tap_end"]].tolist():
                turn = sum(key[0] == weights for key in mine)
                mine[weights, pairs, turn] = source
            slots.append(mine)

        def cost(keys_of_product, count: int) -> int:
            chunks = sum(len(self.pack(weights, precision)) for weights, _, _ in keys_of_product)
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
            self.add_product(program.ops[ops[members]], found, list(keys), number == 0, precision)

    def add_product(self, ops: np.ndarray, slots: list[dict], keys: list, sync: bool, precision: str) -> None:
        """A product of some operations, `OP` [n], of one stage. slots: what each of them reads; keys: what one of them reads."""
        keys = sorted(keys, key=lambda key: (not key[1], key))  # activations first, then raw numbers
        blocks = tuple(key[0] for key in keys)
        blocks_words = [self.pack(first, precision) for first in blocks]
        if (blocks, precision) not in self.known:
            words = [
                min(CHUNK_WORDS, self.words_of(first, precision) - i * CHUNK_WORDS) + (0 if pairs else RAW)
                for (first, pairs, _), chunks in zip(keys, blocks_words)
                for i in range(len(chunks))
            ]
            packed = np.concatenate([np.zeros(0, np.uint32), *(chunks.ravel() for chunks in blocks_words)])
            self.known[blocks, precision] = self.weights.add(packed), self.kinds.add(np.array(words)), len(words)
        weights, kinds, chunks = self.known[blocks, precision]
        sources = self.sources.length
        for key, of_key in zip(keys, blocks_words):
            first = np.array([mine.get(key, -1) for mine in slots])
            # What a place without this tap loads, and does not use: a word that is ready by then.
            ready = first.max()
            for i in range(len(of_key)):
                self.sources.add(np.where(first < 0, ~(ready + i * CHUNK_WORDS), first + i * CHUNK_WORDS))
        places = np.zeros(len(ops), PLACE)
        for name in PLACE.names or ():
            places[name] = ops[name]
        places["residual"] = np.maximum(ops["residual"], ops["residual_ahead"])
        place, outputs, gate = self.places.add(places), int(ops["outputs"][0]), int(ops["gate"][0])
        self.products.append((place, len(ops), weights, chunks, kinds, sources, outputs, gate, sync))

    def run(self, programs: Sequence[WindowProgram], side: int) -> Products:
        table: list[tuple] = []
        parts: list[int] = []
        pixels, told, params = _Joined(), _Joined(), _Joined()
        for number, program in enumerate(programs):
            above = int((program.pixels["place"] < number // 2 * side).sum())  # they are sorted by place
            pixel, place = pixels.add(program.pixels), told.add(program.told)
            ends = pixel + above, pixels.length, place, told.length, params.add(program.params)
            table.append((len(parts), len(program.begins) - 2, pixel, *ends, len(program.targets)))
            for part in range(len(program.begins) - 1):
                parts.append(len(self.products))
                ops = np.arange(program.begins[part], program.begins[part + 1])
                stages = program.origin[ops, 0]
                for stage in dict.fromkeys(stages.tolist()):
                    windows = 2 if part == 0 and number % 2 == 0 else 1
                    precision = step_precision(self.precision) if part else self.precision
                    self.add_stage(program, ops[stages == stage], windows, precision)
        parts.append(len(self.products))
        require(self.weights.length < 1 << 31, "network", "fewer than 2^31 packed weights", self.weights.length)
        bias = [interleaved(stage.bias, stage.gate != "none").ravel() for stage in self.plan.stages]
        code = [interleaved(s.code, s.gate != "none") for s in self.plan.stages if s.code is not None]
        values = [self.plan.values[name] for name in inputs_of(self.plan)]
        return Products(
            self.precision,
            side,
            max(program.rows for program in programs),
            self.plan.values[self.plan.output].channels,
            rows_of(INPUT, np.array([(v.height, v.width, v.channels) for v in values])),
            rows_of(PROGRAM, np.array(table)),
            np.array(parts, np.int32),
            rows_of(PRODUCT, np.array(self.products)),
            self.places.array(PLACE),
            self.kinds.array(np.int32),
            self.sources.array(np.int32),
            self.weights.array(np.uint32),
            np.concatenate(bias).astype(np.float32),
            np.concatenate([np.zeros((self.plan.code, 0)), *code], axis=1).astype(np.float32),
            pixels.array(PIXEL),
            told.array(TOLD),
            params.array(np.int32),
        )


def window_products(plan: Plan, precision: str = "fp32") -> Products:
    """The window programs of a plan, see `window.window_programs`, as products.

    Args:
        plan: of a whole window.
        precision: "fp32": multiply-adds; "tf32", "bf16": inputs of the tensor cores, sums in fp32; see `step_precision` too.

    Raises:
        SpxError: for a plan that native code cannot run.
    """
    return _products(plan, precision, window_programs, plan.height)


def whole_products(plan: Plan, precision: str = "fp32") -> Products:
    """The program that computes all places of a plan's output from inputs that are known. Arguments as of `window_products`."""
    return _products(plan, precision, lambda *arguments: [full_program(*arguments)], 0)


def _products(plan: Plan, precision: str, programs, side: int) -> Products:
    require(precision in PRECISIONS, "precision", ", ".join(PRECISIONS), repr(precision))
    packed = pack_plan(plan)
    return _Builder(plan, packed, precision).run(programs(plan, packed, ALIGN, precision == "bf16"), side)
