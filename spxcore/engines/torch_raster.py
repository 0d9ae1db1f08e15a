"""Whole images in torch by the raster schedule: every place of the plan is computed once, and kept.

Before a row, all images at once and stage by stage: the places that depend on rows above and that the row above did not need; then, of
the places that the row needs pixel by pixel, the taps on rows above. After a pixel: the rest of those places whose latest pixel it is.
A row whose pixels are all given is one such step.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..canvas import Canvas
from ..drawing import Job
from ..feeds import Planes
from ..graph import channels_seen
from ..plan import Stage, plan_at
from ..plan.plan import BLOCK, PLACE, ROW, SOURCE
from ..plan.reach import first_rows, latest_pixel
from ..walk.module import tanh_gate
from ..walk.network import Network
from .base import Report

# A value as it is seen: its name, and one of `spxcore.graph.FORMS`.
Seen = tuple[str, str]


@dataclass(frozen=True)
class Gather:
    """Taps of some places on one value, as one matrix product.

    Attributes:
        seen: what is read.
        index: int64 [P, K], places of the value; its number of places stands for a tap outside the map.
        weights: float32 [K inputs, outputs].
    """

    seen: Seen
    index: Tensor
    weights: Tensor


@dataclass(frozen=True)
class Part:
    """Places of a stage that have the same phase and are computed in the same row, in the order of their latest pixels.

    Attributes:
        stage: whose.
        places: int64 [P].
        bias: float32 [P, outputs].
        ahead: taps that are known before the row.
        now: taps on the row; none for places that are computed before it.
        pixels: for each column of the row, which of the places its pixel is the latest of.
    """

    stage: Stage
    places: Tensor
    bias: Tensor
    ahead: tuple[Gather, ...]
    now: tuple[Gather, ...] = ()
    pixels: dict[int, slice] | None = None


@dataclass(frozen=True)
class Row:
    """What a row takes, each in the order of the stages.

    Attributes:
        before: computed before it.
        within: computed pixel by pixel.
    """

    before: list[Part]
    within: list[Part]

    @cached_property
    def after(self) -> dict[int, list[tuple[Part, slice]]]:
        """What is computed after the pixel of a column."""
        result: dict[int, list[tuple[Part, slice]]] = {}
        for part in self.within:
            for column, places in (part.pixels or {}).items():
                result.setdefault(column, []).append((part, places))
        return result


class WholeNetwork:
    """A network at a size of whole images, lowered to gathers and matrix products.

    Args:
        network: what is lowered; it is not kept.
        height, width: of the images.
        device: of its weights.
    """

    def __init__(self, network: Network, height: int, width: int, device: torch.device):
        graph = network.graph
        self.size, self.device = (height, width), device
        self.plan = plan_at(graph, height, width, fold=False).cone(range(height * width))
        self.latest, self.first = latest_pixel(self.plan), first_rows(graph, height, width)
        self.period = {stage.output: max(read.taps.period for read in stage.reads) for stage in graph.stages}
        self.codes = {stage.output: self.tensor(stage.code) for stage in self.plan.stages if stage.code is not None}
        self.seen: dict[str, set[str]] = {self.plan.output: {"raw"}}
        for stage in self.plan.stages:
            for source in stage.sources:
                self.seen.setdefault(source.value, set()).add(source.form)
            if stage.residual is not None:
                self.seen.setdefault(stage.residual, set()).add("raw")
        self.rows = [Row([], []) for _ in range(height)]
        weights: dict[bytes, Tensor] = {}
        for stage in self.plan.stages:
            self._lower(stage, weights)

    @property
    def bytes_an_image(self) -> int:
        """Of the activations that are kept."""
        values = self.plan.values
        return sum(
            4 * values[name].places * channels_seen(form, values[name].channels)
            for name, forms in self.seen.items()
            for form in forms
        )

    def tensor(self, array: np.ndarray) -> Tensor:
        """An array on the device."""
        return torch.as_tensor(np.ascontiguousarray(array), device=self.device)

    def _lower(self, stage: Stage, weights: dict[bytes, Tensor]) -> None:
        """Add a stage's parts to the rows. weights: what an earlier part has too."""
        width, latest = self.plan.values[stage.output].width, self.latest[stage.output][stage.places]
        row, first = latest // self.plan.width, self.first[stage.output][stage.places // width]
        within, period = row == first, self.period[stage.output]
        y, x = np.divmod(stage.places, width)
        key = np.stack([np.where(within, row, row + 1), within, y % period, x % period], axis=1)
        order = np.lexsort((stage.places, latest, *key.T[::-1]))
        for some in np.split(order, np.flatnonzero((np.diff(key[order], axis=0) != 0).any(axis=1)) + 1):
            number, here, *_ = key[some[0]].tolist()
            position = np.full(len(stage.places), -1)
            position[some] = np.arange(len(some))
            taps = stage.taps[position[stage.taps[:, ROW]] >= 0]
            taps = np.concatenate([position[taps[:, ROW], None], taps[:, 1:]], axis=1)
            known = np.ones(len(taps), bool)
            if here:
                for index, source in enumerate(stage.sources):
                    mine = taps[:, SOURCE] == index
                    known[mine] = self.latest[source.value][taps[mine, PLACE]] < number * self.plan.width
            ahead, now = (tuple(self._gathers(stage, taps[kind], len(some), weights)) for kind in (known, ~known))
            bias = self.tensor(stage.bias[stage.bias_row[some]])
            places = self.tensor(stage.places[some].astype(np.int64))
            if not here:
                self.rows[number].before.append(Part(stage, places, bias, ahead))
                continue
            columns, starts = np.unique(latest[some] - number * self.plan.width, return_index=True)
            ends = [*starts[1:].tolist(), len(some)]
            pixels = {int(c): slice(int(a), b) for c, a, b in zip(columns, starts, ends)}
            self.rows[number].within.append(Part(stage, places, bias, ahead, now, pixels))

    def _gathers(self, stage: Stage, taps: np.ndarray, count: int, weights: dict[bytes, Tensor]) -> Iterator[Gather]:
        for index, source in enumerate(stage.sources):
            mine = taps[taps[:, SOURCE] == index]
            if not len(mine):
                continue
            blocks = np.unique(mine[:, BLOCK])
            places = np.full((count, len(blocks)), self.plan.values[source.value].places)
            places[mine[:, ROW], np.searchsorted(blocks, mine[:, BLOCK])] = mine[:, PLACE]
            key = f"{stage.output} {index} ".encode() + blocks.tobytes()
            if key not in weights:
                weights[key] = self.tensor(source.weights[blocks].reshape(-1, source.weights.shape[2]))
            yield Gather((source.value, source.form), self.tensor(places), weights[key])


