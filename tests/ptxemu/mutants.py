"""Faults put into the PTX, one at a time: is each of them seen? python tests/ptxemu/mutants.py cuda|triton [PATTERN] (run.py calls it).

Each runs in a process of its own. For CUDA it draws a small job, and one with given pixels, or evaluates windows, with a random schedule;
for Triton it draws a job of given pixels, or runs the gate. Races are looked for. A fault is seen if pixels or numbers differ, if anything
is found, or if the launch fails.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable
from typing import NamedTuple

import emulator

PRECISIONS = {"fp32": 0, "tf32": 1, "bf16": 2}


class Fault(NamedTuple):
    """What is changed in one function of the PTX.

    Attributes:
        name: in words.
        function: a part of its name.
        precision: of the function and of the job that is drawn.
        edit: the function's text -> the changed text.
        equivalent: why nothing can be seen, "" of a real fault.
    """

    name: str
    function: str
    precision: str
    edit: Callable[[str], str]
    equivalent: str = ""


def replaced(pattern: str, by: str, nth: int | None = None) -> Callable[[str], str]:
    """Every match of a regular expression, or the nth from 1, becomes `by`."""

    def edit(text: str) -> str:
        found = list(re.finditer(pattern, text))
        assert len(found) >= (nth or 1), f"{pattern}: not in the PTX"
        for match in reversed(found if nth is None else found[nth - 1 : nth]):
            text = text[: match.start()] + match.expand(by) + text[match.end() :]
        return text

    return edit


def swapped_registers(list_number: int, first: int, second: int) -> Callable[[str], str]:
    """Every mma: two registers of its operand's list (0: the sums, 1: a, 2: b) change places."""

    def edit(text: str) -> str:
        def change(match: re.Match) -> str:
            lists = re.findall(r"\{[^}]*\}", match[0])
            names = lists[list_number].strip("{}").split(",")
            names[first], names[second] = names[second], names[first]
            parts = match[0].split(lists[list_number], 1)
            return parts[0] + "{" + ",".join(names) + "}" + parts[1]

        changed, count = re.subn(r"(?<=f32)\s+\{[^;]*;", change, text)
        assert count, "no mma"
        return changed

    return edit


BARRIER = r"bar\.sync 0;"
ROUNDED = r"cvt\.rna\.tf32\.f32 (%\w+), (%\w+);"
# csrc/cuda/window.h. Barriers are numbered as they stand in the PTX.
BEFORE_THE_FIRST_WAIT = "wait, of a row's first window: it follows the barrier after the leader has taken the row"
BEFORE_TAKING = "run, before a row is taken: every wait of the row before has a barrier after the last use of what the leader writes"

