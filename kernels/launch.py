"""Launches the kernels of `windows`: a network on a device, and a batch of images that is drawn with it, wave by wave."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from ..errors import require
from ..heads import Head
from ..lower.job import NativeJob
from ..lower.packing import code_numbers, round_tf32
from ..lower.tables import FORM_PAIRS, columns_of
from . import windows as kernels
from .tables import ALIGN, JOB, PROGRAM, UNIT, Layout, padded
from .tuning import Blocks

# Precision -> input precision of tl.dot for pairs of concat_elu in the ahead part and in the steps, and for raw numbers (pixels, what
# is told, the residual stream). In bf16 only the pairs of the ahead part are bf16: with bf16 steps a pixel's distribution is several
# times further off. Steps never read pairs of the ahead part, nor it theirs.
_DOT = {
    "fp32": ("ieee", "ieee", "ieee"),
    "tf32x3": ("tf32x3", "tf32x3", "tf32x3"),
    "tf32": ("tf32", "tf32", "tf32"),
    "bf16": ("bf16", "tf32", "tf32"),
}

# Some launches.
Launch = Callable[[], None]

# Flags of `wanted`.
COMPUTED, DRAWN = 1, 2


def power_of_two(n: int) -> int:
    """The least that is at least n."""
    return 1 << max(n - 1, 0).bit_length()


class Shape:
    """What a kernel is compiled for. Kernels read `SHAPE.value.name`: the compiler wraps a shape in a `constexpr`, and the interpreter
    does not."""

    @property
    def value(self):
        return self


@dataclass(frozen=True)
class Tile(Shape):
    """A tile of `ahead` or `steps`.

    Attributes:
        lanes, places, stages: see `Blocks`.
        columns, pair_k: see `Layout`.
        precision, raw_precision: of pairs and of raw numbers, see `_DOT`; "widened" is bf16 for the interpreter.
        scale: numbers of pairs that fit into four bytes.
        single: whether any value is read in a form of one number, so any but FORM_PAIRS.
        rounded: whether pairs are rounded to tf32 where they are stored.
    """

    lanes: int
    places: int
    stages: int
    columns: int
    pair_k: int
    precision: str
    raw_precision: str
    scale: int
    single: bool
    rounded: bool


@dataclass(frozen=True)
class FeedShape(Shape):
    """What fills the inputs.

    Attributes:
        channels: C, of a pixel.
        numbers: e, that the network sees of a channel.
        told: D, numbers of a place of the other inputs.
        maps: feature maps among these.
        pixel_p, told_p, side_p: powers of two, at least a pixel's and a place's numbers (and ALIGN), and m.
    """

    channels: int
    numbers: int
    told: int
    maps: int
    pixel_p: int
    told_p: int
    side_p: int


@dataclass(frozen=True)
class HeadShape(Shape):
    """How pixels are drawn.

    Attributes:
        kind, channels, levels, parameters, components: of the head; a softmax has a component a level.
        components_p, parameters_p: powers of two, at least as many.
        mode: see `Sampling`.
    """

    kind: str
    channels: int
    levels: int
    parameters: int
    components: int
    components_p: int
    parameters_p: int
    mode: bool

    @classmethod
    def of(cls, head: Head, mode: bool) -> HeadShape:
        components = head.levels if head.kind == "softmax" else head.components
        return cls(
            head.kind, head.channels, head.levels, head.parameters, components, power_of_two(components),
            power_of_two(head.parameters), mode,
        )  # fmt: skip


def put(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """An array on a device; empty ones get one element, so that they have an address."""
    array = np.ascontiguousarray(array)
    return torch.from_numpy(array if array.size else np.zeros(1, array.dtype)).to(device)


def most_images(count: int, needed: Callable[[int], int], memory: int, job: NativeJob, what: str) -> int:
    """How many of `count` images fit into the memory.

    Args:
        needed: bytes that so many take.
        memory: bytes.
        job: whose images.
        what: of an image has to fit, for people.
    """
    low, high = 1, count
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if needed(middle) <= memory else (low, middle - 1)
    require(
        needed(low) <= memory,
        "height and width",
        f"an image whose {what} fit into {memory / 1e9:.1f} GB of GPU memory",
        f"{needed(low) / 1e9:.1f} GB for {job.height}x{job.width}",
        "use a narrower image, or --engine cpp",
    )
    return low


class OnDevice:
    """A network's tables on a device.

    Args:
        layout: of its plan.
        blocks: how work is cut up; those of `layout`.
        precision: a key of `_DOT`.
        device: where.
        interpreted: whether Triton's interpreter runs the kernels.
    """

    def __init__(self, layout: Layout, blocks: Blocks, precision: str, device: torch.device, interpreted: bool = False):
        self.layout, self.blocks, self.device = layout, blocks, device
        dot, step_dot, raw_dot = _DOT[precision]
        self.pair_type = torch.bfloat16 if dot == "bf16" else torch.float32
        kept = layout.operations["activated"] >= 0
        single = bool((kept & (layout.operations["form"] != FORM_PAIRS)).any())
        self.tile = Tile(
            blocks.lanes, blocks.places, blocks.stages, layout.columns, layout.pair_k,
            "widened" if dot == "bf16" and interpreted else dot, raw_dot, 2 if dot == "bf16" else 1, single, dot == "tf32",
        )  # fmt: skip
        self.step_tile = Tile(
            blocks.step_lanes,
            blocks.step_places,
            1,
            layout.columns,
            layout.pair_k,
            step_dot,
            raw_dot,
            1,
            single,
            step_dot == "tf32",
        )
        self.tables, self.bias = self.put(layout.flat()), self.put(layout.bias)
        # Tensor cores cut fp32 numbers to tf32, so these are rounded here; what the kernels multiply them with, there.
        pairs, raws = (
            round_tf32(weights).view(np.float32) if of == "tf32" else weights
            for of, weights in ((step_dot, layout.pair_weights), (raw_dot, layout.raw_weights))
        )
        self.step_weights = self.put(pairs), self.put(raws)
        self.weights = self.step_weights
        if dot == "bf16":
            self.weights = self.put(layout.pair_weights).to(self.pair_type), self.step_weights[1]

    def put(self, array: np.ndarray) -> torch.Tensor:
        """See `put`."""
        return put(array, self.device)

    def images(self, job: NativeJob, piece: slice, poison: bool = False) -> Images:
        """Some of a job's images, about to be drawn."""
        return Images(self, job, piece, poison)

    def programs(self, height: int, width: int, images: int) -> np.ndarray:
        """The table of programs for this many images, int64 columns by the names of `PROGRAM`, in numbers; no lanes where no pixel is."""
        m, at, rows = self.layout.side, 0, []
        blocks = -(-width // m)
        for number, arena in enumerate(self.layout.rows):
            i, left = divmod(number, 2)
            low, high = (i, i) if i < m - 1 else (i, height - 1)
            together = min(high - low + 1, 1 if left else blocks - 1)
            group = padded(together * images, self.blocks.step_lanes)
            lanes = padded(group * (1 if left else m), self.blocks.lanes)
            if not together:
                group, lanes = 1, 0
            rows.append((at, lanes, group, left, low, high, i))
            at += padded(int(arena) * lanes, 64)
        return np.array(rows, [(name, np.int64) for name in columns_of(PROGRAM)])

    def arena_numbers(self, height: int, width: int, images: int) -> int:
        """Numbers in the arenas of all programs together."""
        return int((self.layout.rows * self.programs(height, width, images)["lanes"]).sum())

    def images_together(self, job: NativeJob, memory: int) -> int:
        """How many of the job's images to draw at once. memory: bytes."""
        kept = 0 if job.params is None else job.params.shape[3]

        def needed(images: int) -> int:
            return 4 * (self.arena_numbers(job.height, job.width, images) + images * job.height * job.width * kept)

        return most_images(len(job.images), needed, memory, job, "windows")


@dataclass(frozen=True)
class Work:
    """What each launch of a wave does: tables of `windows.inputs`, of `ahead` for each stage, and of `steps`."""

    inputs: torch.Tensor
    ahead: list[torch.Tensor]
    steps: torch.Tensor


class Batch:
    """Images in the making that are drawn together.

    Attributes:
        memory: on the device, of whatever kernels keep.
        job: what to draw.
        piece: which of its images.
        image: uint8 [N, H, W, C] on the device.
        kept: float32 [N, H, W, P] on the device, their parameters, if the job asks for them.
        finished: rows that are on the canvas.
    """

    memory: torch.Tensor
    job: NativeJob
    piece: slice
    image: torch.Tensor
    kept: torch.Tensor
    finished = 0

    def draw(self, report: Callable[[int], None] | None, reports: int) -> None:
        """Draw them; `report` is called at most `reports` times with the pixels drawn since its last call. What has been drawn is
        on the canvas before each report, and when this returns or raises."""
        if self.memory.is_cuda:
            with torch.cuda.device(self.memory.device):
                self._draw(replayed, report, reports)
        else:
            self._draw(lambda launch: launch, report, reports)

    def _draw(self, runner: Callable[[Launch], Launch], report: Callable[[int], None] | None, reports: int) -> None:
        """`draw`; runner: makes of some launches a function that does them, again and again."""
        raise NotImplementedError

    def put_rows(self, ready: int, finished: int) -> None:
        """Put the rows before `ready`, those before `finished` complete, on the canvas. Waits for the device."""
        job, rows = self.job, slice(self.finished, ready)
        job.pixels[self.piece, rows] = self.image[:, rows].cpu().numpy()
        if job.params is not None:
            job.params[self.piece, rows] = self.kept[:, rows].cpu().numpy()
        self.finished = finished
        job.finished[self.piece] = finished


def replayed(launch: Launch) -> Launch:
    """Some launches as a CUDA graph, captured at the second call: the first one runs them without, which compiles the kernels."""
    calls, graph = 0, None

    def run() -> None:
        nonlocal calls, graph
        calls += 1
        if calls == 1:
            launch()
            return
        if graph is None:
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                launch()
        graph.replay()

    return run


class Images(Batch):
    """Images in the making.

    `wanted` is uint8 [N, H, W]: COMPUTED where a window has to be computed for the pixel (for one of the first m of a row: for it or
    one of the first m that follow it, with which it shares a window), DRAWN where the pixel is drawn.

    Args:
        network: on the device.
        job: what to draw.
        piece: which of its images.
        poison: fill new memory with NaN, which must change nothing.
    """

    def __init__(self, network: OnDevice, job: NativeJob, piece: slice, poison: bool = False):
        put, layout = network.put, network.layout
        self.network, self.job, self.piece, m = network, job, piece, layout.side
        numbers = job.images[piece]
        self.count, self.blocks = len(numbers), -(-job.width // m)
        self.waves = job.height - 1 + self.blocks
        # Rows above m - 1 have programs of their own, which end with the last block of row m - 2.
        self.top_waves = min(m - 2 + self.blocks, self.waves) if m > 1 else 0
        self.table = network.programs(job.height, job.width, self.count)
        total = network.arena_numbers(job.height, job.width, self.count) + 64 * len(self.table)
        self.memory = torch.full((total,), float("nan") if poison else 0.0, device=network.device)
        self.pairs = self.memory.view(network.pair_type)
        self.image = put(job.pixels[piece])
        self.kept = put(np.zeros(0, np.float32) if job.params is None else job.params[piece])
        code = None if job.code is None else job.code[piece]
        self.code = put(code_numbers(code, layout.code, self.count))
        maps = job.maps if job.maps is None or len(job.maps) == 1 else job.maps[piece]
        maps = np.zeros((1, 1, 1, 0), np.float32) if maps is None else maps.transpose(0, 2, 3, 1)
        self.maps, self.axes = put(maps), put(np.concatenate([job.y_axis, job.x_axis, job.extra]))
        self.seen = put(job.table)
        self.row = self.row_of(numbers, maps.shape)
        self.wave = self.row[columns_of(JOB).index("wave")]  # a view: kernels see what is added to it
        c, e, told = job.pixels.shape[3], job.table.shape[1], 2 + len(job.extra) + maps.shape[3]
        require(
            c * e == layout.pixel, "pixels", f"{layout.pixel} numbers each, as the network sees them", f"{c} times {e}"
        )
        require(layout.told in (0, told), "places", f"{layout.told} numbers each", told)
        self.feed = FeedShape(
            c, e, layout.told, maps.shape[3], max(power_of_two(c * e), ALIGN), max(power_of_two(layout.told), ALIGN), power_of_two(m)
        )  # fmt: skip
        self.head = HeadShape.of(job.head, job.mode)
        self.wanted, self.of_wave = self.what_is_wanted()
        everything = range(len(self.table))
        self.work = {"top": self.work_of(everything), "interior": self.work_of(everything[-2:])}

    def row_of(self, numbers: np.ndarray, maps: tuple[int, ...]) -> torch.Tensor:
        """The row of `JOB`, the programs and the images' numbers."""
        job, row, programs = self.job, np.zeros(1, JOB), np.zeros(len(self.table), PROGRAM)
        row["images"], row["height"], row["width"], row["blocks"] = self.count, job.height, job.width, self.blocks
        row["numbers"], row["code"] = (
            len(columns_of(JOB)) + programs.size * len(columns_of(PROGRAM)),
            self.network.layout.code.shape[1],
        )
        row["map_images"], row["map_height"], row["map_width"] = maps[:3]
        row["seed_low"], row["seed_high"], row["draw"] = job.seed & 0xFFFFFFFF, job.seed >> 32, job.draw
        row["temperature"] = job.temperature
        for name in columns_of(PROGRAM):
            programs[name] = self.table[name] // (UNIT if name in ("arena", "lanes") else 1)
        return self.network.put(np.concatenate([a.view(np.int32) for a in (row, programs, numbers.astype(np.uint32))]))

    def what_is_wanted(self) -> tuple[torch.Tensor | None, np.ndarray]:
        """`wanted` on the device, None if that is everything; and whether each wave has something to compute, bool [waves]."""
        job, m, keep = self.job, self.network.layout.side, self.job.params is not None
        if job.given is None:
            return None, np.ones(self.waves, bool)
        given = job.given if len(job.given) == 1 else job.given[self.piece]
        drawn = np.broadcast_to(~given, (self.count, job.height, job.width))
        computed = np.full(drawn.shape, True) if keep else drawn.copy()
        computed[:, :, :m] = np.logical_or.accumulate(computed[:, :, m - 1 :: -1], axis=2)[:, :, ::-1]
        r, c = np.nonzero(computed.any(axis=0))
        of_wave = np.bincount(r + c // m, minlength=self.waves) > 0
        return self.network.put((computed * COMPUTED + drawn * DRAWN).astype(np.uint8)), of_wave

    def work_of(self, programs) -> Work:
        """The work of some of the programs."""
        layout, blocks, put = self.network.layout, self.network.blocks, self.network.put

        def tiles(program: int, of: int) -> np.ndarray:
            return np.arange(self.table["lanes"][program] // of)

        def product(numbers, tiles) -> np.ndarray:
            """Every pair, tile by tile: neighbours read the same windows."""
            return np.stack(np.meshgrid(tiles, numbers, indexing="ij"), axis=-1).reshape(-1, 2)[:, ::-1]

        def table(items: list[np.ndarray]) -> torch.Tensor:
            rows = np.concatenate(items).astype(np.int32)
            return put(rows) if len(rows) else torch.zeros(0, rows.shape[1], dtype=torch.int32)

        inputs = [product(np.flatnonzero(layout.inputs["program"] == p), tiles(p, blocks.lanes)) for p in programs]
        ahead = [
            table([np.insert(product(stage.groups[p], tiles(p, blocks.lanes)), 0, p, axis=1) for p in programs])
            for stage in layout.stages
        ]
        groups = [p for p in programs if self.table["lanes"][p]]
        steps = [product([p], np.arange(-(-self.table["group"][p] // blocks.step_lanes))) for p in groups]
        return Work(table(inputs), ahead, table(steps))

    def launches(self, work: Work, draw: bool = True) -> Iterator[tuple[str, int]]:
        """Launch one wave, the one that `self.wave` counts; yields each launch's kernel, and number among its kind, after it.

        draw: False leaves the image as it is.
        """
        network, layout, blocks = self.network, self.network.layout, self.network.blocks
        tables, memory = (network.tables, self.row), (self.memory, self.pairs)
        wanted = self.image if self.wanted is None else self.wanted
        # No multiply-add is fused that the source does not fuse, as in the native engines; products are fused all the same.
        shared = {"M": layout.side, "WANTED": self.wanted is not None, "enable_fp_fusion": False}
        if len(work.inputs):
            kernels.inputs[(len(work.inputs),)](
                work.inputs, *tables, self.memory, self.image, self.seen, self.axes, self.maps, wanted,
                **shared, LANES=blocks.lanes, FEED=self.feed, num_warps=blocks.warps,
            )  # fmt: skip
        yield "inputs", 0
        for number, (stage, items) in enumerate(zip(layout.stages, work.ahead)):
            if len(items):
                kernels.ahead[(len(items), -(-stage.channels // layout.columns))](
                    items, *tables, *memory, *network.weights, network.bias, self.code, wanted,
                    **shared, GATED=stage.gated, TILE=network.tile, num_warps=blocks.warps, num_stages=blocks.stages,
                )  # fmt: skip
            yield "ahead", number
        kernels.steps[(len(work.steps),)](
            work.steps, *tables, self.memory, *network.step_weights, self.image, self.seen, wanted, self.kept,
            **shared, DRAW=draw, KEEP=self.job.params is not None, TILE=network.step_tile, FEED=self.feed, HEAD=self.head,
            num_warps=blocks.step_warps, num_stages=1,
        )  # fmt: skip
        yield "steps", 0
        self.wave += 1

    def launch(self, work: Work) -> None:
        """One wave."""
        for _ in self.launches(work):
            pass

    def _draw(self, runner: Callable[[Launch], Launch], report: Callable[[int], None] | None, reports: int) -> None:
        run = {name: runner(partial(self.launch, work)) for name, work in self.work.items()}
        every, drawn, complete = max(1, self.waves // reports), 0, -1
        try:
            for wave in range(self.waves):
                if self.of_wave[wave]:
                    run["top" if wave < self.top_waves else "interior"]()
                else:
                    self.wave += 1
                complete = wave
                drawn += self.pixels_of(wave)
                if (wave + 1) % every == 0 and wave + 1 < self.waves:
                    self.take(wave)
                    if report:
                        report(drawn)
                    drawn = 0
        finally:
            self.take(complete)
        if report:
            report(drawn)

    def pixels_of(self, wave: int) -> int:
        """Pixels of all images that a wave draws."""
        rows = np.arange(max(0, wave - self.blocks + 1), min(self.job.height - 1, wave) + 1)
        begin = (wave - rows) * self.network.layout.side
        return int(np.minimum(self.job.width - begin, self.network.layout.side).sum()) * self.count

    def take(self, wave: int) -> None:
        """Put what has been drawn, up to a wave (-1: none), on the canvas. Waits for the device."""
        height = self.job.height
        self.put_rows(min(height, wave + 1), max(0, min(height, wave - self.blocks + 2)))
