"""The cpp engine: its numbers against the plan's meaning for every instruction set, its images against the reference."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import (
    close,
    config,
    double,
    draws_into_any_layout,
    job,
    lets_python_threads_run,
    network,
    same_images,
    stops_when_told,
    windows,
)  # fmt: skip
from PIL import Image

import spx
from spx.evaluate import likelihood
from spxcore import Weights, engines, native, sample
from spxcore.engines import cpp
from spxcore.engines.torch import TorchWavefront
from spxcore.errors import SpxError
from spxcore.mixture import probabilities
from spxcore.plan import compile_network, execute
from spxcore.plan.program import full_program, tables, window_programs
from spxcore.sampler import first_difference
from spxcore.schedule import window_origin

pytestmark = pytest.mark.skipif(not native.have_native(), reason=native.why_no_native() or "built")

# Instruction sets to test, whatever this machine has: what is missing skips by name.
ALL_SETS = ("avx512", "avx2", "portable")
HERE = native.native().instruction_sets() if native.have_native() else []

SPATIAL = {"conditioning": "spatial"}
NETWORKS = {
    "8x8 spatial": {"patch": 8, **SPATIAL},
    "4x4 rgb": {"patch": 4, "channels": 3},
    "8x8 neither": {"patch": 8, "coordinates": False, "latent": 0},
    "12x12 rgb spatial": {"patch": 12, "channels": 3, "filters": 5, **SPATIAL},
    "8x8 of 25 filters": {"patch": 8, "filters": 25, "mixtures": 10, **SPATIAL},
    "4x4 of 61 filters": {"patch": 4, "filters": 61, "mixtures": 7},
}


def isa_or_skip(isa: str) -> str:
    if isa not in HERE:
        pytest.skip(f"this machine has no {isa}")
    return isa


@pytest.fixture(scope="module")
def spatial() -> Weights:
    return Weights.of(network(config(**SPATIAL)))


# ---- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("isa", ALL_SETS)
@pytest.mark.parametrize("name", NETWORKS)
def test_teacher_forced(name, isa):
    """Known windows through every program: the plan's numbers, and the same bits from wide and narrow kernels."""
    engine = cpp.make(isa=isa_or_skip(isa), threads=1)
    weights = Weights.of(network(config(**NETWORKS[name])))
    c, plan = weights.config, compile_network(weights)
    _, inputs, z = windows(c, batch=19)  # one full set of lanes and a part of one
    expected = execute(plan, double(inputs), z)["params"]
    conditioning = [inputs[name] for name in plan.inputs if name != "x"]
    whole = engine.whole_windows(weights, inputs["x"], conditioning, z)
    assert close(whole, expected, 1e-5)  # measured: 1e-7 to 8e-7
    compiled, m = engine.compiled(weights), c.patch
    for i in range(m):
        for left in (0, 1):
            targets = [i * m + x for x in range(m)] if left else [i * m + m - 1]
            arguments = (2 * i + left, inputs["x"], conditioning, z)
            wide = compiled.evaluate(*arguments)
            assert close(wide, expected[:, targets], 1e-5)
            np.testing.assert_array_equal(wide, compiled.evaluate(*arguments, narrow=True))


def test_activations_far_from_zero():
    """Beyond the range of exp: the gate saturates and elu reaches -1, and nothing becomes NaN."""
    net = network(config(**SPATIAL))
    for name, p in net.named_parameters():
        if name.endswith("conv_in.g") or name.endswith("conv_out.bias"):
            p.data *= 300
    weights = Weights.of(net)
    plan = compile_network(weights)
    _, inputs, z = windows(weights.config, batch=3)
    expected = execute(plan, double(inputs), z)["params"]
    assert np.abs(expected).max() > 1e4
    for isa in HERE:
        engine = cpp.make(isa=isa, threads=1)
        got = engine.whole_windows(weights, inputs["x"], [inputs[name] for name in plan.inputs if name != "x"], z)
        assert close(got, expected, 1e-5)


