"""Network: a walk with its tensors, which is what a model hands over and engines compile."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from ..graph import Graph
from .graph import graph_of
from .numbers import Numbers

if TYPE_CHECKING:
    from .module import Module


class Structure:
    """What networks have in common that differ in their numbers only.

    Args:
        walk: a function of `net`, see `language`.
        shapes: of its tensors, by name.
    """

    def __init__(self, walk: Callable, shapes: Mapping[str, tuple[int, ...]]):
        self.walk, self.shapes = walk, shapes

    @cached_property
    def numbers(self) -> Numbers:
        """How a network's numbers follow from its tensors."""
        return Numbers(self.walk, self.shapes)


class Network:
    """A walk with its tensors. Engines compile a network once and remember it as long as it lives.

    Args:
        walk: a function of `net`, see `language`.
        tensors: float32 arrays by the names of `shapes_of(walk)`.

    Attributes:
        structure: shared by the networks that `with_tensors` makes of each other: an engine may reuse what it made of it.
    """

    def __init__(self, walk: Callable, tensors: Mapping[str, np.ndarray]):
        self.walk, self.tensors = walk, tensors
        self.structure = Structure(walk, {name: np.shape(tensor) for name, tensor in tensors.items()})

    def with_tensors(self, tensors: Mapping[str, np.ndarray]) -> Network:
        """The same network with other tensors of the same names and shapes."""
        other = Network(self.walk, tensors)
        other.structure = self.structure
        return other

    @classmethod
    def of(cls, module: Module) -> Network:
        """The network of a torch module; its tensors are copied."""
        return cls(
            module.walk, {name: t.detach().float().cpu().numpy().copy() for name, t in module.state_dict().items()}
        )

    @cached_property
    def graph(self) -> Graph:
        """The network without a size."""
        return graph_of(self.walk, self.tensors)

    @cached_property
    def module(self) -> Module:
        """The torch module with these tensors, in evaluation mode, on the CPU."""
        import torch

        from .module import Module

        module = Module(self.walk)
        module.load_state_dict({name: torch.from_numpy(np.array(t, np.float32)) for name, t in self.tensors.items()})
        return module.eval().requires_grad_(False)
