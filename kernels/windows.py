"""The kernels that draw by windows: a program's inputs, its ahead part, its steps. See `tables` for how things lie in memory.

A *wave* w draws block w - r of each row r at once, a block being m columns: those that the row above has made ready in the wave
before (t = m r + c is a multiple of m where a block begins). So rows of a wave do not wait for each other, and a wave is three kinds
of launch: `inputs`, one `ahead` a stage for all windows, and one `steps` in which a tile of rows draws its m pixels one after the
other.

A lane is a window. Away from the left edge lane = s G + g: column s of the block and row and image g = i N + n of a group of G;
the first window of a row is one lane, g.

Arguments that all kernels share:

    work        int32 [grid, ...], what each program of the grid does
    tables      int32, `Layout.flat`
    job         int32, a row of `tables.JOB`, then the `PROGRAM`s, then the images' numbers (as bits)
    memory      float32, the arenas of all programs; pairs: the same memory as the type of pairs of concat_elu
    wanted      uint8 [N, H, W], see `launch.Images`; not read unless WANTED
    TILE, FEED, HEAD    `launch.Tile`, `launch.FeedShape`, `launch.HeadShape`
"""

from __future__ import annotations

from collections import namedtuple

import numpy as np
import triton
import triton.language as tl

from . import tables as layout
from .heads import draw


class Columns(tl.constexpr):
    """Columns of a table by name, from the type of its rows: a kernel reads `row + OPERATION.residual`; `size` is a row's length.

    A `constexpr`, so that its numbers are part of the key under which Triton keeps a compiled kernel.
    """

    def __init__(self, rows: np.dtype):
        names = (*layout.columns_of(rows), "size")  # each of four bytes
        super().__init__(namedtuple("Columns", names)(*range(len(names))))

    def __getattr__(self, name: str):
        if name.startswith("__") or name == "value":  # not there yet while it is copied
            raise AttributeError(name)
        return getattr(self.value, name)


GROUP, OPERATION, CHUNK = Columns(layout.GROUP), Columns(layout.OPERATION), Columns(layout.CHUNK)
PART, PIXEL, INPUT = Columns(layout.PART), Columns(layout.PIXEL), Columns(layout.INPUT)
PROGRAM, DIRECTORY, JOB = Columns(layout.PROGRAM), Columns(layout.DIRECTORY), Columns(layout.JOB)
FORM_PAIRS = tl.constexpr(layout.FORM_PAIRS)
ALIGN, UNIT, RAW_K = tl.constexpr(layout.ALIGN), tl.constexpr(layout.UNIT), tl.constexpr(layout.RAW_K)


@triton.jit
def table_at(tables, column):
    """The table whose place is in a column of the directory."""
    return tables + tl.load(tables + column) * UNIT


@triton.jit
def program_of(job, number):
    """Pointer to a program's row."""
    return job + JOB.size + number * PROGRAM.size


@triton.jit
def drawing_of(job, n):
    """What a draw needs besides its place: (numbers of images n, the draw's number, seed, temperature)."""
    number = tl.load(job + tl.load(job + JOB.numbers) + n).to(tl.uint32, bitcast=True)
    seed = tl.load(job + JOB.seed_high).to(tl.uint32, bitcast=True).to(tl.uint64) << 32
    seed |= tl.load(job + JOB.seed_low).to(tl.uint32, bitcast=True).to(tl.uint64)
    temperature = tl.load(job + JOB.temperature).to(tl.float32, bitcast=True)
    return number, tl.load(job + JOB.draw).to(tl.uint32, bitcast=True), seed, temperature


@triton.jit
def first_row(program, wave, blocks):
    """The first row that a program draws in a wave, and how many: scalars."""
    left = tl.load(program + PROGRAM.left)
    # Block 0 for the first windows of the rows, else blocks 1 to the last.
    low = tl.maximum(tl.load(program + PROGRAM.row_low), wave - (blocks - 1) * (1 - left))
    high = tl.minimum(tl.load(program + PROGRAM.row_high), wave - 1 + left)
    return low, high - low + 1


