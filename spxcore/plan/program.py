"""From a plan to flat programs that an engine runs without thinking: every index resolved, every buffer placed.

A program serves one kind of window. Its *ahead* part needs pixels of the rows above only, so it can run for many windows of a
row at once, as soon as the row above is far enough. It leaves behind partial sums: what places of the current row start from.
The *steps*, one for each target pixel, add the few taps that depend on pixels of the current row.

Memory is an arena of rows. A row holds one number of each window that runs side by side (16 lanes in `csrc/`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import require
from .model import BLOCK, PLACE, ROW, SOURCE, Plan, Stage

# Columns of Program.ops, the same as `struct Op` in csrc/program.h. Rows of the arena are -1 where they are not used.
OP = (
    "bias",  # first of its numbers in Tables.bias
    "latent",  # first of its rows of U z, or -1
    "partial_in",  # start from these rows instead of bias and latent
    "partial_out",  # leave the sum in these rows and do nothing else
    "residual",  # x of the gate x + a sigmoid(b)
    "residual_ahead",  # the same, for an op of a step whose x was computed ahead
    "raw",  # where the result goes
    "act",  # where concat_elu of it goes: elu(x_0), elu(-x_0), elu(x_1) ...
    "outputs",  # numbers in the sum
    "tap_begin",  # its taps are taps[tap_begin:tap_end]
    "tap_end",
)

# Columns of Program.taps, the same as `struct Tap`.
TAP = (
    "source",  # first arena row it reads
    "weights",  # first number of its block [inputs][outputs] in Tables.weights
    "inputs",  # rows it reads
    "pairs",  # 1 if they are pairs of concat_elu, else 0
)


@dataclass(frozen=True)
class Tables:
    """What all programs of a plan share.

    Attributes:
        weights: float32, every block [inputs][outputs], the inputs of a concat_elu source as pairs (elu(x_c), elu(-x_c)).
        blocks: int32 [n, 3], each block's first number, inputs, outputs.
        bias: float32, every row of biases.
        latent: float32 [Z, L], every stage's U side by side.
        first: stage name -> (first bias number, first latent row or -1, for each source its first weight).
    """

    weights: np.ndarray
    blocks: np.ndarray
    bias: np.ndarray
    latent: np.ndarray
    first: dict[str, tuple[int, int, tuple[int, ...]]]


@dataclass(frozen=True)
class Program:
    """See the module.

    Attributes:
        name: for people.
        targets: int32 [T], window places whose mixture parameters it computes, in the order of its steps.
        ops: int32 [n, len(OP)].
        taps: int32 [t, len(TAP)].
        begins: int32, ops[begins[0]:begins[1]] run ahead, then ops[begins[1 + t]:begins[2 + t]] are step t; without steps all
            targets come out of the ahead part.
        pixels: int32 [k, 2], window place and arena row of the pixels (the plan's first input) it reads.
        conditioning: int32 [k, 3], resolution (number of another of the plan's inputs, from 0), place and arena row of the
            conditioning inputs it reads.
        params: int32 [T], arena row where each target's mixture parameters end up.
        rows: arena rows.
        macs: multiply-adds of one window, ahead and in each step.
        origin: int32 [n, 2], for each op the number of its stage in the plan and the place it computes.
    """

    name: str
    targets: np.ndarray
    ops: np.ndarray
    taps: np.ndarray
    begins: np.ndarray
    pixels: np.ndarray
    conditioning: np.ndarray
    params: np.ndarray
    rows: int
    macs: tuple[int, ...]
    origin: np.ndarray


def tables(plan: Plan) -> Tables:
    """Put a plan's weights into one array, as the programs index them."""
    weights, blocks, bias, latent, first = [], [], [], [], {}
    at = bias_at = latent_at = 0
    for stage in plan.stages:
        starts = []
        for source in stage.sources:
            w = source.weights
            if source.form == "elu":  # elu is concat_elu whose other half counts for nothing
                w = np.concatenate([w, np.zeros_like(w)], axis=1)
            count, inputs, outputs = w.shape
            if source.form != "raw":
                w = w.reshape(count, 2, inputs // 2, outputs).transpose(0, 2, 1, 3)
            starts.append(at)
            blocks += [(at + i * inputs * outputs, inputs, outputs) for i in range(count)]
            weights.append(np.ascontiguousarray(w, np.float32).ravel())
            at += weights[-1].size
        first[stage.name] = (bias_at, -1 if stage.latent is None else latent_at, tuple(starts))
        bias.append(stage.bias.astype(np.float32).ravel())
        bias_at += bias[-1].size
        if stage.latent is not None:
            latent.append(stage.latent)
            latent_at += stage.outputs
    require(at < 1 << 31, "network", "fewer than 2^31 weights", at)
    u = np.concatenate(latent, axis=1) if latent else np.zeros((plan.latent, 0))
    return Tables(
        np.concatenate(weights),
        np.array(blocks, np.int32),
        np.concatenate(bias),
        np.ascontiguousarray(u, np.float32),
        first,
    )


@dataclass
class _Buffer:
    """Rows of the arena that hold something from time `start` to `end`."""

    rows: int
    start: int
    end: int
    first: int = -1


def _place_buffers(buffers: list[_Buffer]) -> int:
    """Give each buffer its first row, the lowest that is free for its whole life; returns the rows needed."""
    placed: list[_Buffer] = []
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


def _steps(plan: Plan, depends: dict[str, np.ndarray], targets: list[int], row: int | None) -> dict[str, np.ndarray]:
    """For each value and place: -1 if it is computed ahead, else the step that computes it; -2 if no target needs it."""
    if row is None:
        return {name: np.where(need, -1, -2) for name, need in plan.needed(targets).items()}
    steps, start = {}, row * plan.patch
    for name, leads in plan.leads_to.items():
        steps[name] = np.where(leads[:, targets].any(axis=1), -1, -2)
        current = depends[name][:, start:].any(axis=1)
        for t in reversed(range(len(targets))):
            steps[name][leads[:, targets[t]] & current] = t
    # A target is drawn in its step even if, as the first pixel of a row, it depends on none of its row.
    for t, target in enumerate(targets):
        steps[plan.output][target] = t
    return steps


class _Lowering:
    """One program in the making. Every place starts at a multiple of `align` rows."""

    def __init__(
        self,
        plan: Plan,
        shared: Tables,
        targets: list[int],
        row: int | None,
        depends: dict[str, np.ndarray],
        align: int = 1,
    ):
        self.plan, self.shared, self.targets, self.align = plan, shared, targets, align
        self.steps = _steps(plan, depends, targets, row)
        self.count = 0 if row is None else len(targets)
        stages = (stage.keep(self.steps[stage.output][stage.places] > -2) for stage in plan.stages)
        self.stages: list[Stage] = [stage for stage in stages if len(stage.places)]
        self.buffers = self.allocate()
        self.rows = _place_buffers(list(self.buffers.values()))
        self.address_of = self.addresses()

    def numbers(self, value: str, form: str) -> int:
        """Numbers of one place."""
        return self.plan.values[value].channels * (1 if form == "raw" else 2)

    def aligned(self, numbers: int) -> int:
        """Arena rows that so many numbers of a place take."""
        return -(-numbers // self.align) * self.align

    def width(self, value: str, form: str, of_steps: bool) -> int:
        """Arena rows of one place, which a step computes or the ahead part."""
        return self.aligned(self.numbers(value, form))

    def allocate(self) -> dict[tuple[str, str, bool], _Buffer]:
        """Every buffer with its life; stage numbers are the clock, and the steps come after the last one.

        Keys are (value, "raw" or "act", whether it holds the places of the steps), and (stage, "partial", True).
        """
        end = len(self.stages)
        written = dict.fromkeys(self.plan.inputs, 0) | {stage.output: n for n, stage in enumerate(self.stages)}
        buffers: dict[tuple[str, str, bool], _Buffer] = {}

        def read(value: str, form: str, places: np.ndarray, time: int) -> None:
            """A stage reads these places of a value, in the ahead part at `time` if it can."""
            form, late = "raw" if form == "raw" else "act", self.steps[value] >= 0
            reads = late[places]
            for of_steps in (False, True):
                if not (reads == of_steps).any():
                    continue
                key = (value, form, of_steps)
                if key not in buffers:
                    held = int(((self.steps[value] > -2) & (late == of_steps)).sum())
                    start = end if of_steps and value != "x" else written[value]
                    buffers[key] = _Buffer(held * self.width(value, form, of_steps), start, start)
                buffers[key].end = max(buffers[key].end, end if of_steps else time)

        for number, stage in enumerate(self.stages):
            late = self.steps[stage.output][stage.places] >= 0
            if late.any():
                buffers[stage.name, "partial", True] = _Buffer(
                    int(late.sum()) * self.aligned(stage.outputs), number, end
                )
            for index, source in enumerate(stage.sources):
                read(source.value, source.form, stage.taps[stage.taps[:, SOURCE] == index, PLACE], number)
            if stage.residual is not None:
                read(stage.residual, "raw", stage.places[~late], number)
                read(stage.residual, "raw", stage.places[late], end)
        read(self.plan.output, "raw", np.array(self.targets), end)
        return buffers

    def addresses(self) -> dict[tuple[str, str], np.ndarray]:
        """First arena row of every place of each (value, "raw" or "act"), -1 if nobody reads it in that form."""
        result = {}
        for (value, form, of_steps), buffer in self.buffers.items():
            if form == "partial":
                continue
            held = (self.steps[value] >= 0) if of_steps else (self.steps[value] == -1)
            rows = result.setdefault((value, form), np.full(len(held), -1))
            rows[held] = buffer.first + np.arange(held.sum()) * self.width(value, form, of_steps)
        return result

    def address(self, value: str, form: str, places: np.ndarray) -> np.ndarray:
        """First arena row of places of a value; -1 if nobody reads it in that form."""
        rows = self.address_of.get((value, form))
        return np.full(len(places), -1) if rows is None else rows[places]

    def taps_of(self, stage: Stage) -> tuple[np.ndarray, np.ndarray]:
        """A stage's taps as rows of `TAP`, and the step each one's source is computed in."""
        taps, starts = stage.taps, self.shared.first[stage.name][2]
        result, steps = np.zeros((len(taps), len(TAP)), np.int64), np.zeros(len(taps), np.int64)
        for index, source in enumerate(stage.sources):
            mine = np.flatnonzero(taps[:, SOURCE] == index)
            form, places = "raw" if source.form == "raw" else "act", taps[mine, PLACE]
            inputs = self.numbers(source.value, form)
            result[mine, 0] = self.address(source.value, form, places)
            result[mine, 1] = starts[index] + taps[mine, BLOCK] * inputs * stage.outputs
            result[mine, 2] = inputs
            result[mine, 3] = source.form != "raw"
            steps[mine] = self.steps[source.value][places]
        return result, steps

    def emit(self, stage: Stage, taps: np.ndarray, tap_step: np.ndarray, step: int, begin: int):
        """Ops, taps and places of a stage in the ahead part (-1) or in a step; `begin` taps come before.

        taps, tap_step: of `taps_of`.
        """
        row_step = self.steps[stage.output][stage.places]
        if step < 0:
            rows, chosen = np.arange(len(stage.places)), tap_step < 0
        else:
            rows = np.flatnonzero(row_step == step)
            chosen = (tap_step >= 0) & (row_step[stage.taps[:, ROW]] == step)
            require(bool((tap_step[chosen] <= step).all()), stage.name, "taps on earlier steps", "a later one")
        # Places with the same weights stand together: kernels take several at a time. (Sums tell them apart well enough.)
        taps, tap_row = taps[chosen], stage.taps[chosen, ROW]
        same = np.bincount(tap_row, weights=taps[:, 1] + 1.0, minlength=len(stage.places))
        rows = rows[np.argsort(same[rows], kind="stable")]
        rank = np.zeros(len(stage.places), np.int64)
        rank[rows] = np.arange(len(rows))
        taps = taps[np.argsort(rank[tap_row], kind="stable")]
        places, starts = stage.places[rows], self.shared.first[stage.name]
        ops = np.full((len(rows), len(OP)), -1, np.int64)
        column = {name: i for i, name in enumerate(OP)}
        ops[:, column["bias"]] = starts[0] + stage.bias_row[rows] * stage.outputs
        if starts[1] >= 0:
            ops[:, column["latent"]] = starts[1]
        ops[:, column["outputs"]] = stage.outputs
        partial = self.buffers.get((stage.name, "partial", True))
        if partial is not None:
            at = partial.first + (np.cumsum(row_step >= 0) - 1)[rows] * self.aligned(stage.outputs)
            late = row_step[rows] >= 0
            ops[late, column["partial_out" if step < 0 else "partial_in"]] = at[late]
        if stage.residual is not None:
            crosses = (step >= 0) & (self.steps[stage.residual][places] < 0)
            x = self.address(stage.residual, "raw", places)
            ops[~crosses, column["residual"]] = x[~crosses]
            ops[crosses, column["residual_ahead"]] = x[crosses]
        ops[:, column["raw"]] = self.address(stage.output, "raw", places)
        ops[:, column["act"]] = self.address(stage.output, "act", places)
        counts = np.bincount(tap_row, minlength=len(stage.places))[rows]
        ends = begin + np.cumsum(counts)
        ops[:, column["tap_begin"]], ops[:, column["tap_end"]] = ends - counts, ends
        return ops, taps, places

    def run(self, name: str) -> Program:
        """The program."""
        ops, taps, origin, begins, macs, tap_count = [], [], [], [0], [], 0
        number_of = {stage.name: number for number, stage in enumerate(self.plan.stages)}
        taps_of = [self.taps_of(stage) for stage in self.stages]
        in_steps = [set(self.steps[stage.output][stage.places].tolist()) for stage in self.stages]
        for step in range(-1, self.count):
            macs.append(0)
            for number, stage in enumerate(self.stages):
                if step >= 0 and step not in in_steps[number]:
                    continue
                stage_ops, stage_taps, places = self.emit(stage, *taps_of[number], step, tap_count)
                ops.append(stage_ops)
                origin.append(np.stack([np.full(len(places), number_of[stage.name]), places], axis=1))
                taps.append(stage_taps)
                tap_count += len(stage_taps)
                macs[-1] += int(stage_taps[:, 2].sum()) * stage.outputs
            begins.append(sum(map(len, ops)))
        x, *others = self.plan.inputs
        pixels = np.flatnonzero(self.steps[x] > -2)
        conditioning = [np.zeros((0, 3), np.int64)]
        for k, value in enumerate(others):
            at = np.flatnonzero(self.steps[value] > -2)
            conditioning.append(np.stack([np.full(len(at), k), at, self.address(value, "raw", at)], axis=1))
        return Program(
            name,
            np.array(self.targets, np.int32),
            np.concatenate(ops).astype(np.int32),
            np.concatenate(taps).astype(np.int32),
            np.array(begins, np.int32),
            np.stack([pixels, self.address(x, "raw", pixels)], axis=1).astype(np.int32),
            np.concatenate(conditioning).astype(np.int32),
            self.address(self.plan.output, "raw", np.array(self.targets)).astype(np.int32),
            self.rows,
            tuple(macs),
            np.concatenate(origin).astype(np.int32),
        )


def window_programs(plan: Plan, shared: Tables, align: int = 1) -> list[Program]:
    """The 2 m programs that draw an image: entry 2 i + left is for pixels in row i of their window.

    left = 0: the window's last column only (windows away from the left edge). left = 1: all m columns (the first window of
    a row, which its first m pixels share). i = m - 1 in the interior; i < m - 1 along the top edge. Every place starts at a
    multiple of `align` rows of the arena.
    """
    m, depends = plan.patch, plan.dependencies()
    programs = []
    for i in range(m):
        inner, left = [i * m + m - 1], [i * m + c for c in range(m)]
        programs.append(_Lowering(plan, shared, inner, i, depends, align).run(f"row {i}, last column"))
        programs.append(_Lowering(plan, shared, left, i, depends, align).run(f"row {i}, all columns"))
    return programs


def full_program(plan: Plan, shared: Tables) -> Program:
    """The program that computes all places of the output at once: the likelihood of a patch, or a network of a whole image."""
    return _Lowering(plan, shared, list(range(plan.values[plan.output].places)), None, {}).run("whole window")
