"""Launches the kernels of `raster`: a network at a size on a device, and a batch of images that is drawn with it, row by row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from itertools import pairwise

import numpy as np
import torch

from ..errors import require
from ..lower.job import NativeJob
from ..lower.packing import code_numbers, round_tf32
from ..lower.tables import columns_of
from . import raster as kernels
from .launch import Batch, FeedShape, HeadShape, Launch, Tile, most_images, power_of_two, put
from .raster_tables import RasterLayout, RowWork
from .tables import ALIGN, JOB
from .tuning import Blocks


class RasterOnDevice:
    """A network's raster schedule on a device.

    Args:
        layout: see `RasterLayout`.
        blocks: how work is cut up.
        precision: "fp32", "tf32x3" or "tf32".
        device: where.
    """

    def __init__(self, layout: RasterLayout, blocks: Blocks, precision: str, device: torch.device):
        self.layout, self.blocks, self.device = layout, blocks, device
        self.precision = {"fp32": "ieee"}.get(precision, precision)
        # Tensor cores cut fp32 numbers to tf32, so weights are rounded here; what they are multiplied with, in the kernel.
        weights = round_tf32(layout.weights).view(np.float32) if precision == "tf32" else layout.weights
        self.weights, self.bias = self.put(weights), self.put(layout.bias)
        self.places, self.pieces, self.biases = (
            self.put(table.view(np.int32)) for table in (layout.places, layout.pieces, layout.biases)
        )
        self.spots, self.addresses = (
            {name: self.put(table[name].astype(np.int64)) for name in columns_of(table.dtype)}
            for table in (layout.spots, layout.addresses)
        )

    def put(self, array: np.ndarray) -> torch.Tensor:
        """See `launch.put`."""
        return put(array, self.device)

    def images(self, job: NativeJob, piece: slice, poison: bool = False) -> RasterImages:
        """Some of a job's images, about to be drawn."""
        return RasterImages(self, job, piece, poison)

    def images_together(self, job: NativeJob, memory: int) -> int:
        """How many of the job's images to draw at once. memory: bytes."""
        kept = 0 if job.params is None else job.params.shape[3]

        def needed(images: int) -> int:
            return 4 * images * (self.layout.rows + job.height * job.width * kept)

        return most_images(len(job.images), needed, memory, job, "rows")


