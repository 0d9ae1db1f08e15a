"""From a plan to programs: flat lists of operations with every index resolved and every buffer placed.

A program serves one kind of window. Its *ahead* part needs pixels of the rows above only, so it can run for many windows of a
row at once, as soon as the row above is far enough. It leaves behind partial sums: what places of the current row start from.
The *steps*, one for each target pixel, add the few taps that depend on pixels of the current row.

Memory is an arena of rows (`arena`). A row holds one number of each window that runs side by side (16 lanes in `csrc/cpu`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from .. import graph
from ..errors import SpxError, require
from ..graph import Graph, Read
from ..plan.plan import BLOCK as TAP_BLOCK
from ..plan.plan import PLACE, ROW, SOURCE, Plan, Source, Stage
from .arena import Arena
from .tables import (
    BLOCK,
    FORM_GATED,
    FORM_PAIRS,
    FORM_RELU,
    GATE_NONE,
    GATE_SIGMOID,
    GATE_TANH,
    OP,
    PIXEL,
    TAP,
    TOLD,
    joined,
    rows_of,
)

# How engines keep what a tap sees of a value, and which gates they have.
_ACTIVATIONS = {"elu": FORM_PAIRS, "concat_elu": FORM_PAIRS, "relu": FORM_RELU, "tanh_gate": FORM_GATED}
GATES = {"none": GATE_NONE, "sigmoid": GATE_SIGMOID}


class First(NamedTuple):
    """Where a stage's numbers begin in `Packed`: its bias, its rows of U z (or -1), and for each source its first block."""

    bias: int
    code: int
    weights: tuple[int, ...]


@dataclass(frozen=True)
class Packed:
    """A plan's numbers, which all its programs share.

    Attributes:
        weights: float32, every block [inputs][outputs]; the inputs of an elu or concat_elu source as pairs (elu(x_c), elu(-x_c)).
        blocks: `BLOCK` [n].
        bias: float32, every row of biases.
        code: float32 [Z, L], every stage's U side by side.
        first: stage name -> where its numbers begin.
        activations: value -> `FORM_PAIRS`, `FORM_RELU` or `FORM_GATED`, for those that are read activated.
    """

    weights: np.ndarray
    blocks: np.ndarray
    bias: np.ndarray
    code: np.ndarray
    first: dict[str, First]
    activations: dict[str, int]


@dataclass(frozen=True)
class WindowProgram:
    """See the module.

    Attributes:
        name: for people.
        targets: int32 [T], window places whose parameters it computes, in the order of its steps.
        ops: `OP` [n].
        taps: `TAP` [t].
        begins: int32, ops[begins[0]:begins[1]] run ahead, then ops[begins[1 + t]:begins[2 + t]] are step t; without steps all
            targets come out of the ahead part.
        pixels: `PIXEL` [k], places of the first of `inputs_of` that it reads.
        told: `TOLD` [k], places of the others.
        params: int32 [T], arena row where each target's parameters end up.
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
    told: np.ndarray
    params: np.ndarray
    rows: int
    macs: tuple[int, ...]
    origin: np.ndarray


def inputs_of(network: Plan | Graph) -> tuple[str, ...]:
    """Names of a network's inputs in the order of its programs: those that drawn pixels fill first."""
    return (*network.drawn, *(name for name in network.inputs if name not in network.drawn))


def _sources(stage: Stage | graph.Stage) -> tuple[Source | Read, ...]:
    """What a stage reads."""
    return stage.reads if isinstance(stage, graph.Stage) else stage.sources


def why_not(network: Graph) -> str | None:
    """Why the cpp engine cannot run a network, or None."""
    try:
        _activations(network, True)
    except SpxError as error:
        return str(error)
    return None


def _activations(plan: Plan | Graph, tanh_gate: bool) -> dict[str, int]:
    """See `Packed`. tanh_gate: whether the engine has that form.

    Raises:
        SpxError: for an input that is read activated, or a value that is read in two activations: an arena keeps one.
    """
    forms: dict[str, str] = {}
    for stage in plan.stages:
        require(stage.gate in GATES, f"stage {stage.name}", "a gate that engines have: none or sigmoid", stage.gate)
        for source in _sources(stage):
            if source.form == "raw":
                continue
            name, known = f"value {source.value}", [form for form in _ACTIVATIONS if tanh_gate or form != "tanh_gate"]
            require(source.form in known, name, f"a form that this engine has: {', '.join(known)}", source.form)
            require(source.value not in plan.inputs, name, "an input that is read as it is", source.form)
            form = forms.setdefault(source.value, source.form)
            one = _ACTIVATIONS[form] == _ACTIVATIONS[source.form]
            require(one, name, "one activation that it is read in", f"{source.form} and {form}")
    found = {value: _ACTIVATIONS[form] for value, form in forms.items()}
    for stage in plan.stages:
        alone = stage.gate == "none" and stage.residual is None
        require(
            alone or found.get(stage.output) != FORM_GATED, f"value {stage.output}", "a sum alone, to be gated", "more"
        )
    return found


