"""A graph at a size."""

from __future__ import annotations

import numpy as np

from .. import graph
from .check import check
from .fold import fold_constants
from .plan import ROW, SOURCE, Plan, Source, Stage, Value, shared_rows


def plan_at(network: graph.Graph, height: int, width: int, fold: bool = True) -> Plan:
    """The plan of a graph for an image, or window, of a size: every place of every stage.

    Args:
        network: the graph.
        height, width: in pixels.
        fold: turn what is constant into biases (`fold_constants`).
    """
    values = {name: Value(*value.size(height, width), value.channels) for name, value in network.values.items()}
    known: dict[tuple, np.ndarray] = {}
    stages = tuple(_stage_at(stage, values, known) for stage in network.stages)
    plan = Plan(height, width, network.code, values, network.inputs, network.drawn, network.output, stages)
    return check(fold_constants(plan) if fold else plan)


def _stage_at(stage: graph.Stage, values: dict[str, Value], known: dict[tuple, np.ndarray]) -> Stage:
    """A stage at a size. known: taps that another stage has too."""
    out = values[stage.output]
    size = out.height, out.width

    def taps_at(taps, value: Value) -> np.ndarray:
        source = value.height, value.width
        key = taps.offsets.tobytes(), taps.period, taps.step, taps.first, size, source
        if key not in known:
            known[key] = taps.at(size, source)
        return known[key]

    found = [np.insert(taps_at(read.taps, values[read.value]), 1, i, axis=1) for i, read in enumerate(stage.reads)]
    taps = np.concatenate(found).astype(np.int32)
    taps = taps[np.lexsort((taps[:, SOURCE], taps[:, ROW]))]
    bias = np.repeat(stage.bias[None], out.places, axis=0)
    for part in stage.biases:
        down, right = part.taps.first
        bias.reshape(*size, -1)[down:, right:] += part.bias
        if part.ones is not None:  # the channel of ones has as many places as the result
            ones = taps_at(part.taps, out)
            np.add.at(bias, ones[:, 0], part.ones[ones[:, 2]])
    rows, bias_row = shared_rows(bias) if stage.biases else (stage.bias[None], np.zeros(out.places, np.int32))
    sources = tuple(Source(read.value, read.form, read.weights) for read in stage.reads)
    every = np.arange(out.places, dtype=np.int32)
    return Stage(stage.name, stage.output, sources, every, taps, rows, bias_row, stage.code, stage.gate, stage.residual)
