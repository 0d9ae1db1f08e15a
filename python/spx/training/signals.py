"""Ctrl-C and SIGTERM: a run stops after the step under way."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator


class Signals:
    """Notes that a signal asked the run to stop.

    Args:
        tells: whether this process says so.

    Attributes:
        asked: whether one came.
    """

    def __init__(self, tells: bool):
        self.tells, self.asked = tells, False

    @contextlib.contextmanager
    def noted(self) -> Iterator[None]:
        """Inside, the first SIGINT or SIGTERM is only noted: in the middle of a step the state would be of no step. The second one
        raises KeyboardInterrupt."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(*_):
            if self.asked:
                raise KeyboardInterrupt
            self.asked = True
            if self.tells:
                print("stopping after this step; interrupt again to stop at once", file=sys.stderr)

        previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
