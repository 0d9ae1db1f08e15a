"""The plan's meaning, in NumPy: slow, short, and what every engine is tested against."""

from __future__ import annotations

import numpy as np

from .model import BLOCK, PLACE, ROW, SOURCE, Plan


def elu(x: np.ndarray) -> np.ndarray:
    """x for x > 0, exp(x) - 1 otherwise."""
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def form_of(x: np.ndarray, form: str) -> np.ndarray:
    """What a tap sees of a value x [..., channels]: see `spxcore.plan.model.FORMS`."""
    if form == "raw":
        return x
    return elu(x) if form == "elu" else elu(np.concatenate([x, -x], axis=-1))


def execute(plan: Plan, inputs: dict[str, np.ndarray], z: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Run a plan on a batch of windows.

    Args:
        plan: a valid plan.
        inputs: for each of `plan.inputs` an array [B, places, channels]; its type, float32 or float64, is computed in.
        z: [B, Z] codes, or None for a plan without latent.

    Returns:
        Every value by name, [B, places, channels]; places that the plan does not compute are NaN.
    """
    batch, dtype = len(inputs[plan.inputs[0]]), inputs[plan.inputs[0]].dtype
    values = {
        name: np.array(inputs[name])
        if name in plan.inputs
        else np.full((batch, value.places, value.channels), np.nan, dtype)
        for name, value in plan.values.items()
    }
    for stage in plan.stages:
        total = np.repeat(stage.bias[stage.bias_row][None].astype(dtype), batch, axis=0)  # [B, P, outputs]
        if stage.latent is not None:
            total += (z @ stage.latent)[:, None]
        forms = [form_of(values[source.value], source.form) for source in stage.sources]
        for tap in stage.taps:
            weights = stage.sources[tap[SOURCE]].weights[tap[BLOCK]]
            total[:, tap[ROW]] += forms[tap[SOURCE]][:, tap[PLACE]] @ weights
        if stage.residual is not None:
            a, b = np.split(total, 2, axis=-1)
            with np.errstate(over="ignore"):  # a gate shut tight: 1 / (1 + inf) is the right zero
                total = values[stage.residual][:, stage.places] + a / (1 + np.exp(-b))
        values[stage.output][:, stage.places] = total
    return values