# ---- images ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "height", "width", "images"),
    [
        (SPATIAL, 8, 8, 1),
        (SPATIAL, 13, 29, 2),
        ({"patch": 4, **SPATIAL}, 4, 37, 1),
        ({"patch": 4, "channels": 3}, 23, 4, 2),
        ({"patch": 8, "channels": 3, **SPATIAL}, 11, 17, 1),
        ({"coordinates": False, "latent": 0}, 9, 15, 1),
        ({"patch": 12, "latent": 0}, 14, 13, 1),
    ],
)
@pytest.mark.parametrize("isa", ALL_SETS)
def test_free_running_it_draws_what_the_reference_draws(fields, height, width, images, isa, reference_images):
    weights, task, expected = reference_images(fields, height, width, images)
    same_images(weights, task, sample_with(cpp.make(isa=isa_or_skip(isa), threads=2), weights, task), expected)


@pytest.fixture(scope="module")
def reference_images():
    """Drawings of the reference engine, each made once."""
    drawn = {}

    def get(fields, height, width, images):
        key = (*sorted(fields.items()), height, width, images)
        if key not in drawn:
            weights = Weights.of(network(config(**fields)))
            task = job(weights.config, height, width, images)
            drawn[key] = weights, task, engines.get("reference").sample(weights, task)
        return drawn[key]

    return get


def sample_with(engine, weights, task) -> np.ndarray:
    image = engine.sample(weights, task)
    assert np.ptp(image) > 100  # a comparison of constants would prove nothing
    return image


def test_a_shipped_size_of_network():
    """25 filters, two layers a block, against the torch wavefront (the reference takes minutes)."""
    weights = Weights.of(network(config(filters=25, layers=2, mixtures=10, latent=60, maps=12, **SPATIAL)))
    task = job(weights.config, 20, 45, images=2)
    same_images(weights, task, sample_with(cpp.make(), weights, task), TorchWavefront().sample(weights, task))


@pytest.mark.parametrize("map", [False, True])
def test_temperature_and_map(spatial, map):
    task = job(spatial.config, 12, 14, temperature=0.5, map=map)
    same_images(spatial, task, cpp.make().sample(spatial, task), TorchWavefront().sample(spatial, task))


@pytest.mark.parametrize("images", [1, 3, 16, 21])
def test_the_same_pixels_for_any_number_of_threads(spatial, images):
    for height, width in ((8, 8), (11, 30), (30, 9)):
        task = job(spatial.config, height, width, images)
        one = cpp.make(threads=1).sample(spatial, task)
        for threads in (2, 7):
            np.testing.assert_array_equal(cpp.make(threads=threads).sample(spatial, task), one)


def test_the_same_pixels_alone_and_in_company(spatial):
    """In a group of 16 lanes are images, alone they are columns; order and company do not matter, to the bit."""
    task = job(spatial.config, 17, 41, images=20)
    together = cpp.make(threads=2).sample(spatial, task)
    for n in (0, 7, 19):
        alone = replace(task, images=task.images[n : n + 1], z=task.z[n : n + 1], maps=task.maps[n : n + 1])
        np.testing.assert_array_equal(cpp.make(threads=1).sample(spatial, alone)[0], together[n])
    order = np.random.default_rng(0).permutation(20)
    mixed = replace(task, images=task.images[order], z=task.z[order], maps=task.maps[order])
    np.testing.assert_array_equal(cpp.make().sample(spatial, mixed), together[order])


def test_the_comparison_sees_a_wrong_pixel(spatial):
    task = job(spatial.config, 12, 12)
    image = cpp.make().sample(spatial, task)
    wrong = image.copy()
    wrong[0, 9, 9] += 128
    assert first_difference(spatial, task, image, image.copy()) is None
    with pytest.raises(AssertionError):
        same_images(spatial, task, wrong, image)


# ---- bf16 ------------------------------------------------------------------------------------------------------------

needs_bf16 = pytest.mark.skipif(
    not (native.have_native() and native.native().have_bf16()),
    reason="bf16 needs a processor with AMX, or AMD's with AVX512_BF16",
)


