"""Launches the kernels of `program`: a network on a device, and a batch of images that is drawn with it, wave by wave."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ..config import NetworkConfig
from ..engines.base import Job
from ..engines.triton import interpreted
from ..errors import require
from . import program as kernels
from .tables import ALIGN, UNIT, Network, padded
from .tuning import Blocks

# Precision -> input precision of tl.dot for activations and for raw numbers (pixels, conditioning, the residual stream), which stay
# float32 in bf16 mode too; and how many activations fit into four bytes.
_DOT = {
    "fp32": ("ieee", "ieee", 1),
    "tf32x3": ("tf32x3", "tf32x3", 1),
    "tf32": ("tf32", "tf32", 1),
    "bf16": ("ieee", "tf32", 2),
}


def power_of_two(n: int) -> int:
    """The least that is at least n."""
    return 1 << max(n - 1, 0).bit_length()


class DeviceNetwork:
    """A network's tables on a device.

    Args:
        config: of the network.
        tables: of its plan.
        blocks: how work is cut up; those of `tables`.
        precision: a key of `_DOT`.
        device: where.
    """

    def __init__(self, config: NetworkConfig, tables: Network, blocks: Blocks, precision: str, device: torch.device):
        self.config, self.tables, self.blocks, self.device = config, tables, blocks, device
        self.dot, self.raw_dot, self.scale = _DOT[precision]
        if precision == "bf16" and interpreted():
            self.dot = "widen"
        self.act_type = torch.bfloat16 if precision == "bf16" else torch.float32
        self.act_weights = self.put(tables.act_weights).to(self.act_type)
        self.raw_weights, self.bias = self.put(tables.raw_weights), self.put(tables.bias)
        self.operations, self.inputs = self.put(tables.operations), self.put(tables.inputs)
        self.ahead = [self.put(a) for a in (tables.ahead.groups, tables.ahead.chunks, tables.ahead.sources)]
        self.steps = [self.put(a) for a in (tables.steps.groups, tables.steps.chunks, tables.steps.sources)]
        self.parts, self.step_pixels = self.put(tables.parts), self.put(tables.step_pixels)
        self.first_part = self.put(tables.first_part.astype(np.int32))

    def put(self, array: np.ndarray) -> torch.Tensor:
        """An array on the device; empty ones get one element, so that they have an address."""
        array = np.ascontiguousarray(array)
        return torch.from_numpy(array if array.size else np.zeros(1, array.dtype)).to(self.device)

    def programs(self, height: int, width: int, images: int) -> np.ndarray:
        """The table of programs for so many images: int64 [2 m, len(kernels.PROGRAM_COLUMNS)], in numbers; no lanes where no pixel is."""
        m, at, rows = self.config.patch, 0, []
        blocks = -(-width // m)
        for number, arena in enumerate(self.tables.rows):
            i, left = divmod(number, 2)
            low, high = (i, i) if i < m - 1 else (i, height - 1)
            together = min(high - low + 1, 1 if left else blocks - 1)
            group = padded(together * images, self.blocks.step_lanes)
            lanes = padded(group * (1 if left else m), self.blocks.lanes)
            if not together:
                group, lanes = 1, 0
            rows.append((at, lanes, group, left, low, high, i))
            at += padded(int(arena) * lanes, 64)
        return np.array(rows, np.int64)

    def arena_numbers(self, height: int, width: int, images: int) -> int:
        """Numbers in the arenas of all programs together."""
        return int((self.tables.rows * self.programs(height, width, images)[:, 1]).sum())

    def images_together(self, job: Job, memory: int) -> int:
        """How many of the job's images to draw at once, in so many bytes."""
        low, high = 1, len(job.images)
        while low < high:
            middle = (low + high + 1) // 2
            fits = 4 * self.arena_numbers(job.height, job.width, middle) <= memory
            low, high = (middle, high) if fits else (low, middle - 1)
        needed = 4 * self.arena_numbers(job.height, job.width, low)
        require(
            needed <= memory,
            "height and width",
            f"an image whose windows fit into {memory / 1e9:.1f} GB of GPU memory",
            f"{needed / 1e9:.1f} GB for {job.height}x{job.width}",
            "use a narrower image, or --engine cpp",
        )
        return low


