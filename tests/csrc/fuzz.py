"""Calls of spxcore._native whose arguments were made wrong at random: each must return or raise an exception of Python.

python tests/csrc/fuzz.py [--seed S] [--calls N] runs them in a process of its own. A signal, a sanitizer's report, a hang or a
SystemError fails; the seed, the call's number and what was changed are printed then. --first NUMBER --calls 1 makes that call again.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import faulthandler
import functools
import gc
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

sys.path.append(str(Path(__file__).parents[1] / "support"))

from walks import relu_job
from wholes import whole_job

from spxcore import Logistics, Softmax, native
from spxcore.engines import cpp, cuda
from spxcore.lower.job import native_job
from spxcore.lower.packing import code_numbers
from spxcore.lower.passes import whole_products, window_products
from spxcore.lower.raster import raster_tables
from spxcore.lower.window import full_program, inputs_of, pack, window_programs
from spxcore.plan import plan_at

# A call takes milliseconds; one that is stuck never ends.
SECONDS_A_CALL = 30
SIDE, HEIGHT, WIDTH = 3, 4, 6

# None of the numbers makes a valid call large: those between are refused or small.
NUMBERS = (
    0, 1, -1, 2, 3, 7, 16, 17, 64, 255, 256, 4096, 4097, 1 << 16, (1 << 31) - 1, 1 << 31, -(1 << 31), (1 << 32) - 1, 1 << 32,
    (1 << 63) - 1, 1 << 63, (1 << 64) - 1, 1 << 64, 10**30, -(10**30),
)  # fmt: skip
FLOATS = (
    0.0,
    -0.0,
    1.0,
    -1.0,
    float("nan"),
    float("inf"),
    -float("inf"),
    1e-45,
    1e-320,
    3e38,
    1e39,
    1e308,
    1e30,
    -1e30,
)


class Hostile:
    """Whatever is done with it raises."""

    def __getattr__(self, name):
        raise KeyError(name)

    def __index__(self):
        raise ZeroDivisionError

    def __call__(self, *arguments):
        raise LookupError


STRANGE = (
    None, "", "x", "\ud800", b"x", 1.5, 1j, [], {}, object(), int, Hostile(), True, np.float32(3), np.uint8(200),
    np.datetime64(1, "s"),
)  # fmt: skip


# ---- the calls -------------------------------------------------------------------------------------------------------


def plain(value):
    """NamedTuples and dataclasses as namespaces, so that every field can be changed; tuples of them as lists."""
    if dataclasses.is_dataclass(value) and hasattr(value, "programs"):
        value = SimpleNamespace(**{field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    elif hasattr(value, "kind") and hasattr(value, "levels"):  # a head
        names = ("kind", "channels", "components", "levels")
        return SimpleNamespace(**{name: getattr(value, name) for name in names if hasattr(value, name)})
    elif hasattr(value, "_asdict"):
        value = SimpleNamespace(**value._asdict())
    elif dataclasses.is_dataclass(value):
        value = SimpleNamespace(**{field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    if isinstance(value, SimpleNamespace):
        return SimpleNamespace(**{name: plain(field) for name, field in vars(value).items()})
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    return value


@functools.cache
def jobs():
    """Valid jobs of tiny networks: with and without a code, what places are told, an embedding."""
    return [
        relu_job(SIDE, HEIGHT, WIDTH, 2, told=True, latent=2),
        relu_job(SIDE, HEIGHT, WIDTH, 1, Softmax(7), embedding=2, temperature=0.7),
        relu_job(SIDE, HEIGHT, 40, 3, Logistics(3, 2, 16), mode=True),
    ]


@functools.cache
def plan(number: int):
    return plan_at(jobs()[number].network.graph, SIDE, SIDE)


@functools.cache
def cpu_tables(number: int, whole: bool):
    packed = pack(plan(number))
    programs = [full_program(plan(number), packed)] if whole else window_programs(plan(number), packed)
    return cpp.tables_of(plan(number), packed, programs)


@functools.cache
def cuda_tables(number: int, whole: bool, precision: str):
    return (whole_products if whole else window_products)(plan(number), precision)


def window_job(number: int, of_cuda: bool, g):
    """A job with a fresh canvas, as native code reads it."""
    task = jobs()[number]
    found = native_job(task, task.canvas(keep=bool(g.integers(2))))
    n = len(task.images)
    if of_cuda:
        tables = cuda_tables(number, False, "fp32")
        codes = code_numbers(task.code, tables.code, n) if tables.code_numbers else None
        found = found._replace(code=codes)
    if g.integers(2):
        found = found._replace(given=g.integers(0, 2, (1, found.height, found.width)).astype(bool))
    return plain(found)


def known(number: int, of_cuda: bool, g):
    """Inputs of a network, and its code, for a few windows."""
    values, n = plan(number).values, int(g.integers(1, 20))
    graph = jobs()[number].network.graph
    inputs = [g.normal(size=(n, values[i].places, values[i].channels)).astype(np.float32) for i in inputs_of(graph)]
    code = g.normal(size=(n, graph.code)).astype(np.float32) if graph.code else None
    if of_cuda:
        code = code_numbers(code, cuda_tables(number, True, "fp32").code, n)
    return inputs, code


def cpu_options(g):
    isa = str(g.choice(native.native().instruction_sets()))
    return plain(cpp.Options(isa, False, bool(g.integers(2)), int(g.integers(1, 3))))


def cuda_options(g):
    return plain(cuda.Options(0, *(int(g.integers(0, 3)) for _ in range(3)), 1 << 14, bool(g.integers(2))))


PRECISIONS = ("fp32", "tf32", "bf16")


@functools.cache
def cpu_engine(number: int, whole: bool):
    options = cpp.Options(native.native().instruction_sets()[number % 2], False, True, 1 + number % 2)
    return native.native().Engine(cpu_tables(number, whole), options)


@functools.cache
def cuda_engine(number: int, whole: bool):
    return native.native().CudaEmulation(
        cuda_tables(number, whole, PRECISIONS[number]), cuda.Options(warps=1 + number % 2)
    )


def which(g) -> int:
    return int(g.integers(len(jobs())))


def then_run(g, number: int, of_cuda: bool, whole: bool):
    """What to do with an engine whose tables were accepted: to run them must be safe."""
    job, (inputs, code) = window_job(number, of_cuda, g), known(number, of_cuda, g)
    program, narrow = int(g.integers(2 * SIDE)), bool(g.integers(2))

    def run(engine):
        with_errors = [] if of_cuda else [lambda: engine.evaluate(0 if whole else program, inputs, code, narrow)]
        with_errors += [lambda: engine.evaluate(inputs, code)] if whole and of_cuda else []
        with_errors += [] if whole else [lambda: engine.draw(job, None)]
        for call in with_errors:
            call()

    return run


def philox(g):
    return native.native().philox, [int(g.integers(1 << 60)), g.integers(0, 1 << 32, (5, 4), dtype=np.uint32)], None


def draw(g):
    head = (Logistics(1, 3), Logistics(3, 2, 16), Softmax(7))[which(g)]
    counters = g.integers(0, 1 << 32, (5, 4), dtype=np.uint32)
    params = g.normal(size=(5, head.parameters)).astype(np.float32)
    return native.native().draw, [params, counters, 7, plain(head), 0.8, bool(g.integers(2))], None


def cpu_make(g):
    number, whole = which(g), bool(g.integers(2))
    tables = plain(cpu_tables(number, whole))
    return native.native().Engine, [tables, cpu_options(g)], then_run(g, number, False, whole)


def cpu_draw(g):
    number = which(g)
    return cpu_engine(number, False).draw, [window_job(number, False, g), None], None


def cpu_evaluate(g):
    number, whole = which(g), bool(g.integers(2))
    program = 0 if whole else int(g.integers(2 * SIDE))
    return cpu_engine(number, whole).evaluate, [program, *known(number, False, g), bool(g.integers(2))], None


@functools.cache
def wholes():
    """Valid jobs of whole images: each alone, and side by side."""
    return [
        whole_job(3, 4),
        whole_job(4, 3, images=9, head=Softmax(7)),
        whole_job(3, 3, images=20, head=Logistics(3, 2)),
    ]


@functools.cache
def whole_tables(number: int):
    task = wholes()[number]
    return raster_tables(task.network.graph, task.height, task.width)


@functools.cache
def whole_engine(number: int):
    options = cpp.Options(native.native().instruction_sets()[number % 2], False, True, 1 + number % 2)
    return native.native().Raster(whole_tables(number), options)


def native_whole(number: int, g):
    """As window_job."""
    task = wholes()[number]
    found = native_job(task, task.canvas(keep=bool(g.integers(2))))
    if g.integers(2):
        found = found._replace(given=g.integers(0, 2, (1, found.height, found.width)).astype(bool))
    return plain(found)


def raster_make(g):
    number = which(g)
    job = native_whole(number, g)
    return native.native().Raster, [plain(whole_tables(number)), cpu_options(g)], lambda made: made.draw(job, None)


def raster_draw(g):
    number = which(g)
    return whole_engine(number).draw, [native_whole(number, g), None], None


def cuda_make(g):
    number, whole = which(g), bool(g.integers(2))
    tables = plain(cuda_tables(number, whole, PRECISIONS[which(g)]))
    return native.native().CudaEmulation, [tables, cuda_options(g)], then_run(g, number, True, whole)


def cuda_draw(g):
    number = which(g)
    return cuda_engine(number, False).draw, [window_job(number, True, g), None], None


def cuda_evaluate(g):
    number = which(g)
    return cuda_engine(number, True).evaluate, list(known(number, True, g)), None


def peaks(g):
    module = native.native()
    if g.integers(2):
        return module.bf16_peak, [1e-4], None
    return module.fma_peak, [1e-4, str(g.choice(module.instruction_sets()))], None


def not_made(g):
    """An engine that was never initialised, and one that is made anew over itself."""
    kind = (native.native().Engine, native.native().CudaEmulation, native.native().Raster)[int(g.integers(3))]
    number, of_cuda = which(g), kind is native.native().CudaEmulation

    def use(job, report):
        engine = kind.__new__(kind)
        return engine.draw(job, report)

    return use, [window_job(number, of_cuda, g), None], None


def hostile_report(g):
    """A report that changes what is being drawn, draws with the same engine, or is one of two threads'."""
    number, of_cuda, what = which(g), bool(g.integers(3) == 0), int(g.integers(4))
    engine = (cuda_engine if of_cuda else cpu_engine)(number, False)
    job, other = window_job(number, of_cuda, g), window_job(number, of_cuda, g)
    bytes_ = [np.frombuffer(getattr(job, name), np.uint8) for name in ("pixels", "finished") if what == 0]

    def report(pixels):
        if what == 0:
            for array in bytes_:
                array.flags.writeable = True
                array[:] = 255
        elif what == 1:
            engine.draw(other, None)
        elif what == 2:
            gc.collect()
            del job.pixels
        else:
            raise LookupError

    def use(job, report):
        thread = threading.Thread(target=lambda: engine.draw(other, None))
        thread.start()
        try:
            return engine.draw(job, report)
        finally:
            thread.join()

    return use, [job, report], None


