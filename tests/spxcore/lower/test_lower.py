"""The flat programs: their numbers against the plan's, their memory, and what cannot be lowered."""

import functools
import json
from dataclasses import replace

import numpy as np
import pytest
from helpers import close, config, double, network, windows
from walks import relu_net, spread

from spxcore.errors import SpxError
from spxcore.lower.summary import as_text, summary
from spxcore.lower.tables import BLOCK, FORM_PAIRS, FORM_RELU, GATE_SIGMOID, OP, TAP, rows_of
from spxcore.lower.window import _ACTIVATIONS, full_program, inputs_of, pack, window_programs
from spxcore.plan import execute, plan_at
from spxcore.plan.execute import seen_as

SPATIAL = {"conditioning": "spatial"}
NETWORKS = {
    "4x4": {"patch": 4},
    "8x8 spatial": {"patch": 8, **SPATIAL},
    "8x8 rgb, neither": {"patch": 8, "channels": 3, "coordinates": False, "latent": 0},
    "8x8 two layers": {"patch": 8, "layers": 2, "filters": 7},
}
FORM_NAMES = {FORM_PAIRS: "concat_elu"} | {
    number: name for name, number in _ACTIVATIONS.items() if number != FORM_PAIRS
}
RELU = functools.partial(relu_net, told=4, latent=3)


def random_inputs(plan, batch: int = 1, seed: int = 0):
    g = np.random.default_rng(seed)
    inputs = {
        name: g.normal(size=(batch, plan.values[name].places, plan.values[name].channels)) for name in plan.inputs
    }
    return inputs, g.normal(size=(batch, plan.code)) if plan.code else None


def run_program(program, packed, plan, inputs, z) -> np.ndarray:
    """`csrc/cpu/kernels_impl.h` in NumPy, for one window, on an arena that holds NaN wherever nothing was written."""
    arena = np.full(program.rows, np.nan)
    uz = None if z is None else z[0] @ packed.code
    first, *others = inputs_of(plan)
    given = [(first, *pixel) for pixel in program.pixels.tolist()]
    given += [(others[k], place, row) for k, place, row in program.told.tolist()]
    for name, place, row in given:
        arena[row : row + plan.values[name].channels] = inputs[name][0, place]
    for op in program.ops:
        n = op["outputs"]
        if op["partial_in"] >= 0:
            total = arena[op["partial_in"] : op["partial_in"] + n].copy()
        else:
            total = packed.bias[op["bias"] : op["bias"] + n].astype(np.float64)
            if op["code"] >= 0:
                total += uz[op["code"] : op["code"] + n]
        for source, weights, count, _ in program.taps[op["tap_begin"] : op["tap_end"]].tolist():
            total += arena[source : source + count] @ packed.weights[weights : weights + count * n].reshape(count, n)
        if op["partial_out"] >= 0:
            arena[op["partial_out"] : op["partial_out"] + n] = total
            continue
        if op["gate"] == GATE_SIGMOID:
            a, b = np.split(total, 2)
            total = a / (1 + np.exp(-b))
        x = max(op["residual"], op["residual_ahead"])
        if x >= 0:
            total = arena[x : x + len(total)] + total
        if op["raw"] >= 0:
            arena[op["raw"] : op["raw"] + len(total)] = total
        if op["activated"] >= 0:
            form = FORM_NAMES[op["form"]]
            rows = seen_as(total, form).reshape(2, -1).T.ravel() if form == "concat_elu" else seen_as(total, form)
            arena[op["activated"] : op["activated"] + rows.size] = rows
    return np.stack([arena[row : row + plan.values[plan.output].channels] for row in program.params])


@pytest.mark.parametrize("name", NETWORKS)
def test_programs_give_the_plans_numbers(name):
    """Every program of every kind of window, with its memory reused: what was not written is NaN and would show."""
    c = config(**NETWORKS[name])
    plan = plan_at(network(c).graph, c.patch, c.patch)
    packed = pack(plan)
    _, inputs, z = windows(c, batch=1)
    expected = execute(plan, double(inputs), z)[plan.output][0]
    programs = [*window_programs(plan, packed), full_program(plan, packed)]
    assert len(programs) == 2 * c.patch + 1
    for program in programs:
        got = run_program(program, packed, plan, double(inputs), z)
        assert close(got, expected[program.targets], 1e-6), program.name


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 2), (3, 3), (5, 5), (6, 6), (4, 7), (7, 3)])
def test_any_size_relu_and_gates_without_residual(height, width):
    """Sides that no model has, among them those that do not halve evenly, and maps that are not square."""
    plan = plan_at(spread(RELU).graph, height, width)
    packed = pack(plan)
    inputs, z = random_inputs(plan)
    expected = execute(plan, inputs, z)[plan.output][0]
    programs = [*window_programs(plan, packed), full_program(plan, packed)]
    for program in programs:
        assert close(run_program(program, packed, plan, inputs, z), expected[program.targets], 1e-6), program.name
    kinds = {(op["gate"], op["residual"] >= 0) for op in programs[-1].ops}
    assert (GATE_SIGMOID, False) in kinds and (0, True) in kinds
    assert FORM_RELU in packed.activations.values() and not programs[-1].taps["pairs"].any()


