"""A walk read as a `Graph`: every convolution a sum of taps, weight norm folded into its weights.

A convolution is an open sum: `+` joins sums, and the first word that needs its numbers closes it as a stage. Stages are in the order of
their last convolutions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from ..errors import require
from ..graph import Bias, Graph, Read, Stage, Taps, Value
from .language import HERE, Kernel
from .shapes import Symbol, same_map


@dataclass(frozen=True, eq=False)
class _Value(Symbol):
    """What a convolution sees.

    Attributes:
        of: the values, side by side, by name; one but for concat_elu of several.
        form: one of `spxcore.graph.FORMS`.
        ones: whether a channel of ones stands at the end.
    """

    of: tuple[str, ...] = ()
    form: str = "raw"
    ones: bool = False

    def __add__(self, other):
        other = other.closed or other if isinstance(other, _Sum) else other
        require(isinstance(other, _Sum), "walk: +", "a convolution on one side", "two values", "add a 1x1 convolution")
        return other + self


class _Told(NamedTuple):
    """What a stage is told: its part of a read of places, and of a read of the code [Z, outputs]."""

    reads: tuple[Read, ...]
    code: np.ndarray | None


@dataclass(eq=False)
class _Sum:
    """An open sum of convolutions, and perhaps of a value; `closed` once it is a stage.

    Attributes:
        name: of its first convolution.
        reads, biases: as of `Stage`.
        terms: of its bias.
        number: of its last convolution.
        residual: name of the value that is added, or None.
        code: as of `Stage`.
    """

    channels: int
    level: int | None
    name: str
    reads: tuple[Read, ...]
    terms: tuple[np.ndarray, ...]
    biases: tuple[Bias, ...]
    number: int
    residual: str | None = None
    code: np.ndarray | None = None
    closed: _Value | None = None
    shape = Symbol.shape

    def __add__(self, other):
        if isinstance(other, _Told):
            require(self.closed is None, f"walk: {self.name}", "what it is told, before it is read", "after")
            return replace(self, reads=self.reads + other.reads, code=self._code(other.code))
        same_map(self, other)
        if self.closed:
            return self.closed + other
        other = other.closed or other if isinstance(other, _Sum) else other
        if isinstance(other, _Sum):
            require(not (self.residual and other.residual), f"walk: {self.name}", "at most one value added", "two")
            return replace(
                self,
                reads=self.reads + other.reads,
                terms=self.terms + other.terms,
                biases=self.biases + other.biases,
                number=other.number,
                residual=self.residual or other.residual,
                code=self._code(other.code),
            )
        plain = other.form == "raw" and len(other.of) == 1 and not other.ones
        require(
            plain and not self.residual,
            f"walk: {self.name}",
            "at most one value, as it is, added to convolutions",
            other,
        )
        return replace(self, residual=other.of[0])

    def _code(self, other: np.ndarray | None) -> np.ndarray | None:
        """The code's weights of the sum with another one."""
        require(self.code is None or other is None, f"walk: {self.name}", "to be told of the code once", "twice")
        return other if self.code is None else self.code


def _taps(kernel: Kernel, level: int | None) -> Taps:
    if kernel.whole:
        return Taps.to_code(kernel.size[0])
    if kernel.up and level is None:
        return Taps.from_code(kernel.size[0])
    if kernel.up:
        return Taps.transposed(kernel.size, kernel.stride, kernel.crop)
    return Taps.convolution(kernel.size, kernel.pad[0], kernel.pad[2], kernel.stride, kernel.shift)