@needs_bf16
@pytest.mark.parametrize("name", [*NETWORKS, "8x8 of 16 filters", "8x8 of 33 filters"])
def test_bf16_teacher_forced(name):
    """Rounding activations and weights to 8 bits changes the parameters by a little, and a wrong place by much more."""
    more = {"8x8 of 16 filters": {"filters": 16}, "8x8 of 33 filters": {"filters": 33, **SPATIAL}}
    weights = Weights.of(network(config(**{**NETWORKS, **more}[name])))
    plan = compile_network(weights)
    _, inputs, z = windows(weights.config, batch=19)
    expected = execute(plan, double(inputs), z)["params"]
    conditioning = [inputs[name] for name in plan.inputs if name != "x"]
    compiled, m = cpp.make(precision="bf16", threads=1).compiled(weights), weights.config.patch
    whole = compiled.evaluate(2 * m, inputs["x"], conditioning, z)
    assert close(whole, expected, 3e-2) and not close(whole, expected, 1e-6)  # measured: 3e-3 to 1e-2
    for program in (2 * m - 2, 2 * m - 1, 0, 1):
        i, left = divmod(program, 2)
        targets = [i * m + x for x in range(m)] if left else [i * m + m - 1]
        assert close(compiled.evaluate(program, inputs["x"], conditioning, z), expected[:, targets], 3e-2)


@needs_bf16
def test_bf16_draws_the_same_pixels_in_any_company(spatial):
    task = job(spatial.config, 17, 41, images=20)
    together = cpp.make(precision="bf16", threads=2).sample(spatial, task)
    assert np.ptp(together) > 100
    for threads in (1, 7):
        np.testing.assert_array_equal(cpp.make(precision="bf16", threads=threads).sample(spatial, task), together)
    for n in (0, 19):
        alone = replace(task, images=task.images[n : n + 1], z=task.z[n : n + 1], maps=task.maps[n : n + 1])
        np.testing.assert_array_equal(cpp.make(precision="bf16").sample(spatial, alone)[0], together[n])


@needs_bf16
def test_bf16_hardly_changes_the_distributions():
    """Mean divergence of the pixels' distributions, for a network whose scales are those of a trained one."""
    net = network(config(filters=25, layers=2, mixtures=10, latent=60, maps=12, **SPATIAL))
    weights = Weights.of(net)
    # A trained network's last layer is small beside its biases: means within [-1, 1], scales of a few levels and more.
    weights.tensors["nin_out.g"] = weights.tensors["nin_out.g"] * np.float32(0.1)
    plan = compile_network(weights)
    _, inputs, z = windows(weights.config, batch=64)
    conditioning = [inputs[name] for name in plan.inputs if name != "x"]
    p, q = (
        probabilities(engine.whole_windows(weights, inputs["x"], conditioning, z).reshape(-1, weights.config.outputs))
        for engine in (cpp.make(), cpp.make(precision="bf16"))
    )
    divergence = (p * np.log2((p + 1e-30) / (q + 1e-30))).sum(axis=1)
    assert 0 < divergence.mean() <= 1e-3


@needs_bf16
def test_bf16_of_the_shipped_model():
    """Pixels of real digits, each in the window that draws it: at most 1e-4 bits of divergence, 0.002 bits a dimension.

    docs/how-it-works.md has what `pytest -s` prints here.
    """
    model, folder = spx.load("mnist-8x8"), Path(spx.__file__).parent / "assets" / "digits"
    images = np.stack([np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))])[:, None]
    r, c = (a.ravel() for a in np.indices((28, 28)))
    top, first = window_origin(r, c, 8)
    window, place = 21 * top + first, 8 * (r - top) + c - first
    pixels, bits = [], []

    class Recorded:
        def __init__(self, precision: str):
            self.engine, self.p = cpp.make(precision=precision), []

        def whole_windows(self, *args):
            params = self.engine.whole_windows(*args)
            self.p.append(probabilities(params[window, place]))
            return params

    for precision in ("fp32", "bf16"):
        engine = Recorded(precision)
        bits.append(likelihood(model, images, engine=engine).patch)
        pixels.append(np.concatenate(engine.p))
    p, q = pixels
    divergence = (p * np.log2((p + 1e-30) / (q + 1e-30))).sum(axis=1)
    print(f"\n{len(p)} pixels: mean divergence {divergence.mean():.1e} bits, largest {divergence.max():.1e};", end=" ")
    print(f"{bits[0]:.4f} bits a dimension, in bf16 {bits[1] - bits[0]:+.5f}")
    assert 0 < divergence.mean() <= 1e-4
    assert bits[1] - bits[0] <= 0.002