def compiled(known: weakref.WeakKeyDictionary[Network, WholeNetwork], job: Job, device: torch.device) -> WholeNetwork:
    """A job's network at its size; the latest size of each network is remembered in `known`."""
    network, size = job.evaluated, (job.height, job.width)
    if network not in known or known[network].size != size:
        known[network] = WholeNetwork(network, *size, device)
    return known[network]


class Activations:
    """What is known of some images of a job while they are drawn. A place that is not computed yet is NaN.

    Args:
        network: the job's.
        job, canvas: what is drawn.
        images: [n] indices into the job's images.
    """

    def __init__(self, network: WholeNetwork, job: Job, canvas: Canvas, images: np.ndarray):
        self.network, self.job, self.canvas, self.images = network, job, canvas, images
        n, values = len(images), network.plan.values
        self.values: dict[Seen, Tensor] = {}
        for name, forms in network.seen.items():
            for form in forms:
                shape = n, values[name].places + 1, channels_seen(form, values[name].channels)
                kept = torch.full(shape, torch.nan, device=network.device)
                kept[:, -1] = 0  # outside the map
                self.values[name, form] = kept
        self.codes: dict[str, Tensor] = {}
        if job.code is not None:
            z = network.tensor(job.code[images])
            self.codes = {name: (z @ code)[:, None] for name, code in network.codes.items()}
        (self.input,) = network.plan.drawn
        self.table = network.tensor(job.drawn.table)
        for name, feed in job.feeds.items():
            if isinstance(feed, Planes) and name in network.seen:
                array = feed.array[images] if len(feed.array) > 1 else np.repeat(feed.array, n, axis=0)
                whole = torch.arange(values[name].places, device=network.device)
                self._keep(name, whole, network.tensor(array).flatten(1, 2))

    def draw(self, put: Callable[..., None], report: Report | None) -> None:
        """Draw them. put: `Torch.put`."""
        height, width = self.network.size
        columns, n, canvas = np.arange(width), len(self.images), self.canvas
        for r in range(height):
            row, after = self.network.rows[r], self.network.rows[r].after
            for part in row.before:
                self._finish(part, self._ahead(part), slice(None))
            sums = {id(part): self._ahead(part) for part in row.within}
            given = np.all([canvas.is_given(i, r, columns) for i in self.images], axis=0)
            # A row whose pixels are all given is seen at once.
            for some in [columns] if given.all() else np.split(columns, width):
                if given.all():
                    self._see(r, some)
                    for part in row.within:
                        self._finish(part, sums[id(part)], slice(None))
                if not given[some].all() or canvas.params is not None:
                    put(self.job, canvas, self.images, np.full_like(some, r), some, self._params(r, some))
                if not given.all():
                    self._see(r, some)
                    for part, places in after.get(int(some[0]), ()):
                        self._finish(part, sums[id(part)], places)
                canvas.finished[self.images] = r + (some[-1] == width - 1)
                if report:
                    report(n * len(some))

    def _see(self, r: int, columns: np.ndarray) -> None:
        """Pixels (r, c) are drawn."""
        levels = self.canvas.pixels[self.images, r][:, columns].astype(np.int64)
        seen = self.table[self.network.tensor(levels)].flatten(2)
        self._keep(self.input, self.network.tensor(r * self.job.width + columns), seen)

    def _params(self, r: int, columns: np.ndarray) -> np.ndarray:
        """Parameters of pixels (r, c), float32 [n * R, P]."""
        first, last = (r * self.job.width + int(c) for c in (columns[0], columns[-1]))
        return self.values[self.network.plan.output, "raw"][:, first : last + 1].flatten(0, 1).cpu().numpy()

    def _ahead(self, part: Part) -> Tensor:
        """What is known of a part's sums before the row, [n, P, outputs]."""
        total = part.bias.repeat(len(self.images), 1, 1)
        if part.stage.output in self.codes:
            total += self.codes[part.stage.output]
        return self._add(total, part.ahead, slice(None))

    def _add(self, total: Tensor, gathers: tuple[Gather, ...], places: slice) -> Tensor:
        """Add taps to sums [n, P, outputs]."""
        for gather in gathers:
            index = gather.index[places]
            seen = self.values[gather.seen].index_select(1, index.flatten())
            total = total + (seen.view(-1, len(gather.weights)) @ gather.weights).view(total.shape)
        return total

    def _finish(self, part: Part, sums: Tensor, some: slice) -> None:
        """Compute some of a part's places."""
        stage, places = part.stage, part.places[some]
        total = self._add(sums[:, some], part.now, some)
        if stage.gate == "sigmoid":
            a, b = total.chunk(2, dim=2)
            total = a * torch.sigmoid(b)
        if stage.residual is not None:
            total = self.values[stage.residual, "raw"].index_select(1, places) + total
        self._keep(stage.output, places, total)

    def _keep(self, name: str, places: Tensor, value: Tensor) -> None:
        """Places of a value are known: [n, P, channels]."""
        for form in self.network.seen.get(name, ()):
            self.values[name, form].index_copy_(1, places, seen_as(value, form))


def seen_as(x: Tensor, form: str) -> Tensor:
    """What a tap sees of a value [..., channels]: see `spxcore.graph.FORMS`."""
    if form == "raw":
        return x
    if form == "relu":
        return F.relu(x)
    if form == "tanh_gate":
        return tanh_gate(x, -1)
    return F.elu(x if form == "elu" else torch.cat([x, -x], dim=-1))