class Net:
    """The words, on symbols; see `language`."""

    def __init__(self, tensors: Mapping[str, np.ndarray]):
        self.tensors = tensors
        self.values: dict[str, Value] = {}
        self.inputs: list[str] = []
        self.drawn: list[str] = []
        self.stages: list[tuple[int, Stage]] = []
        self.convolutions = 0
        self.z = 0

    # ---- tensors ----

    def tensor(self, name: str) -> np.ndarray:
        way_out = "the weights do not belong to this configuration"
        require(name in self.tensors, f"weights: {name}", "a tensor", "none", way_out)
        return np.asarray(self.tensors[name], np.float32)

    def weights(self, name: str) -> np.ndarray:
        """Weight [outputs, inputs, height, width] of a layer."""
        return normed(self.tensor(f"{name}.v"), self.tensor(f"{name}.g"))

    def blocks(self, name: str) -> np.ndarray:
        """Weight of a layer as [blocks, inputs, outputs]."""
        w = self.weights(name)
        return w.transpose(2, 3, 1, 0).reshape(-1, w.shape[1], w.shape[0])

    def total(self, terms: tuple[np.ndarray, ...]) -> np.ndarray:
        """The bias of a stage: the sum of its terms, in their order."""
        return reduce(np.add, terms)

    # ---- words ----

    def input(self, name, channels, level=0, ones=False, drawn=False):
        self._declare(name, channels, level)
        if drawn:
            self.drawn.append(name)
        return _Value(channels + ones, level, (name,), ones=ones)

    def _declare(self, name, channels, level):
        require(name not in self.values, f"walk: {name}", "each value once", "it twice")
        self.values[name] = Value(channels, level)
        self.inputs.append(name)

    def code(self, channels):
        return _Value(channels, None, ("z",)) if channels else None

    def told(self, name, parts, channels, places=None, code=None):
        if places is None and code is None:
            return [None] * parts
        if code is not None:
            self.z = code.channels

        def part(what: str, i: int) -> np.ndarray:
            return np.ascontiguousarray(self.tensor(f"{name}.{what}")[i * channels : (i + 1) * channels].T)

        result = []
        for i in range(parts):
            reads: tuple[Read, ...] = ()
            if places is not None:
                reads = (Read(places.of[0], "raw", part("places", i)[None], Taps.point()),)
            result.append(_Told(reads, None if code is None else part("latent", i)))
        return result

    def conv(self, name, x, outputs, kernel=None, **options):
        kernel, x, w = kernel or HERE, self.close(x), self.blocks(name)
        if x.of == ("z",) and "z" not in self.values:
            self._declare("z", x.channels, None)
            self.z = x.channels
        self.convolutions += 1
        bias, taps = self.tensor(f"{name}.bias"), _taps(kernel, x.level)
        biases: tuple[Bias, ...] = ()
        if x.ones or kernel.shift != (0, 0):
            biases = (Bias(bias, w[:, -1] if x.ones else None, taps),)
            bias = np.zeros_like(bias)
        if x.ones:
            w = w[:, :-1]
        parts = [w]
        if len(x.of) > 1:  # concat_elu of several side by side: all their elu(x), then all their elu(-x)
            ends = np.cumsum([0, *(self.values[of].channels for of in x.of)])
            half = w.reshape(len(w), 2, ends[-1], outputs)
            parts = [half[:, :, first:end].reshape(len(w), -1, outputs) for first, end in pairwise(ends)]
        reads = tuple(Read(of, x.form, part, taps) for of, part in zip(x.of, parts))
        return _Sum(outputs, kernel.level(x.level), name, reads, (bias,), biases, self.convolutions)

    def _seen_as(self, form: str, times: int, values) -> _Value:
        values = tuple(map(self.close, values))
        require(
            all(v.form == "raw" and not v.ones for v in values),
            f"walk: {form}",
            "of values as they are",
            values[0].form,
        )
        return _Value(times * sum(v.channels for v in values), values[0].level, sum((v.of for v in values), ()), form)

    def concat_elu(self, *values):
        return self._seen_as("concat_elu", 2, values)

    def elu(self, x):
        return self._seen_as("elu", 1, (x,))

    def relu(self, x):
        return self._seen_as("relu", 1, (x,))

    def tanh_gate(self, x):
        x = self.close(x)
        return _Value(x.channels // 2, x.level, x.of, "tanh_gate")

    def dropout(self, x, p):
        return x

    def gate(self, name, x, y, h=None):
        residual = None if x is None else self.close(x).of[0]
        return self.close(y, name, "sigmoid", residual, h)

    def close(self, x, output=None, gate="none", residual=None, told=None) -> _Value:
        """A sum becomes a stage, whose value this is; a value stays what it is."""
        if isinstance(x, _Value):
            return x
        if x.closed is None:
            alone = x.residual is None or (gate == "none" and residual is None)
            require(alone, f"walk: {x.name}", "a gate on convolutions alone", "a sum with a value")
            output, channels = output or x.name, x.channels // (1 if gate == "none" else 2)
            require(output not in self.values, f"walk: {output}", "each name once", "it twice")
            whole = x if told is None else x + told
            self.values[output] = Value(channels, x.level)
            stage = Stage(
                x.name,
                output,
                whole.reads,
                self.total(x.terms),
                x.biases,
                whole.code,
                gate,
                residual or x.residual,
            )
            self.stages.append((x.number, stage))
            x.closed = _Value(channels, x.level, (output,))
        return x.closed


def normed(v: np.ndarray, g: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """g v / ||v|| of weight-normalised layers (Salimans & Kingma 2016), computed in float64.

    Args:
        v: [..., outputs, inputs, height, width].
        g: [..., outputs].
        out: to write into; None: a new array.

    Returns:
        float32 like `v`.
    """
    v = np.asarray(v, np.float64)
    scale = g / np.sqrt((v**2).sum(axis=(-3, -2, -1)))
    out = np.empty(v.shape, np.float32) if out is None else out
    return np.multiply(v, scale[..., None, None, None], out=out, casting="same_kind")


def graph_of(walk: Callable, tensors: Mapping[str, np.ndarray]) -> Graph:
    """The graph of a walk with its tensors.

    Raises:
        SpxError: if a tensor is missing.
    """
    return read_walk(walk, Net(tensors))


def read_walk(walk: Callable, net: Net) -> Graph:
    """The graph of a walk read by these words."""
    returned = walk(net)
    outputs = [net.close(x).of[0] for x in (returned if isinstance(returned, tuple) else (returned,))]
    stages = tuple(stage for _, stage in sorted(net.stages, key=lambda numbered: numbered[0]))
    if net.drawn:
        require(len(net.drawn) == len(outputs), "walk", f"a result for each of {net.drawn}", f"{len(outputs)} results")
    moments = tuple(zip(net.drawn, outputs))
    return Graph(net.values, tuple(net.inputs), stages, moments, outputs[-1], net.z)
