"""A program's memory: an arena of rows. Buffers share rows when their lives do not overlap.

A row holds one number of each window that runs side by side. A value has up to four buffers: its
places computed ahead and those computed in steps, each as it is and activated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..plan.plan import PLACE, SOURCE, Plan, Stage
from .tables import FORM_GATED, FORM_PAIRS, FORM_RAW


def numbers_of(channels: int, form: int) -> int:
    """Numbers of a place of a value with so many channels, in a form that is kept."""
    return {FORM_PAIRS: 2 * channels, FORM_GATED: channels // 2}.get(form, channels)


@dataclass
class Buffer:
    """Rows of the arena that hold something from time `start` to `end`."""

    rows: int
    start: int
    end: int
    first: int = -1


def place_buffers(buffers: Sequence[Buffer]) -> int:
    """Give each buffer its first row, the lowest that is free for its whole life; returns the rows needed."""
    placed: list[Buffer] = []
    for buffer in sorted(buffers, key=lambda b: (b.start, -b.rows)):
        others = [b for b in placed if b.start <= buffer.end and buffer.start <= b.end]
        at = 0
        for other in sorted(others, key=lambda b: b.first):
            if other.first - at >= buffer.rows:
                break
            at = max(at, other.first + other.rows)
        buffer.first = at
        placed.append(buffer)
    return max((b.first + b.rows for b in placed), default=0)


class Arena:
    """Where everything of one program lies.

    Args:
        plan: the whole network.
        stages: those of the program, with the places it computes.
        steps: for each value and place: -1 if it is computed ahead, else the step that computes it; -2 if nobody needs it.
        targets: places of the output.
        activations: for each value that is read activated, the form that is kept (`FORM_PAIRS`, `FORM_RELU`, `FORM_GATED`).
        align: every place starts at a multiple of this many rows.
        pairs_in_one: a pair that is computed ahead takes one row (as two bf16) instead of two.

    Attributes:
        rows: of the whole arena.
    """

    def __init__(
        self, plan: Plan, stages: Sequence[Stage], steps: dict[str, np.ndarray], targets: Sequence[int],
        activations: dict[str, int], align: int = 1, pairs_in_one: bool = False,
    ):  # fmt: skip
        self.plan, self.stages, self.steps, self.targets = plan, stages, steps, targets
        self.activations, self.align, self.pairs_in_one = activations, align, pairs_in_one
        self._buffers = self._allocate()
        self.rows = place_buffers(list(self._buffers.values()))
        self._first = self._addresses()

    def numbers(self, value: str, activated: bool) -> int:
        """Numbers of one place, of a value as it is or activated."""
        return numbers_of(self.plan.values[value].channels, self.activations[value] if activated else FORM_RAW)

    def aligned(self, numbers: int) -> int:
        """Rows that a place of this many numbers takes."""
        return -(-numbers // self.align) * self.align

    def _width(self, value: str, activated: bool, of_steps: bool) -> int:
        """Rows of one place, which a step computes or the ahead part."""
        in_one = activated and self.pairs_in_one and not of_steps and self.activations[value] == FORM_PAIRS
        return self.aligned(self.plan.values[value].channels if in_one else self.numbers(value, activated))

    def _allocate(self) -> dict[tuple[str, bool | None, bool], Buffer]:
        """Every buffer with its life; stage numbers are the clock, and the steps come after the last one.

        Keys are (value, activated, whether it holds the places of the steps), and (stage, None, True) for partial sums.
        """
        end = len(self.stages)
        written = dict.fromkeys(self.plan.inputs, 0) | {stage.output: n for n, stage in enumerate(self.stages)}
        buffers: dict[tuple[str, bool | None, bool], Buffer] = {}

        def read(value: str, activated: bool, places: np.ndarray, time: int) -> None:
            """A stage reads these places of a value, in the ahead part at `time` if it can."""
            late = self.steps[value] >= 0
            reads = late[places]
            for of_steps in (False, True):
                if not (reads == of_steps).any():
                    continue
                key = (value, activated, of_steps)
                if key not in buffers:
                    held = int(((self.steps[value] > -2) & (late == of_steps)).sum())
                    start = end if of_steps and value not in self.plan.inputs else written[value]
                    buffers[key] = Buffer(held * self._width(value, activated, of_steps), start, start)
                buffers[key].end = max(buffers[key].end, end if of_steps else time)

        for number, stage in enumerate(self.stages):
            late = self.steps[stage.output][stage.places] >= 0
            if late.any():
                rows = int(late.sum()) * self.aligned(stage.outputs)
                buffers[stage.name, None, True] = Buffer(rows, number, end)
            for index, source in enumerate(stage.sources):
                read(source.value, source.form != "raw", stage.taps[stage.taps[:, SOURCE] == index, PLACE], number)
            if stage.residual is not None:
                read(stage.residual, False, stage.places[~late], number)
                read(stage.residual, False, stage.places[late], end)
        read(self.plan.output, False, np.array(self.targets), end)
        return buffers

    def _addresses(self) -> dict[tuple[str, bool], np.ndarray]:
        """First row of every place of each (value, activated), -1 for places that nobody reads so."""
        result: dict[tuple[str, bool], np.ndarray] = {}
        for (value, activated, of_steps), buffer in self._buffers.items():
            if activated is None:
                continue
            held = (self.steps[value] >= 0) if of_steps else (self.steps[value] == -1)
            rows = result.setdefault((value, activated), np.full(len(held), -1))
            rows[held] = buffer.first + np.arange(held.sum()) * self._width(value, activated, of_steps)
        return result

    def address(self, value: str, activated: bool, places: np.ndarray) -> np.ndarray:
        """First row of places of a value; -1 if nobody reads it so."""
        rows = self._first.get((value, activated))
        return np.full(len(places), -1) if rows is None else rows[places]

    def partial(self, stage: Stage) -> int | None:
        """First row of a stage's partial sums; None if none of its places belongs to a step."""
        buffer = self._buffers.get((stage.name, None, True))
        return None if buffer is None else buffer.first