class RasterImages(Batch):
    """Whole images in the making.

    Args:
        network: on the device.
        job: what to draw.
        piece: which of its images.
        poison: fill new memory with NaN, which must change nothing.
    """

    def __init__(self, network: RasterOnDevice, job: NativeJob, piece: slice, poison: bool = False):
        put, layout, blocks = network.put, network.layout, network.blocks
        self.network, self.job, self.piece = network, job, piece
        self.count = len(job.images[piece])
        self.memory = torch.full((layout.rows * self.count,), float("nan") if poison else 0.0, device=network.device)
        self.image = put(job.pixels[piece])
        self.kept = put(np.zeros(0, np.float32) if job.params is None else job.params[piece])
        self.code = put(code_numbers(None if job.code is None else job.code[piece], layout.code, self.count))
        self.seen = put(job.table)
        self.row = self._row()
        self.row_in_work = self.row[columns_of(JOB).index("wave")]  # a view: kernels see what is written to it
        self.spots = torch.zeros(len(layout.spots), dtype=torch.int32, device=network.device)
        self.sources = torch.zeros(max(1, len(layout.pieces)), dtype=torch.int32, device=network.device)
        self.results = torch.zeros(3 * len(layout.places), dtype=torch.int32, device=network.device)
        c, e, rings = job.pixels.shape[3], job.table.shape[1], layout.tables.rings
        pixel = int(rings["channels"][layout.tables.pixels])
        require(c * e == pixel, "pixels", f"{pixel} numbers each, as the network sees them", f"{c} times {e}")
        self.feed = FeedShape(c, e, 0, 0, max(power_of_two(c * e), ALIGN), ALIGN, 1)
        self.head = HeadShape.of(job.head, job.mode)
        self.tile, self.step_tile = (
            Tile(min(rows, lanes), max(1, rows // lanes), blocks.stages, layout.columns, 0, network.precision, "", 1, layout.single, False)
            for rows in (blocks.rows, blocks.step_rows)
            for lanes in (power_of_two(self.count),)
        )  # fmt: skip
        self.drawn, self.is_given = self._what_is_drawn()
        self.planes = {
            ring: (put(plane if len(plane) == 1 else plane[piece]), self._ring(ring))
            for ring, plane in zip(layout.tables.planes.tolist(), job.planes)
        }
        for plane, ring in self.planes.values():
            ring[..., plane.shape[3] :] = 0.0

    def _row(self) -> torch.Tensor:
        """The row of `JOB`, and the images' numbers."""
        job, row = self.job, np.zeros(1, JOB)
        row["images"], row["height"], row["width"] = self.count, job.height, job.width
        row["numbers"], row["code"] = len(columns_of(JOB)), self.network.layout.code.shape[1]
        row["seed_low"], row["seed_high"], row["draw"] = job.seed & 0xFFFFFFFF, job.seed >> 32, job.draw
        row["temperature"] = job.temperature
        return self.network.put(
            np.concatenate([row.view(np.int32), job.images[self.piece].astype(np.uint32).view(np.int32)])
        )

    def _what_is_drawn(self) -> tuple[torch.Tensor | None, np.ndarray]:
        """uint8 [N, H, W] on the device, 1 where a pixel is drawn, None if that is everywhere; and whether each row is given, bool [H]."""
        job = self.job
        if job.given is None:
            return None, np.zeros(job.height, bool)
        given = job.given if len(job.given) == 1 else job.given[self.piece]
        given = np.broadcast_to(given, (self.count, job.height, job.width))
        return self.network.put((~given).astype(np.uint8)), np.asarray(given.all(axis=(0, 2)))

    def _ring(self, number: int) -> torch.Tensor:
        """A ring's rows, [depth, W, N, numbers]."""
        layout = self.network.layout
        (first, width), ring = layout.rings[number].tolist(), layout.tables.rings[number]
        shape = int(ring["depth"]), int(ring["width"]), self.count, width
        return self.memory[first * self.count :][: int(np.prod(shape))].view(shape)

    def begin(self, row: int) -> None:
        """What a row begins with: addresses, and the inputs besides the pixels."""
        network, tables = self.network, self.network.layout.tables
        base = row // tables.period
        self.row_in_work.fill_(row)
        self.spots.copy_(resolved(network.spots, row))
        addresses = resolved(network.addresses, base)
        self.sources[: len(network.layout.pieces)] = addresses[: len(network.layout.pieces)]
        self.results.copy_(addresses[len(network.layout.pieces) :])
        kind = tables.kinds[tables.rows[row]]
        for load in tables.loads[kind["load"] : kind["load_end"]]:
            (plane, ring), of = self.planes[int(load["ring"])], tables.rings[load["ring"]]
            y = int(load["row"]) + base * int(of["rise"])
            ring[y % len(ring), :, :, : plane.shape[3]] = plane[:, y].transpose(0, 1)

    def work(self, kind: int) -> tuple[RowWork, torch.Tensor]:
        """What a kind of row runs, and its items on the device."""
        work = self.network.layout.work(kind, self.tile.places)
        return work, self.network.put(work.items.view(np.int32))

    def launches(
        self, work: RowWork, items: torch.Tensor, is_given: bool, draw: bool = True
    ) -> Iterator[tuple[str, int]]:
        """Launch a row; yields after each launch what it was: "ahead" or "late" and the stage, or "pixels" and the column.

        Args:
            work, items: of its kind.
            is_given: all of its pixels are given.
            draw: False leaves the image as it is.
        """
        width, keep = self.job.width, self.job.params is not None
        for run in work.ahead.tolist():
            yield self._places(items, run, False, self.tile)
        if is_given:
            yield self._pixels(0, width, see=True)
            for run in work.whole.tolist():
                yield self._places(items, run, True, self.tile)
            if keep:
                yield self._pixels(0, width, keep=True)
            return
        for column, (begin, end) in enumerate(pairwise(work.begins.tolist())):
            for run in work.steps[begin:end].tolist():
                yield self._places(items, run, True, self.step_tile)
            if column < width:
                yield self._pixels(column, 1, keep, draw, True)

    def _places(self, items: torch.Tensor, run: list[int], late: bool, tile: Tile) -> tuple[str, int]:
        """One launch of `places`."""
        network, blocks, (number, begin, end) = self.network, self.network.blocks, run
        stage = network.layout.stages[number]
        grid = end - begin, -(-stage.channels // network.layout.columns), -(-self.count // tile.lanes)
        # No multiply-add is fused that the source does not fuse, as in the native engines; products are fused all the same.
        kernels.places[grid](
            begin, items, network.places, network.pieces, self.sources, self.results, network.biases, self.memory, network.weights,
            network.bias, self.code, self.row, LATE=late, GATED=stage.gated, OF_PAIRS=stage.of_pairs,
            TILE=replace(tile, pair_k=stage.inputs), enable_fp_fusion=False, num_warps=blocks.warps, num_stages=tile.stages,
        )  # fmt: skip
        return "late" if late else "ahead", number

    def _pixels(
        self, first: int, count: int, keep: bool = False, draw: bool = False, see: bool = False
    ) -> tuple[str, int]:
        """One launch of `pixels`."""
        drawn = self.image if self.drawn is None else self.drawn
        kernels.pixels[count, -(-self.count // self.step_tile.lanes)](
            first, self.row, self.spots, self.memory, self.image, self.seen, drawn, self.kept, KEEP=keep, DRAW=draw, SEE=see,
            GIVEN=self.drawn is not None, TILE=self.step_tile, FEED=self.feed, HEAD=self.head, enable_fp_fusion=False, num_warps=1,
        )  # fmt: skip
        return "pixels", first

    def launch(self, work: RowWork, items: torch.Tensor, is_given: bool) -> None:
        """One row."""
        for _ in self.launches(work, items, is_given):
            pass

    def _draw(self, runner: Callable[[Launch], Launch], report: Callable[[int], None] | None, reports: int) -> None:
        height, rows = self.job.height, self.network.layout.tables.rows.tolist()
        work = cache(self.work)
        run = cache(lambda kind, is_given: runner(partial(self.launch, *work(kind), is_given)))
        every, complete, told = max(1, height // reports), 0, 0
        try:
            for row in range(height):
                self.begin(row)
                run(rows[row], bool(self.is_given[row]))()
                complete = row + 1
                if complete % every == 0 and complete < height:
                    self.put_rows(complete, complete)
                    if report:
                        report((complete - told) * self.job.width * self.count)
                    told = complete
        finally:
            self.put_rows(complete, complete)
        if report:
            report((complete - told) * self.job.width * self.count)


def resolved(addresses: dict[str, torch.Tensor], base: int) -> torch.Tensor:
    """Columns of `ADDRESS` -> the arena rows, in ALIGN; base: B."""
    row = addresses["row"] + base * addresses["rise"]
    return addresses["first"] + torch.remainder(row, addresses["depth"]) * addresses["line"]
