"""Rows of the tables that native code reads: names, types and order of their columns.

`csrc/tables.h` has the same structs. A table crosses to C++ with its type, and names, types and offsets are compared there. Whoever
changes a type here changes the struct, and `VERSION` in `spxcore.native`. Rows of an arena are -1 where they are not used.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike


def int32_columns(*names: str) -> np.dtype:
    """The type of a table's row: an int32 by each name."""
    return np.dtype([(name, np.int32) for name in names])


# One operation of a window program: a sum of taps at one place.
OP = int32_columns(
    "bias",  # first of its numbers in Packed.bias
    "code",  # first of its rows of U z, or -1
    "partial_in",  # start from these rows instead of bias and code
    "partial_out",  # leave the sum in these rows and do nothing else
    "residual",  # x that is added at the end
    "residual_ahead",  # the same, for an op of a step whose x was computed ahead
    "raw",  # where the result goes
    "activated",  # where its activation goes, in `form`
    "outputs",  # numbers in the sum: the result's channels, twice as many before a gate
    "tap_begin",  # its taps are taps[tap_begin:tap_end]
    "tap_end",
    "gate",  # GATE_NONE; GATE_SIGMOID: a sigmoid(b), a and b being the halves of the sum; GATE_TANH: the sum is the result
    "form",  # of the activated rows: FORM_PAIRS, (elu(x_0), elu(-x_0), elu(x_1) ...), or FORM_RELU; FORM_GATED after GATE_TANH
)
GATE_NONE, GATE_SIGMOID, GATE_TANH = 0, 1, 2
FORM_PAIRS, FORM_RELU = 0, 1
FORM_RAW = 2  # of a ring: the value as it is
FORM_GATED = 3  # tanh(a) sigmoid(b) of the value's halves

TAP = int32_columns(
    "source",  # first arena row it reads
    "weights",  # first number of its block [inputs][outputs] in Packed.weights
    "inputs",  # rows it reads
    "pairs",  # 1 if they are pairs of concat_elu, else 0
)

# Inputs of a program: pixels are places of the network's first input; what a place is told comes from the others, counted from 0.
PIXEL = int32_columns("place", "row")
TOLD = int32_columns("input", "place", "row")

INPUT = int32_columns(
    "height", "width", "channels"
)  # places along the axes of one of a network's inputs, numbers at a place
BLOCK = int32_columns("first", "inputs", "outputs")  # weights [inputs][outputs] that begin at Packed.weights[first]

# Tables of the raster schedule: see `spxcore.lower.raster`. Rows of places count from S (R // S) rows of the image on, R being
# the one in work.
RING = int32_columns(
    "channels",  # numbers of a place
    "form",  # FORM_RAW, or the activation that is kept: FORM_PAIRS takes two numbers a channel
    "width",  # places across
    "left",  # columns of zeros on the left
    "right",  # and on the right
    "depth",  # rows that are kept: row y is the (y mod depth)-th
    "rise",  # rows of places that S rows of the image are
)
RING_ROW = int32_columns("ring", "row")
RASTER_STAGE = int32_columns(
    "outputs",  # numbers in the sum: the result's channels, twice as many before a gate
    "gate",  # as of OP
    "code",  # first of its rows of U z, or -1
    "raw",  # ring of the result, or -1
    "activated",  # ring of its activation, or -1
    "residual",  # ring of x that is added at the end, as it is or in pairs, or -1
)
# A row of places of a stage, or every so many of them.
RASTER_OP = int32_columns(
    "stage",
    "row",  # of places
    "first",  # column of the first place
    "step",  # columns from one to the next
    "count",  # places
    "bias",  # the bias of place i begins at RasterTables.biases[bias + i]
    "tap_begin",  # taps[tap_begin:tap_late] run ahead
    "tap_late",  # taps[tap_late:tap_end] wait for pixels of the row
    "tap_end",
    "waits",  # 1: its places run in steps, from partial sums; 0: wholly ahead
)
RASTER_TAP = int32_columns(
    "ring",
    "row",  # of the source's places
    "column",  # of the source, for the op's first place; in the zeros beside the row where there is none
    "step",  # columns of the source from one place of the op to the next
    "weights",  # first number of its block
    "inside",  # places [inside, inside_end) of the op read something other than zeros
    "inside_end",
)
RASTER_STEP = int32_columns("op", "place")
KIND = int32_columns("op", "op_end", "load", "load_end")  # of one kind of row of the image: ranges of the tables

# Tables of the cuda engine: see `spxcore.lower.passes`.
PROGRAM = int32_columns("part", "steps", "pixel", "pixel_current", "pixel_end", "told", "told_end", "params", "targets")
PRODUCT = int32_columns("place", "places", "weights", "chunks", "kinds", "sources", "columns", "gate", "sync")
PLACE = int32_columns("bias", "code", "partial_in", "partial_out", "residual", "raw", "activated", "form")


def columns_of(dtype: np.dtype) -> tuple[str, ...]:
    """The names of a table's columns."""
    return dtype.names or ()


def rows_of(dtype: np.dtype, numbers: ArrayLike) -> np.ndarray:
    """Numbers [n, columns] as a table [n] of that type."""
    return np.ascontiguousarray(numbers, np.int32).reshape(-1, len(columns_of(dtype))).view(dtype)[:, 0]


def joined(dtype: np.dtype, tables: Sequence[np.ndarray]) -> np.ndarray:
    """Tables of that type, one after the other. (`np.concatenate` spends more on comparing types than on copying.)"""
    return rows_of(dtype, np.concatenate([table.view(np.int32) for table in tables]))
