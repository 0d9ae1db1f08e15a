"""The plan: what one network computes at one size, as data.

A plan is a list of stages. A stage computes some *places* of one value as a sum of *taps*: source value at a source place, through a
form, times a weight block. A stride, a transposed convolution or an auxiliary 1x1 input is just another list of taps, and padding is a
missing one, so a few lines execute every layer (`execute`). No torch here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

# Columns of Stage.taps.
ROW, SOURCE, PLACE, BLOCK = range(4)


@dataclass(frozen=True)
class Value:
    """One activation map.

    Attributes:
        height, width: places down and across; place (y, x) has number y * width + x.
        channels: numbers a place.
    """

    height: int
    width: int
    channels: int

    @property
    def places(self) -> int:
        """Places of the whole map."""
        return self.height * self.width


@dataclass(frozen=True)
class Source:
    """Something a stage reads.

    Attributes:
        value: its name.
        form: one of `spxcore.graph.FORMS`.
        weights: float32 [blocks, inputs, outputs]; inputs: see `spxcore.graph.channels_seen`.
    """

    value: str
    form: str
    weights: np.ndarray


@dataclass(frozen=True)
class Stage:
    """Computes places of one value: bias, the code's part and the sum of the taps; then the gate; then the residual is added.

    Attributes:
        name: of the layer, as the checkpoint has it.
        output: name of the value it computes.
        sources: what it reads.
        places: int [P], the places it computes.
        taps: int [T, 4], sorted by the first column: row of `places`, index into `sources`, place of the source, weight block.
        bias: float32 [R, outputs].
        bias_row: int [P], row of `bias` that each place starts from.
        code: float32 [Z, outputs], multiplied by the code z, or None.
        gate: one of `spxcore.graph.GATES`.
        residual: name of a value that is added at the end, or None.
    """

    name: str
    output: str
    sources: tuple[Source, ...]
    places: np.ndarray
    taps: np.ndarray
    bias: np.ndarray
    bias_row: np.ndarray
    code: np.ndarray | None = None
    gate: str = "none"
    residual: str | None = None

    @property
    def outputs(self) -> int:
        """Numbers summed at a place: the output's channels, twice as many before a gate."""
        return self.bias.shape[1]

    def tap_macs(self) -> np.ndarray:
        """Multiply-adds of each tap, int [T]."""
        inputs = np.array([source.weights.shape[1] for source in self.sources], np.int64)
        return inputs[self.taps[:, SOURCE]] * self.outputs

    def keep(self, rows: np.ndarray) -> Stage:
        """The same stage for some of its places. rows: bool [P]."""
        taps = self.taps[rows[self.taps[:, ROW]]]
        taps[:, ROW] = (np.cumsum(rows) - 1)[taps[:, ROW]]
        return replace(self, places=self.places[rows], taps=taps, bias_row=self.bias_row[rows])


@dataclass(frozen=True)
class Plan:
    """Stages in the order they run.

    Attributes:
        height, width: of the image or window, in pixels.
        code: Z, length of the code; 0 without.
        values: every value by name.
        inputs: names of the values that are given.
        drawn: names of the inputs that drawn pixels fill, one a moment; empty for a network that draws nothing.
        output: name of the value that the network computes.
        stages: see `Stage`.
    """

    height: int
    width: int
    code: int
    values: dict[str, Value]
    inputs: tuple[str, ...]
    drawn: tuple[str, ...]
    output: str
    stages: tuple[Stage, ...]

    def needed(self, targets: Iterable[int]) -> dict[str, np.ndarray]:
        """The cone: for each value which places the output's places `targets` depend on, bool [places]."""
        need = {name: np.zeros(value.places, bool) for name, value in self.values.items()}
        need[self.output][list(targets)] = True
        for stage in reversed(self.stages):
            wanted = need[stage.output][stage.places]
            taps = stage.taps[wanted[stage.taps[:, ROW]]]
            for index, source in enumerate(stage.sources):
                need[source.value][taps[taps[:, SOURCE] == index, PLACE]] = True
            if stage.residual is not None:
                need[stage.residual][stage.places[wanted]] = True
        return need

    def cone(self, targets: Iterable[int]) -> Plan:
        """The plan that computes only what the output's places `targets` (numbers y * width + x) depend on."""
        need = self.needed(targets)
        stages = (stage.keep(need[stage.output][stage.places]) for stage in self.stages)
        return replace(self, stages=tuple(stage for stage in stages if len(stage.places)))

    def dependencies(self) -> dict[str, np.ndarray]:
        """For each value, whether each place depends on each drawn pixel: bool [places, pixels]."""
        pixels = self.height * self.width
        depends = {name: np.zeros((value.places, pixels), bool) for name, value in self.values.items()}
        depends |= {name: np.eye(pixels, dtype=bool) for name in self.drawn}
        for stage in self.stages:
            out = np.zeros((len(stage.places), pixels), bool)
            for index, source in enumerate(stage.sources):
                taps = stage.taps[stage.taps[:, SOURCE] == index]
                if len(taps):
                    rows, first = np.unique(taps[:, ROW], return_index=True)
                    out[rows] |= np.logical_or.reduceat(depends[source.value][taps[:, PLACE]], first, axis=0)
            if stage.residual is not None:
                out |= depends[stage.residual][stage.places]
            depends[stage.output][stage.places] = out
        return depends

    @cached_property
    def leads_to(self) -> dict[str, np.ndarray]:
        """For each value, whether each of the output's places depends on each place: bool [places, places of the output]."""
        count = self.values[self.output].places
        leads = {name: np.zeros((value.places, count), bool) for name, value in self.values.items()}
        leads[self.output] = np.eye(count, dtype=bool)
        for stage in reversed(self.stages):
            out = leads[stage.output][stage.places]
            for index, source in enumerate(stage.sources):
                taps = stage.taps[stage.taps[:, SOURCE] == index]
                if len(taps):
                    taps = taps[np.argsort(taps[:, PLACE], kind="stable")]
                    places, first = np.unique(taps[:, PLACE], return_index=True)
                    leads[source.value][places] |= np.logical_or.reduceat(out[taps[:, ROW]], first, axis=0)
            if stage.residual is not None:
                leads[stage.residual][stage.places] |= out
        return leads

    def macs(self) -> int:
        """Multiply-adds of all stages."""
        return sum(int(stage.tap_macs().sum()) for stage in self.stages)


def shared_rows(bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Biases [P, outputs] as different rows [R, outputs] and the number of each place's, int32 [P]."""
    rows, bias_row = np.unique(bias, axis=0, return_inverse=True)
    return rows, bias_row.reshape(-1).astype(np.int32)
