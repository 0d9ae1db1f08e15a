"""Bars of commands whose work has parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def bars() -> Iterator[Callable[[str, float], None]]:
    """A bar for the part that is under way, where someone watches, and what tells it of the share done."""
    from tqdm import tqdm

    bars: dict[str, tqdm] = {}

    def progress(part: str, share: float) -> None:
        if part not in bars:
            for bar in bars.values():
                bar.close()
            shape = "{desc}: {percentage:3.0f}% {bar} {remaining}"
            bars[part] = tqdm(total=1.0, desc=part, disable=None, bar_format=shape)
        bars[part].update(share - bars[part].n)

    try:
        yield progress
    finally:
        for bar in bars.values():
            bar.close()
