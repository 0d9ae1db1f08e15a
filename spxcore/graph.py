"""A network as data, without a size: values, and stages that compute them from taps by phase. At a size it becomes a plan.

A *place* is a position of a value's map. A *tap* is one place that a stage reads, through a form and times a block of weights. The taps of
a place depend on its phase only: (y % period, x % period). So a stride, a transposed convolution, a mask and an auxiliary 1x1 input
are each a list of offsets. Padding is a tap that lies outside the map and is not there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

# What a tap sees of its source: the value, elu(value), [elu(value), elu(-value)] (twice the channels), max(value, 0), and
# tanh(a) sigmoid(b), a and b being the value's halves (half the channels; van den Oord et al. 2016, equation 2).
FORMS = ("raw", "elu", "concat_elu", "relu", "tanh_gate")


def channels_seen(form: str, channels: int) -> int:
    """Numbers that a tap sees of a value's."""
    return {"concat_elu": 2 * channels, "tanh_gate": channels // 2}.get(form, channels)


# What follows a stage's sum: nothing, or a sigmoid(b), a and b being the halves of the sum (van den Oord et al. 2016, equation 4).
GATES = ("none", "sigmoid")

# Columns of Taps.offsets.
OFFSET = ("phase_y", "phase_x", "dy", "dx", "block")


@dataclass(frozen=True)
class Value:
    """One activation map.

    Attributes:
        channels: numbers a place.
        level: the map has ceil(H / 2^level) x ceil(W / 2^level) places; -1: twice the image; None: a single place.
    """

    channels: int
    level: int | None = 0

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Places down and across, for an image of this size."""
        if self.level is None:
            return 1, 1
        if self.level < 0:
            return height << -self.level, width << -self.level
        return -(-height >> self.level), -(-width >> self.level)


@dataclass(frozen=True)
class Taps:
    """Which places of its source each place of a result reads.

    Place (y, x) of phase (y % period, x % period) reads the places (y // period * step + dy, x // period * step + dx).

    Attributes:
        offsets: int32 [T, 5], columns `OFFSET`.
        period: 2 after a transposed convolution of stride 2.
        step: 2 for a convolution of stride 2; 0 from a single place.
        first: row and column of the first places that read anything: of a result that was moved, what moved in is zero.
    """

    offsets: np.ndarray
    period: int = 1
    step: int = 1
    first: tuple[int, int] = (0, 0)

    @classmethod
    def convolution(
        cls, kernel: tuple[int, int], left: int, top: int, stride: int = 1, shift: tuple[int, int] = (0, 0)
    ) -> Taps:
        """Taps of a convolution padded with zeros.

        Args:
            kernel: (height, width).
            left, top: zeros padded there.
            stride: of both axes.
            shift: rows and columns by which the result is moved down and right afterwards.
        """
        i, j = np.indices(kernel).reshape(2, -1)
        dy, dx = i - top - shift[0] * stride, j - left - shift[1] * stride
        return cls(_offsets(0, 0, dy, dx, i * kernel[1] + j), 1, stride, shift)

    @classmethod
    def transposed(cls, kernel: tuple[int, int], stride: int, crop: int = 0) -> Taps:
        """Taps of a transposed convolution, with `crop` columns cut off on the left of its result."""
        py, px, i, j = np.indices((stride, stride, *kernel)).reshape(4, -1)
        y, x = py - i, px + crop - j
        there = (y % stride == 0) & (x % stride == 0)
        offsets = _offsets(py, px, y // stride, x // stride, i * kernel[1] + j)
        return cls(offsets[there], stride, 1)

    @classmethod
    def point(cls) -> Taps:
        """Taps of a 1x1 convolution."""
        return cls.convolution((1, 1), 0, 0)

    @classmethod
    def from_code(cls, side: int) -> Taps:
        """Taps from a single place to side x side places, each with its own weights."""
        y, x = np.indices((side, side)).reshape(2, -1)
        return cls(_offsets(y, x, 0, 0, y * side + x), side, 0)

    @classmethod
    def to_code(cls, side: int) -> Taps:
        """Taps from a map of side x side places to a single place."""
        y, x = np.indices((side, side)).reshape(2, -1)
        return cls(_offsets(0, 0, y, x, y * side + x), 1, side)

    def at(self, size: tuple[int, int], source: tuple[int, int]) -> np.ndarray:
        """Taps at a size.

        Args:
            size, source: places down and across of the result and of the source.

        Returns:
            int [T, 3]: place of the result, place of the source, block; sorted by the first and then by the last.
        """
        (h, w), (source_h, source_w) = size, source
        found = []
        for phase_y, phase_x, dy, dx, block in self.offsets.tolist():
            y, x = np.meshgrid(np.arange(phase_y, h, self.period), np.arange(phase_x, w, self.period), indexing="ij")
            from_y, from_x = y // self.period * self.step + dy, x // self.period * self.step + dx
            inside = (from_y >= 0) & (from_y < source_h) & (from_x >= 0) & (from_x < source_w)
            inside &= (y >= self.first[0]) & (x >= self.first[1])
            places = (y * w + x)[inside], (from_y * source_w + from_x)[inside]
            found.append(np.stack([*places, np.full(len(places[0]), block)], axis=1))
        taps = np.concatenate(found)
        return taps[np.lexsort((taps[:, 2], taps[:, 0]))]


def _offsets(*columns) -> np.ndarray:
    return np.stack(np.broadcast_arrays(*columns), axis=1).astype(np.int32)


@dataclass(frozen=True)
class Read:
    """Something a stage reads.

    Attributes:
        value: its name.
        form: one of `FORMS`.
        weights: float32 [blocks, inputs, outputs].
        taps: see `Taps`.
    """

    value: str
    form: str
    weights: np.ndarray
    taps: Taps


@dataclass(frozen=True)
class Bias:
    """A bias that some places lack: that of a convolution whose result is moved, or whose input has a channel of ones.

    Attributes:
        bias: float32 [outputs], at places from `taps.first` on.
        ones: float32 [blocks, outputs], weights on a channel of ones that is zero outside the image; None without.
        taps: of the convolution, by which `ones` are read.
    """

    bias: np.ndarray
    ones: np.ndarray | None
    taps: Taps


@dataclass(frozen=True)
class Stage:
    """Computes one value: the sum of biases, the code's part and the taps; then the gate; then the residual is added.

    Attributes:
        name: of the layer that it ends with, as the checkpoint has it.
        output: name of the value.
        reads: see `Read`.
        bias: float32 [outputs].
        biases: those that some places lack.
        code: float32 [Z, outputs], multiplied by the code z, or None.
        gate: one of `GATES`.
        residual: name of a value that is added at the end, or None.
    """

    name: str
    output: str
    reads: tuple[Read, ...]
    bias: np.ndarray
    biases: tuple[Bias, ...] = ()
    code: np.ndarray | None = None
    gate: str = "none"
    residual: str | None = None


@dataclass(frozen=True)
class Graph:
    """A network without a size.

    Attributes:
        values: every value by name.
        inputs: names of the values that are given.
        stages: in the order they run.
        moments: of one pixel, in the order they are drawn: (input that it fills, value that holds its parameters). Empty for a
            network that draws nothing.
        output: name of the value that the walk returned, of the last moment if there are several.
        code: Z, length of the code that stages or the input "z" read; 0 without.
    """

    values: Mapping[str, Value]
    inputs: tuple[str, ...]
    stages: tuple[Stage, ...]
    moments: tuple[tuple[str, str], ...]
    output: str
    code: int = 0

    @property
    def drawn(self) -> tuple[str, ...]:
        """Names of the inputs that drawn pixels fill."""
        return tuple(name for name, _ in self.moments)

    @cached_property
    def pixels(self) -> int:
        """Side, in pixels, of the pattern after which all maps repeat: 2^(coarsest level)."""
        return 1 << max(0, *(value.level or 0 for value in self.values.values()))