@triton.jit
def rows_of(g, first, count, wave, N):
    """What lanes g of a group draw: (row, block of its columns, image, whether there is such a row), int32 [lanes]."""
    active = g // N < count
    row = tl.where(active, first + g // N, 0)
    return row, tl.where(active, wave - row, 0), g % N, active


@triton.jit
def windows_of(job, program, lane, first, count, wave, M: tl.constexpr, wanted, WANTED: tl.constexpr):
    """What lanes of the ahead part draw, from `count` rows on: (row, column of the pixel, image, whether somebody wants it)."""
    N, W = tl.load(job + JOB.images), tl.load(job + JOB.width)
    group, left = tl.load(program + PROGRAM.group), tl.load(program + PROGRAM.left) != 0
    row, block, n, active = rows_of(lane % group, first, count, wave, N)
    column = tl.where(left, 0, block * M + lane // group)
    active &= column < W
    if WANTED:
        at = (n.to(tl.int64) * tl.load(job + JOB.height) + row) * W + column
        active &= tl.load(wanted + at, mask=active, other=0) != 0
    return row, column, n, active


@triton.jit
def concat_elu(x, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """elu(x_0), elu(-x_0), elu(x_1) ...: [ROWS, COLUMNS] -> [ROWS, 2 COLUMNS]; one exponential serves both."""
    e = tl.exp(-tl.abs(x)) - 1.0
    both = tl.join(tl.where(x > 0, x, e), tl.where(x > 0, e, -x))
    return tl.reshape(both, (ROWS, 2 * COLUMNS))


@triton.jit
def seen_as(form, y):
    """y [ROWS, COLUMNS] in a form of one number, so any but FORM_PAIRS, of each row: form int32 [ROWS, 1]."""
    return tl.where(y > 0.0, y, 0.0)  # FORM_RELU


@triton.jit
def to_tf32(x):
    """float32 -> the nearest number of tf32, halves away from zero, as `cvt.rna.tf32` does: the low 13 bits are zero. Tensor cores cut
    them. A NaN stays one."""
    nearest = (x.to(tl.int32, bitcast=True) + 4096) & -8192
    return tl.where(x == x, nearest.to(tl.float32, bitcast=True), x)


@triton.jit
def multiply(total, a, w, PRECISION: tl.constexpr):
    """total [rows, OUTPUTS] + inputs a [rows, K] times weights w [K, OUTPUTS], in fp32."""
    if PRECISION == "bf16":
        total = tl.dot(a, w, total)
    elif PRECISION == "widened":  # the interpreter cannot multiply bf16
        total = tl.dot(a.to(tl.float32), w.to(tl.float32), total)
    else:
        total = tl.dot(a, w, total, input_precision=PRECISION)
    return total


@triton.jit
def add_taps(
    total, numbers, weights, chunks, sources, begin, end, tile, place, lane, lanes,
    K: tl.constexpr, OUTPUTS: tl.constexpr, PRECISION: tl.constexpr, ROUNDED: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """total [rows, OUTPUTS] + gathered inputs [rows, K] times weights [K, OUTPUTS], chunk by chunk; sums in fp32.

    ROUNDED: whether the numbers are stored as the product reads them. Weights are.
    """
    PLACES: tl.constexpr = TILE.value.places
    k = tl.arange(0, K)
    weight = k[:, None] + tl.arange(0, OUTPUTS)[None, :] * K + tile * (K * OUTPUTS)
    for chunk in tl.range(begin, end, num_stages=TILE.value.stages):
        row = chunks + chunk * CHUNK.size
        first, inputs = tl.load(row + CHUNK.weights) * UNIT, tl.load(row + CHUNK.begin) * UNIT
        valid, width = tl.load(row + CHUNK.valid) * ALIGN, tl.load(row + CHUNK.width) * ALIGN
        if PLACES == 1:
            source = tl.load(sources + chunk)
            there = tl.broadcast_to((k < valid)[None, :], (lane.shape[0], K))
        else:
            source = tl.load(sources + chunk * PLACES + place)
            there = (source >= 0)[:, None] & (k < valid)[None, :]
        at = source.to(tl.int64) * lanes + (lane * width + inputs)
        a = tl.load(numbers + at[:, None] + k[None, :], mask=there, other=0.0)
        w = tl.load(weights + first + weight)
        if PRECISION == "tf32" and not ROUNDED:
            a = to_tf32(a)
        total = multiply(total, a, w, PRECISION)
    return total


@triton.jit
def compute(
    total, group, chunks, sources, memory, pairs, pair_weights, raw_weights, tile, place, lane, lanes,
    OUTPUTS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """total [rows, OUTPUTS] + all taps of a group, for its `tile`-th OUTPUTS numbers.

    Args:
        group: pointer to its row.
        chunks, sources: its table's, see `tables.Groups`.
        memory, pairs: of the program.
        place, lane: int32 [rows].
        lanes: of the program.
    """
    PRECISION: tl.constexpr = TILE.value.precision
    RAW_PRECISION: tl.constexpr = TILE.value.raw_precision
    PAIR_K: tl.constexpr = TILE.value.pair_k
    total = add_taps(
        total, pairs, pair_weights, chunks, sources, tl.load(group + GROUP.pairs), tl.load(group + GROUP.pairs_end),
        tile, place, lane, lanes * TILE.value.scale, PAIR_K, OUTPUTS, PRECISION, True, TILE,
    )  # fmt: skip
    return add_taps(
        total, memory, raw_weights, chunks, sources, tl.load(group + GROUP.raws), tl.load(group + GROUP.raws_end),
        tile, place, lane, lanes, RAW_K, OUTPUTS, RAW_PRECISION, False, TILE,
    )  # fmt: skip


@triton.jit
def finish(
    total, x, raw, activated, form, finished, memory, pairs, tile, lane, lanes, channels,
    GATED: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Gate a sum, add the residual, and store the result as it is and activated, where it is wanted.

    y = sum, or a sigmoid(b) of its halves (van den Oord et al. 2016, equation 4); then x + y.

    Args:
        total: [ROWS, outputs of a tile].
        x: [ROWS, columns of a tile], the residual; zeros without.
        raw, activated: int64 [ROWS], arena rows where they go, or -1.
        form: int32 [ROWS], of `activated`; not used unless TILE.single.
        finished: bool [ROWS], whether the sum is complete; others are left.
    """
    COLUMNS: tl.constexpr = TILE.value.columns
    column = (tile * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    pair = (tile * 2 * COLUMNS + tl.arange(0, 2 * COLUMNS))[None, :]
    raw_width = (channels + ALIGN - 1) // ALIGN * ALIGN
    pair_width = (channels * 2 + ALIGN - 1) // ALIGN * ALIGN
    inside = column < raw_width
    if GATED:
        a, b = tl.split(tl.reshape(total, (ROWS, COLUMNS, 2)))
        y = a / (1.0 + tl.exp(-b))
    else:
        y = total
    y = x + y
    at = memory + (raw * lanes + lane * raw_width)[:, None] + column
    tl.store(at, y, mask=(finished & (raw >= 0))[:, None] & inside)
    finished &= activated >= 0
    if TILE.value.single:
        at = memory + (activated * lanes + lane * raw_width)[:, None] + column
        tl.store(at, seen_as(form[:, None], y), mask=(finished & (form != FORM_PAIRS))[:, None] & inside)
        finished &= form == FORM_PAIRS
    at = pairs + (activated * (lanes * TILE.value.scale) + lane * pair_width)[:, None] + pair
    both = concat_elu(y, ROWS, COLUMNS)
    if TILE.value.rounded:
        both = to_tf32(both)
    tl.store(at, both.to(pairs.dtype.element_ty), mask=finished[:, None] & (pair < pair_width))


@triton.jit
def finish_operations(
    total, op, finished, memory, pairs, tile, lane, lanes, channels, GATED: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr
):  # fmt: skip
    """`finish` operations that say where their residuals and results are. op: pointers [ROWS] to their rows."""
    column = (tile * TILE.value.columns + tl.arange(0, TILE.value.columns))[None, :]
    raw_width = (channels + ALIGN - 1) // ALIGN * ALIGN
    residual = tl.load(op + OPERATION.residual).to(tl.int64)
    x = memory + (residual * lanes + lane * raw_width)[:, None] + column
    x = tl.load(x, mask=(finished & (residual >= 0))[:, None] & (column < raw_width), other=0.0)
    raw, activated = tl.load(op + OPERATION.raw).to(tl.int64), tl.load(op + OPERATION.activated).to(tl.int64)
    form = tl.load(op + OPERATION.form)
    finish(total, x, raw, activated, form, finished, memory, pairs, tile, lane, lanes, channels, GATED, ROWS, TILE)


@triton.jit
def place_coordinate(axis, first, side, i, count):
    """Coordinate of place i of `count` along an axis, of windows [lanes] that begin at pixels `first` and have `side` pixels."""
    fraction = tl.where(count > 1, i.to(tl.float32) / tl.maximum(count - 1, 1), 0.5)
    return tl.load(axis + first) * (1.0 - fraction) + tl.load(axis + first + side - 1) * fraction


@triton.jit
def between(coordinate, count):
    """Where coordinates in [-1, 1] fall between two of `count` samples: (the first one's number, the fraction)."""
    at = tl.minimum(tl.maximum((coordinate + 1.0) * 0.5 * (count - 1), 0.0), count - 1.0)
    first = tl.minimum(at.to(tl.int32), tl.maximum(count - 2, 0))
    return first, at - first


@triton.jit
def map_number(image, y, x, height, width, MAPS: tl.constexpr):
    """Where the maps' numbers at (y, x) of an image begin: int64, for maps of many images have more than 2^31 numbers."""
    return ((image.to(tl.int64) * height + y) * width + x) * MAPS


@triton.jit
def inputs(
    work, tables, job, memory, image, seen, axes, maps, wanted, M: tl.constexpr, LANES: tl.constexpr, WANTED: tl.constexpr,
    FEED: tl.constexpr,
):  # fmt: skip
    """Write what windows read of the image's rows above, and of what places are told, into their arenas.

    Args:
        work: [grid, 2], number of an `INPUT` and tile of lanes.
        image: uint8 [N, H, W, C].
        seen: float32 [levels, e], what the network sees of a level.
        axes: float32 [H + W + E], coordinates of the rows and of the columns, then what is told everywhere.
        maps: float32 [N or 1, map_height, map_width, M], feature maps over [-1, 1]^2.
    """
    C: tl.constexpr = FEED.value.channels
    E: tl.constexpr = FEED.value.numbers
    TOLD: tl.constexpr = FEED.value.told
    MAPS: tl.constexpr = FEED.value.maps
    EXTRA: tl.constexpr = TOLD - 2 - MAPS
    PIXEL_P: tl.constexpr = FEED.value.pixel_p
    PIXEL_WIDTH: tl.constexpr = (C * E + ALIGN - 1) // ALIGN * ALIGN
    TOLD_P: tl.constexpr = FEED.value.told_p
    TOLD_WIDTH: tl.constexpr = (TOLD + ALIGN - 1) // ALIGN * ALIGN
    entry = table_at(tables, DIRECTORY.inputs) + tl.load(work + 2 * tl.program_id(0)) * INPUT.size
    tile = tl.load(work + 2 * tl.program_id(0) + 1)
    program = program_of(job, tl.load(entry + INPUT.program))
    place, first = tl.load(entry + INPUT.place), tl.load(entry + INPUT.row)
    lanes, wave = tl.load(program + PROGRAM.lanes) * UNIT, tl.load(job + JOB.wave)
    first_of_wave, rows = first_row(program, wave, tl.load(job + JOB.blocks))
    if rows <= 0:
        return
    lane = tile * LANES + tl.arange(0, LANES)
    row, column, n, active = windows_of(job, program, lane, first_of_wave, rows, wave, M, wanted, WANTED)
    if tl.max(active.to(tl.int32), axis=0) == 0:
        return
    # The window's origin.
    r0 = tl.where(active, row - tl.load(program + PROGRAM.window_row), 0)
    c0 = tl.where(active, tl.maximum(column - (M - 1), 0), 0)
    memory += tl.load(program + PROGRAM.arena).to(tl.int64) * UNIT + first.to(tl.int64) * lanes
    H, W = tl.load(job + JOB.height), tl.load(job + JOB.width)
    if tl.load(entry + INPUT.input) < 0:
        at = ((n.to(tl.int64) * H + r0 + place // M) * W + c0 + place % M) * C
        number = tl.arange(0, PIXEL_P)[None, :]
        there = active[:, None] & (number < C * E)
        level = tl.load(image + at[:, None] + number // E, mask=there, other=0).to(tl.int32)
        pixel = tl.load(seen + level * E + number % E, mask=there, other=0.0)
        tl.store(
            memory + lane[:, None] * PIXEL_WIDTH + number,
            pixel,
            mask=tl.broadcast_to(number < PIXEL_WIDTH, (LANES, PIXEL_P)),
        )
    elif TOLD > 0:
        height, width = tl.load(entry + INPUT.height), tl.load(entry + INPUT.width)
        y = place_coordinate(axes, r0, M, place // width, height)
        x = place_coordinate(axes + H, c0, M, place % width, width)
        d = tl.arange(0, TOLD_P)[None, :]
        value = tl.where(d == 0, y[:, None], tl.where(d == 1, x[:, None], 0.0))
        if EXTRA > 0:
            extra = (d >= 2) & (d < 2 + EXTRA)
            value = tl.where(extra, tl.load(axes + H + W + d - 2, mask=extra, other=0.0), value)
        if MAPS > 0:
            # Bilinear samples, along y first (csrc/places.h).
            map_height, map_width = tl.load(job + JOB.map_height), tl.load(job + JOB.map_width)
            y0, dy = between(y, map_height)
            x0, dx = between(x, map_width)
            of_image = tl.where(tl.load(job + JOB.map_images) > 1, n, 0)
            corner = maps + map_number(of_image, y0, x0, map_height, map_width, MAPS)[:, None] + (d - 2 - EXTRA)
            down = tl.where(map_height > 1, map_width * MAPS, 0)
            right = tl.where(map_width > 1, MAPS, 0)
            of_maps = tl.broadcast_to((d >= 2 + EXTRA) & (d < TOLD), (LANES, TOLD_P))
            dy, dx = dy[:, None], dx[:, None]
            from_left = tl.load(corner, mask=of_maps, other=0.0) * (1.0 - dy)
            from_left += tl.load(corner + down, mask=of_maps, other=0.0) * dy
            from_right = tl.load(corner + right, mask=of_maps, other=0.0) * (1.0 - dy)
            from_right += tl.load(corner + down + right, mask=of_maps, other=0.0) * dy
            value = tl.where(of_maps, from_left * (1.0 - dx) + from_right * dx, value)
        tl.store(memory + lane[:, None] * TOLD_WIDTH + d, value, mask=tl.broadcast_to(d < TOLD_WIDTH, (LANES, TOLD_P)))


@triton.jit
def ahead(
    work, tables, job, memory, pairs, pair_weights, raw_weights, bias, code, wanted,
    M: tl.constexpr, GATED: tl.constexpr, WANTED: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """One stage of the ahead part, some places of some windows at a time. Grid: (work, tiles of its channels).

    Sums end in a result, or, where they depend on the current row too, as partial sums for the steps.

    Args:
        work: [grid, 3], program, group and tile of lanes.
        code: float32 [N, L], U z of every image.
    """
    LANES: tl.constexpr = TILE.value.lanes
    PLACES: tl.constexpr = TILE.value.places
    COLUMNS: tl.constexpr = TILE.value.columns
    ROWS: tl.constexpr = PLACES * LANES
    OUTPUTS: tl.constexpr = COLUMNS * (2 if GATED else 1)
    item = work + 3 * tl.program_id(0)
    program = program_of(job, tl.load(item))
    group = table_at(tables, DIRECTORY.ahead_groups) + tl.load(item + 1) * GROUP.size
    lanes, wave = tl.load(program + PROGRAM.lanes) * UNIT, tl.load(job + JOB.wave)
    first_of_wave, rows = first_row(program, wave, tl.load(job + JOB.blocks))
    if rows <= 0:
        return
    lane = tl.load(item + 2) * LANES + tl.arange(0, ROWS) % LANES
    _, _, n, active = windows_of(job, program, lane, first_of_wave, rows, wave, M, wanted, WANTED)
    if tl.max(active.to(tl.int32), axis=0) == 0:
        return
    first = tl.load(program + PROGRAM.arena).to(tl.int64) * UNIT
    memory += first
    pairs += first * TILE.value.scale

    tile, place, count = tl.program_id(1), tl.arange(0, ROWS) // LANES, tl.load(group + GROUP.count)
    op = tl.load(group + GROUP.op) + tl.minimum(place, count - 1)
    op = table_at(tables, DIRECTORY.operations) + op * OPERATION.size
    outputs = tl.load(group + GROUP.channels) * (2 if GATED else 1)
    output = (tile * OUTPUTS + tl.arange(0, OUTPUTS))[None, :]
    inside = output < outputs
    total = tl.load(bias + tl.load(op + OPERATION.bias)[:, None] + output, mask=inside, other=0.0)
    of_code = tl.load(op + OPERATION.code)
    inside &= (of_code >= 0)[:, None]
    of_image = code + n.to(tl.int64) * tl.load(job + JOB.code)
    total += tl.load(of_image[:, None] + of_code[:, None] + output, mask=inside, other=0.0)
    total = compute(
        total, group, table_at(tables, DIRECTORY.ahead_chunks), table_at(tables, DIRECTORY.ahead_sources), memory, pairs,
        pair_weights, raw_weights, tile, place, lane, lanes, OUTPUTS, TILE,
    )  # fmt: skip
    partial = tl.load(op + OPERATION.partial).to(tl.int64)
    width = (outputs + ALIGN - 1) // ALIGN * ALIGN
    at = memory + (partial * lanes + lane * width)[:, None] + output
    tl.store(at, total, mask=((place < count) & (partial >= 0))[:, None] & (output < width))
    finished = (place < count) & (partial < 0)
    channels = tl.load(group + GROUP.channels)
    finish_operations(total, op, finished, memory, pairs, tile, lane, lanes, channels, GATED, ROWS, TILE)


@triton.jit
def step(
    group, operations, chunks, sources, memory, pair_weights, raw_weights, tile, place, lane, lanes,
    GATED: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """A group of a step: from partial sums to results. Arguments as of `compute`; pairs are float32 here in every precision."""
    COLUMNS: tl.constexpr = TILE.value.columns
    OUTPUTS: tl.constexpr = COLUMNS * (2 if GATED else 1)
    count, channels = tl.load(group + GROUP.count), tl.load(group + GROUP.channels)
    op = operations + (tl.load(group + GROUP.op) + tl.minimum(place, count - 1)) * OPERATION.size
    output = (tile * OUTPUTS + tl.arange(0, OUTPUTS))[None, :]
    partial = tl.load(op + OPERATION.partial).to(tl.int64)
    width = (channels * (2 if GATED else 1) + ALIGN - 1) // ALIGN * ALIGN
    at = memory + (partial * lanes + lane * width)[:, None] + output
    total = tl.load(at, mask=((place < count) & (partial >= 0))[:, None] & (output < width), other=0.0)
    total = compute(
        total,
        group,
        chunks,
        sources,
        memory,
        memory,
        pair_weights,
        raw_weights,
        tile,
        place,
        lane,
        lanes,
        OUTPUTS,
        TILE,
    )
    finish_operations(total, op, place < count, memory, memory, tile, lane, lanes, channels, GATED, ROWS, TILE)


@triton.jit
def steps(
    work, tables, job, memory, pair_weights, raw_weights, image, seen, wanted, kept,
    M: tl.constexpr, DRAW: tl.constexpr, WANTED: tl.constexpr, KEEP: tl.constexpr, TILE: tl.constexpr, FEED: tl.constexpr,
    HEAD: tl.constexpr,
):  # fmt: skip
    """The m steps of a wave for some rows and images of one program: nobody else reads what they draw before the next wave.

    Args:
        work: [grid, 2], program and tile of its group.
        image: uint8 [N, H, W, C], drawn into.
        seen: float32 [levels, e], what the network sees of a level.
        kept: float32 [N, H, W, P], where parameters are left if KEEP.
        DRAW: False leaves the image as it is (teacher forcing, for tests).
    """
    C: tl.constexpr = FEED.value.channels
    E: tl.constexpr = FEED.value.numbers
    PLACE: tl.constexpr = (C * E + ALIGN - 1) // ALIGN * ALIGN
    COLUMNS_P: tl.constexpr = FEED.value.side_p
    LANES: tl.constexpr = TILE.value.lanes
    PLACES: tl.constexpr = TILE.value.places
    ROWS: tl.constexpr = PLACES * LANES
    COLUMNS: tl.constexpr = TILE.value.columns
    P: tl.constexpr = HEAD.value.parameters
    PARAMS_WIDTH: tl.constexpr = (P + ALIGN - 1) // ALIGN * ALIGN
    number, tile = tl.load(work + 2 * tl.program_id(0)), tl.load(work + 2 * tl.program_id(0) + 1)
    program = program_of(job, number)
    lanes, of_group = tl.load(program + PROGRAM.lanes) * UNIT, tl.load(program + PROGRAM.group)
    left, wave = tl.load(program + PROGRAM.left), tl.load(job + JOB.wave)
    first_of_wave, rows = first_row(program, wave, tl.load(job + JOB.blocks))
    if rows <= 0:
        return
    N, H, W = tl.load(job + JOB.images), tl.load(job + JOB.height), tl.load(job + JOB.width)
    g = tile * LANES + tl.arange(0, LANES)
    row, block, n, active = rows_of(g, first_of_wave, rows, wave, N)
    if tl.max(active.to(tl.int32), axis=0) == 0:
        return
    first = tl.load(program + PROGRAM.arena).to(tl.int64) * UNIT
    memory += first
    place, at_row = tl.arange(0, ROWS) // LANES, (n.to(tl.int64) * H + row) * W
    operations, groups = table_at(tables, DIRECTORY.operations), table_at(tables, DIRECTORY.step_groups)
    chunks, sources = table_at(tables, DIRECTORY.step_chunks), table_at(tables, DIRECTORY.step_sources)
    parts, pixels = table_at(tables, DIRECTORY.parts), table_at(tables, DIRECTORY.pixels)
    first_part = tl.load(table_at(tables, DIRECTORY.first_part) + number)
    counter, draw_number, seed, temperature = drawing_of(job, n)
    for s in tl.range(0, M, num_stages=1):
        # Each column of the block has lanes of its own, but in the first window.
        shift = tl.where(left == 0, s * of_group, 0)
        part = parts + (first_part + tl.where(left == 0, 0, s)) * PART.size
        column = block * M + s
        drawn = active & (column < W)
        computed = drawn
        if WANTED:
            what = tl.load(wanted + at_row + column, mask=drawn, other=0)
            computed &= (what & 1) != 0
            drawn &= (what & 2) != 0
        if tl.max(computed.to(tl.int32), axis=0) != 0:
            # The pixels of this row that the window sees.
            c0 = tl.where(left == 0, column - M + 1, 0)
            q, begin = tl.arange(0, COLUMNS_P), tl.load(part + PART.pixels)
            there = q < tl.load(part + PART.pixels_end) - begin
            dx = tl.load(pixels + (begin + q) * PIXEL.size + PIXEL.column, mask=there, other=0)
            to = tl.load(pixels + (begin + q) * PIXEL.size + PIXEL.row, mask=there, other=0)
            from_image = image + (at_row + c0)[:, None] * C + dx[None, :] * C
            to_memory = memory + to[None, :].to(tl.int64) * lanes + (g + shift)[:, None] * PLACE
            for i in tl.static_range(PLACE):
                value = tl.zeros((LANES, COLUMNS_P), tl.float32)
                if i < C * E:
                    mask = computed[:, None] & there[None, :]
                    level = tl.load(from_image + i // E, mask=mask, other=0).to(tl.int32)
                    value = tl.load(seen + level * E + i % E, mask=mask, other=0.0)
                tl.store(to_memory + i, value, mask=tl.broadcast_to(there[None, :], (LANES, COLUMNS_P)))

            lane = tile * LANES + shift + tl.arange(0, ROWS) % LANES
            for number_of_group in tl.range(tl.load(part + PART.groups), tl.load(part + PART.groups_end), num_stages=1):
                group = groups + number_of_group * GROUP.size
                if tl.load(group + GROUP.new_stage) != 0:
                    tl.debug_barrier()  # the stage before, or the pixels, are there
                channels = tl.load(group + GROUP.channels)
                for columns in tl.range(0, (channels + COLUMNS - 1) // COLUMNS, num_stages=1):
                    if tl.load(group + GROUP.gated) != 0:
                        step(
                            group, operations, chunks, sources, memory, pair_weights, raw_weights,
                            columns, place, lane, lanes, True, ROWS, TILE,
                        )  # fmt: skip
                    else:
                        step(
                            group, operations, chunks, sources, memory, pair_weights, raw_weights,
                            columns, place, lane, lanes, False, ROWS, TILE,
                        )  # fmt: skip
            tl.debug_barrier()
            params = memory + tl.load(part + PART.params).to(tl.int64) * lanes + (g + shift) * PARAMS_WIDTH
            if KEEP:
                p = tl.arange(0, HEAD.value.parameters_p)[None, :]
                mask = computed[:, None] & (p < P)
                tl.store(kept + (at_row + column)[:, None] * P + p, tl.load(params[:, None] + p, mask=mask), mask=mask)
            if DRAW:
                draw(
                    params, row, column, counter, draw_number, seed, temperature, image + (at_row + column) * C, drawn, HEAD,
                )  # fmt: skip
                tl.debug_barrier()  # the next step reads these pixels
