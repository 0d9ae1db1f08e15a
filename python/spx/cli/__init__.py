"""The commands. Their modules import what is heavy only after the arguments were read, so that --help is instant."""

from __future__ import annotations

import sys
from collections.abc import Callable

from spxcore.errors import SpxError


def run(command: Callable[[], int]) -> int:
    """Run a command's body: a user's mistake becomes one sentence and exit code 2, Ctrl-C becomes 130."""
    try:
        return command()
    except SpxError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except MemoryError as error:
        print(f"error: not enough memory ({error}); ask for fewer or smaller images", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output went away
        sys.stderr.close()
        return 141