class Images:
    """Images in the making.

    Args:
        network: on the device.
        job: what to draw, but for the images.
        numbers: uint32 [N] image numbers.
        z: float32 [N, latent] or None.
        maps: float32 [N, M, h, w] or None.
        y_axis, x_axis: float32 [H], [W] coordinates.
        scale: the scale input.
    """

    def __init__(self, network: DeviceNetwork, job: Job, numbers, z, maps, y_axis, x_axis, scale: float):
        put, self.network, self.job, self.count = network.put, network, job, len(numbers)
        m = network.config.patch
        self.blocks = -(-job.width // m)
        self.waves = job.height - 1 + self.blocks
        # Rows above m - 1 have programs of their own, which end with the last block of row m - 2.
        self.top_waves = min(m - 2 + self.blocks, self.waves) if m > 1 else 0
        table = network.programs(job.height, job.width, self.count)
        self.table = table
        units = table.copy()
        units[:, :2] //= UNIT
        self.programs = put(units.astype(np.int32))
        total = network.arena_numbers(job.height, job.width, self.count)
        self.arena = torch.zeros(total + 64 * len(table), device=network.device)
        self.acts = self.arena.view(network.act_type)
        config = network.config
        self.image = torch.zeros(
            (self.count, job.height, job.width, config.channels), dtype=torch.uint8, device=network.device
        )
        latent = np.zeros((self.count, 0), np.float32) if z is None else z @ network.tables.latent
        self.latents, self.latent = latent.shape[1], put(latent)
        maps = np.zeros((1, 1, 1, 1), np.float32) if maps is None else maps.transpose(0, 2, 3, 1)
        self.map_size, self.maps = maps.shape[1:3], put(maps)
        self.axes, self.scale = (put(y_axis), put(x_axis)), put(np.float32([scale]))
        self.numbers = put(numbers.astype(np.uint32).view(np.int32))
        self.seed, self.temperature = put(np.uint64([job.seed]).view(np.int64)), put(np.float32([job.temperature]))
        self.wave = torch.zeros(1, dtype=torch.int32, device=network.device)
        everything = range(len(table))
        self.work = {"top": self.work_of(everything), "interior": self.work_of(everything[-2:])}

    def work_of(self, programs) -> dict:
        """What each launch of a wave does, for some of the programs: tables of `kernels.inputs`, `ahead` and `steps`."""
        tables, blocks, put = self.network.tables, self.network.blocks, self.network.put

        def tiles(program: int, of: int) -> np.ndarray:
            return np.arange(self.table[program, 1] // of)

        def product(numbers, tiles) -> np.ndarray:
            """Every pair, tile by tile: neighbours read the same windows."""
            return np.stack(np.meshgrid(tiles, numbers, indexing="ij"), axis=-1).reshape(-1, 2)[:, ::-1]

        entries = [product(np.flatnonzero(tables.inputs[:, 0] == p), tiles(p, blocks.lanes)) for p in programs]
        ahead = []
        for channels, gated, groups in tables.stages:
            items = [np.insert(product(groups[p], tiles(p, blocks.lanes)), 0, p, axis=1) for p in programs]
            ahead.append((channels, gated, put(np.concatenate(items).astype(np.int32)), sum(map(len, items))))
        steps = [
            product([p], np.arange(-(-self.table[p, 2] // blocks.step_lanes))) for p in programs if self.table[p, 1]
        ]
        entries, steps = (np.concatenate(items).astype(np.int32) for items in (entries, steps))
        return {"inputs": (put(entries), len(entries)), "ahead": ahead, "steps": (put(steps), len(steps))}

    def launch(self, work: dict, draw: bool = True, after: Callable[[str, int], None] | None = None) -> None:
        """One wave: the one that `self.wave` counts.

        Args:
            work: of `work_of`.
            draw: False leaves the image as it is.
            after: for tests, called with a launch's kind and number.
        """
        network, blocks, config, job = self.network, self.network.blocks, self.network.config, self.job
        m, c, d = config.patch, config.channels, config.place_inputs
        count, size = self.count, (job.height, job.width)
        table, entries = work["inputs"]
        kernels.inputs[(entries,)](
            table, network.inputs, self.programs, self.arena, self.image, self.maps, *self.axes, self.scale, self.wave,
            self.blocks, count, *size, *self.map_size,
            M=m, C=c, D=d, DP=max(power_of_two(d), ALIGN), LANES=blocks.lanes, num_warps=blocks.warps,
        )  # fmt: skip
        if after:
            after("inputs", 0)
        columns, dot = network.tables.columns, {"PRECISION": network.dot, "RAW_PRECISION": network.raw_dot}
        for stage, (channels, gated, table, items) in enumerate(work["ahead"]):
            if items:
                kernels.ahead[(items, -(-channels // columns))](
                    table, self.programs, network.ahead[0], network.operations, *network.ahead[1:], self.arena, self.acts,
                    network.act_weights, network.raw_weights, network.bias, self.latent, self.latents, self.wave,
                    self.blocks, count, job.width, channels,
                    M=m, GATED=gated, LANES=blocks.lanes, PLACES=blocks.places, COLUMNS=columns, ACT_K=network.tables.act_k,
                    SCALE=network.scale, **dot, STAGES=blocks.stages, num_warps=blocks.warps, num_stages=blocks.stages,
                )  # fmt: skip
            if after:
                after("ahead", stage)
        table, items = work["steps"]
        kernels.steps[(items,)](
            table, self.programs, network.first_part, network.parts, network.step_pixels, network.steps[0], network.operations,
            *network.steps[1:], self.arena, self.acts, network.act_weights, network.raw_weights, self.image, self.numbers,
            self.seed, self.temperature, self.wave, self.blocks, count, *size,
            M=m, MP=power_of_two(m), C=c, MIXTURES=config.mixtures, MIXTURES_P=power_of_two(config.mixtures), MAP=job.map,
            DRAW=draw, LANES=blocks.step_lanes, PLACES=blocks.step_places, COLUMNS=columns, ACT_K=network.tables.act_k,
            SCALE=network.scale, **dot, num_warps=blocks.step_warps, num_stages=1,
        )  # fmt: skip
        if after:
            after("steps", 0)
        self.wave += 1

    def draw(self, progress: Callable[[int], None] | None, reports: int) -> None:
        """Draw all waves; `progress` is called at most so many times with the pixels drawn since its last call."""
        if self.arena.is_cuda:
            with torch.cuda.device(self.arena.device):
                self._draw(self.captured, progress, reports)
        else:
            self._draw(lambda work: lambda: self.launch(work), progress, reports)

    def captured(self, work: dict) -> Callable[[], None]:
        """One wave as a CUDA graph; its first call runs it without, which compiles the kernels."""
        graph = None

        def run() -> None:
            nonlocal graph
            if graph is None:
                self.launch(work)
                torch.cuda.synchronize()
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph):
                    self.launch(work)
            else:
                graph.replay()

        return run

    def _draw(self, runner, progress, reports: int) -> None:
        run = {name: runner(work) for name, work in self.work.items()}
        every = max(1, self.waves // reports)
        drawn = 0
        for wave in range(self.waves):
            run["top" if wave < self.top_waves else "interior"]()
            drawn += self.pixels_of(wave)
            if (wave + 1) % every == 0 or wave + 1 == self.waves:
                if self.arena.is_cuda:
                    torch.cuda.synchronize()
                if progress:
                    progress(drawn)
                drawn = 0

    def pixels_of(self, wave: int) -> int:
        """Pixels of all images that a wave draws."""
        rows = np.arange(max(0, wave - self.blocks + 1), min(self.job.height - 1, wave) + 1)
        begin = (wave - rows) * self.network.config.patch
        return int(np.minimum(self.job.width - begin, self.network.config.patch).sum()) * self.count

    def pixels(self) -> np.ndarray:
        """What has been drawn, uint8 [N, H, W, C]."""
        return self.image.cpu().numpy()