CUDA = [
    # ---- window.h: rows, waiting, steps
    Fault("a release made relaxed", "draw_kernel", "fp32", replaced(r"st\.release\.gpu", "st.volatile")),
    Fault("an acquire made relaxed", "draw_kernel", "fp32", replaced(r"ld\.acquire\.gpu", "ld.volatile")),
    Fault(
        "pixels released one too early", "draw_kernel", "fp32",
        replaced(
            r"st\.release\.gpu\.global\.s32 \[(%\w+)\], (%\w+);",
            r"{ .reg .b32 %early; add.s32 %early, \2, 1; st.release.gpu.global.s32 [\1], %early; }",
        ),
    ),
    Fault(
        "rows taken without an atomic operation", "draw_kernel", "fp32",
        replaced(
            r"atom\.global\.add\.u64 (%\w+), \[(%\w+)\], 1;",
            r"{ .reg .b64 %sum; ld.global.u64 \1, [\2]; add.s64 %sum, \1, 1; st.global.u64 [\2], %sum; }",
        ),
    ),
    Fault(
        "the wait for the row above left out", "draw_kernel", "fp32",
        replaced(r"ld\.acquire\.gpu\.global\.s32 (%\w+), [^;]*;", r"mov.u32 \1, 0x7fffffff;"),
    ),
    *[
        Fault(
            f"barrier {n} left out", "draw_kernel", "fp32", replaced(BARRIER, ";", n),
            {1: BEFORE_THE_FIRST_WAIT, 9: BEFORE_TAKING}.get(n, ""),
        )
        for n in range(1, 11)
    ],
    Fault("a program's row of 32 bytes, not 36", "draw_kernel", "fp32", replaced(r"(mul\.wide\.s32 %\w+, %\w+), 36;", r"\1, 32;")),
    Fault("pixels written one further", "draw_kernel", "fp32", replaced(r"st\.global\.u8 \[(%\w+)\]", r"st.global.u8 [\1+1]")),
    Fault("pixels read by ld.global.nc", "draw_kernel", "fp32", replaced(r"ld\.global\.u8", "ld.global.nc.u8")),
    # ---- random.h, heads: the draws
    Fault("another constant of Philox", "draw_kernel", "fp32", replaced("-845247145", "-845247143")),
    Fault("halves rounded down", "draw_kernel", "fp32", replaced(r"(add\.rn\.f32 %\w+, %\w+), 0f3F000000;", r"\1, 0f00000000;")),
    Fault("another base of exponentials", "draw_kernel", "fp32", replaced("0f3FB8AA3B", "0f3FC00000")),
    Fault("a mixture's threshold from above", "draw_kernel", "fp32", replaced(r"setp\.gt\.f32", "setp.lt.f32")),
    # ---- products.h: in fp32
    Fault("products: the barrier left out", "run_part", "fp32", replaced(BARRIER, ";")),
    Fault(
        "products: the next weights", "run_part", "fp32",
        replaced(r"ld\.global\.nc\.v4\.u32 (\{[^}]*\}), \[(%\w+)\]", r"ld.global.nc.v4.u32 \1, [\2+16]"),
    ),
    Fault(
        "products: a missing tap reads what is there", "run_part", "fp32",
        replaced(r"selp\.f32\s+(%\w+), (%\w+), 0f00000000, %\w+;", r"mov.f32 \1, \2;"),
    ),
    Fault("products: no absolute value before exp", "run_part", "fp32", replaced(r"abs\.f32", "neg.f32")),
    Fault("products: the code, residuals and elu's 1 with the other sign", "run_part", "fp32", replaced(r"add\.rn\.f32", "sub.f32")),
    Fault(
        "products: a weight is added, not the sum", "run_part", "fp32",
        replaced(r"fma\.rn\.f32 (%\w+), (%\w+), (%\w+), %\w+;", r"fma.rn.f32 \1, \2, \3, \3;"),
    ),
    # ---- products.h: tensor cores
    *[
        fault
        for precision in ("tf32", "bf16")
        for fault in (
            Fault("products: the barrier left out", "run_part", precision, replaced(BARRIER, ";")),
            Fault("mma: a1 and a2 change places", "run_part", precision, swapped_registers(1, 1, 2)),
            Fault("mma: b0 and b1 change places", "run_part", precision, swapped_registers(2, 0, 1)),
            Fault("mma: c0 and c1 change places", "run_part", precision, swapped_registers(0, 0, 1)),
        )
    ],
    Fault("tf32: numbers not rounded", "run_part", "tf32", replaced(ROUNDED, r"mov.b32 \1, \2;")),
    Fault("bf16: halves change places", "run_part", "bf16", replaced(r"(cvt\.rn\.bf16x2\.f32 %\w+), (%\w+), (%\w+);", r"\1, \3, \2;", 1)),
    # ---- evaluate.h
    Fault("evaluate: the barrier before the inputs left out", "evaluate_kernel", "fp32", replaced(BARRIER, ";", 1)),
    Fault("evaluate: the barrier before the outputs left out", "evaluate_kernel", "fp32", replaced(BARRIER, ";", 2)),
    Fault("evaluate: the next window's inputs", "evaluate_kernel", "fp32", replaced(r"ld\.f32 (%\w+), \[(%\w+)\]", r"ld.f32 \1, [\2+4]")),
    Fault("evaluate: the arena of the next word", "evaluate_kernel", "fp32", replaced(r"st\.f32 \[(%\w+)\]", r"st.f32 [\1+4]")),
]  # fmt: skip


