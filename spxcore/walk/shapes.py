"""A walk read as names and shapes of its tensors, as the module's `state_dict()` has them. No torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from .language import HERE, Kernel


@dataclass(frozen=True)
class Symbol:
    """A value without numbers: `.shape[1]` channels at a level."""

    channels: int
    level: int | None

    @property
    def shape(self) -> tuple:
        """As a tensor's: only the second number is known."""
        return None, self.channels, None, None

    def __add__(self, other: Symbol | None) -> Symbol:
        if other is not None:  # what a layer is told
            same_map(self, other)
        return self


class Mapped(Protocol):
    """What has a map: values, and sums of them that are still open."""

    @property
    def channels(self) -> int:
        """Numbers at a place."""

    @property
    def level(self) -> int | None:
        """See `spxcore.graph.Value`."""


def same_map(*values: Mapped, channels: bool = True) -> None:
    """Raise a ValueError unless the values have the same level, and as many channels."""
    if len({(v.level, channels and v.channels) for v in values}) != 1:
        raise ValueError(f"walk: expected values of the same map, got {[(v.channels, v.level) for v in values]}")


class Shapes(dict):
    """Shapes by name. `layer` and `tensor` are all that the module's builder changes to make parameters of them."""

    def layer(self, name, inputs, outputs, kernel, level, **options):
        self.tensor(f"{name}.v", (outputs, inputs, *kernel.size))
        self.tensor(f"{name}.g", (outputs,))
        self.tensor(f"{name}.bias", (outputs,))

    def tensor(self, name, shape):
        if name in self:
            raise ValueError(f"walk: expected each name once, got {name} twice")
        self[name] = shape

    def input(self, name, channels, level=0, ones=False, drawn=False):
        return Symbol(channels + ones, level)

    def code(self, channels):
        return Symbol(channels, None) if channels else None

    def told(self, name, parts, channels, places=None, code=None):
        for source, suffix in ((places, "places"), (code, "latent")):
            if source is not None:
                self.tensor(f"{name}.{suffix}", (parts * channels, source.channels))
        return [None] * parts

    def conv(self, name, x, outputs, kernel: Kernel | None = None, **options):
        kernel = kernel or HERE
        level = kernel.level(x.level)
        self.layer(name, x.channels, outputs, kernel, level, **options)
        return Symbol(outputs, level)

    def concat_elu(self, *values):
        same_map(*values, channels=False)
        return Symbol(2 * sum(v.channels for v in values), values[0].level)

    def elu(self, x):
        return x

    relu = elu

    def tanh_gate(self, x):
        return Symbol(x.channels // 2, x.level)

    def dropout(self, x, p):
        return x

    def gate(self, name, x, y, h=None):
        result = Symbol(y.channels // 2, y.level)
        if x is not None:
            same_map(x, result)
        return result


def shapes_of(walk: Callable) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that a walk reads."""
    shapes = Shapes()
    walk(shapes)
    return dict(shapes)
