"""The native modules against their numpy twins and against published vectors."""

import subprocess
import sys

import numpy as np
import pytest

from spxcore import mixture, native, rng
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


def hexadecimal(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


def random_pixels(n: int, channels: int, components: int, seed: int) -> dict:
    """Network outputs and places of n pixels, spread like a trained network's and beyond its clamps."""
    g = np.random.default_rng(seed)
    k, c = components, channels
    parts = [
        g.normal(0, 2, (n, k)),  # logits
        g.uniform(-1.3, 1.3, (n, c * k)),  # means, some of them off the grid
        g.uniform(-9, 0, (n, c * k)),  # log-scales, some of them below the clamp
    ]
    if c == 3:
        parts.append(g.normal(0, 1, (n, 3 * k)))
    places = {name: g.integers(0, 2**32, n, dtype=np.uint32) for name in ("rows", "columns", "images")}
    return {"params": np.concatenate(parts, axis=1).astype(np.float32), **places}


def off_the_edge(pixels: dict, words: np.ndarray, channels: int, temperature: float, map: bool) -> np.ndarray:
    """Pixels [N] whose draw rounding cannot change: 1e-3 levels or more from a bin edge, 1e-5 from a component's."""
    params = pixels["params"]
    real = mixture.levels_real(params, words, channels, temperature, map).astype(np.float64)
    far = (np.abs(real - np.floor(real) - 0.5) > 1e-3).all(axis=1)
    logits = mixture.split(params, channels)[0].astype(np.float64)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    cumulative = np.cumsum(weights, axis=1) / weights.sum(axis=1, keepdims=True)
    return far & (np.abs(cumulative - rng.uniform(words[:, 0])[:, None]) > 1e-5).all(axis=1)


def agree(draw, channels: int, components: int, map: bool, temperature: float) -> None:
    """Assert that `draw` gives its numpy twin's levels wherever rounding does not decide."""
    pixels = random_pixels(20_000, channels, components, seed=channels + components)
    seed = 0x0123456789ABCDEF
    words = rng.pixel_words(seed, pixels["rows"], pixels["columns"], pixels["images"])
    expected = mixture.draw(pixels["params"], words, channels, temperature, map)
    got = draw(**pixels, channels=channels, seed=seed, temperature=temperature, map=map)
    assert got.dtype == np.uint8 and got.shape == expected.shape
    sure = off_the_edge(pixels, words, channels, temperature, map)
    assert sure.mean() > 0.95
    np.testing.assert_array_equal(got[sure], expected[sure])
    assert np.ptp(got) > 200  # a comparison of constants would prove nothing


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
@pytest.mark.parametrize("map", [False, True])
@pytest.mark.parametrize(("channels", "components"), [(1, 10), (3, 10), (1, 1), (3, 5), (1, 64)])
def test_draw_equals_numpy(channels, components, map):
    agree(native.native().draw, channels, components, map, temperature=0.8)


@needs_native
def test_draw_takes_any_layout_of_memory():
    pixels = random_pixels(64, 3, 10, seed=2)
    expected = native.native().draw(**pixels, channels=3, seed=1)
    rows = np.repeat(pixels["rows"], 2)[::2]
    strided = pixels | {"params": np.asfortranarray(pixels["params"]), "rows": rows}
    np.testing.assert_array_equal(native.native().draw(**strided, channels=3, seed=1), expected)


@needs_native
def test_draw_of_no_pixels():
    assert native.native().draw(**random_pixels(0, 3, 10, seed=0), channels=3, seed=1).shape == (0, 3)


@needs_native
def test_a_tie_goes_to_the_next_component():
    """Three equal weights and u = 11184811 2^-24: u * 3 rounds to exactly 2, the second running sum, so not passed."""
    counter = np.array([[TIE_ROW, 0, 0, 0]], np.uint32)
    words = native.native().philox(0, counter)
    u = rng.uniform(words[:, 0])
    assert u[0] == 11184811 * 2.0**-24 and u[0] * np.float32(3) == 2
    params = np.array([[0, 0, 0, -1, 0, 1, 0, 0, 0]], np.float32)  # the components' means are the levels 0, 128 and 255
    places = {"rows": counter[:, 0], "columns": counter[:, 1], "images": counter[:, 2]}
    assert native.native().draw(params, 1, 0, **places, map=True).tolist() == [[255]]
    assert mixture.draw(params, words, 1, map=True).tolist() == [[255]]


@needs_native
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_draw_survives_any_parameter(channels, poison):
    share = 3 if channels == 1 else 10
    pixels = random_pixels(share * 10, channels, 10, seed=3)
    np.fill_diagonal(pixels["params"], poison)  # each pixel has another parameter poisoned
    got = native.native().draw(**pixels, channels=channels, seed=5)
    with np.errstate(invalid="ignore", over="ignore"):
        words = rng.pixel_words(5, pixels["rows"], pixels["columns"], pixels["images"])
        np.testing.assert_array_equal(got, mixture.draw(pixels["params"], words, channels))
    everywhere = pixels | {"params": np.full_like(pixels["params"], np.nan)}
    assert (native.native().draw(**everywhere, channels=channels, seed=5) == 0).all()


BAD = {
    "a list": ({"params": [[0.0] * 30]}, "params: expected a float32 numpy array [N, P], got list"),
    "None": ({"rows": None}, "rows: expected a uint32 numpy array [4], got NoneType"),
    "float64": ({"params": np.zeros((4, 30))}, "params: expected a float32 numpy array [N, P], got float64 [4, 30]"),
    "one axis": ({"params": np.zeros(30, np.float32)}, "got float32 [30]"),
    "odd P": ({"params": np.zeros((4, 31), np.float32)}, "3 * components for 1 channel(s), got [4, 31]"),
    "no P": ({"params": np.zeros((4, 0), np.float32)}, "got [4, 0]"),
    "short rows": ({"rows": np.zeros(3, np.uint32)}, "rows: expected a uint32 numpy array [4], got uint32 [3]"),
    "int64 columns": ({"columns": np.zeros(4, np.int64)}, "columns: expected a uint32 numpy array [4], got int64 [4]"),
    "wide images": ({"images": np.zeros((4, 1), np.uint32)}, "images: expected a uint32 numpy array [4], got"),
    "two channels": ({"channels": 2}, "channels: expected 1 or 3, got 2"),
    "negative seed": ({"seed": -1}, "seed: expected an integer from 0 to 2**64 - 1, got -1"),
    "huge seed": ({"seed": 2**64}, "seed: expected an integer from 0 to 2**64 - 1"),
    "zero temperature": ({"temperature": 0.0}, "temperature: expected a finite number > 0"),
    "NaN temperature": ({"temperature": float("nan")}, "temperature: expected a finite number > 0"),
}


@needs_native
@pytest.mark.parametrize("case", BAD)
def test_draw_refuses(case):
    change, message = BAD[case]
    arguments = {**random_pixels(4, 1, 10, seed=0), "channels": 1, "seed": 0} | change
    with pytest.raises(ValueError) as caught:
        native.native().draw(**arguments)
    assert message in str(caught.value)


@needs_native
@pytest.mark.parametrize("counters", [np.zeros((2, 3), np.uint32), np.zeros((2, 4), np.int32), [[0, 0, 0, 0]]])
def test_philox_refuses(counters):
    with pytest.raises(ValueError, match=r"counters: expected a uint32 numpy array \[N, 4\], got"):
        native.native().philox(0, counters)


@needs_native
def test_cpu_features():
    features = native.native().cpu_features()
    assert all(isinstance(value, bool) for value in features.values())
    assert {"avx2", "fma", "avx512f", "avx512bf16", "amx_bf16"} <= features.keys()
    # An instruction set implies the ones it builds on.
    assert features["avx2"] <= features["avx"]
    assert features["avx512bf16"] <= features["avx512f"] <= features["avx2"]
    assert features["amx_bf16"] <= features["amx_tile"]


@needs_native
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/cpuinfo")
def test_cpu_features_agree_with_the_kernel():
    with open("/proc/cpuinfo") as file:
        flags = next((line.split(":")[1].split() for line in file if line.startswith("flags")), None)
    if flags is None:
        pytest.skip("this processor lists no x86 flags")
    renamed = {"avx512vnni": "avx512_vnni", "avx512bf16": "avx512_bf16", "avx512fp16": "avx512_fp16"}
    for name, present in native.native().cpu_features().items():
        assert present == (renamed.get(name, name) in flags), name


@needs_native
def test_build_info():
    info = native.native().build_info()
    assert info["version"] == __version__
    assert info["compiler"] and "-O3" in info["flags"] and "-ffp-contract=off" in info["flags"]


@needs_cuda_module
def test_cuda_module_without_a_gpu():
    """On a machine without a driver the module loads, counts no devices, and says why it cannot draw."""
    from spxcore import _cuda

    assert _cuda.build_info()["version"] == __version__
    if _cuda.device_count():
        pytest.skip("this machine has a GPU")
    assert "no NVIDIA GPU" in native.why_no_cuda()
    with pytest.raises(RuntimeError, match="CUDA: allocating device memory: "):
        _cuda.draw(**random_pixels(4, 1, 10, seed=0), channels=1, seed=0)
    with pytest.raises(ValueError, match="channels: expected 1 or 3, got 2"):
        _cuda.draw(**random_pixels(4, 1, 10, seed=0), channels=2, seed=0)


@pytest.mark.gpu
@pytest.mark.skipif(not native.have_cuda(), reason=native.why_no_cuda() or "there is a GPU")
@pytest.mark.parametrize("map", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_cuda_draw_equals_numpy(channels, map):
    assert native.cuda().device_name(0)
    agree(native.cuda().draw, channels, 10, map, temperature=0.8)


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
    ],
)
def test_a_missing_or_broken_module_is_a_sentence(broken, reason):
    """Importing spxcore.native never fails, and a module that is there but does not load keeps its linker's message."""
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
