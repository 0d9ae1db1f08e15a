"""The PTX interpreter itself: numbers by hand, every kind of fault that it is there to find, and what it refuses: pytest
tests/ptxemu/check_emulator.py (run.py calls it)."""

import ctypes
import re
import struct

import emulator
import numpy as np
import pytest

# %d1: memory of the launch; %r0: the thread's number in its block; %d3: the thread's word of the memory.
KERNEL = """.version 8.0
.target sm_90
.address_size 64
.extern .shared .align 16 .b8 dynamic[];
.visible .entry kernel(.param .u64 memory)
{{
.reg .b64 %d<9>; .reg .b32 %r<20>; .reg .f32 %f<9>; .reg .pred %p<5>;
.shared .align 16 .b8 words[256];
ld.param.u64 %d0, [memory];
cvta.to.global.u64 %d1, %d0;
mov.u32 %r0, %tid.x;
mul.wide.u32 %d2, %r0, 4;
add.s64 %d3, %d1, %d2;
shl.b32 %r1, %r0, 2;
mov.u32 %r2, words;
add.s32 %r2, %r2, %r1;
{}
ret;
}}
"""


def run(body: str, memory=None, blocks: int = 1, threads: int = 32, **settings) -> tuple[np.ndarray, set[str]]:
    """The memory after a launch, and the kinds of findings. Races are looked for."""
    memory = np.zeros(128, np.uint32) if memory is None else memory
    emulator.settings(**{"races": 1, **settings})
    emulator.reports()
    program = emulator.Program(KERNEL.format(body))
    address = emulator.share(memory.ctypes.data, memory.nbytes)
    program.launch("kernel", (blocks,), threads, [ctypes.c_uint64(address)], shared=64)
    emulator.unshare(memory.ctypes.data)
    return memory, {re.sub(r" @\d+$", "", kind) for kind in emulator.findings()}


def bits(x: float) -> int:
    return struct.unpack("<I", struct.pack("<f", x))[0]


# ---- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("instruction", "inputs", "expected"),
    [
        ("mul.hi.u32 %r4, %r5, %r6;", (0xFFFFFFFF, 0xFFFFFFFF), 0xFFFFFFFE),
        ("mul.hi.s32 %r4, %r5, %r6;", (0xFFFFFFFF, 5), 0xFFFFFFFF),
        ("mad.lo.s32 %r4, %r5, %r6, 7;", (3, 0xFFFFFFFE), 1),
        ("div.s32 %r4, %r5, %r6;", (0xFFFFFFF9, 2), 0xFFFFFFFD),
        ("rem.s32 %r4, %r5, %r6;", (0xFFFFFFF9, 2), 0xFFFFFFFF),
        ("shr.s32 %r4, %r5, %r6;", (0x80000000, 40), 0xFFFFFFFF),
        ("shl.b32 %r4, %r5, %r6;", (1, 32), 0),
        ("bfe.s32 %r4, %r5, %r6, 4;", (0x00000F00, 8), 0xFFFFFFFF),
        ("shf.l.wrap.b32 %r4, %r5, %r6, 36;", (0xF0000000, 0x1), 0x1F),
        ("shf.r.wrap.b32 %r4, %r5, %r6, 4;", (0xF0, 0x1), 0x1000000F),
        ("prmt.b32 %r4, %r5, %r6, 0x9174;", (0x33229180, 0x77665544), 0xFF917744),
        ("popc.b32 %r4, %r5;", (0xF0F0,), 8),
        ("cvt.rna.tf32.f32 %r4, %r5;", (bits(1.0) + 0x1000,), bits(1.0) + 0x2000),
        ("cvt.rn.bf16x2.f32 %r4, %r5, %r6;", (bits(1.0) + 0x8000, bits(2.0) + 0x18000), 0x3F804002),
        ("cvt.rzi.s32.f32 %r4, %r5;", (bits(-3.7),), 0xFFFFFFFD),
        ("cvt.rzi.u32.f32 %r4, %r5;", (bits(-3.7),), 0),
        ("cvt.rn.f32.s32 %r4, %r5;", (0xFFFFFFFD,), bits(-3.0)),
        ("fma.rn.f32 %r4, %r5, %r6, 0f3F800000;", (bits(3.0), bits(5.0)), bits(16.0)),
        ("fma.rm.f32 %r4, %r5, %r6, 0fB3000000;", (bits(1.0), bits(1.0)), bits(1.0) - 1),
        ("copysign.f32 %r4, %r5, %r6;", (bits(-1.0), bits(7.0)), bits(-7.0)),
        ("min.f32 %r4, %r5, %r6;", (bits(float("nan")), bits(7.0)), bits(7.0)),
        ("ex2.approx.ftz.f32 %r4, %r5;", (bits(3.0),), bits(8.0)),
        ("rcp.approx.ftz.f32 %r4, %r5;", (bits(1e-40),), bits(float("inf"))),
        ("redux.sync.max.s32 %r4, %r0, 0xffffffff;", (), 31),
        ("setp.ltu.f32 %p1, %r5, %r6; selp.b32 %r4, 1, 0, %p1;", (bits(float("nan")), bits(7.0)), 1),
        ("setp.ne.f32 %p1, %r5, %r6; selp.b32 %r4, 1, 0, %p1;", (bits(float("nan")), bits(7.0)), 0),
        ("isspacep.shared %p1, %d1; selp.b32 %r4, 1, 0, %p1;", (), 0),
        ("{ .reg .b64 %g; cvta.shared.u64 %g, 0; isspacep.shared %p1, %g; } selp.b32 %r4, 1, 0, %p1;", (), 1),
        ("shfl.sync.up.b32 %r4, %r0, 31, 0, -1;", (), 0),
        ("shfl.sync.bfly.b32 %r4, %r0, 5, 31, -1;", (), 5),
        ("shfl.sync.idx.b32 %r4, %r0, 9, 31, -1;", (), 9),
    ],
)
def test_an_instruction(instruction, inputs, expected):
    given = "".join(f"mov.u32 %r{5 + i}, {value};" for i, value in enumerate(inputs))
    memory, found = run(f"{given} {instruction} setp.eq.u32 %p0, %r0, 0; @%p0 st.global.u32 [%d1], %r4;")
    assert (int(memory[0]), found) == (expected, set()) and memory[1:].sum() == 0


