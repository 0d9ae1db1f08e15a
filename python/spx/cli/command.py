"""What a command is. Whatever is the same for all of them is here: how arguments are checked, how signals, errors and lost output end."""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from ..signals import Signals, Stopped

# Modules of this package whose `main` is a `Command`. A new one: a line here, and one in pyproject.toml's [project.scripts].
MODULES = ("sample", "score", "plan", "train", "evaluate", "lenet", "reproduce", "doctor")

# Exit codes: a user's mistake; a fault of spx; output that cannot be written; a reader that went away. A signal's is 128 and its number.
MISTAKE, FAULT, UNWRITTEN, NO_READER = 2, 70, 74, 141

# Does the work; returns what the command prints in the end. Whatever cannot be printed must be in files before.
Work = Callable[[], str]


def commands() -> list[Command]:
    """All commands."""
    return [import_module(f".{name}", __package__).main for name in MODULES]


@dataclass
class Command:
    """A command of the shell. Calling it with arguments (None: the process') returns the exit code.

    Modules of commands import what is heavy in these functions only: so --help is instant, and a signal in the middle of the imports ends
    the process with a word.

    Attributes:
        name: in the shell.
        parser: its options, for given arguments. Options of type `values.Number` carry ranges.
        prepare: everything that may be refused: looks at all arguments, inputs and outputs, and leaves nothing behind. Returns the work.
    """

    name: str
    parser: Callable[[list[str]], argparse.ArgumentParser]
    prepare: Callable[[argparse.Namespace], Work]

    def __call__(self, argv: list[str] | None = None) -> int:
        with _streams():
            signals = Signals()
            working = False
            try:
                with signals.raised():
                    work = self.prepare(self._arguments(sys.argv[1:] if argv is None else list(argv)))
                    if signals.asked:  # and something that was imported or asked swallowed it
                        raise Stopped(signals.asked)
                    working = True
                    text = work()
                    if text:
                        _say(text)
                    return 0
            except SystemExit:  # argparse's: it has said why
                _flush()
                raise
            except BaseException as error:
                if os.environ.get("SPX_TRACEBACK") == "1":
                    import traceback

                    traceback.print_exc()
                return _told(error, working, signals)

    def _arguments(self, argv: list[str]) -> argparse.Namespace:
        """The arguments, numbers in their ranges."""
        from .values import check

        parser = self.parser(argv)
        arguments = parser.parse_args(argv)
        check(parser, arguments)
        return arguments


# ---- how it ends --------------------------------------------------------------------------------------------------------------


def _told(error: BaseException, working: bool, signals: Signals) -> int:
    """Say in one sentence what ended the command; its exit code.

    Args:
        error: what ended it.
        working: whether the work had begun.
        signals: whether one came, which some libraries make another error of.
    """
    unwritten = UNWRITTEN if working else MISTAKE
    mistake = _is(error, "spxcore.errors", "SpxError")
    if isinstance(error, KeyboardInterrupt) or (signals.asked and not mistake):
        print(str(error) if isinstance(error, Stopped) and str(error) else "stopped", file=sys.stderr)
        return 128 + (error.number if isinstance(error, Stopped) else signals.asked or signal.SIGINT)
    if mistake:
        return _refused(str(error), unwritten if _is(error, "spx.io.files", "Unwritten") else MISTAKE)
    if isinstance(error, BrokenPipeError):
        return NO_READER
    refuses_memory = getattr(sys.modules.get("spxcore.memory"), "refuses_memory", None)
    if isinstance(error, MemoryError) or (refuses_memory and refuses_memory(error)):
        return _refused(f"not enough memory ({_first_line(error)}); ask for fewer or smaller images", MISTAKE)
    if isinstance(error, RecursionError):
        return _refused("a file is nested too deeply to be read; give another one", MISTAKE)
    if isinstance(error, OSError) and error is getattr(
        sys.stdout, "error", None
    ):  # argparse's help, on some versions of Python
        _nowhere(sys.stdout)
        return _refused(f"standard output cannot be written ({error.strerror or error})", UNWRITTEN)
    if isinstance(error, OSError):
        what = f"{error.filename}: " if error.filename else ""
        return _refused(what + (error.strerror or str(error)), unwritten)
    text = f"a fault of spx ({type(error).__name__}: {_first_line(error)}); SPX_TRACEBACK=1 shows where"
    return _refused(text, FAULT)


