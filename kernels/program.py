"""The kernels that run a program of the plan: its inputs, its ahead part, its steps. See `tables` for how things lie in memory.

A *wave* w draws block w - r of each row r at once, a block being m columns: those that the row above has made ready in the wave
before (t = m r + c is a multiple of m where a block begins). So rows of a wave do not wait for each other, and a wave is three kinds
of launch: `inputs`, one `ahead` a stage for all windows, and one `steps` in which a tile of rows draws its m pixels one after the
other.

A lane is a window. Away from the left edge lane = s G + g: column s of the block and row and image g = i N + n of a group of G;
the first window of a row is one lane, g.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .draw import draw, to_unit
from .tables import ALIGN as _ALIGN
from .tables import CHUNK as _CHUNK
from .tables import GROUP as _GROUP
from .tables import OPERATION as _OPERATION
from .tables import PART as _PART
from .tables import RAW_K as _RAW_K
from .tables import UNIT as _UNIT

ALIGN, UNIT, RAW_K = tl.constexpr(_ALIGN), tl.constexpr(_UNIT), tl.constexpr(_RAW_K)
GROUP, OPERATION, CHUNK, PART = (tl.constexpr(len(t)) for t in (_GROUP, _OPERATION, _CHUNK, _PART))

# Columns of the table of programs: first number of its arena, and lanes, both in units of UNIT; G; whether it draws the first window
# of a row; the first and the last row of the image it draws; the row of the window that these are in.
PROGRAM_COLUMNS = ("arena", "lanes", "group", "left", "row_low", "row_high", "window_row")
PROGRAM = tl.constexpr(len(PROGRAM_COLUMNS))


@triton.jit
def first_row(program, wave, blocks):
    """The first row that a program draws in a wave, and how many: scalars."""
    low, high = tl.load(program + 4), tl.load(program + 5)
    left = tl.load(program + 3)
    # Block 0 for the first windows of the rows, else blocks 1 to the last.
    low = tl.maximum(low, wave - (blocks - 1) * (1 - left))
    high = tl.minimum(high, wave - 1 + left)
    return low, high - low + 1


@triton.jit
def rows_of(g, first, count, wave, N):
    """What lanes g of a group draw: (row, block of its columns, image, whether there is such a row), int32 [lanes]."""
    active = g // N < count
    row = tl.where(active, first + g // N, 0)
    return row, tl.where(active, wave - row, 0), g % N, active


@triton.jit
def concat_elu(x, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """elu(x_0), elu(-x_0), elu(x_1) ...: [ROWS, COLUMNS] -> [ROWS, 2 COLUMNS]; one exponential serves both."""
    e = tl.exp(-tl.abs(x)) - 1.0
    both = tl.join(tl.where(x > 0, x, e), tl.where(x > 0, e, -x))
    return tl.reshape(both, (ROWS, 2 * COLUMNS))


@triton.jit
def add_taps(
    total, numbers, weights, chunks, sources, begin, end, tile, place, lane, lanes,
    PLACES: tl.constexpr, K: tl.constexpr, OUTPUTS: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """total [rows, OUTPUTS] + gathered inputs [rows, K] times weights [K, OUTPUTS], chunk by chunk; sums in fp32."""
    k = tl.arange(0, K)
    weight = k[:, None] + tl.arange(0, OUTPUTS)[None, :] * K + tile * (K * OUTPUTS)
    for chunk in tl.range(begin, end, num_stages=STAGES):
        row = chunks + chunk * CHUNK
        first, inputs = tl.load(row) * UNIT, tl.load(row + 1) * UNIT
        valid, width = tl.load(row + 2) * ALIGN, tl.load(row + 3) * ALIGN
        if PLACES == 1:
            source = tl.load(sources + chunk)
            there = tl.broadcast_to((k < valid)[None, :], (lane.shape[0], K))
        else:
            source = tl.load(sources + chunk * PLACES + place)
            there = (source >= 0)[:, None] & (k < valid)[None, :]
        at = source.to(tl.int64) * lanes + (lane * width + inputs)
        a = tl.load(numbers + at[:, None] + k[None, :], mask=there, other=0.0)
        w = tl.load(weights + first + weight)
        if PRECISION == "widen":  # the interpreter cannot multiply bf16
            total = tl.dot(a.to(tl.float32), w.to(tl.float32), total)
        else:
            total = tl.dot(a, w, total, input_precision=PRECISION)
    return total


@triton.jit
def compute(
    group, operations, chunks, sources, arena, acts, act_weights, raw_weights, bias, latent, lane, place, lanes, tile, channels,
    AHEAD: tl.constexpr, GATED: tl.constexpr, ROWS: tl.constexpr, PLACES: tl.constexpr, COLUMNS: tl.constexpr,
    ACT_K: tl.constexpr, SCALE: tl.constexpr, PRECISION: tl.constexpr, RAW_PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """One tile of a group: ROWS = places x lanes, and the `tile`-th COLUMNS channels of the result.

    y = sum of the taps, or x + a sigmoid(b) of its halves (van den Oord et al. 2016, equation 4); stored as it is, as
    concat_elu, or, where the ahead part leaves it to the steps, as a partial sum.

    Args:
        group: pointer to its row of `tables.GROUP`.
        arena, acts: the program's memory as float32, and as the type of activations, SCALE of which take four bytes.
        latent: pointers [ROWS] to U z of each row's image.
        lane, place: int32 [ROWS].
        tile: which COLUMNS channels.
    """
    HALVES: tl.constexpr = 2 if GATED else 1
    OUTPUTS: tl.constexpr = COLUMNS * HALVES
    column = (tile * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    output = (tile * OUTPUTS + tl.arange(0, OUTPUTS))[None, :]
    pair = (tile * 2 * COLUMNS + tl.arange(0, 2 * COLUMNS))[None, :]
    partial_width = (channels * HALVES + ALIGN - 1) // ALIGN * ALIGN
    raw_width = (channels + ALIGN - 1) // ALIGN * ALIGN
    act_width = (channels * 2 + ALIGN - 1) // ALIGN * ALIGN

    count = tl.load(group + 1)
    op = operations + (tl.load(group) + tl.minimum(place, count - 1)) * OPERATION
    partial = tl.load(op + 2).to(tl.int64)
    is_partial = (place < count) & (partial >= 0)
    at_partial = arena + (partial * lanes + lane * partial_width)[:, None] + output
    if AHEAD:
        given = output < channels * HALVES
        total = tl.load(bias + tl.load(op)[:, None] + output, mask=given, other=0.0)
        of_latent = tl.load(op + 1)
        given &= (of_latent >= 0)[:, None]
        total += tl.load(latent[:, None] + of_latent[:, None] + output, mask=given, other=0.0)
    else:
        total = tl.load(at_partial, mask=is_partial[:, None] & (output < partial_width), other=0.0)

    total = add_taps(
        total, acts, act_weights, chunks, sources, tl.load(group + 2), tl.load(group + 3), tile, place, lane, lanes * SCALE,
        PLACES, ACT_K, OUTPUTS, PRECISION, STAGES,
    )  # fmt: skip
    total = add_taps(
        total, arena, raw_weights, chunks, sources, tl.load(group + 4), tl.load(group + 5), tile, place, lane, lanes,
        PLACES, RAW_K, OUTPUTS, RAW_PRECISION, STAGES,
    )  # fmt: skip

    if AHEAD:
        tl.store(at_partial, total, mask=is_partial[:, None] & (output < partial_width))
        finished = (place < count) & (partial < 0)
    else:
        finished = place < count
    if GATED:
        a, b = tl.split(tl.reshape(total, (ROWS, COLUMNS, 2)))
        x = (tl.load(op + 3).to(tl.int64) * lanes + lane * raw_width)[:, None] + column
        x = tl.load(arena + x, mask=finished[:, None] & (column < raw_width), other=0.0)
        y = x + a / (1.0 + tl.exp(-b))
    else:
        y = total
    raw, act = tl.load(op + 4).to(tl.int64), tl.load(op + 5).to(tl.int64)
    at = arena + (raw * lanes + lane * raw_width)[:, None] + column
    tl.store(at, y, mask=(finished & (raw >= 0))[:, None] & (column < raw_width))
    at = acts + (act * (lanes * SCALE) + lane * act_width)[:, None] + pair
    both = concat_elu(y, ROWS, COLUMNS).to(acts.dtype.element_ty)
    tl.store(at, both, mask=(finished & (act >= 0))[:, None] & (pair < act_width))


@triton.jit(do_not_specialize=["blocks", "N", "H", "W", "map_height", "map_width"])
def inputs(
    work, entries, programs, arena, image, maps, y_axis, x_axis, scale, wave, blocks, N, H, W, map_height, map_width,
    M: tl.constexpr, C: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Write what windows read of the image's rows above, and of the conditioning, into their arenas.

    Args:
        work: int32 [grid, 2], entry and tile of lanes.
        entries: int32 [n, 4], `tables.Network.inputs`.
        image: uint8 [N, H, W, C].
        maps: float32 [N, map_height, map_width, D - 3], feature maps over [-1, 1]^2.
        y_axis, x_axis: float32 [H], [W] coordinates.
        scale: float32 [1], the scale input.
        wave: int32 [1].
        DP: power of two, at least D and ALIGN.
    """
    entry = entries + tl.load(work + 2 * tl.program_id(0)) * 4
    tile = tl.load(work + 2 * tl.program_id(0) + 1)
    program = programs + tl.load(entry) * PROGRAM
    k, place, first = tl.load(entry + 1), tl.load(entry + 2), tl.load(entry + 3)
    lanes, group = tl.load(program + 1) * UNIT, tl.load(program + 2)
    now = tl.load(wave)
    first_of_wave, rows = first_row(program, now, blocks)
    if rows <= 0:
        return
    lane = tile * LANES + tl.arange(0, LANES)
    row, block, n, active = rows_of(lane % group, first_of_wave, rows, now, N)
    left = tl.load(program + 3) != 0
    # The window's origin.
    c0 = tl.where(left, 0, block * M + lane // group - M + 1)
    active &= c0 + M <= W
    if tl.max(active.to(tl.int32), axis=0) == 0:
        return
    c0 = tl.where(active, c0, 0)
    r0 = tl.where(active, row - tl.load(program + 6), 0)
    arena += tl.load(program).to(tl.int64) * UNIT + first.to(tl.int64) * lanes
    if k < 0:
        at = ((n.to(tl.int64) * H + r0 + place // M) * W + c0 + place % M) * C
        channel = tl.arange(0, ALIGN)
        level = tl.load(image + at[:, None] + channel[None, :], mask=active[:, None] & (channel < C)[None, :], other=0)
        pixel = tl.where((channel < C)[None, :], to_unit(level.to(tl.float32)), 0.0)
        tl.store(arena + lane[:, None] * ALIGN + channel[None, :], pixel)
    elif D > 0:
        # Coordinates of the place (paper, section 4.1; spxcore.coords.place_axis).
        side = M >> k
        last = tl.maximum(side - 1, 1)
        fy = tl.where(side > 1, (place // side).to(tl.float32) / last, 0.5)
        fx = tl.where(side > 1, (place % side).to(tl.float32) / last, 0.5)
        y = tl.load(y_axis + r0) * (1.0 - fy) + tl.load(y_axis + r0 + M - 1) * fy
        x = tl.load(x_axis + c0) * (1.0 - fx) + tl.load(x_axis + c0 + M - 1) * fx
        d = tl.arange(0, DP)
        value = tl.where((d == 0)[None, :], y[:, None], tl.where((d == 1)[None, :], x[:, None], 0.0))
        if D > 2:
            value = tl.where((d == 2)[None, :], tl.load(scale), value)
            # Bilinear samples of the feature maps (spxcore.network.sample_maps).
            at_y = tl.minimum(tl.maximum((y + 1.0) * 0.5 * (map_height - 1), 0.0), map_height - 1.0)
            at_x = tl.minimum(tl.maximum((x + 1.0) * 0.5 * (map_width - 1), 0.0), map_width - 1.0)
            y0 = tl.minimum(at_y.to(tl.int32), tl.maximum(map_height - 2, 0))
            x0 = tl.minimum(at_x.to(tl.int32), tl.maximum(map_width - 2, 0))
            dy, dx = at_y - y0, at_x - x0
            down = tl.where(map_height > 1, map_width * (D - 3), 0)
            right = tl.where(map_width > 1, D - 3, 0)
            corner = maps + (((n * map_height + y0) * map_width + x0) * (D - 3))[:, None] + (d - 3)[None, :]
            of_maps = ((d >= 3) & (d < D))[None, :]
            above = tl.load(corner, mask=of_maps, other=0.0) * (1.0 - dx)[:, None]
            above += tl.load(corner + right, mask=of_maps, other=0.0) * dx[:, None]
            below = tl.load(corner + down, mask=of_maps, other=0.0) * (1.0 - dx)[:, None]
            below += tl.load(corner + down + right, mask=of_maps, other=0.0) * dx[:, None]
            value = tl.where(of_maps, above * (1.0 - dy)[:, None] + below * dy[:, None], value)
        width: tl.constexpr = (D + ALIGN - 1) // ALIGN * ALIGN
        tl.store(arena + lane[:, None] * width + d[None, :], value, mask=(d < width)[None, :])


@triton.jit(do_not_specialize=["latents", "blocks", "N", "W", "channels"])
def ahead(
    work, programs, groups, operations, chunks, sources, arena, acts, act_weights, raw_weights, bias, latent, latents,
    wave, blocks, N, W, channels,
    M: tl.constexpr, GATED: tl.constexpr, LANES: tl.constexpr, PLACES: tl.constexpr, COLUMNS: tl.constexpr, ACT_K: tl.constexpr,
    SCALE: tl.constexpr, PRECISION: tl.constexpr, RAW_PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """One stage of the ahead part, PLACES places of LANES windows at a time. Grid: (work, tiles of its channels).

    Args:
        work: int32 [grid, 3], program, group and tile of lanes.
        latent: float32 [N, latents], U z of every image.
    """
    item = work + 3 * tl.program_id(0)
    program, group, tile = programs + tl.load(item) * PROGRAM, groups + tl.load(item + 1) * GROUP, tl.load(item + 2)
    lanes, of_group = tl.load(program + 1) * UNIT, tl.load(program + 2)
    now = tl.load(wave)
    first_of_wave, rows = first_row(program, now, blocks)
    if rows <= 0:
        return
    ROWS: tl.constexpr = PLACES * LANES
    lane = tile * LANES + tl.arange(0, ROWS) % LANES
    _, block, n, active = rows_of(lane % of_group, first_of_wave, rows, now, N)
    active &= block * M + lane // of_group < W
    if tl.max(active.to(tl.int32), axis=0) == 0:
        return
    first = tl.load(program).to(tl.int64) * UNIT
    compute(
        group, operations, chunks, sources, arena + first, acts + first * SCALE, act_weights, raw_weights, bias,
        latent + n * latents, lane, tl.arange(0, ROWS) // LANES, lanes, tl.program_id(1), channels,
        True, GATED, ROWS, PLACES, COLUMNS, ACT_K, SCALE, PRECISION, RAW_PRECISION, STAGES,
    )  # fmt: skip


@triton.jit(do_not_specialize=["blocks", "N", "H", "W"])
def steps(
    work, programs, first_parts, parts, pixels, groups, operations, chunks, sources, arena, acts, act_weights, raw_weights,
    image, images, seed, temperature, wave, blocks, N, H, W,
    M: tl.constexpr, MP: tl.constexpr, C: tl.constexpr, MIXTURES: tl.constexpr, MIXTURES_P: tl.constexpr, MAP: tl.constexpr,
    DRAW: tl.constexpr, LANES: tl.constexpr, PLACES: tl.constexpr, COLUMNS: tl.constexpr, ACT_K: tl.constexpr,
    SCALE: tl.constexpr, PRECISION: tl.constexpr, RAW_PRECISION: tl.constexpr,
):  # fmt: skip
    """The m steps of a wave for LANES rows and images of one program: nobody else reads what they draw before the next wave.

    Args:
        work: int32 [grid, 2], program and tile of its group.
        image: uint8 [N, H, W, C], drawn into.
        images: int32 [N], image numbers as bits.
        seed: int64 [1], as bits.
        temperature: float32 [1].
        DRAW: False leaves the image as it is (teacher forcing, for tests).
        MP, MIXTURES_P: powers of two, at least M and MIXTURES.
    """
    number, tile = tl.load(work + 2 * tl.program_id(0)), tl.load(work + 2 * tl.program_id(0) + 1)
    program = programs + number * PROGRAM
    lanes, of_group, left = tl.load(program + 1) * UNIT, tl.load(program + 2), tl.load(program + 3)
    now = tl.load(wave)
    first_of_wave, rows = first_row(program, now, blocks)
    if rows <= 0:
        return
    g = tile * LANES + tl.arange(0, LANES)
    row, block, n, active = rows_of(g, first_of_wave, rows, now, N)
    if tl.max(active.to(tl.int32), axis=0) == 0:
        return
    first = tl.load(program).to(tl.int64) * UNIT
    arena += first
    acts += first * SCALE
    ROWS: tl.constexpr = LANES * PLACES
    place = tl.arange(0, ROWS) // LANES
    counter = tl.load(images + n).to(tl.uint32, bitcast=True)
    key = tl.load(seed).to(tl.uint64, bitcast=True)
    spread = tl.load(temperature)
    for s in tl.range(0, M, num_stages=1):
        shift = tl.where(
            left == 0, s * of_group, 0
        )  # each column of the block has its own lanes, but in the first window
        part = parts + (tl.load(first_parts + number) + tl.where(left == 0, 0, s)) * PART
        column = block * M + s
        drawn = active & (column < W)
        c0 = tl.where(left == 0, column - M + 1, 0)

        # The pixels of this row that the window sees.
        q = tl.arange(0, MP)
        begin, seen = tl.load(part + 2), q < tl.load(part + 3) - tl.load(part + 2)
        dx = tl.load(pixels + 2 * (begin + q), mask=seen, other=0)
        to = tl.load(pixels + 2 * (begin + q) + 1, mask=seen, other=0)
        from_image = image + ((n.to(tl.int64) * H + row) * W + c0)[:, None] * C + dx[None, :] * C
        to_arena = arena + to[None, :].to(tl.int64) * lanes + (g + shift)[:, None] * ALIGN
        for c in tl.static_range(ALIGN):
            value = tl.zeros((LANES, MP), tl.float32)
            if c < C:
                value = to_unit(tl.load(from_image + c, mask=drawn[:, None] & seen[None, :], other=0).to(tl.float32))
            tl.store(to_arena + c, value, mask=tl.broadcast_to(seen[None, :], (LANES, MP)))

        lane = tile * LANES + shift + tl.arange(0, ROWS) % LANES
        for number_of_group in tl.range(tl.load(part), tl.load(part + 1), num_stages=1):
            group = groups + number_of_group * GROUP
            if tl.load(group + 8) != 0:
                tl.debug_barrier()  # the stage before, or the pixels, are there
            channels = tl.load(group + 7)
            for columns in tl.range(0, (channels + COLUMNS - 1) // COLUMNS, num_stages=1):
                if tl.load(group + 6) != 0:
                    compute(
                        group, operations, chunks, sources, arena, acts, act_weights, raw_weights, arena, arena,
                        lane, place, lanes, columns, channels,
                        False, True, ROWS, PLACES, COLUMNS, ACT_K, SCALE, PRECISION, RAW_PRECISION, 1,
                    )  # fmt: skip
                else:
                    compute(
                        group, operations, chunks, sources, arena, acts, act_weights, raw_weights, arena, arena,
                        lane, place, lanes, columns, channels,
                        False, False, ROWS, PLACES, COLUMNS, ACT_K, SCALE, PRECISION, RAW_PRECISION, 1,
                    )  # fmt: skip
        tl.debug_barrier()
        if DRAW:
            P: tl.constexpr = MIXTURES * (3 if C == 1 else 10)
            width: tl.constexpr = (P + ALIGN - 1) // ALIGN * ALIGN
            params = arena + tl.load(part + 4).to(tl.int64) * lanes + (g + shift) * width
            levels = image + ((n.to(tl.int64) * H + row) * W + column) * C
            draw(params, row, column, counter, key, spread, levels, drawn, MAP, C, MIXTURES, MIXTURES_P)
            tl.debug_barrier()  # the next step reads these pixels