CALLS = {
    "philox": (philox, 4),
    "draw": (draw, 8),
    "Engine": (cpu_make, 30),
    "Engine.draw": (cpu_draw, 18),
    "Engine.evaluate": (cpu_evaluate, 8),
    "Raster": (raster_make, 24),
    "Raster.draw": (raster_draw, 12),
    "CudaEmulation": (cuda_make, 14),
    "CudaEmulation.draw": (cuda_draw, 6),
    "CudaEmulation.evaluate": (cuda_evaluate, 4),
    "peaks": (peaks, 1),
    "not made": (not_made, 1),
    "hostile report": (hostile_report, 4),
}


# ---- what is made wrong ----------------------------------------------------------------------------------------------


def one_of(g, values):
    return values[int(g.integers(len(values)))]


def wrong_number(value, g):
    near = (value + 1, value - 1, 2 * value, -value)
    odd = (float(value), str(value), None, bool(value), np.uint8(abs(value) % 256), np.int64(value % (1 << 62)))
    return one_of(g, (one_of(g, NUMBERS), one_of(g, near), one_of(g, odd), one_of(g, STRANGE)))


def wrong_cells(array, g):
    """A few numbers of a copy."""
    array = array.copy()
    if array.dtype.names:
        column = one_of(g, array.dtype.names)
        array[column] = wrong_cells(np.ascontiguousarray(array[column]), g)
        return array
    flat = array.reshape(-1)
    if array.dtype == bool:
        flat = flat.view(np.uint8)
    for at in g.integers(0, max(1, len(flat)), int(one_of(g, (1, 1, 2, 5)))):
        if not len(flat):
            break
        if flat.dtype.kind == "f":
            flat[at] = np.float64(one_of(g, FLOATS))
        else:
            limits = np.iinfo(flat.dtype)
            low = (-1, 0, 1, int(flat[at]) + 1, int(flat[at]) - 1, int(g.integers(0, 300)), int(one_of(g, flat)))
            number = one_of(g, (*low, *(n for n in NUMBERS if limits.min <= n <= limits.max)))
            flat[at] = min(max(number, limits.min), limits.max)
    return array


