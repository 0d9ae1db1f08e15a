"""Constants of a plan turned into biases."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .execute import gated, seen_as
from .plan import ROW, Plan, shared_rows


def fold_constants(plan: Plan) -> Plan:
    """Turn taps of places that no input reaches into biases.

    Above the first row and left of the first column the streams see padding only, so some places are the same in every window:
    a few with coordinates or a code, every pixel-independent one without.
    """
    fixed: dict[str, dict[int, np.ndarray]] = {name: {} for name in plan.values}
    stages = []
    for stage in plan.stages:
        bias = stage.bias[stage.bias_row].astype(np.float64)
        constants = [fixed[source.value] for source in stage.sources]
        kept = np.array([place not in constants[s] for _, s, place, _ in stage.taps.tolist()], bool)
        for row, s, place, block in stage.taps[~kept].tolist():
            seen = seen_as(constants[s][place], stage.sources[s].form)
            # Not a matrix product: its order of summation, and so its last bit, differs between machines.
            bias[row] += (seen[:, None] * stage.sources[s].weights[block]).sum(axis=0)
        varies = np.zeros(len(stage.places), bool)
        varies[stage.taps[kept, ROW]] = True
        for row in np.flatnonzero(~varies):
            place = int(stage.places[row])
            if stage.code is not None or (stage.residual is not None and place not in fixed[stage.residual]):
                continue
            value = gated(bias[row], stage.gate)
            fixed[stage.output][place] = value if stage.residual is None else fixed[stage.residual][place] + value
        rows, bias_row = shared_rows(bias.astype(np.float32))
        stages.append(replace(stage, taps=stage.taps[kept], bias=rows, bias_row=bias_row))
    return replace(plan, stages=tuple(stages))