# ---- the engine's interface ------------------------------------------------------------------------------------------


def test_it_is_what_auto_takes_without_a_gpu(spatial):
    assert engines.why_not("cpp") is None
    task = job(spatial.config, 9, 9)
    image = sample(spatial, 9, 9, z=task.z, maps=task.maps, seed=task.seed, engine="cpp")
    np.testing.assert_array_equal(image, cpp.make().sample(spatial, task))


def test_progress_adds_up(spatial):
    task, counts = job(spatial.config, 20, 33, images=5), []
    cpp.make(threads=2).sample(spatial, task, counts.append)
    assert sum(counts) == 5 * 20 * 33 and all(count > 0 for count in counts)


def test_what_progress_raises_stops_the_drawing(spatial):
    stops_when_told(cpp.make(threads=2), spatial, job(spatial.config, 300, 300))


def test_other_python_threads_run_meanwhile(spatial):
    lets_python_threads_run(cpp.make(threads=1), spatial, job(spatial.config, 40, 40))


def test_draws_into_an_array_of_any_layout(spatial):
    draws_into_any_layout(cpp.make(), spatial, 10)


def test_options():
    assert cpp.make().isa == (os.environ.get(cpp.ISA_VARIABLE) or HERE[0])
    for options, message in (
        ({"precision": "fp16"}, "precision: expected"),
        ({"device": "cuda"}, "device: expected cpu for the cpp engine, got 'cuda'"),
        ({"threads": 0}, "threads: expected 1 to 4096, got 0"),
        ({"isa": "mmx"}, "SPX_ISA: expected"),
    ):
        with pytest.raises(SpxError, match=message):
            cpp.make(**options)


def test_the_environment_chooses_the_instruction_set(monkeypatch):
    monkeypatch.setenv("SPX_ISA", "portable")
    assert cpp.make().isa == "portable"
    monkeypatch.setenv("SPX_ISA", "sse9")
    with pytest.raises(SpxError, match=r"SPX_ISA: expected .* on this machine, got 'sse9'"):
        cpp.make()