@pytest.mark.parametrize("of", ["tf32", "bf16"])
def test_a_product_of_matrices(of):
    """Against the fragments as the manual draws them, with whole numbers, which every order of summing gives exactly."""
    g = np.random.default_rng(0)
    deep = 8 if of == "tf32" else 16
    a, b, c = (g.integers(-8, 9, shape).astype(np.float32) for shape in ((16, deep), (deep, 8), (16, 8)))
    pair = deep // 8  # numbers in a word
    words = np.zeros((32, 10), np.uint32)
    for lane in range(32):
        group, t = divmod(lane, 4)

        def word(values):
            raw = np.ascontiguousarray(values, np.float32).view(np.uint32)
            return raw[0] if of == "tf32" else raw[0] >> 16 | raw[1] & 0xFFFF0000

        at = [slice(pair * (t + 4 * i), pair * (t + 4 * i) + pair) for i in range(2)]
        words[lane, :4] = [word(a[group + 8 * (i % 2), at[i // 2]]) for i in range(4)]
        words[lane, 4:6] = [word(b[at[i], group]) for i in range(2)]
        words[lane, 6:] = c[[group, group, group + 8, group + 8], [2 * t, 2 * t + 1] * 2].view(np.uint32)
    name = {"tf32": "m16n8k8.row.col.f32.tf32.tf32.f32", "bf16": "m16n8k16.row.col.f32.bf16.bf16.f32"}[of]
    loads = "".join(f"ld.global.u32 %r{10 + i}, [%d4+{4 * i}];" for i in range(10))
    registers = ["{" + ",".join(f"%r{10 + i}" for i in part) + "}" for part in (range(4), range(4, 6), range(6, 10))]
    stores = "".join(f"st.global.u32 [%d4+{4 * i}], %r{16 + i};" for i in range(4))
    body = f"mul.wide.u32 %d4, %r0, 40; add.s64 %d4, %d1, %d4; {loads}"
    body += f"mma.sync.aligned.{name} {registers[2]}, {registers[0]}, {registers[1]}, {registers[2]}; {stores}"
    memory, found = run(body, words.copy())
    assert found == set()
    for lane in range(32):
        rows, columns = [lane // 4, lane // 4, lane // 4 + 8, lane // 4 + 8], [lane % 4 * 2, lane % 4 * 2 + 1] * 2
        np.testing.assert_array_equal(memory[lane, :4].view(np.float32), (a @ b + c)[rows, columns])


def test_lanes_that_part_come_together_again():
    body = """setp.lt.u32 %p1, %r0, 7; mov.u32 %r4, 1; @%p1 bra low; mov.u32 %r4, 2; low:
    bar.warp.sync 0xffffffff; st.global.u32 [%d3], %r4;"""
    for schedule in ("orderly", "random"):
        memory, found = run(body, schedule=schedule)
        assert memory[:33].tolist() == [1] * 7 + [2] * 25 + [0] and found == set()


# ---- what is found ---------------------------------------------------------------------------------------------------

NEIGHBOUR = "xor.b32 %r3, %r1, 128; mov.u32 %r5, words; add.s32 %r3, %r5, %r3; ld.shared.u32 %r4, [%r3];"
FIRST = "setp.eq.u32 %p0, %r0, 0; mov.u32 %r5, %ctaid.x; setp.eq.u32 %p1, %r5, 0; and.pred %p2, %p0, %p1; "
FAULTS = {
    "race: write after write": "st.global.u32 [%d1], %r0;",
    "race: read after write": "st.shared.u32 [%r2], %r0; " + NEIGHBOUR,
    "race: write after read": "st.shared.u32 [%r2], %r0; bar.sync 0; " + NEIGHBOUR + " st.shared.u32 [%r2], %r4;",
    "uninitialised memory read": "ld.shared.u32 %r4, [%r2];",
    "uninitialised register read": "add.s32 %r4, %r5, 1;",
    "global address out of bounds": "ld.global.u32 %r4, [%d1+512];",
    "shared address out of bounds": "mov.u32 %r4, 4096; st.shared.u32 [%r4], %r0;",
    "misaligned address": "ld.global.u32 %r4, [%d3+2];",
    "memory read by ld.global.nc is written": "ld.global.nc.u32 %r4, [%d3]; st.global.u32 [%d3], 1;",
    "memory written by the kernel is read by ld.global.nc": "st.global.u32 [%d3], 1; ld.global.nc.u32 %r4, [%d3];",
    "memory used while cp.async writes it": "cp.async.ca.shared.global [%r2], [%d3], 4; ld.shared.u32 %r4, [%r2]; cp.async.wait_all;",
    "a thread ends with cp.async under way": "cp.async.ca.shared.global [%r2], [%d3], 4;",
    "deadlock at a barrier": "setp.lt.u32 %p1, %r0, 40; @%p1 bar.sync 0; @!%p1 bar.warp.sync 0xffffffff;",
    "bar.sync that the lanes of a warp reach at different places":
        "setp.lt.u32 %p1, %r0, 7; @%p1 bra low; bar.sync 0; bra done; low: bar.sync 0; done:",
    "threads of a block wait at different barriers": "setp.lt.u32 %p1, %r0, 32; @%p1 bra low; bar.sync 0; bra done; low: bar.sync 1; done:",
    "shfl.sync from a lane that takes no part": "setp.lt.u32 %p1, %r0, 7; @%p1 shfl.sync.down.b32 %r4, %r0, 7, 31, 0x7f;",
    "a lane that the mask leaves out": "bar.warp.sync 1;",
    "mma: a .tf32 operand with bits that tf32 has not":
        "mov.f32 %f0, 0f00000000; mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
        "{%f0,%f0,%f0,%f0}, {%r0,%r0,%r0,%r0}, {%r0,%r0}, {%f0,%f0,%f0,%f0};",
}  # fmt: skip


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_is_found(kind):
    _, found = run(FAULTS[kind], threads=64)
    assert kind in found


WORKING = {
    "a barrier": "st.shared.u32 [%r2], %r0; bar.sync 0; " + NEIGHBOUR,
    "copies that are waited for": "cp.async.ca.shared.global [%r2], [%d3], 4; cp.async.commit_group; "
    "cp.async.wait_group 0; bar.sync 0; " + NEIGHBOUR,
    "a release that an acquire reads": FIRST + "@!%p0 bra done; @%p2 st.global.u32 [%d1+4], 7; "
    "@%p2 st.release.gpu.global.u32 [%d1], 1; @%p2 bra done; again: nanosleep.u32 40; ld.acquire.gpu.global.u32 %r4, [%d1]; "
    "setp.eq.u32 %p3, %r4, 0; @%p3 bra again; ld.global.u32 %r4, [%d1+4]; st.global.u32 [%d1+8], %r4; done:",
}


@pytest.mark.parametrize("schedule", ["orderly", "random"])
@pytest.mark.parametrize("name", WORKING)
def test_nothing_is_found_where_nothing_is_wrong(name, schedule):
    memory, found = run(WORKING[name], blocks=2 if "acquire" in name else 1, threads=64, schedule=schedule, seed=3)
    assert found == set()
    assert "acquire" not in name or memory[:3].tolist() == [1, 7, 7]


@pytest.mark.parametrize(("store", "load"), [("st.volatile", "ld.acquire.gpu"), ("st.release.gpu", "ld.volatile")])
def test_without_release_or_acquire_there_is_a_race(store, load):
    body = WORKING["a release that an acquire reads"]
    body = body.replace("st.release.gpu", store).replace("ld.acquire.gpu", load)
    assert "race: read after write" in run(body, blocks=2, threads=64)[1]


def test_a_launch_that_does_not_end_is_stopped():
    assert run("again: nanosleep.u32 40; bra again;", most=10000)[1] == {"failed: too many steps"}


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "instruction",
    [
        "frobnicate.s32 %r4, %r0;", "add.cc.u32 %r4, %r0, 1;", "add.ftz.f32 %f0, %f0, %f0;", "fma.rn.relu.f32 %f0, %f0, %f0, %f0;",
        "cvt.rn.f16.f32 %r4, %f0;", "cvt.rz.f32.f64 %f0, %d0;", "ld.global.b128 %r4, [%d3];", "ld.global.v8.u32 %r4, [%d3];",
        "bar.red.popc.u32 %r4, 0, %p0;", "atom.global.inc.u32 %r4, [%d3], 1;", "min.NaN.f32 %f0, %f0, %f0;", "tanh.approx.f32 %f0, %f0;",
        "mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%f0,%f0,%f0,%f0}, {%r0,%r0}, {%r0}, {%f0,%f0,%f0,%f0};",
        "cp.async.bulk.shared.global [%r2], [%d3], 4;", "mul.hi.f32 %f0, %f0, %f0;", "shf.l.clamp.b32 %r4, %r0, %r0, 1;",
        "mad.hi.u32 %r4, %r0, %r0, 1;",
    ],
)  # fmt: skip
def test_an_unknown_instruction_is_refused_by_name_and_line(instruction):
    body = f"add.s32 %r4, %r0, 1;\n{instruction}"
    line = KERNEL.format(body)[: KERNEL.format(body).index(instruction)].count("\n") + 1
    name = re.escape(instruction.split()[0])
    with pytest.raises(emulator.Refused, match=rf"^PTX line {line}: no such instruction here: {name}$"):
        emulator.Program(KERNEL.format(body))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("add.s32 %r4, %r0;", "expected ,, got ;"),
        ("add.s32 %r4, %r0, 1, 2;", "more operands than those of add.s32"),
        ("add.s32 %r4, %r99, 1;", "operand not known: %r99"),
        ("mov.u32 %r4, %clock;", "operand not known: %clock"),
        ("add.s32 %r4, %d0, 1;", "%d0 has 8 bytes, not 4"),
        ("bra nowhere;", "no label nowhere"),
        ("bar.sync 1, 64;", "a barrier of some of the threads"),
    ],
)
def test_other_mistakes_are_refused(body, message):
    with pytest.raises(emulator.Refused, match=rf"^PTX line \d+: {re.escape(message)}$"):
        emulator.Program(KERNEL.format(body))


def test_a_new_opcode_in_the_compilers_ptx_is_refused():
    """As a new nvcc might write it, somewhere in the kernels."""
    source = emulator.ptx()
    at = source.index("ex2.approx.ftz.f32")
    line = source[:at].count("\n") + 1
    with pytest.raises(emulator.Refused, match=rf"^PTX line {line}: no such instruction here: ex3.approx.ftz.f32$"):
        emulator.Program(source[:at] + "ex3" + source[at + 3 :])


def test_settings_are_checked():
    for words in ({"sched": "random"}, {"seed": "one"}, {"races": 2}):
        with pytest.raises(ValueError, match=r"setting not known|expected a number"):
            emulator.settings(**words)