def test_an_arena_with_places_aligned_and_pairs_in_one_row():
    """What the GPU engines ask of the same arena: it is no smaller, or smaller, and everything starts where it should."""
    c = config(**NETWORKS["8x8 spatial"])
    plan = plan_at(network(c).graph, 8, 8)
    packed = pack(plan)
    plain, aligned, narrow = (
        window_programs(plan, packed, **options)[-1]
        for options in ({}, {"align": 4}, {"align": 4, "pairs_in_one": True})
    )
    assert plain.rows <= aligned.rows and narrow.rows < aligned.rows
    for program in (aligned, narrow):
        for column in ("partial_in", "partial_out", "residual", "raw", "activated"):
            rows = program.ops[column]
            assert not (rows[rows >= 0] % 4).any()
    inputs, z = random_inputs(plan)
    expected = execute(plan, inputs, z)[plan.output][0]
    assert close(run_program(aligned, packed, plan, inputs, z), expected[aligned.targets], 1e-6)


def test_the_ahead_part_reads_rows_above_only():
    c = config(**NETWORKS["8x8 spatial"])
    plan, m = plan_at(network(c).graph, c.patch, c.patch), c.patch
    for i, program in enumerate(window_programs(plan, pack(plan))):
        current = {row for place, row in program.pixels.tolist() if place >= i // 2 * m}
        ahead = program.ops[: program.begins[1]]
        taps = program.taps[: ahead[-1]["tap_end"]]
        # Pixels of the current row live to the end, so no other buffer shares their rows.
        assert not current & set(taps["source"].tolist())
        assert sum(program.macs[1:]) < 0.35 * sum(program.macs)


def test_memory_is_reused():
    c = config(**NETWORKS["8x8 two layers"])
    plan = plan_at(network(c).graph, c.patch, c.patch)
    every = sum(value.places * value.channels * 3 for value in plan.values.values())
    assert full_program(plan, pack(plan)).rows < 0.6 * every


def test_tables_have_the_columns_they_are_named_for():
    table = rows_of(BLOCK, np.arange(6).reshape(2, 3))
    assert table["inputs"].tolist() == [1, 4] and table.tobytes() == np.arange(6, dtype=np.int32).tobytes()
    assert rows_of(TAP, np.zeros((0, 4))).shape == (0,)
    assert OP.names.index("gate") == 11 and OP.itemsize == 4 * len(OP.names)


def test_what_cannot_be_lowered_is_a_sentence():
    plan = plan_at(spread(RELU).graph, 4, 4)

    def with_form(stage, source, form):
        stages = list(plan.stages)
        sources = list(stages[stage].sources)
        sources[source] = replace(sources[source], form=form)
        stages[stage] = replace(stages[stage], sources=tuple(sources))
        return replace(plan, stages=tuple(stages))

    names = [stage.name for stage in plan.stages]
    twice = with_form(names.index("shrink"), 0, "elu")
    again = replace(twice, stages=(*twice.stages, plan.stages[names.index("shrink")]))
    for faulty, message in (
        (again, "value above: expected one activation that it is read in, got relu and elu"),
        (with_form(names.index("above"), 0, "relu"), "value x: expected an input that is read as it is, got relu"),
        (
            with_form(names.index("out"), 0, "sine"),
            "expected a form that this engine has: elu, concat_elu, relu, got sine",
        ),
        (
            replace(plan, stages=(*plan.stages[:-1], replace(plan.stages[-1], gate="tanh"))),
            "stage out: expected a gate that engines have: none or sigmoid, got tanh",
        ),
    ):
        with pytest.raises(SpxError) as caught:
            pack(faulty)
        assert message in str(caught.value)
    of_a_residual = with_form(names.index("out"), 0, "tanh_gate")
    with pytest.raises(SpxError, match="value grow: expected a sum alone, to be gated, got more"):
        pack(of_a_residual, tanh_gate=True)


def test_summary_adds_up():
    c = config(**NETWORKS["8x8 spatial"])
    plan = plan_at(network(c).graph, 8, 8)
    figures = summary(plan)
    assert sum(stage["macs"] for stage in figures["stages"]) == figures["macs"]["window"] == plan.macs()
    assert sum(stage["cone_macs"] for stage in figures["stages"]) == figures["macs"]["cone"]
    assert sum(figures["macs"]["tiers"].values()) == figures["macs"]["cone"]
    text = as_text(json.loads(json.dumps(figures)))
    assert "cone of its last pixel" in text and "ul_up.0.1.conv_out" in text and "row 7, all columns" in text