# In tf32, whose products are mma. Blocks do not wait for each other, and a barrier separates the stages of a step.
TRITON = [
    Fault("inputs go one place further", "inputs", "tf32", replaced(r"(st\.global\.v4\.b32 \[ %\w+ \+) 0 \]", r"\1 16 ]")),
    Fault("maps are weighted otherwise", "inputs", "tf32", replaced(r"sub\.(rn\.)?f32", "add.f32")),
    Fault("copies are not waited for", "ahead", "tf32", replaced(r"cp\.async\.wait_group\s+\d+;", ";")),
    Fault("no barrier after the copies", "ahead", "tf32", replaced(r"(cp\.async\.wait_group\s+\d+;\s*)bar\.sync\s+0;", r"\1")),
    Fault("mma: a1 and a2 change places", "ahead", "tf32", swapped_registers(1, 1, 2)),
    Fault("mma: b0 and b1 change places", "ahead", "tf32", swapped_registers(2, 0, 1)),
    Fault("no absolute value before exp", "ahead", "tf32", replaced(r"abs\.f32", "neg.f32")),
    Fault("no barriers", "steps", "tf32", replaced(r"bar\.sync\s+0;", ";")),
    Fault("mma: a1 and a2 change places", "steps", "tf32", swapped_registers(1, 1, 2)),
    Fault("what is kept goes one number further", "steps", "tf32", replaced(r"(st\.global\.b32 \[ %\w+ \+) 0 \]", r"\1 4 ]")),
    Fault("another sign", "forward_kernel", "fp32", replaced(r"add\.(rn\.)?f32", "sub.f32")),
    Fault("another sign", "backward_kernel", "fp32", replaced(r"sub\.(rn\.)?f32", "add.f32")),
]  # fmt: skip


def changed(source: str, fault: Fault) -> str:
    """The PTX with a fault in it."""
    functions = re.split(r"(?m)^(?=(?:\.visible |\.weak )?\.(?:entry|func)\b)", source)
    # Of a product's two functions the one whose arenas are in shared memory.
    wanted = rf"\.(entry|func) \w*{fault.function}\w*PrecisionE{PRECISIONS[fault.precision]}(?!\w*SpaceE1)"
    (number,) = (n for n, text in enumerate(functions) if "{" in text and re.search(wanted, text.split("\n", 1)[0]))
    before, functions[number] = functions[number], fault.edit(functions[number])
    assert functions[number] != before, f"{fault.name}: nothing changed"
    return "".join(functions)


class OnCuda:
    """What a fault of the CUDA kernels shall be seen by, with the right answers, which are computed before any fault."""

    faults, without = CUDA, [Fault("no fault", "draw_kernel", precision, str) for precision in PRECISIONS]

    def __init__(self):
        # Not loaded here: of modules with one name pybind11 gives back the first, and that shall be the interpreter's.
        sys.modules["spxcore._cuda"] = None  # type: ignore[assignment]
        import numpy as np
        from helpers import config, drawn, job, network, windows
        from test_cuda import host_build

        from spxcore import Given

        self.source, self.findings = emulator.ptx(), emulator.findings
        self.task = job(config(patch=4, filters=3, conditioning="spatial"), 7, 10, 2)
        noise, shape = np.random.default_rng(0), (2, 7, 10)
        self.given = Given(noise.integers(0, 256, (*shape, 1)).astype(np.uint8), noise.random(shape) < 0.6)
        self.drawings = {
            (precision, n): drawn(host_build(precision), self.task, given).pixels
            for precision in PRECISIONS
            for n, given in enumerate((None, self.given))
        }
        c = config(patch=4)
        self.network, (_, self.inputs, self.code) = network(c), windows(c, batch=14)
        self.values = {p: host_build(p).evaluate(self.network, 4, 4, self.inputs, self.code) for p in PRECISIONS}

    def run(self, fault: Fault) -> str:
        """What is wrong with a fault in the PTX, "" if nothing is."""
        with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
            file.write(self.source if fault in self.without else changed(self.source, fault))
            file.flush()
            os.environ["PTXEMU_PTX"] = file.name
            emulator.be_the_gpu()
        from helpers import close, drawn

        from spxcore import native
        from spxcore.engines import cuda

        options = cuda.Options(blocks=3, warps=2, windows=2, patience=20000)
        engine = cuda.Cuda(native.cuda().Engine, fault.precision, options)
        emulator.settings(races=1, schedule="random", seed=1, mma="sequential", most=60_000_000)
        if fault.function == "evaluate_kernel":
            got = engine.evaluate(self.network, 4, 4, self.inputs, self.code)
            return "" if close(got, self.values[fault.precision], 1e-5) else "other numbers"
        for n, given in enumerate((None, self.given)):
            differ = int((drawn(engine, self.task, given).pixels != self.drawings[fault.precision, n]).sum())
            if differ:
                return f"{differ} pixels differ"
        return ""


