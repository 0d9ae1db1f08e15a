"""Triton's kernels, as compiled to PTX for a GPU that need not be there, draw what the reference draws: pytest
tests/ptxemu/check_triton.py (run.py calls it; TRITON_INTERPRET must not be 1).

Every kernel that a drawing launches is compiled by Triton and run by the interpreter, with the arguments of that launch.
"""

import ctypes
import os
import weakref

os.environ["TRITON_INTERPRET"] = "0"

import emulator
import numpy as np
import pytest
import torch
import wholes
from helpers import close, drawn, same_images
from test_cuda import TOLERANCE, forced
from test_triton import toy_job
from triton import runtime
from triton_compile import Driver

from spxcore import Given, Logistics, engines
from spxcore.engines.triton import PRECISIONS, Triton
from spxcore.kernels import gated, raster, windows
from spxcore.kernels.tuning import blocks_for

# From PTXEMU_CAPABILITY: 80 an A100's, 90 an H100's, whose products need wgmma in the tensor cores' precisions.
CAPABILITY = int(os.environ.get("PTXEMU_CAPABILITY", "80"))

capable = {80: PRECISIONS, 90: ("fp32",)}
precisions = pytest.mark.parametrize("precision", capable[CAPABILITY])


class Kernel:
    """Stands in for one of Triton's kernels: a launch compiles it and runs its PTX on the processor."""

    def __init__(self, kernel):
        self.kernel, self.launches = kernel, 0
        self.programs: dict[str, emulator.Program] = {}  # by PTX

    def __getitem__(self, grid):
        return lambda *values, **named: self.launch(grid, *values, **named)

    def launch(self, grid, *values, **named) -> None:
        compiled = self.kernel.warmup(*values, grid=grid, **named)
        source = compiled.asm["ptx"]
        if source not in self.programs:
            self.programs[source] = emulator.Program(edited(source, self.kernel.__name__))
        given = dict(zip(self.kernel.arg_names, values)) | named
        arguments, shared = [], []
        for name, kind in compiled.src.signature.items():
            value = given[name]
            if kind == "constexpr":
                continue
            if isinstance(value, torch.Tensor):
                storage = value.untyped_storage()
                shared.append(storage)
                base = emulator.share(storage.data_ptr(), storage.nbytes())
                arguments.append(ctypes.c_uint64(base + value.data_ptr() - storage.data_ptr()))
            else:
                arguments.append(ctypes.c_float(value) if kind == "fp32" else ctypes.c_int64(value))
        metadata = compiled.metadata
        program = self.programs[source]
        # Two pointers follow, to scratch memory that these kernels do not use.
        status = program.launch(metadata.name, grid, 32 * metadata.num_warps, [*arguments, None, None], metadata.shared)
        for storage in shared:
            emulator.unshare(storage.data_ptr())
        self.launches += 1
        assert status == 0, (metadata.name, found())


def edited(source: str, kernel: str) -> str:
    """A kernel's PTX; mutants.py puts a fault in here."""
    return source


class OnPtx(Triton):
    """The triton engine as on a GPU, but for its memory, which is the host's."""

    def __init__(self, precision: str):
        global may_cut
        may_cut = precision == "tf32x3"
        self.precision, self.memory, self.poison = precision, 1 << 30, True
        self.device, self.blocks = torch.device("cpu"), blocks_for(CAPABILITY // 10, precision)
        self._compiled, self._whole = weakref.WeakKeyDictionary(), weakref.WeakKeyDictionary()


def put_in_place() -> None:
    """Every launch of a kernel goes to the interpreter."""
    runtime.driver.set_active(Driver(CAPABILITY))
    for module, names in (
        (windows, ("inputs", "ahead", "steps")),
        (raster, ("places", "pixels")),
        (gated, ("forward_kernel", "backward_kernel")),
    ):
        for name in names:
            setattr(module, name, Kernel(getattr(module, name)))


put_in_place()


# Triton's own three products of tf32x3 leave it to the tensor cores to cut what is left of a number.
CUT = "mma: a .tf32 operand with bits that tf32 has not"
may_cut = False


def found() -> dict[str, str]:
    """What the launches since the last call have found, without `CUT` in tf32x3."""
    return {kind: example for kind, example in emulator.findings().items() if not (may_cut and kind.startswith(CUT))}


@pytest.fixture(autouse=True)
def nothing_is_found():
    emulator.settings(races=1)
    emulator.reports()
    yield
    assert found() == {}


def task():
    """A toy network with relu, gates, residuals, a coarser map, conditioning and a code. Windows of 3x3: in those of 2x2 nothing that
    runs ahead is read through concat_elu."""
    return toy_job(Logistics(1, 2), 3, 4, 5, images=1, told=5)


@precisions
def test_teacher_forced(precision):
    got, expected = forced(OnPtx(precision), task())
    assert close(got, expected, TOLERANCE.get(precision, 1e-5))
    assert all(kernel.launches for kernel in (windows.inputs, windows.ahead, windows.steps))


@pytest.mark.parametrize("precision", ["fp32", "tf32x3"] if CAPABILITY == 80 else ["fp32"])
def test_images(precision):
    expected = drawn(engines.get("torch", device="cpu"), task()).pixels
    same_images(task(), drawn(OnPtx(precision), task()).pixels, expected)


@pytest.mark.parametrize("precision", [precision for precision in capable[CAPABILITY] if precision != "bf16"])
def test_whole_images(precision):
    """With planes and a code: a given row, and drawn ones. Three images; a lane of a tile has none."""
    whole = wholes.whole_job(3, 4, images=3)
    given = np.arange(3)[:, None] == np.zeros(4, int)
    canvas = drawn(OnPtx(precision), whole, Given(np.full((3, 3, 4, 1), 77, np.uint8), given), keep=True)
    assert close(canvas.params, wholes.expected(whole, canvas.pixels), TOLERANCE.get(precision, 1e-5))


def test_whole_images_of_three_resolutions():
    """In colour. Residuals are read from pairs."""
    whole = wholes.streams_job(5, 2, channels=3, images=1)
    naive = drawn(engines.get("torch", device="cpu"), whole)
    rows = (np.arange(5) < 4)[:, None] & np.ones(2, bool)
    same_images(whole, drawn(OnPtx("fp32"), whole, Given(naive.pixels, rows)).pixels, naive.pixels)


@pytest.mark.parametrize("told", [None, (2, 14, 1, 1), (2, 14, 5, 3)])
def test_the_gate(told):
    the_gate(told)


def the_gate(told) -> None:
    """Values and gradients of the fused layer are PyTorch's."""
    g = torch.Generator().manual_seed(0)
    x, y, grad = (torch.randn(2, n, 5, 3, generator=g) for n in (7, 14, 7))
    h = None if told is None else torch.randn(told, generator=g)
    results = []
    for gate in (gated.gate, plain_gate):
        leaves = [t.clone().requires_grad_() for t in (x, y, h) if t is not None]
        out = gate(*leaves, *([None] if h is None else []))
        out.backward(grad)
        results.append([out.detach(), *(leaf.grad for leaf in leaves)])
    for got, expected in zip(*results):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def plain_gate(x, y, h):
    a, b = (y if h is None else y + h).chunk(2, 1)
    return x + a * torch.sigmoid(b)