def wrong_shape(array, g):
    axis = int(g.integers(max(1, array.ndim)))
    if array.ndim == 0:
        return array[None]
    return one_of(
        g,
        (
            lambda: np.take(array, range(array.shape[axis] - 1), axis) if array.shape[axis] else array,
            lambda: np.concatenate([array, array], axis),
            lambda: np.take(array, [], axis),
            lambda: array[None],
            lambda: array[..., None],
            lambda: array.reshape(-1),
            lambda: array.T,
            lambda: array.reshape(-1)[0] if array.size else array,
            lambda: np.roll(array, 1, axis),
        ),
    )()


def wrong_layout(array, g):
    """Mostly arrays of the same numbers, laid out in another way; some that are larger than any memory."""
    raw = np.zeros(array.nbytes + 1, np.uint8)
    odd = raw[1:].view(array.dtype) if array.nbytes else array
    read_only = array.copy()
    read_only.flags.writeable = False
    huge = (1 << int(g.integers(36, 62)), *array.shape[1:])
    return one_of(
        g,
        (
            lambda: np.repeat(array, 2, axis=0)[::2] if array.ndim else array,
            lambda: np.asfortranarray(array),
            lambda: array[::-1] if array.ndim else array,
            lambda: odd.reshape(array.shape),
            lambda: read_only,
            lambda: np.broadcast_to(array[:1], array.shape) if array.ndim and len(array) else array,
            lambda: np.lib.stride_tricks.as_strided(array, huge, (0, *array.strides[1:])) if array.ndim else array,
            lambda: np.zeros((1 << 45, 0), array.dtype),
            lambda: np.ma.masked_array(array) if array.dtype.kind != "V" else array.view(np.recarray),
            lambda: array.view(type("Subclass", (np.ndarray,), {})),
        ),
    )()


