"""Signals that ask a process to stop: SIGINT (Ctrl-C), SIGTERM (a cluster's, a service manager's), SIGHUP (the terminal is gone)."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

STOPPING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Stopped(KeyboardInterrupt):
    """A signal asked the process to stop. Its text, if any, says what became of the work.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int = signal.SIGINT, text: str = ""):
        super().__init__(text)
        self.number = int(number)


class Signals:
    """Notes that a signal asked to stop. A signal that the process was started to ignore (nohup, a background job) stays ignored.

    Args:
        tells: whether this process says so.

    Attributes:
        asked: number of the first signal that came, 0 if none did.
    """

    def __init__(self, tells: bool = False):
        self.tells, self.asked = tells, 0

    @contextmanager
    def _handled(self, handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
        previous: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():  # Python lets no other thread do it
            for number in STOPPING:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    previous[number] = signal.signal(number, handler)
        try:
            yield
        finally:
            for number, old in previous.items():
                signal.signal(number, old)

    @contextmanager
    def raised(self) -> Iterator[None]:
        """Inside, the first signal raises `Stopped`. While the work is saved, only another Ctrl-C does: a terminal that goes away and
        a service manager send several."""

        def stop(number: int, _: FrameType | None) -> None:
            first, self.asked = not self.asked, self.asked or number
            if first or number == signal.SIGINT:
                raise Stopped(number)

        with self._handled(stop):
            yield

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Inside, the first signal is only noted: in the middle of a step the state would be of no step. The second one raises
        `Stopped`."""

        def note(number: int, _: FrameType | None) -> None:
            if self.asked:
                raise Stopped(number)
            self.asked = number
            if self.tells:
                print("stopping after this step; interrupt again to stop at once", file=sys.stderr)

        with self._handled(note):
            yield
