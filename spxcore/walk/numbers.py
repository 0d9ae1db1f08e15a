"""A network's numbers apart from its graph: one vector that its tensors fill, and a graph that holds places in it.

A graph's arrays hold numbers of the tensors, cut, turned and joined, and sums of biases. So a graph that is read once with *places* of
numbers instead tells where each number comes from, whatever the tensors are. Who keeps what was made of it fills in new tensors in
the time of a few passes over them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from ..graph import Graph
from .graph import Net, normed, read_walk


class Numbers:
    """The vector of a walk's numbers: number 0 is zero, then the weights g v / ||v|| of all layers, then all other tensors.

    Args:
        walk: a function of `net`, see `language`.
        shapes: of its tensors, by name.
    """

    def __init__(self, walk: Callable, shapes: Mapping[str, tuple[int, ...]]):
        self._walk, self._shapes = walk, shapes
        alike: dict[tuple[int, ...], list[str]] = {}  # layers by the shape of their weights: they are normed together
        for name, shape in shapes.items():
            if name.endswith(".v"):
                alike.setdefault(shape, []).append(name.removesuffix(".v"))
        self._layers = list(alike.values())
        every = [layer for layers in self._layers for layer in layers]
        normed_too = {f"{layer}.{part}" for layer in every for part in "vg"}
        self._others = [name for name in shapes if name not in normed_too]
        self._order = [*(f"{layer}.v" for layer in every), *self._others]
        self._size = 1 + sum(math.prod(shapes[name]) for name in self._order)

    def places(self) -> Graph:
        """The walk's graph with int64 places in the vector instead of numbers. A stage's `bias` is [terms, outputs] there, to be
        summed in that order."""
        places, at = {}, 1
        for name in self._order:
            size = math.prod(self._shapes[name])
            places[name] = np.arange(at, at + size).reshape(self._shapes[name])
            at += size
        return read_walk(self._walk, _Places(places))

    def __call__(self, tensors: Mapping[str, np.ndarray]) -> np.ndarray:
        """The vector of tensors of these shapes, float32; to the bit what `graph_of` makes of them."""
        result = np.empty(self._size, np.float32)
        result[0], at = 0, 1
        for layers in self._layers:
            v = np.stack([tensors[f"{layer}.v"] for layer in layers], dtype=np.float64)
            g = np.stack([tensors[f"{layer}.g"] for layer in layers])
            normed(v, g, out=result[at : at + v.size].reshape(v.shape))
            at += v.size
        if self._others:
            result[at:] = np.concatenate([np.ravel(tensors[name]) for name in self._others])
        return result


class _Places(Net):
    """The words, on places in the vector."""

    def tensor(self, name: str) -> np.ndarray:
        return self.tensors[name]

    def weights(self, name: str) -> np.ndarray:
        return self.tensors[f"{name}.v"]

    def total(self, terms: tuple[np.ndarray, ...]) -> np.ndarray:
        return np.stack(terms)