def wrong_type(array, g):
    if array.dtype.names and g.integers(2):
        names = list(array.dtype.names)
        order = list(g.permutation(names)) if g.integers(2) else names[:-1]
        return array[order] if g.integers(2) else array[order].copy()
    kinds = (
        np.float64,
        np.float16,
        np.int64,
        np.int32,
        np.uint32,
        np.uint8,
        np.int8,
        bool,
        complex,
        object,
        "S4",
        array.dtype.newbyteorder(),
    )
    kind = np.dtype(one_of(g, kinds))
    if array.dtype.names:
        return array.view(np.int32)
    return array.astype(kind) if g.integers(2) else np.zeros(array.shape, kind)


def wrong_array(array, g, others):
    kind = int(g.integers(10))
    if kind < 4:
        return "cells", wrong_cells(array, g)
    if kind < 5:
        return "shape", wrong_shape(array, g)
    if kind < 7:
        return "layout", wrong_layout(array, g)
    if kind < 8:
        return "type", wrong_type(array, g)
    large = [
        other
        for other in others
        if 1 << 24 > other.nbytes >= array.nbytes and other.flags.c_contiguous and other is not array
    ]
    if kind < 9 and large:
        memory = one_of(g, large).reshape(-1).view(np.uint8)
        first = (memory.nbytes - array.nbytes) // array.itemsize * array.itemsize * int(g.integers(2))
        return "memory of another", memory[first : first + array.nbytes].view(array.dtype).reshape(array.shape)
    return "another thing", one_of(g, (array.tolist(), *STRANGE))


def wrong_list(values, g):
    values, at = list(values), int(g.integers(max(1, len(values))))
    return one_of(
        g,
        (
            lambda: values[:-1],
            lambda: values + values[-1:],
            lambda: values[::-1],
            lambda: [values[at]] * len(values) if values else values,
            lambda: tuple(values),
            lambda: iter(values),
            lambda: itertools.repeat(values[0] if values else None),
            lambda: one_of(g, STRANGE),
        ),
    )()


def arrays_in(value):
    if isinstance(value, np.ndarray):
        return [value]
    inside = vars(value).values() if isinstance(value, SimpleNamespace) else value if isinstance(value, list) else ()
    return [array for entry in inside for array in arrays_in(entry)]


