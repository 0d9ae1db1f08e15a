"""The plan's meaning, in NumPy: slow, short, and what every engine is tested against."""

from __future__ import annotations

import numpy as np

from .plan import BLOCK, PLACE, ROW, SOURCE, Plan


def elu(x: np.ndarray) -> np.ndarray:
    """x for x > 0, exp(x) - 1 otherwise."""
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def through_sigmoid(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a sigmoid(b)."""
    with np.errstate(over="ignore"):  # a gate shut tight: 1 / (1 + inf) is the right zero
        return a / (1 + np.exp(-b))


def seen_as(x: np.ndarray, form: str) -> np.ndarray:
    """What a tap sees of a value x [..., channels]: see `spxcore.graph.FORMS`."""
    if form == "raw":
        return x
    if form == "relu":
        return np.maximum(x, 0)
    if form == "tanh_gate":
        a, b = np.split(x, 2, axis=-1)
        return through_sigmoid(np.tanh(a), b)
    return elu(x) if form == "elu" else elu(np.concatenate([x, -x], axis=-1))


def gated(x: np.ndarray, gate: str) -> np.ndarray:
    """What a gate makes of a sum x [..., outputs]: see `spxcore.graph.GATES`."""
    if gate == "none":
        return x
    return through_sigmoid(*np.split(x, 2, axis=-1))


def execute(plan: Plan, inputs: dict[str, np.ndarray], z: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Run a plan on a batch.

    Args:
        plan: a valid plan.
        inputs: for each of `plan.inputs` an array [B, places, channels]; its type, float32 or float64, is computed in.
        z: [B, Z] codes, or None for a plan without.

    Returns:
        Every value by name, [B, places, channels]; places that the plan does not compute are NaN.
    """
    given = next(iter(inputs.values()))
    batch, dtype = len(given), given.dtype
    values = {
        name: np.array(inputs[name])
        if name in plan.inputs
        else np.full((batch, value.places, value.channels), np.nan, dtype)
        for name, value in plan.values.items()
    }
    for stage in plan.stages:
        total = np.repeat(stage.bias[stage.bias_row][None].astype(dtype), batch, axis=0)  # [B, P, outputs]
        if stage.code is not None:
            total += (z @ stage.code)[:, None]
        seen = [seen_as(values[source.value], source.form) for source in stage.sources]
        for tap in stage.taps:
            weights = stage.sources[tap[SOURCE]].weights[tap[BLOCK]]
            total[:, tap[ROW]] += seen[tap[SOURCE]][:, tap[PLACE]] @ weights
        result = gated(total, stage.gate)
        if stage.residual is not None:
            result = values[stage.residual][:, stage.places] + result
        values[stage.output][:, stage.places] = result
    return values