def _is(error: BaseException, module: str, name: str) -> bool:
    """Whether an error is of a class. In the middle of imports its module may not be there yet, and cannot be imported."""
    kind = getattr(sys.modules.get(module), name, None)
    return kind is not None and isinstance(error, kind)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0]


def _refused(text: str, code: int) -> int:
    print("error: " + " ".join(text.splitlines()), file=sys.stderr)
    return code


# ---- standard output and standard error -----------------------------------------------------------------------------------------


def _printable(text: str, stream: Any) -> str:
    """The text as a stream can take it: names of files may hold bytes that are no text."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


class _Lossy:
    """Standard error. What cannot be told there is lost: it must not end the work."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        self._try(lambda: self._stream.write(_printable(text, self._stream)))
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, work: Callable[[], object]) -> None:
        try:
            work()
        except (OSError, ValueError):
            _nowhere(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Output:
    """Standard output. It remembers what went wrong, which argparse does not tell.

    Args:
        stream: None if the process was started without one.
    """

    def __init__(self, stream: Any):
        self._stream = stream
        self.error: Exception | None = None

    def write(self, text: str) -> int:
        return self._try(lambda: self._stream.write(_printable(text, self._stream)))

    def flush(self) -> None:
        self._try(lambda: self._stream.flush())

    def _try(self, work: Callable[[], Any]) -> Any:
        try:
            if self._stream is None:
                raise OSError(errno.EBADF, "it is closed")
            return work()
        except (OSError, ValueError) as error:
            self.error = error
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def _streams() -> Iterator[None]:
    """Inside there are three standard streams. A file that is opened would else become the one that is missing, and be written to."""
    before = sys.stdin, sys.stdout, sys.stderr
    nowhere = None
    if None in before:
        while (number := os.open(os.devnull, os.O_RDWR)) < 3:
            pass  # the lowest free number: each missing stream's
        os.close(number)
        nowhere = open(os.devnull, "w")  # noqa: SIM115
    sys.stdout = _Output(sys.stdout)
    sys.stderr = _Lossy(sys.stderr or nowhere)
    try:
        yield
    finally:
        sys.stdin, sys.stdout, sys.stderr = before


def _say(text: str) -> None:
    """Print the result. Where that is impossible, it goes to a file, and the error says to which.

    Raises:
        Unwritten: if it cannot be printed.
        BrokenPipeError: if nobody reads.
    """
    from ..io.files import Unwritten, rescue

    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        _nowhere(sys.stdout)
        raise
    except (OSError, ValueError) as error:
        _nowhere(sys.stdout)
        reason = getattr(error, "strerror", None) or error
        path = rescue(lambda p: p.write_text(text + "\n", "utf-8", "backslashreplace"), ".txt")
        kept = f"; the result is in {path}" if path else ""
        raise Unwritten(f"standard output cannot be written ({reason}){kept}") from error


def _flush() -> None:
    """Bring out what argparse printed.

    Raises:
        SystemExit: if that was impossible.
    """
    output: Any = sys.stdout
    if output.error is None and output._stream is not None:
        with contextlib.suppress(OSError, ValueError):
            output.flush()
    if output.error is not None:
        _nowhere(output)
        reason = getattr(output.error, "strerror", None) or output.error
        if isinstance(output.error, BrokenPipeError):
            raise SystemExit(NO_READER) from None
        raise SystemExit(_refused(f"standard output cannot be written ({reason})", UNWRITTEN)) from None


def _nowhere(stream: Any) -> None:
    """Let what a broken stream still holds go nowhere, or Python fails once more when it ends."""
    with contextlib.suppress(Exception):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
