"""What an evaluation draws: samples and reconstructions of one seed, each drawn when it is first asked for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from spxcore.engines import Engine

from ..api import Sampler
from ..models.likelihood import Progress


class Drawings:
    """Samples and reconstructions of one seed.

    Image i is the same whatever is drawn with it, so a smaller number of them is the first ones.

    Args:
        model: what draws.
        originals: uint8 [N, H, W, C], what is reconstructed.
        engine, seed, temperature: as of `Sampler`.
        progress: told of each part.
    """

    def __init__(
        self,
        model: Sampler,
        originals: np.ndarray,
        engine: Engine,
        seed: int = 0,
        temperature: float = 1.0,
        progress: Progress | None = None,
    ):
        self.model, self.originals, self.progress = model, originals, progress
        self.seed, self.engine = seed, engine
        self.options = {"seed": seed, "temperature": temperature, "engine": engine}
        self._known: dict[tuple[str, int], np.ndarray] = {}

    def samples(self, size: int, count: int) -> np.ndarray:
        """Samples 0 to count - 1, uint8 [count, size, size, C]."""
        return self._drawn("samples", size, count, lambda **how: self.model.sample(size, n=count, **how))

    def reconstructions(self, size: int, count: int) -> np.ndarray:
        """The first `count` originals drawn anew, uint8 [count, size, size, C]."""
        originals = self.originals[:count]
        return self._drawn(
            "reconstructions", size, len(originals), lambda **how: self.model.reconstruct(originals, size, **how)
        )

    def _drawn(self, what: str, size: int, count: int, draw: Callable[..., np.ndarray]) -> np.ndarray:
        if len(self._known.get((what, size), ())) < count:
            counter = _counter(self.progress, f"{what} {size}", count * size * size)
            self._known[what, size] = draw(progress=counter, **self.options)
        return self._known[what, size][:count]


def _counter(progress: Progress | None, part: str, pixels: int) -> Callable[[int], None] | None:
    """A pixel counter for an engine that reports shares of a part."""
    if progress is None:
        return None
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        progress(part, done / pixels)

    return count
