"""Checks a plan once, so that engines need not."""

from __future__ import annotations

import numpy as np

from ..errors import require
from ..graph import FORMS, GATES, channels_seen
from .plan import BLOCK, PLACE, ROW, SOURCE, Plan, Stage


def check(plan: Plan) -> Plan:
    """Raise an `SpxError` unless every index is in range and every place is computed before it is read; returns the plan."""
    require(set(plan.inputs) <= plan.values.keys(), "plan.inputs", "names of values", plan.inputs)
    known = {name: np.zeros(value.places, bool) for name, value in plan.values.items()}
    for name in plan.inputs:
        known[name][:] = True
    for stage in plan.stages:
        _check_stage(plan, stage, known)
        known[stage.output][stage.places] = True
    computed = plan.output in known and known[plan.output].any()
    require(bool(computed), f"plan.output {plan.output}", "a value that some stage computes", "none")
    return plan


def _check_stage(plan: Plan, stage: Stage, known: dict[str, np.ndarray]) -> None:
    def must(condition, what: str, expected: str, got: object) -> None:
        require(bool(condition), f"plan stage {stage.name}: {what}", expected, got)

    def within(what: str, numbers: np.ndarray, end: int) -> None:
        must(numbers.dtype.kind == "i", what, "integers", numbers.dtype)
        must(not len(numbers) or (numbers.min() >= 0 and numbers.max() < end), what, f"0 to {end - 1}", numbers)

    must(stage.output in plan.values, "output", "the name of a value", stage.output)
    out = plan.values[stage.output]
    halves = 1 if stage.gate == "none" else 2
    must(stage.gate in GATES, "gate", " or ".join(GATES), stage.gate)
    must(stage.bias.ndim == 2, "bias", "shape [R, outputs]", stage.bias.shape)
    must(stage.outputs == halves * out.channels, "bias", f"{halves * out.channels} outputs", stage.outputs)
    must(stage.bias_row.shape == stage.places.shape, "bias_row", f"shape {stage.places.shape}", stage.bias_row.shape)
    within("places", stage.places, out.places)
    within("bias_row", stage.bias_row, len(stage.bias))
    must(not known[stage.output][stage.places].any(), "places", "places not computed before", "some twice")
    if stage.code is not None:
        expected = (plan.code, stage.outputs)
        must(stage.code.shape == expected, "code", f"shape {expected}", stage.code.shape)
    must(stage.taps.ndim == 2 and stage.taps.shape[1] == 4, "taps", "shape [T, 4]", stage.taps.shape)
    within("taps, row", stage.taps[:, ROW], len(stage.places))
    within("taps, source", stage.taps[:, SOURCE], len(stage.sources))
    must((np.diff(stage.taps[:, ROW]) >= 0).all(), "taps", "sorted by row", "another order")
    for index, source in enumerate(stage.sources):
        must(source.value in plan.values, "source", "the name of a value", source.value)
        must(source.form in FORMS, "form", " or ".join(FORMS), source.form)
        value = plan.values[source.value]
        given = source.value in plan.inputs
        must(not given or source.form == "raw", f"form of {source.value}", "raw, of an input", source.form)
        inputs = channels_seen(source.form, value.channels)
        fits = source.weights.ndim == 3 and source.weights.shape[1:] == (inputs, stage.outputs)
        must(fits, f"weights of {source.value}", f"shape [blocks, {inputs}, {stage.outputs}]", source.weights.shape)
        taps = stage.taps[stage.taps[:, SOURCE] == index]
        within(f"taps, place of {source.value}", taps[:, PLACE], value.places)
        within(f"taps, block of {source.value}", taps[:, BLOCK], len(source.weights))
        missing = taps[~known[source.value][taps[:, PLACE]], PLACE]
        must(
            not len(missing),
            f"places of {source.value}",
            "computed before they are read",
            f"not computed: {missing}",
        )
    if stage.residual is not None:
        must(stage.residual in plan.values, "residual", "the name of a value", stage.residual)
        must(plan.values[stage.residual] == out, "residual", f"a value like {out}", plan.values[stage.residual])
        must(known[stage.residual][stage.places].all(), "residual", "computed before it is read", "some places not")