def gate_of(stage: Stage | graph.Stage, activations: dict[str, int]) -> int:
    """A stage's gate in the tables. activations: of `Packed`."""
    return GATE_TANH if activations.get(stage.output) == FORM_GATED else GATES[stage.gate]


def pack(network: Plan | Graph, dtype: type = np.float32, tanh_gate: bool = False) -> Packed:
    """Put a network's numbers into arrays, as its programs index them; of a graph, whose places have biases of their own, without these.

    Args:
        network: a plan or a graph.
        dtype: of its numbers: float32, or int64 of a graph that holds their places (`spxcore.walk.numbers`).
        tanh_gate: whether the engine has that form.

    Raises:
        SpxError: for what native code cannot run.
    """
    activations = _activations(network, tanh_gate)
    weights: list[np.ndarray] = []
    bias: list[np.ndarray] = [np.zeros(0, dtype)]
    blocks, code, first = [], [], {}
    at = bias_at = code_at = 0
    for stage in network.stages:
        starts = []
        for source in _sources(stage):
            w = source.weights
            if source.form == "elu":  # elu is concat_elu whose other half counts for nothing
                w = np.concatenate([w, np.zeros_like(w)], axis=1)
            count, inputs, outputs = w.shape
            if source.form in ("elu", "concat_elu"):
                w = w.reshape(count, 2, inputs // 2, outputs).transpose(0, 2, 1, 3)
            starts.append(at)
            blocks += [(at + i * inputs * outputs, inputs, outputs) for i in range(count)]
            weights.append(np.ascontiguousarray(w, dtype).ravel())
            at += weights[-1].size
        first[stage.name] = First(bias_at, -1 if stage.code is None else code_at, tuple(starts))
        if isinstance(stage, Stage):
            bias.append(stage.bias.astype(dtype).ravel())
            bias_at += bias[-1].size
        if stage.code is not None:
            code.append(stage.code)
            code_at += stage.bias.shape[-1]
    require(at < 1 << 31, "network", "fewer than 2^31 weights", at)
    u = np.concatenate(code, axis=1) if code else np.zeros((network.code, 0))
    return Packed(
        np.concatenate(weights), rows_of(BLOCK, np.array(blocks)), np.concatenate(bias),
        np.ascontiguousarray(u, dtype), first, activations,
    )  # fmt: skip


def repacked(plan: Plan, bias_rows: Sequence[np.ndarray]) -> Packed | None:
    """The numbers of a plan in the arrays of another one, which has the same stages and other numbers; None if they do not fit.

    Args:
        plan: whose numbers.
        bias_rows: `Stage.bias_row` of the other one's stages, by which its places share biases.
    """
    stages = []
    for stage, bias_row in zip(plan.stages, bias_rows):
        of_place = stage.bias[stage.bias_row]
        bias = np.zeros((bias_row.max(initial=-1) + 1, of_place.shape[1]), of_place.dtype)
        bias[bias_row] = of_place
        if not np.array_equal(bias[bias_row], of_place):
            return None
        stages.append(replace(stage, bias=bias, bias_row=bias_row))
    return pack(replace(plan, stages=tuple(stages)), tanh_gate=True)


def _steps(plan: Plan, depends: dict[str, np.ndarray], targets: list[int], row: int | None) -> dict[str, np.ndarray]:
    """For each value and place: -1 if it is computed ahead, else the step that computes it; -2 if no target needs it."""
    if row is None:
        return {name: np.where(need, -1, -2) for name, need in plan.needed(targets).items()}
    steps, start = {}, row * plan.width
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
    """One program in the making.

    Args:
        targets: places of the output.
        row: row of the window that the targets are in; None to compute everything ahead.
        depends: of `Plan.dependencies`.
        memory: align and pairs_in_one of `Arena`.
    """

    def __init__(
        self, plan: Plan, packed: Packed, targets: list[int], row: int | None, depends: dict[str, np.ndarray], **memory
    ):
        self.plan, self.packed, self.targets = plan, packed, targets
        self.steps = _steps(plan, depends, targets, row)
        self.count = 0 if row is None else len(targets)
        stages = (stage.keep(self.steps[stage.output][stage.places] > -2) for stage in plan.stages)
        self.stages: list[Stage] = [stage for stage in stages if len(stage.places)]
        self.arena = Arena(plan, self.stages, self.steps, targets, packed.activations, **memory)

    def taps_of(self, stage: Stage) -> tuple[np.ndarray, np.ndarray]:
        """A stage's taps, `TAP` [T], and the step each one's source is computed in."""
        taps, starts = stage.taps, self.packed.first[stage.name].weights
        result, steps = np.zeros(len(taps), TAP), np.zeros(len(taps), np.int64)
        for index, source in enumerate(stage.sources):
            mine = np.flatnonzero(taps[:, SOURCE] == index)
            activated, places = source.form != "raw", taps[mine, PLACE]
            inputs = self.arena.numbers(source.value, activated)
            result["source"][mine] = self.arena.address(source.value, activated, places)
            result["weights"][mine] = starts[index] + taps[mine, TAP_BLOCK] * inputs * stage.outputs
            result["inputs"][mine] = inputs
            result["pairs"][mine] = activated and self.packed.activations[source.value] == FORM_PAIRS
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
        # A place's taps of pairs come first.
        taps, tap_row = taps[chosen], stage.taps[chosen, ROW]
        same = np.bincount(tap_row, weights=taps["weights"] + 1.0, minlength=len(stage.places))
        rows = rows[np.argsort(same[rows], kind="stable")]
        rank = np.zeros(len(stage.places), np.int64)
        rank[rows] = np.arange(len(rows))
        taps = taps[np.lexsort((1 - taps["pairs"], rank[tap_row]))]
        places, first = stage.places[rows], self.packed.first[stage.name]
        ops = np.full(len(rows), -1, OP)
        ops["bias"] = first.bias + stage.bias_row[rows] * stage.outputs
        ops["code"] = first.code
        ops["outputs"] = stage.outputs
        ops["gate"] = gate_of(stage, self.packed.activations)
        ops["form"] = self.packed.activations.get(stage.output, FORM_PAIRS)
        partial = self.arena.partial(stage)
        if partial is not None:
            at = partial + (np.cumsum(row_step >= 0) - 1)[rows] * self.arena.aligned(stage.outputs)
            late = row_step[rows] >= 0
            ops["partial_out" if step < 0 else "partial_in"][late] = at[late]
        if stage.residual is not None:
            crosses = (step >= 0) & (self.steps[stage.residual][places] < 0)
            x = self.arena.address(stage.residual, False, places)
            ops["residual"][~crosses] = x[~crosses]
            ops["residual_ahead"][crosses] = x[crosses]
        ops["raw"] = self.arena.address(stage.output, False, places)
        ops["activated"] = self.arena.address(stage.output, True, places)
        counts = np.bincount(tap_row, minlength=len(stage.places))[rows]
        ends = begin + np.cumsum(counts)
        ops["tap_begin"], ops["tap_end"] = ends - counts, ends
        return ops, taps, places

    def run(self, name: str) -> WindowProgram:
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
                macs[-1] += int(stage_taps["inputs"].sum()) * stage.outputs
            begins.append(sum(map(len, ops)))
        pixels, told = np.zeros((0, 2), np.int64), [np.zeros((0, 3), np.int64)]
        for k, value in enumerate(inputs_of(self.plan)):
            at = np.flatnonzero(self.steps[value] > -2)
            rows = self.arena.address(value, False, at)
            if k == 0:
                pixels = np.stack([at, rows], axis=1)
            else:
                told.append(np.stack([np.full(len(at), k - 1), at, rows], axis=1))
        return WindowProgram(
            name,
            np.array(self.targets, np.int32),
            joined(OP, ops),
            joined(TAP, taps),
            np.array(begins, np.int32),
            rows_of(PIXEL, pixels),
            rows_of(TOLD, np.concatenate(told)),
            self.arena.address(self.plan.output, False, np.array(self.targets)).astype(np.int32),
            self.arena.rows,
            tuple(macs),
            np.concatenate(origin).astype(np.int32),
        )


def window_programs(plan: Plan, packed: Packed, align: int = 1, pairs_in_one: bool = False) -> list[WindowProgram]:
    """The 2 m programs that draw an image by windows of m rows: entry 2 i + left is for pixels in row i of their window.

    left = 0: the window's last column only (windows away from the left edge). left = 1: all columns (the first window of
    a row, which its first m pixels share). i = m - 1 in the interior; i < m - 1 along the top edge. align, pairs_in_one: as of `Arena`.
    """
    depends, memory, programs = plan.dependencies(), {"align": align, "pairs_in_one": pairs_in_one}, []
    for i in range(plan.height):
        all_columns = [i * plan.width + c for c in range(plan.width)]
        for name, targets in (("last column", all_columns[-1:]), ("all columns", all_columns)):
            programs.append(_Lowering(plan, packed, targets, i, depends, **memory).run(f"row {i}, {name}"))
    return programs


def full_program(plan: Plan, packed: Packed, align: int = 1, pairs_in_one: bool = False) -> WindowProgram:
    """The program that computes all places of the output at once: the likelihood of a patch, or a network of a whole image.

    align, pairs_in_one: as of `Arena`.
    """
    targets, memory = list(range(plan.values[plan.output].places)), {"align": align, "pairs_in_one": pairs_in_one}
    return _Lowering(plan, packed, targets, None, {}, **memory).run("whole window")