def changed(value, g, others, path=""):
    """The value with something in it changed, and what that was."""
    if isinstance(value, SimpleNamespace):
        name = one_of(g, sorted(vars(value)))
        if g.integers(40) == 0:
            return SimpleNamespace(**{k: v for k, v in vars(value).items() if k != name}), f"{path}: no {name}"
        if g.integers(60) == 0:
            return one_of(g, STRANGE), f"{path}: strange"
        field, what = changed(getattr(value, name), g, others, f"{path}.{name}")
        return SimpleNamespace(**{**vars(value), name: field}), what
    if isinstance(value, list):
        if not value or g.integers(10) == 0:
            return wrong_list(value, g), f"{path}: another list"
        at = int(g.integers(len(value)))
        entry, what = changed(value[at], g, others, f"{path}[{at}]")
        return [*value[:at], entry, *value[at + 1 :]], what
    if isinstance(value, np.ndarray):
        try:
            with np.errstate(all="ignore"):
                kind, array = wrong_array(value, g, others) if value.nbytes < 1 << 24 else ("nothing", None)
        except (MemoryError, TypeError, ValueError, IndexError):  # no such array can be made
            kind, array = "nothing", None
        return array, f"{path}: {kind}"
    if isinstance(value, bool) or value is None or callable(value):
        new = one_of(g, (*STRANGE, 0, 1, np.zeros(3, np.float32), np.bool_(True)))
    elif isinstance(value, int):
        new = wrong_number(value, g)
    elif isinstance(value, float):
        new = one_of(g, (*FLOATS, *STRANGE))
    else:
        new = one_of(g, ("portable", "avx2", "bf16", "tf32", "fp32", "softmax", "logistics", *STRANGE))
    return new, f"{path}: {type(new).__name__} {new!r:.60}" if not isinstance(new, Hostile) else f"{path}: hostile"


def call(seed: int, number: int, say) -> str:
    """Make one call; returns the name of what it raised, or "returned". say(text) is told what is called before it is."""
    g = np.random.default_rng([seed, number])
    names = list(CALLS)
    weights = np.array([CALLS[name][1] for name in names], float)
    name = names[int(g.choice(len(names), p=weights / weights.sum()))]
    function, arguments, then = CALLS[name][0](g)
    said = []
    for _ in range(int(one_of(g, (0, 1, 1, 1, 1, 2, 3))) if arguments else 0):
        at = int(g.integers(len(arguments)))
        arguments[at], what = changed(arguments[at], g, arrays_in(arguments), f"[{at}]")
        said.append(what)
    say(f"{name}: {'; '.join(said) or 'as it is'}")
    try:
        result = function(*arguments)
        if then:
            then(result)
    except SystemError:
        raise
    except Exception as error:
        return type(error).__name__
    return "returned"


# ---- the processes ---------------------------------------------------------------------------------------------------


def make_calls(seed: int, first: int, calls: int, log: str) -> None:
    """In the child: all calls; the log always holds the last one that began."""
    threading.excepthook = lambda arguments: None  # what a second thread's drawing raised
    outcomes, file = collections.Counter(), os.open(log, os.O_WRONLY)
    for number in range(first, first + calls):

        def say(text: str, number=number) -> None:
            os.pwrite(file, f"call {number}: {text}".encode(errors="replace").ljust(600)[:600], 0)

        faulthandler.dump_traceback_later(SECONDS_A_CALL, exit=True)
        outcomes[call(seed, number, say)] += 1
    faulthandler.cancel_dump_traceback_later()
    print(", ".join(f"{count} {name}" for name, count in outcomes.most_common()))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first call")
    parser.add_argument(
        "--break", dest="broken", choices=("crash", "hang"), help="spoil a call, to see that it is found"
    )
    parser.add_argument("--log", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.log:
        faulthandler.enable()
        if options.broken:
            spoiled = {"crash": lambda *_: os.kill(os.getpid(), signal.SIGSEGV), "hang": lambda *_: time.sleep(1000)}
            CALLS["philox"] = lambda g: (spoiled[options.broken], [], None), 4
            globals()["SECONDS_A_CALL"] = 2
        make_calls(options.seed, options.first, options.calls, options.log)
        return 0
    start = time.monotonic()
    with tempfile.NamedTemporaryFile() as log:
        arguments = [
            f"--seed={options.seed}",
            f"--calls={options.calls}",
            f"--first={options.first}",
            f"--log={log.name}",
        ]
        arguments += [f"--break={options.broken}"] * bool(options.broken)
        done = subprocess.run([sys.executable, "-P", __file__, *arguments])
        if done.returncode:
            last = Path(log.name).read_text().strip()
            print(f"fuzz: FAILED with exit status {done.returncode}, seed {options.seed}, {last}", flush=True)
            return 1
    print(f"fuzz: {options.calls} calls of seed {options.seed} in {time.monotonic() - start:.0f} s, none crashed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