def test_it_draws_without_torch(spatial, tmp_path):
    np.savez(tmp_path / "weights.npz", **spatial.tensors)
    code = f"""
import sys
import numpy as np
from spxcore import NetworkConfig, Weights, sample
c = NetworkConfig(**{ {**vars(spatial.config)}!r})
weights = Weights(c, dict(np.load({str(tmp_path / "weights.npz")!r})))
z, maps = np.zeros((1, c.latent)), np.zeros((1, c.maps, 4, 4))
image = sample(weights, 10, 10, z=z, maps=maps, engine="cpp")
assert image.shape == (1, 10, 10, 1) and "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- programs that are wrong never run -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def parts(spatial):
    plan = compile_network(spatial)
    shared = tables(plan)
    return shared, [*window_programs(plan, shared), full_program(plan, shared)]


def make_engine(spatial, shared, programs, **change):
    c = spatial.config
    arguments = {
        "patch": c.patch, "channels": c.channels, "parameters": c.outputs, "place_inputs": c.place_inputs,
        "weights": shared.weights, "blocks": shared.blocks, "bias": shared.bias, "latent": shared.latent, "programs": programs,
    }  # fmt: skip
    return native.native().Engine(**{**arguments, **change})


def changed(program, field: str, row: int, column: int, value: int):
    array = getattr(program, field).copy()
    array[row, column] = value
    return replace(program, **{field: array})


@pytest.mark.parametrize("value", [1 << 30, -2, (1 << 31) - 1])
@pytest.mark.parametrize(
    ("field", "row", "column"),
    [("taps", 7, 0), ("taps", 7, 1), ("taps", 7, 2), ("ops", 3, 0), ("ops", 3, 8), ("ops", 3, 9), ("ops", 3, 10)]
    + [("pixels", 0, 0), ("pixels", 0, 1), ("conditioning", 0, 0), ("conditioning", 0, 1), ("conditioning", 0, 2)],
)  # fmt: skip
def test_an_index_out_of_range_is_refused(spatial, parts, field, row, column, value):
    shared, programs = parts
    faulty = [changed(programs[0], field, row, column, value), *programs[1:]]
    with pytest.raises(ValueError, match=r"program 0: .*expected .*, got"):
        make_engine(spatial, shared, faulty)


@pytest.mark.parametrize("column", range(1, 8))
def test_rows_beyond_the_arena_are_refused(spatial, parts, column):
    shared, programs = parts
    row = int(np.flatnonzero(programs[1].ops[:, column] >= 0)[0])
    faulty = [programs[0], changed(programs[1], "ops", row, column, 1 << 29)]
    with pytest.raises(ValueError, match=r"program 1: op, .*expected 0 to .*, got"):
        make_engine(spatial, shared, faulty)


def test_other_faults_of_a_program(spatial, parts):
    shared, programs = parts
    first = programs[0]
    for fault, message in (
        ({"begins": first.begins[::-1].copy()}, "begins: expected rising"),
        ({"begins": np.zeros(0, np.int32)}, "begins: expected rising"),
        ({"params": first.params + (1 << 20)}, "params: expected"),
        ({"params": np.zeros(3, np.int32)}, "params: expected one row a target"),
        ({"targets": first.targets + 64}, "targets: expected"),
        ({"rows": 0}, "rows: expected 1"),
        ({"rows": first.rows // 2}, "expected"),
        ({"ops": first.ops[:, :4]}, r"ops: expected a int32 numpy array \[N, 11\]"),
        ({"taps": first.taps.astype(np.int64)}, "taps: expected a int32"),
    ):
        with pytest.raises(ValueError, match=message):
            make_engine(spatial, shared, [replace(first, **fault)])
    for change, message in (
        ({"patch": 6}, "patch: expected a multiple of 4"),
        ({"channels": 2}, "channels: expected 1 or 3"),
        ({"parameters": 4}, "parameters: expected a multiple of 3"),
        ({"place_inputs": 1}, "place_inputs: expected"),
        ({"blocks": shared.blocks + 1}, "blocks: expected|expected the first number of a block"),
        ({"weights": shared.weights[:100]}, "blocks: expected ranges"),
        ({"isa": "mmx"}, "isa: expected one of"),
    ):
        with pytest.raises(ValueError, match=message):
            make_engine(spatial, shared, programs, **change)


def test_programs_in_another_order_do_not_sample(spatial, parts):
    shared, programs = parts
    engine = make_engine(spatial, shared, programs[::-1])
    ones = np.ones(8, np.float32)
    z, maps = np.zeros((1, 5), np.float32), np.zeros((1, 3, 2, 2), np.float32)
    with pytest.raises(ValueError, match="program 0: expected that of window row 0"):
        image = np.zeros((1, 8, 8, 1), np.uint8)
        engine.sample(8, 8, 0, np.zeros(1, np.uint32), z, maps, ones, ones, 0.0, 1.0, False, 1, image, None)


def test_native_arguments_are_checked(spatial, parts):
    engine = make_engine(spatial, *parts)
    x, z = np.zeros((1, 64, 1), np.float32), np.zeros((1, 5), np.float32)
    places = [np.zeros((1, s * s, 6), np.float32) for s in (8, 4, 2)]
    for arguments, message in (
        ((17, x, places, z), "program: expected 0 to 16, got 17"),
        ((0, x[:, :63], places, z), r"pixels: expected a float32 numpy array \[N, 64, 1\]"),
        ((0, x, places[:2], z), "conditioning: expected 3 arrays, got 2"),
        ((0, x, places[::-1], z), r"conditioning: expected a float32 numpy array \[1, 64, 6\]"),
        ((0, x, places, None), "z: expected a float32 numpy array"),
        ((0, x, places, z, False, -1), "threads: expected"),
    ):
        with pytest.raises(ValueError, match=message):
            engine.evaluate(*arguments)
    assert engine.evaluate(0, x[:0], [p[:0] for p in places], z[:0]).shape == (0, 1, 9)
