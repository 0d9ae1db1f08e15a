"""The native modules against their NumPy twins and against published vectors, and what becomes of a module that is missing or stale."""

import os
import subprocess
import sys

import numpy as np
import pytest

from spxcore import Logistics, Sampling, Softmax, native, rng
from spxcore._version import __version__
from spxcore.errors import SpxError

needs_native = pytest.mark.skipif(not native.have_native(), reason=native.why_no_native() or "built")
needs_cuda_module = pytest.mark.skipif(
    "not part of this installation" in native.why_no_cuda(), reason=native.why_no_cuda() or "built"
)

# Random123's known answers for Philox4x32-10: counter, key, words.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]

# The first row whose word 0 under seed 0 makes an exact tie: see the test.
TIE_ROW = 1865194

HEADS = {
    "grey": Logistics(1, 10),
    "rgb": Logistics(3, 10),
    "one component": Logistics(1, 1),
    "rgb, 5 components": Logistics(3, 5),
    "64 components": Logistics(1, 64),
    "binary": Logistics(1, 3, 2),
    "16 levels, rgb": Logistics(3, 4, 16),
    "softmax of 2": Softmax(2),
    "softmax of 16": Softmax(16),
    "softmax of 256": Softmax(256),
}


def hexadecimal(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


def random_pixels(n: int, head, seed: int) -> dict:
    """Network outputs and counters of n pixels, spread like a trained network's and beyond its clamps."""
    g = np.random.default_rng(seed)
    if head.kind == "softmax":
        parts = [g.normal(0, 2, (n, head.levels))]
    else:
        k, c = head.components, head.channels
        parts = [
            g.normal(0, 2, (n, k)),  # logits
            g.uniform(-1.3, 1.3, (n, c * k)),  # means, some of them off the grid
            g.uniform(-9, 0, (n, c * k)),  # log-scales, some of them below the clamp
            g.normal(0, 1, (n, 3 * k if c == 3 else 0)),
        ]
    counters = g.integers(0, 2**32, (n, 4), dtype=np.uint32)
    return {"params": np.concatenate(parts, axis=1).astype(np.float32), "counters": counters}


def agree(draw, head, sampling: Sampling, n: int = 20_000) -> None:
    """Assert that `draw` gives its NumPy twin's pixels, but for draws that lie within rounding of a bin edge."""
    pixels, seed = random_pixels(n, head, seed=head.parameters), 0x0123456789ABCDEF
    words = rng.philox4x32(seed, pixels["counters"])
    expected = head.draw(pixels["params"], words, sampling)
    got = draw(**pixels, seed=seed, head=head, temperature=sampling.temperature, mode=sampling.mode)
    assert got.dtype == np.uint8 and got.shape == expected.shape
    different = np.flatnonzero((got != expected).any(axis=1))
    assert len(different) < n / 200
    for i in different:
        assert head.edge_distance(pixels["params"][i : i + 1], words[i : i + 1], sampling) < 1e-3
    assert len(np.unique(got)) > 0.7 * head.levels  # a comparison of constants would prove nothing


@needs_native
@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_philox_known_answers(counter, key, words):
    low, high = hexadecimal(key)
    counters = np.array([hexadecimal(counter)], np.uint32)
    assert native.native().philox(low | high << 32, counters)[0].tolist() == hexadecimal(words)


@needs_native
def test_philox_equals_numpy():
    counters = np.random.default_rng(0).integers(0, 2**32, (1000, 4), dtype=np.uint32)
    for seed in (0, 1, 2**32, 2**64 - 1):
        np.testing.assert_array_equal(native.native().philox(seed, counters), rng.philox4x32(seed, counters))


@needs_native
@pytest.mark.parametrize("mode", [False, True])
@pytest.mark.parametrize("name", HEADS)
def test_draw_equals_numpy(name, mode):
    agree(native.native().draw, HEADS[name], Sampling(0.8, mode))


@needs_native
@pytest.mark.fault("unseen", "halves that are rounded to even")
def test_halves_are_rounded_up():
    """Of five levels a mean of -0.75 is level 0.5."""
    head = Logistics(1, 1, 5)
    means = np.array([-0.75, -0.25, 0.25, 0.75], np.float32)
    params = np.stack([np.zeros(4), means, np.full(4, -7)], axis=1).astype(np.float32)
    words = np.zeros((4, 4), np.uint32)
    assert head.draw(params, words, Sampling(1.0, True))[:, 0].tolist() == [1, 2, 3, 4]
    assert native.native().draw(params, words, 0, head, mode=True)[:, 0].tolist() == [1, 2, 3, 4]


def test_the_comparison_sees_another_draw():
    head = HEADS["grey"]

    def draw_of_another_seed(params, counters, seed, head, temperature, mode):
        return native.native().draw(params, counters, seed + 1, head, temperature, mode)

    with pytest.raises(AssertionError):
        agree(draw_of_another_seed, head, Sampling(0.8), n=100)


@needs_native
def test_draw_takes_any_layout_of_memory():
    head = HEADS["rgb"]
    pixels = random_pixels(64, head, seed=2)
    expected = native.native().draw(**pixels, seed=1, head=head)
    strided = {name: np.asfortranarray(np.repeat(array, 2, axis=0))[::2] for name, array in pixels.items()}
    np.testing.assert_array_equal(native.native().draw(**strided, seed=1, head=head), expected)


@needs_native
def test_draw_of_no_pixels():
    head = HEADS["rgb"]
    assert native.native().draw(**random_pixels(0, head, seed=0), seed=1, head=head).shape == (0, 3)


@needs_native
def test_a_tie_goes_to_the_next_component_or_level():
    """Three equal weights and u = 11184811 2^-24: u * 3 rounds to exactly 2, the second running sum, so not passed."""
    counter = np.array([[TIE_ROW, 0, 0, 0]], np.uint32)
    words = native.native().philox(0, counter)
    u = rng.uniform(words[:, 0])
    assert u[0] == 11184811 * 2.0**-24 and u[0] * np.float32(3) == 2
    params = np.array([[0, 0, 0, -1, 0, 1, 0, 0, 0]], np.float32)  # the components' means are the levels 0, 128 and 255
    for head, numbers, mode, level in ((Logistics(1, 3), params, True, 255), (Softmax(3), params[:, :3], False, 2)):
        assert native.native().draw(numbers, counter, 0, head, mode=mode).tolist() == [[level]]
        assert head.draw(numbers, words, Sampling(mode=mode)).tolist() == [[level]]


@needs_native
def test_of_equal_levels_the_mode_is_the_first():
    logits = np.float32([[0, 3, 1, 3]])
    assert native.native().draw(logits, np.zeros((1, 4), np.uint32), 0, Softmax(4), mode=True).tolist() == [[1]]


@needs_native
@pytest.mark.parametrize("name", ["grey", "rgb", "softmax of 16"])
@pytest.mark.parametrize("mode", [False, True])
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_draw_survives_any_parameter(name, mode, poison):
    head, sampling = HEADS[name], Sampling(mode=mode)
    pixels = random_pixels(head.parameters, head, seed=3)
    np.fill_diagonal(pixels["params"], poison)  # each pixel has another parameter poisoned
    got = native.native().draw(**pixels, seed=5, head=head, mode=mode)
    words = rng.philox4x32(5, pixels["counters"])
    with np.errstate(invalid="ignore", over="ignore"):
        np.testing.assert_array_equal(got, head.draw(pixels["params"], words, sampling))
        everywhere = pixels | {"params": np.full_like(pixels["params"], np.nan)}
        expected = head.draw(everywhere["params"], words, sampling)
    np.testing.assert_array_equal(native.native().draw(**everywhere, seed=5, head=head, mode=mode), expected)


class AnyHead:
    kind, channels, components, levels = "logistics", 1, 10, 256

    def __init__(self, **change):
        vars(self).update(change)


BAD = {
    "a list": ({"params": [[0.0] * 30]}, "params: expected a float32 numpy array [N, 30], got list"),
    "None": ({"counters": None}, "counters: expected a uint32 numpy array [4, 4], got NoneType"),
    "float64": ({"params": np.zeros((4, 30))}, "params: expected a float32 numpy array [N, 30], got float64 [4, 30]"),
    "one axis": ({"params": np.zeros(30, np.float32)}, "got float32 [30]"),
    "odd P": ({"params": np.zeros((4, 31), np.float32)}, "got float32 [4, 31]"),
    "few counters": ({"counters": np.zeros((3, 4), np.uint32)}, "counters: expected a uint32 numpy array [4, 4], got"),
    "int64 counters": ({"counters": np.zeros((4, 4), np.int64)}, "got int64 [4, 4]"),
    "two channels": ({"head": AnyHead(channels=2)}, "head.channels: expected 1 or 3, got 2"),
    "a float": ({"head": AnyHead(channels=1.0)}, "head.channels: expected a whole number, 1 to 3, got 1.0"),
    "a coloured softmax": ({"head": AnyHead(kind="softmax", channels=3)}, "head.channels: expected 1, got 3"),
    "one level": ({"head": AnyHead(levels=1)}, "head.levels: expected a whole number, 2 to 256, got 1"),
    "many levels": ({"head": Softmax(257)}, "head.levels: expected a whole number, 2 to 256, got 257"),
    "no components": ({"head": AnyHead(components=0)}, "head.components: expected"),
    "another kind": ({"head": AnyHead(kind="gauss")}, "head.kind: expected logistics or softmax, got 'gauss'"),
    "no head": ({"head": None}, "head.kind: expected a field, got none"),
    "negative seed": ({"seed": -1}, "seed: expected a whole number, 0 to 2^64 - 1, got -1"),
    "huge seed": ({"seed": 2**64}, "seed: expected a whole number, 0 to 2^64 - 1, got 18446744073709551616"),
    "zero temperature": ({"temperature": 0.0}, "temperature: expected a finite number, more than 0, got 0.0"),
    "NaN temperature": ({"temperature": float("nan")}, "temperature: expected a finite number, more than 0, got nan"),
    "text": ({"temperature": "hot"}, "temperature: expected a finite number, more than 0, got 'hot'"),
}


@needs_native
@pytest.mark.parametrize("case", BAD)
def test_draw_refuses(case):
    change, message = BAD[case]
    arguments = {**random_pixels(4, HEADS["grey"], seed=0), "seed": 0, "head": HEADS["grey"]} | change
    with pytest.raises(ValueError) as caught:
        native.native().draw(**arguments)
    assert message in str(caught.value)


@needs_native
@pytest.mark.parametrize("counters", [np.zeros((2, 3), np.uint32), np.zeros((2, 4), np.int32), [[0, 0, 0, 0]]])
def test_philox_refuses(counters):
    with pytest.raises(ValueError, match=r"counters: expected a uint32 numpy array \[N, 4\], got"):
        native.native().philox(0, counters)


@needs_native
def test_the_instruction_sets_are_the_processors():
    f, sets = native.native().cpu_features(), native.native().instruction_sets()
    avx2 = f["avx2"] and f["fma"]
    avx512 = avx2 and all(f[f"avx512{part}"] for part in ("f", "bw", "dq", "vl"))
    assert sets == ["avx512"] * avx512 + ["avx2"] * avx2 + ["portable"]
    if native.native().have_bf16():
        assert avx512 and f["avx512bf16"] and (f["amd"] or (f["amx_tile"] and f["amx_bf16"]))


@needs_native
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/cpuinfo")
def test_cpu_features_agree_with_the_kernel():
    with open("/proc/cpuinfo") as file:
        lines = dict(line.split(":", 1) for line in file.read().split("\n\n")[0].splitlines())
    lines = {name.strip(): text.split() for name, text in lines.items()}
    if "flags" not in lines:
        pytest.skip("this processor lists no x86 flags")
    flags = lines["flags"] + ["amd"] * (lines["vendor_id"] == ["AuthenticAMD"])
    for name, present in native.native().cpu_features().items():
        assert present == ({"avx512bf16": "avx512_bf16"}.get(name, name) in flags), name


@needs_native
def test_build_info():
    info = native.native().build_info()
    assert info["version"] == __version__
    assert info["compiler"] and "-O3" in info["flags"] and "-ffp-contract=off" in info["flags"]


@needs_cuda_module
def test_cuda_module_without_a_gpu():
    """On a machine without a driver the module loads, counts no devices, and says why it cannot draw."""
    from spxcore import _cuda

    assert _cuda.build_info()["version"] == __version__ and _cuda.VERSION == native.VERSION
    if _cuda.device_count():
        pytest.skip("this machine has a GPU")
    assert "no NVIDIA GPU" in native.why_no_cuda()
    with pytest.raises(RuntimeError, match=r"^CUDA: asking for a device's properties: "):
        _cuda.compute_capability(0)


# ---- loading them ----------------------------------------------------------------------------------------------------


def test_reasons_and_errors_go_together():
    for have, why, load in (
        (native.have_native, native.why_no_native, native.native),
        (native.have_cuda, native.why_no_cuda, native.cuda),
    ):
        if have():
            assert why() == "" and load() is not None
        else:
            with pytest.raises(SpxError) as caught:
                load()
            assert str(caught.value) == why() != ""


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ("sys.modules['spxcore._native'] = None", "spxcore._native"),
        ("importlib.import_module = fail", "undefined symbol: x"),
        ("native.VERSION += 1", "spxcore._native was built from other sources"),
        ("importlib.import_module = lambda name: sys", "spxcore._native was built from other sources"),
    ],
)
def test_a_missing_broken_or_stale_module_is_a_sentence(broken, reason):
    """Importing spxcore.native never fails, and a module that is there but does not load keeps its linker's message."""
    if "VERSION" in broken and not native.have_native():
        pytest.skip(native.why_no_native())
    code = f"""
import importlib, sys
from spxcore import errors, native
def fail(name):
    raise ImportError("undefined symbol: x")
{broken}
try:
    native.native()
except errors.SpxError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert reason in result.stdout and "pip install" in result.stdout and result.stderr == ""


def test_cores(monkeypatch):
    """What the process may use, where the system tells; else all there are."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3, 5}, raising=False)
    assert native.cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert native.cores() == 7
