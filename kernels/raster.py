"""The kernels that draw whole images by the raster schedule: places of a stage, and pixels. See `raster_tables` for the tables.

A lane is an image. A row of an image is a few dozen launches of `places`, one a stage, for what runs ahead of it; then, for each of its
pixels, one launch of `pixels` and one of `places` for each stage that waits for the pixel.

Arguments that both kernels share:

    job         int32, a row of `tables.JOB`, then the images' numbers (as bits); its wave is the row in work
    memory      float32, the arena
    TILE, FEED, HEAD    `launch.Tile`, `launch.FeedShape`, `launch.HeadShape`
"""

from __future__ import annotations

import triton
import triton.language as tl

from . import raster_tables as layout
from .heads import draw
from .windows import ALIGN, FORM_PAIRS, JOB, UNIT, Columns, drawing_of, finish, multiply, to_tf32

PLACES, PIECE, ITEM = Columns(layout.PLACES), Columns(layout.PIECE), Columns(layout.ITEM)


@triton.jit
def add_pieces(
    total, memory, weights, pieces, sources, begin, end, tile, place, lane, lanes, active, OUTPUTS: tl.constexpr, TILE: tl.constexpr
):  # fmt: skip
    """total [rows, OUTPUTS] + gathered inputs [rows, K] times weights [K, OUTPUTS], piece by piece; sums in fp32."""
    K: tl.constexpr = TILE.value.pair_k
    PRECISION: tl.constexpr = TILE.value.precision
    k = tl.arange(0, K)
    weight = k[:, None] + tl.arange(0, OUTPUTS)[None, :] * K + tile * (K * OUTPUTS)
    for number in tl.range(begin, end, num_stages=TILE.value.stages):
        piece = pieces + number * PIECE.size
        first, inputs = tl.load(piece + PIECE.weights) * UNIT, tl.load(piece + PIECE.begin) * ALIGN
        valid, width = tl.load(piece + PIECE.valid) * ALIGN, tl.load(piece + PIECE.width) * ALIGN
        source = tl.load(sources + number) + place * tl.load(piece + PIECE.step)
        there = active & (place >= tl.load(piece + PIECE.inside)) & (place < tl.load(piece + PIECE.inside_end))
        at = source.to(tl.int64) * ALIGN * lanes + (lane * width + inputs)
        a = tl.load(memory + at[:, None] + k[None, :], mask=there[:, None] & (k < valid)[None, :], other=0.0)
        w = tl.load(weights + first + weight)
        if PRECISION == "tf32":
            a = to_tf32(a)
        total = multiply(total, a, w, PRECISION)
    return total