class OnTriton:
    """The same for Triton's kernels."""

    faults, without = TRITON, [Fault("no fault", name, "tf32", str) for name in ("steps", "forward_kernel")]

    def __init__(self):
        os.environ["TRITON_INTERPRET"] = "0"
        import check_triton

        self.checks, self.findings = check_triton, check_triton.found

    def run(self, fault: Fault) -> str:
        checks, applied = self.checks, []

        def edited(source: str, kernel: str) -> str:
            if kernel != fault.function or fault in self.without:
                return source
            # A kernel is compiled in several variants, of which not all have what is changed.
            try:
                result = fault.edit(source)
            except AssertionError:
                return source
            applied.append(kernel)
            return result

        checks.edited = edited
        emulator.settings(races=1, most=200_000_000)
        try:
            if fault.function in ("forward_kernel", "backward_kernel"):
                checks.the_gate((2, 14, 1, 1))
                wrong = ""
            else:
                got, expected = checks.forced(checks.OnPtx(fault.precision), checks.task())
                wrong = "" if checks.close(got, expected, checks.TOLERANCE[fault.precision]) else "other numbers"
        except AssertionError as error:
            wrong = str(error).strip().split("\n")[0]
        assert applied or fault in self.without, f"{fault.name}: nothing changed"
        return wrong


def seen(on: OnCuda | OnTriton, fault: Fault) -> list[str]:
    """What is seen of a fault, in a process of its own."""
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        with os.fdopen(reading) as pipe:
            answer = pipe.read()
        os.waitpid(child, 0)
        return json.loads(answer) if answer else ["the process ended"]
    try:
        try:
            wrong = on.run(fault)
        except RuntimeError as error:  # CUDA's
            wrong = str(error)
        found = [wrong, *sorted({re.sub(r" @\d+$", "", kind) for kind in on.findings()})]
    except BaseException as error:
        found = [f"NOT RUN: {error!r}"]
    with os.fdopen(writing, "w") as pipe:
        pipe.write(json.dumps([what for what in found if what]))
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("of", choices=("cuda", "triton"))
    parser.add_argument("pattern", nargs="?", default="", help="only faults whose line matches it")
    options = parser.parse_args()
    on = {"cuda": OnCuda, "triton": OnTriton}[options.of]()
    bad = count = 0
    for fault in (*on.without, *on.faults):
        title = f"{fault.function}, {fault.precision}: {fault.name}"
        if not re.search(options.pattern, title):
            continue
        real = fault in on.faults and not fault.equivalent
        found = seen(on, fault)
        wrong = real != bool(found) or any(what.startswith("NOT RUN") for what in found)
        bad, count = bad + wrong, count + real
        verdict = "WRONG" if wrong else "seen " if real else "right"
        print(f"{verdict} {title}: {'; '.join(found)[:200] or fault.equivalent or 'nothing is seen'}", flush=True)
    print(f"{count} faults, {bad} lines wrong")
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