@triton.jit(do_not_specialize=["first_item"])
def places(
    first_item, items, operations, pieces, sources, results, biases, memory, weights, bias, code, job,
    LATE: tl.constexpr, GATED: tl.constexpr, OF_PAIRS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Some places of a stage for some images: what runs ahead of a row, or (LATE) what waits for its pixels.

    Ahead, sums end in a result, or, where they depend on the row too, as partial sums that LATE begins with. Grid: (items, tiles of the
    stage's channels, tiles of images).

    Args:
        first_item: this launch's are items[first_item : first_item + grid].
        items: `ITEM` [n].
        operations: `PLACES` [n].
        sources, results: int32 [pieces], [n, 3], arena rows of the first place of each, in ALIGN.
        code: float32 [N, L], U z of every image.
        OF_PAIRS: the residual x is read from (elu(x), elu(-x)).
    """
    LANES: tl.constexpr = TILE.value.lanes
    COLUMNS: tl.constexpr = TILE.value.columns
    ROWS: tl.constexpr = LANES * TILE.value.places
    OUTPUTS: tl.constexpr = COLUMNS * (2 if GATED else 1)
    item = items + (first_item + tl.program_id(0)) * ITEM.size
    number, tile, lanes = tl.load(item + ITEM.places), tl.program_id(1), tl.load(job + JOB.images)
    op = operations + number * PLACES.size
    lane = tl.program_id(2) * LANES + tl.arange(0, ROWS) % LANES
    place = tl.load(item + ITEM.begin) + tl.arange(0, ROWS) // LANES
    active = (lane < lanes) & (place < tl.load(item + ITEM.end))
    ops = tl.broadcast_to(op, (ROWS,))
    channels, partial = tl.load(op + PLACES.channels), tl.load(ops + PLACES.partial).to(tl.int64) * ALIGN
    outputs = channels * (2 if GATED else 1)
    width = (outputs + ALIGN - 1) // ALIGN * ALIGN
    output = (tile * OUTPUTS + tl.arange(0, OUTPUTS))[None, :]

    fresh = active & (partial < 0) if LATE else active
    of_place = tl.load(biases + tl.load(op + PLACES.bias) + place, mask=fresh, other=0)
    inside = fresh[:, None] & (output < outputs)
    total = tl.load(bias + of_place[:, None] + output, mask=inside, other=0.0)
    of_code = tl.load(ops + PLACES.code)
    of_image = code + lane.to(tl.int64) * tl.load(job + JOB.code) + of_code
    total += tl.load(of_image[:, None] + output, mask=inside & (of_code >= 0)[:, None], other=0.0)
    if LATE:
        sums = memory + ((partial + place * width) * lanes + lane * width)[:, None] + output
        total += tl.load(sums, mask=(active & (partial >= 0))[:, None] & (output < width), other=0.0)
    begin = tl.load(op + (PLACES.late if LATE else PLACES.begin))
    end = tl.load(op + (PLACES.end if LATE else PLACES.late))
    total = add_pieces(
        total, memory, weights, pieces, sources, begin, end, tile, place, lane, lanes, active, OUTPUTS, TILE
    )
    finished = active
    if not LATE:
        sums = memory + ((partial + place * width) * lanes + lane * width)[:, None] + output
        tl.store(sums, total, mask=(active & (partial >= 0))[:, None] & (output < width))
        finished = active & (partial < 0)

    step = place * tl.load(op + PLACES.step)
    results += number * 3
    raw_width = (channels + ALIGN - 1) // ALIGN * ALIGN
    pair_width = (channels * 2 + ALIGN - 1) // ALIGN * ALIGN
    form = tl.load(ops + PLACES.form)
    activated_width = tl.where(form == FORM_PAIRS, pair_width, raw_width)
    raw, activated = address(results, step, raw_width), address(results + 1, step, activated_width)
    residual = address(results + 2, step, pair_width if OF_PAIRS else raw_width)
    column = (tile * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    there = (finished & (residual >= 0))[:, None] & (column < raw_width)
    if OF_PAIRS:
        # x > 0 is elu(x), x < 0 is -elu(-x).
        x = memory + (residual * lanes + lane * pair_width)[:, None] + 2 * column
        there &= 2 * column < pair_width
        e = tl.load(x, mask=there, other=0.0)
        x = tl.where(e > 0.0, e, -tl.load(x + 1, mask=there, other=0.0))
    else:
        x = tl.load(memory + (residual * lanes + lane * raw_width)[:, None] + column, mask=there, other=0.0)
    finish(
        total, x, raw, activated, form, finished, memory, memory, tile, lane, lanes, channels,
        GATED, ROWS, TILE,
    )  # fmt: skip


@triton.jit
def address(of, step, width):
    """Arena rows of places that lie `step` columns of `width` rows beyond the address at `of`: int64, -1 for nowhere."""
    first = tl.load(tl.broadcast_to(of, step.shape)).to(tl.int64)
    return tl.where(first >= 0, first * ALIGN + step * width, -1)


@triton.jit(do_not_specialize=["first"])
def pixels(
    first, job, spots, memory, image, seen, drawn, kept,
    KEEP: tl.constexpr, DRAW: tl.constexpr, SEE: tl.constexpr, GIVEN: tl.constexpr, TILE: tl.constexpr, FEED: tl.constexpr,
    HEAD: tl.constexpr,
):  # fmt: skip
    """Pixels of the row in work: keep their parameters, draw them, and let the network see them. Grid: (columns, tiles of images).

    Args:
        first: the first column.
        spots: int32 [2], arena rows of the row's first parameters and first pixel, in ALIGN.
        image: uint8 [N, H, W, C], drawn into.
        seen: float32 [levels, e], what the network sees of a level.
        drawn: uint8 [N, H, W], 1 where a pixel is drawn; not read unless GIVEN.
        kept: float32 [N, H, W, P], where parameters are left if KEEP.
    """
    C: tl.constexpr = FEED.value.channels
    E: tl.constexpr = FEED.value.numbers
    PIXEL_P: tl.constexpr = FEED.value.pixel_p
    PIXEL_WIDTH: tl.constexpr = (C * E + ALIGN - 1) // ALIGN * ALIGN
    LANES: tl.constexpr = TILE.value.lanes
    P: tl.constexpr = HEAD.value.parameters
    PARAMS_WIDTH: tl.constexpr = (P + ALIGN - 1) // ALIGN * ALIGN
    lanes, row = tl.load(job + JOB.images), tl.load(job + JOB.wave)
    lane, column = tl.program_id(1) * LANES + tl.arange(0, LANES), first + tl.program_id(0)
    active = lane < lanes
    at = (lane.to(tl.int64) * tl.load(job + JOB.height) + row) * tl.load(job + JOB.width) + column
    params = tl.load(spots).to(tl.int64) * ALIGN + column * PARAMS_WIDTH
    params = memory + params * lanes + lane * PARAMS_WIDTH
    if KEEP:
        p = tl.arange(0, HEAD.value.parameters_p)[None, :]
        mask = active[:, None] & (p < P)
        tl.store(kept + at[:, None] * P + p, tl.load(params[:, None] + p, mask=mask), mask=mask)
    if DRAW:
        wanted = active
        if GIVEN:
            wanted &= tl.load(drawn + at, mask=active, other=0) != 0
        number, draw_number, seed, temperature = drawing_of(job, tl.where(active, lane, 0))
        rows, columns = tl.broadcast_to(row, (LANES,)), tl.broadcast_to(column, (LANES,))
        draw(params, rows, columns, number, draw_number, seed, temperature, image + at * C, wanted, HEAD)
        tl.debug_barrier()  # other threads see these pixels
    if SEE:
        number = tl.arange(0, PIXEL_P)[None, :]
        there = active[:, None] & (number < C * E)
        level = tl.load(image + at[:, None] * C + number // E, mask=there, other=0).to(tl.int32)
        pixel = tl.load(seen + level * E + number % E, mask=there, other=0.0)
        to = tl.load(spots + 1).to(tl.int64) * ALIGN + column * PIXEL_WIDTH
        to = memory + (to * lanes + lane * PIXEL_WIDTH)[:, None] + number
        tl.store(to, pixel, mask=active[:, None] & (number < PIXEL_WIDTH))
