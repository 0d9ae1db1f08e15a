"""The triton engine: its kernels in Triton's interpreter (or on a GPU) against the plan's meaning, the heads and the torch engine.

The interpreter takes milliseconds for each operation of each tile, so networks and images are tiny here.
"""

import json
import os
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import EDGE, FOR_A_GPU, Enough, config, double, drawn, expected_images, flat, job, same_images
from wholes import streams_job

pytest.importorskip("triton", reason="Triton is not installed")

import triton.language as tl
from triton import jit
from triton.runtime.errors import OutOfResources

from spxcore import Canvas, Given, Job, Logistics, Network, Sampling, Softmax, SpxError, engines
from spxcore.engines import triton
from spxcore.engines.torch_feeds import window_inputs
from spxcore.feeds import Pixels, Places, Planes, unit_levels
from spxcore.gpus import Driver
from spxcore.kernels import heads, launch, raster, raster_tables, tables, windows
from spxcore.kernels.launch import HeadShape, Images, OnDevice
from spxcore.kernels.tables import ALIGN, network_layout, padded
from spxcore.kernels.tuning import INTERPRETER, Blocks, blocks_for
from spxcore.lower.job import native_job
from spxcore.lower.packing import interleaved
from spxcore.lower.tables import FORM_RELU
from spxcore.plan import execute, plan_at
from spxcore.rng import philox4x32, pixel_words
from spxcore.schedules import Window
from spxcore.schedules.window import window_origin
from spxcore.walk.language import down, down_right
from spxcore.walk.module import Module

# On a busy machine the interpreter takes minutes.
pytestmark = [pytest.mark.timeout(900), pytest.mark.usefixtures("quick_interpreter")]

HAVE_GPU = torch.cuda.is_available()
DEVICE = "cuda" if HAVE_GPU else "cpu"
BLOCKS = blocks_for(torch.cuda.get_device_capability()[0]) if HAVE_GPU else INTERPRETER
SPATIAL = {"patch": 4, "conditioning": "spatial"}

# Largest difference from the NumPy executor in fp64, relative to the largest number of the stage. Measured in the interpreter, where
# inputs are not rounded to tf32: 3e-7 to 4e-7, bf16 1.2e-2. tf32's 1e-2 is an allowance for 11 bits of mantissa, not measured.
TOLERANCE = {"fp32": 1e-5, "tf32x3": 1e-5, "tf32": 1e-2, "bf16": 5e-2}


def on_device(*arrays):
    found = [torch.from_numpy(np.ascontiguousarray(a)).to(DEVICE) for a in arrays]
    return found if len(found) > 1 else found[0]


def bits(array: np.ndarray) -> torch.Tensor:
    """Unsigned numbers as the signed ones of the same bits."""
    return on_device(array.view(f"int{8 * array.itemsize}").copy())


# ---- random numbers and draws ----------------------------------------------------------------------------------------


@jit
def words_kernel(counters, seed, words, count, BLOCK: tl.constexpr):
    """Philox by itself. counters int32 [N, 4] and seed int64 [1] as bits -> words int32 [N, 4] as bits."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    active = i < count
    key = tl.load(seed).to(tl.uint64, bitcast=True)
    c0 = tl.load(counters + 4 * i, mask=active, other=0).to(tl.uint32, bitcast=True)
    c1 = tl.load(counters + 4 * i + 1, mask=active, other=0).to(tl.uint32, bitcast=True)
    c2 = tl.load(counters + 4 * i + 2, mask=active, other=0).to(tl.uint32, bitcast=True)
    c3 = tl.load(counters + 4 * i + 3, mask=active, other=0).to(tl.uint32, bitcast=True)
    w0, w1, w2, w3 = tl.philox(key, c0, c1, c2, c3)
    tl.store(words + 4 * i, w0.to(tl.int32, bitcast=True), mask=active)
    tl.store(words + 4 * i + 1, w1.to(tl.int32, bitcast=True), mask=active)
    tl.store(words + 4 * i + 2, w2.to(tl.int32, bitcast=True), mask=active)
    tl.store(words + 4 * i + 3, w3.to(tl.int32, bitcast=True), mask=active)


pixel_draw = heads.draw


@jit
def draw_kernel(params, where, seed, count, temperature, levels, HEAD: tl.constexpr, BLOCK: tl.constexpr):
    """`draw` by itself. params float32 [N, P]; where int32 [4, N], the counters; seed int64 [1], its bits; levels uint8 [N, C]."""
    P: tl.constexpr = HEAD.value.parameters
    C: tl.constexpr = HEAD.value.channels
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    active = i < count
    row = tl.load(where + i, mask=active, other=0)
    column = tl.load(where + count + i, mask=active, other=0)
    image = tl.load(where + 2 * count + i, mask=active, other=0)
    number = tl.load(where + 3 * count).to(tl.uint32)
    key = tl.load(seed).to(tl.uint64, bitcast=True)
    pixel_draw(params + i * P, row, column, image, number, key, temperature, levels + i * C, active, HEAD)


def draws(head, params: np.ndarray, where: np.ndarray, seed: int, sampling: Sampling) -> np.ndarray:
    """What the kernels draw at counters `where` int32 [4, N]."""
    count = len(params)
    levels = torch.full((count, head.channels), 7, dtype=torch.uint8, device=DEVICE)
    draw_kernel[(-(-count // 128),)](
        on_device(params), on_device(where), bits(np.uint64([seed])), count, sampling.temperature, levels,
        HEAD=HeadShape.of(head, sampling.mode), BLOCK=128,
    )  # fmt: skip
    return levels.cpu().numpy()


@pytest.mark.parametrize("seed", [0, 1 << 31, (1 << 64) - 1, 0xFEDCBA9876543210])
def test_philox_is_bit_exact(seed):
    counters = np.random.default_rng(1).integers(0, 1 << 32, (200, 4), dtype=np.uint64).astype(np.uint32)
    counters[:2] = [[0] * 4, [0xFFFFFFFF] * 4]
    words = torch.zeros(200, 4, dtype=torch.int32, device=DEVICE)
    words_kernel[(2,)](bits(counters), bits(np.uint64([seed])), words, 200, 128)
    np.testing.assert_array_equal(words.cpu().numpy().view(np.uint32), philox4x32(seed, counters))


@pytest.mark.parametrize("mode", [False, True])
@pytest.mark.parametrize(
    "head", [Logistics(1, 10), Logistics(3, 3), Logistics(1, 1), Logistics(1, 3, 2), Logistics(3, 2, 16), Softmax(2), Softmax(200)],
    ids=str,
)  # fmt: skip
def test_draws_are_the_same_but_on_an_edge(head, mode):
    g, count = np.random.default_rng(2), 500
    params = g.normal(size=(count, head.parameters)).astype(np.float32)
    if head.kind == "logistics":
        k, c = head.components, head.channels
        params[:, k * (1 + c) : k * (1 + 2 * c)] -= 3
        params[0, 1 + c :] = 80  # far beyond both ends
        params[1, k * (1 + c) : k * (1 + 2 * c)] = -90  # below the smallest scale
    else:
        params[2, :] = 0.0  # all the same: the first is the mode
    where = np.concatenate([g.integers(0, 1400, (3, count)), np.full((1, count), 512)]).astype(np.int32)
    sampling = Sampling(temperature=0.7, mode=mode)
    levels = draws(head, params, where, 11, sampling)
    words = pixel_words(11, *where[:3], 512)
    expected = head.draw(params, words, sampling)
    assert expected.std() > head.levels / 6 and expected.max() < head.levels
    different = np.flatnonzero((levels != expected).any(axis=1))
    assert len(different) < 5
    for i in different:
        assert head.edge_distance(params[i : i + 1], words[i : i + 1], sampling) < EDGE


def test_a_draw_from_nan_is_a_level():
    """Black from a mixture, and some level of a softmax, which has its last one as its first."""
    nan, where = np.float32("nan"), np.zeros((4, 3), np.int32)
    params = np.float32([[nan] * 3, [0, nan, 0], [0, 0, nan]])
    assert draws(Logistics(1, 1), params, where, 0, Sampling()).ravel().tolist() == [0, 0, 0]
    for mode in (False, True):
        assert (draws(Softmax(3), params, where, 0, Sampling(mode=mode)) < 3).all()


# ---- a small network -------------------------------------------------------------------------------------------------


def toy(channels: int, outputs: int, told: int):
    """A small network with what the others have not: relu, a gate without a residual, a residual without a gate."""

    def walk(net):
        x = net.input("x", channels, ones=True, drawn=True)
        places = [net.input(f"places.{k}", told, k) if told else None for k in range(2)]
        u = net.conv("u", x, 6, down(2, 3).shifted(down=1))
        ul = net.conv("ul", x, 6, down_right(2, 1).shifted(right=1)) + net.conv("up", net.relu(u), 6)
        ul = net.gate("first", None, net.conv("wide", net.relu(ul), 12))
        (h,) = net.told("told", 1, 12, places[1], net.code(2)) if told else (None,)
        low = net.gate("gate", None, net.conv("shrink", net.concat_elu(ul), 12, down_right(2, 2).halved()), h)
        y = net.conv("grow", net.relu(low), 6, down_right(2, 2).doubled()) + ul
        return net.conv("out", net.relu(y), outputs)

    return walk


def toy_job(head, side: int, height: int, width: int, images: int, told: int = 0, embedding: int = 1, **options) -> Job:
    """A job of a `toy` with random weights, codes, maps and embeddings."""
    g = np.random.default_rng(5)
    module = Module(toy(head.channels * embedding, head.parameters, told)).eval()
    with torch.no_grad():
        for _, p in sorted(module.named_parameters()):
            p.copy_(torch.from_numpy(g.normal(size=p.shape) * 0.7 + 0.3 * (p.ndim == 1)))
    table = unit_levels(head.levels) if embedding == 1 else g.normal(size=(head.levels, embedding))
    feeds, code = {"x": Pixels(table)}, None
    if told:
        code, maps = g.normal(size=(images, 2)), g.normal(size=(1 if images == 2 else images, told - 3, 3, 5))
        feeds |= dict.fromkeys(("places.0", "places.1"), Places(maps, np.float32([0.3])))
    numbers = np.arange(images) + 3
    return Job(Network.of(module), head, Window(side), feeds, height, width, numbers, code, 9, **options).check()


# ---- every stage, teacher forced -------------------------------------------------------------------------------------


def window_values(plan, task: Job, pixels: np.ndarray, n: int, r: np.ndarray, c: np.ndarray) -> dict[str, np.ndarray]:
    """Every value of the windows that pixels (r, c) [R] of an image are drawn from, by the executor in fp64."""
    inputs, code = window_inputs(task, pixels, np.array([n]), r, c, torch.device("cpu"))
    return execute(plan, double({name: flat(v) for name, v in inputs.items()}), None if code is None else code.numpy())


class Forced:
    """One wave over an image that is known, each operation's result compared with the executor's.

    Args:
        task: its network and its size; the image is random.
        precision: of the engine.
        wave: which one.
        blocks: tile sizes.
    """

    def __init__(self, task: Job, precision: str, wave: int, blocks: Blocks):
        self.wave, self.job = wave, task
        self.plan = plan_at(task.network.graph, task.schedule.side, task.schedule.side)
        self.layout = network_layout(self.plan, blocks)
        canvas = self.job.canvas()
        canvas.pixels[:] = self.pixels = np.random.default_rng(3).integers(
            0, task.head.levels, canvas.pixels.shape, dtype=np.uint8
        )
        network = OnDevice(self.layout, blocks, precision, torch.device(DEVICE), triton.EMULATED)
        self.task = Images(network, native_job(self.job, canvas), slice(0, len(task.images)), poison=True)
        self.task.wave += wave
        self.windows = self.lanes_of_wave()
        self.worst, self.compared, self.pairs_of_steps = {}, set(), []

    def lanes_of_wave(self) -> dict[int, list[tuple[int, int, dict]]]:
        """For each program its lanes that draw in this wave: lane, column of the block, the executor's values."""
        m, count = self.layout.side, self.task.count
        found, keep = {}, {}
        for number, p in enumerate(self.task.table):
            first = max(p["row_low"], self.wave - (0 if p["left"] else self.task.blocks - 1))
            for row in range(first, min(p["row_high"], self.wave - (0 if p["left"] else 1)) + 1):
                for column in range((self.wave - row) * m, min((self.wave - row + 1) * m, self.job.width)):
                    for n in range(count):
                        key = (n, *(int(a) for a in window_origin(np.int64(row), np.int64(column), m)))
                        if key not in keep:
                            keep[key] = window_values(
                                self.plan, self.job, self.pixels, n, np.array([row]), np.array([column])
                            )
                        at = (row - first) * count + n
                        lane = at if p["left"] else column % m * p["group"] + at
                        found.setdefault(number, []).append((lane, column % m, keep[key]))
        assert found
        return found

    def row(self, program: int, first: int, width: int, pairs: bool = False) -> np.ndarray:
        """A place of the arena, [lanes, width]; pairs: of the ahead part."""
        base, lanes = (int(self.task.table[name][program]) for name in ("arena", "lanes"))
        memory, times = (self.task.pairs, self.task.network.tile.scale) if pairs else (self.task.memory, 1)
        start = (base + first * lanes) * times
        return memory[start : start + lanes * padded(width, ALIGN)].view(lanes, -1)[:, :width].float().cpu().numpy()

    def compare(self, operations: np.ndarray, step: bool) -> None:
        """Compare what some operations have left behind: their results, raw and activated."""
        for number in operations.tolist():
            program, stage, place = self.layout.places[number].tolist()
            op = self.layout.operations[number]
            if program not in self.windows or (op["partial"] >= 0) != step:
                continue
            stage = self.plan.stages[stage]
            lanes = [lane for lane, _, _ in self.windows[program]]
            expected = np.stack([values[stage.output][0, place] for _, _, values in self.windows[program]])
            if op["raw"] >= 0:
                self.record(stage.name, self.row(program, op["raw"], expected.shape[1])[lanes], expected)
            if op["activated"] >= 0 and op["form"] == FORM_RELU:
                found = self.row(program, op["activated"], expected.shape[1])[lanes]
                self.record(f"{stage.name}, relu", found, np.maximum(expected, 0))
            elif op["activated"] >= 0:
                pairs = interleaved(np.concatenate([expected, -expected], axis=1), True)
                pairs = np.where(pairs > 0, pairs, np.expm1(np.minimum(pairs, 0)))
                found = self.row(program, op["activated"], pairs.shape[1], not step)[lanes]
                self.pairs_of_steps += [found.ravel()] if step else []
                self.record(f"{stage.name}, activated", found, pairs)
            self.compared.add(number)

    def record(self, stage: str, got: np.ndarray, expected: np.ndarray) -> None:
        assert np.isfinite(got).all(), stage
        error, largest = self.worst.get(stage, (0.0, 0.0))
        self.worst[stage] = max(error, np.abs(got - expected).max()), max(largest, np.abs(expected).max())

    def run(self) -> None:
        layout = self.layout
        ahead = [self.operations_of(layout.ahead, np.concatenate(stage.groups)) for stage in layout.stages]
        steps = self.operations_of(layout.steps, np.arange(len(layout.steps.groups)))
        for kind, number in self.task.launches(self.task.work["top"], draw=False):
            if kind == "ahead":
                self.compare(ahead[number], step=False)
            if kind == "steps":
                self.compare(steps, step=True)
        np.testing.assert_array_equal(self.task.image.cpu().numpy(), self.pixels)  # it did not draw
        found = np.union1d(np.concatenate(ahead), steps)
        wanted = [n for n in found if layout.places[n, 0] in self.windows]
        wanted = [n for n in wanted if n in steps or layout.operations["partial"][n] < 0]
        assert self.compared == set(wanted)
        assert {self.plan.stages[layout.places[n, 1]].name for n in wanted} == {
            name.split(",")[0] for name in self.worst
        }

    @staticmethod
    def operations_of(part, groups: np.ndarray) -> np.ndarray:
        found = [np.arange(g["op"], g["op"] + g["count"]) for g in part.groups[groups]]
        return np.unique(np.concatenate([*found, np.zeros(0, int)])).astype(int)


# More than one tile of everything; one place a tile.
SMALL_TILES = Blocks(lanes=16, places=1, warps=1, stages=2, step_places=2)


@pytest.mark.parametrize(
    ("fields", "precision", "wave", "blocks"),
    [
        (SPATIAL, "fp32", 5, BLOCKS),  # interior, and the first window of a row
        pytest.param(SPATIAL, "fp32", 2, BLOCKS, marks=pytest.mark.slow),  # the rows above it
        (SPATIAL, "bf16", 2, BLOCKS),
        ({"patch": 4, "channels": 3}, "fp32", 4, BLOCKS),
        ({"patch": 4, "coordinates": False, "latent": 0, "filters": 17}, "tf32x3", 3, BLOCKS),
        (None, "tf32", 3, SMALL_TILES),
        (None, "bf16", 1, BLOCKS),
    ],
    ids=["spatial", "top rows", "top rows, bf16", "rgb", "neither, 17 filters", "toy, small tiles", "toy, bf16"],
)
def test_every_stage_teacher_forced(fields, precision, wave, blocks):
    task = toy_job(Logistics(3, 2), 3, 5, 8, 2, 5) if fields is None else job(config(**fields), 6, 11, 2)
    forced = Forced(task, precision, wave, blocks)
    forced.run()
    for stage, (error, largest) in forced.worst.items():
        assert largest > 0 and error <= TOLERANCE[precision] * largest, (stage, error, largest)
    if precision in ("tf32", "bf16") and forced.pairs_of_steps:
        bits = np.concatenate(forced.pairs_of_steps).view(np.uint32)
        assert not (bits & 0x1FFF).any() and (bits & 0xE000).any()  # tf32, and more than bf16
    if precision == "bf16":
        assert max(error / largest for error, largest in forced.worst.values()) > 1e-4  # it did round


# ---- what tensor cores are given -------------------------------------------------------------------------------------

in_interpreter = pytest.mark.skipif(
    HAVE_GPU, reason="looks into Triton's interpreter, which a machine with a GPU does not use"
)


def cut(numbers: np.ndarray) -> np.ndarray:
    """float32 as tensor cores read it in tf32: without its low 13 bits."""
    return (numbers.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)


@pytest.fixture
def products(monkeypatch) -> list[tuple[str, bool]]:
    """Products of the interpreter cut their operands in tf32, as tensor cores do: the input precision of each product, and whether
    that has changed an operand."""
    from triton.runtime import interpreter

    found, dot = [], interpreter.InterpreterBuilder.create_dot

    def cutting(self, a, b, d, precision, *rest):
        name = str(precision).rpartition(".")[2]
        if name == "TF32":
            both = [interpreter.TensorHandle(cut(np.ascontiguousarray(x.data)), x.dtype) for x in (a, b)]
            changed = any((x.data != y.data).any() for x, y in zip(both, (a, b)) if not np.isnan(y.data).any())
            a, b = both
            found.append((name, bool(changed)))
        else:
            found.append((name, False))
        return dot(self, a, b, d, precision, *rest)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", cutting)
    return found


@jit
def rounding_kernel(numbers, results, BLOCK: tl.constexpr):
    """`to_tf32` by itself."""
    i = tl.arange(0, BLOCK)
    tl.store(results + i, nearest_tf32(tl.load(numbers + i)))


nearest_tf32 = windows.to_tf32


def test_rounding_to_tf32():
    """The nearest number with 10 bits of mantissa, halves away from zero, of any size; a NaN stays one."""
    g = np.random.default_rng(8)
    numbers = (g.normal(size=64) * 10.0 ** g.integers(-30, 30, 64)).astype(np.float32)
    halves = (np.float32([1, 3, 1023]) + 1024) * np.float32(2.0**-10) + np.float32(2.0**-11)
    numbers[:9] = [0, -0.0, np.inf, -np.inf, np.nan, 1, *halves]
    numbers[9:12] = -halves
    numbers.view(np.uint32)[12] = 0x7FFFFFFF  # the NaN that a GPU's operations give
    results = torch.zeros(64, device=DEVICE)
    rounding_kernel[(1,)](on_device(numbers), results, BLOCK=64)
    got = results.cpu().numpy()
    assert np.isnan(got[[4, 12]]).all()
    finite = np.isfinite(numbers)
    np.testing.assert_array_equal(got[~finite & ~np.isnan(numbers)], numbers[~finite & ~np.isnan(numbers)])
    mantissa, exponent = np.frexp(numbers[finite].astype(np.float64))
    nearest = np.copysign(np.floor(np.abs(mantissa) * 2**11 + 0.5), mantissa) * 2.0 ** (exponent - 11)
    np.testing.assert_array_equal(got[finite], nearest.astype(np.float32))


@jit
def unrounded(x):
    """In place of `to_tf32`."""
    return x


def divergence(got: np.ndarray, expected: np.ndarray) -> float:
    """Mean Kullback-Leibler divergence of softmaxes from those of logits `expected` [..., levels], in bits."""
    p, q = (torch.from_numpy(x).double().log_softmax(-1) for x in (expected, got))
    return float((p.exp() * (p - q)).sum(-1).mean() / np.log(2))


@in_interpreter
def test_distributions_of_each_precision(plain, products, monkeypatch):
    """Tensor cores cut nothing: what they are given has been rounded, in bf16 too where it is not bf16. Distributions are nearer to
    fp32 than with operands that are cut (in this toy by half; of 12 filters and 4x4 windows errors are 3.8 times smaller)."""
    g = np.random.default_rng(6)
    task = replace(plain, images=plain.images[:1], code=plain.code[:1], height=3)
    maps = task.feeds["places.0"].maps[:1]
    places = Places(maps, task.feeds["places.0"].extra)
    task = replace(task, feeds={**task.feeds, "places.0": places, "places.1": places})
    given = Given(g.integers(0, 16, (1, 3, 5, 1)).astype(np.uint8), np.ones((3, 5), bool))

    def params(precision: str) -> np.ndarray:
        products.clear()
        return drawn(triton.Triton(precision), task, given, keep=True).params

    expected = params("fp32")
    assert {name for name, _ in products} == {"IEEE"}
    found = {}
    for precision in ("tf32", "bf16"):
        found[precision] = divergence(params(precision), expected)
        assert ("TF32", False) in products and ("TF32", True) not in products
    monkeypatch.setattr(launch, "round_tf32", lambda x: x)
    monkeypatch.setattr(windows, "to_tf32", unrounded)
    found["cut"] = divergence(params("tf32"), expected)
    assert ("TF32", True) in products
    assert 0 < 1.5 * found["tf32"] < found["cut"] and found["bf16"] == found["tf32"]  # a toy of relu has no pairs


@in_interpreter
def test_whole_images_round_for_tensor_cores_too(products):
    """Weights once, and what they are multiplied with where it is read; the residual stream stays fp32."""
    task, found = streams_job(2, 3), {}
    given = Given(np.random.default_rng(0).integers(0, 256, (2, 2, 3, 1)).astype(np.uint8), np.ones((2, 3), bool))
    for precision in ("fp32", "tf32"):
        found[precision] = drawn(triton.Triton(precision), task, given, keep=True).params
    assert set(products) == {("IEEE", False), ("TF32", False)}
    assert 1e-6 < np.abs(found["tf32"] - found["fp32"]).max() / np.abs(found["fp32"]).max() < TOLERANCE["tf32"]


def offset_kernel(images, offsets, BLOCK: tl.constexpr):
    """`map_number` by itself, for maps of 14x14 places and 192 numbers."""
    i = tl.arange(0, BLOCK)
    tl.store(offsets + i, map_number(tl.load(images + i), 13, 12, 14, 14, 192))


map_number, offset_kernel = windows.map_number, jit(offset_kernel)


def test_maps_of_many_images():
    """2^31 numbers are those of 57,065 images of the shipped checkpoint."""
    images, offsets = np.int32([0, 1, 57_064, 57_066, 2_000_000]), torch.zeros(8, dtype=torch.int64, device=DEVICE)
    offset_kernel[(1,)](on_device(np.pad(images, (0, 3))), offsets, BLOCK=8)
    expected = [((int(n) * 14 + 13) * 14 + 12) * 192 for n in images]
    assert offsets.cpu().tolist()[:5] == expected and expected[3] > 1 << 31


# ---- images ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def spatial() -> Job:
    return job(config(**SPATIAL), 4, 5)


@pytest.mark.parametrize(
    ("fields", "height", "width", "images", "rows", "columns"),
    [
        (SPATIAL, 4, 5, 1, 4, 5),
        pytest.param({"patch": 4, "channels": 3}, 4, 5, 2, 2, 3, marks=pytest.mark.slow),
        pytest.param({"patch": 4, "latent": 0, "coordinates": False}, 4, 4, 64, 1, 4, marks=pytest.mark.slow),
    ],
    ids=lambda value: str(value).replace(" ", ""),
)
def test_free_running_it_draws_what_the_others_draw(fields, height, width, images, rows, columns):
    """The wavefront in torch stands for the reference, which its own tests compare with the reference. The last columns of the last
    rows are drawn, all others are given: a wave takes the interpreter a second. `test_hashes.py` draws windows of 8x8."""
    task, counts = job(config(**fields), height, width, images), []
    expected, mask = drawn("torch", task).pixels, np.ones((height, width), bool)
    mask[height - rows :, width - columns :] = False
    given = None if not mask.any() else Given(np.where(mask[..., None], expected, 0).astype(np.uint8), mask)
    canvas = drawn(triton.Triton(poison=True), task, given, counts.append)
    assert np.ptp(canvas.pixels[:, -rows:, -columns:]) > 50  # a comparison of constants would prove nothing
    same_images(task, canvas.pixels, expected)
    assert sum(counts) == images * height * width and min(counts) > 0
    assert canvas.finished.tolist() == [height] * images


def as_the_plan_says(task: Job, canvas) -> None:
    """Assert that every pixel's parameters are the executor's, given the pixels before it, and its draw the head's."""
    plan, levels = plan_at(task.network.graph, task.schedule.side, task.schedule.side), []
    r, c = (a.ravel() for a in np.indices((task.height, task.width)))
    r0, c0 = window_origin(r, c, task.schedule.side)
    for n, number in enumerate(task.images):
        values = window_values(plan, task, canvas.pixels, n, r, c)[plan.output]
        expected = values[np.arange(len(r)), (r - r0) * plan.width + c - c0]
        got = canvas.params[n].reshape(len(r), -1)
        assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max() and np.abs(expected).max() > 0
        words = pixel_words(task.seed, r, c, np.full(len(r), number), task.draw)
        levels = task.head.draw(got, words, task.sampling)
        given = np.array(canvas.is_given(n, r, c))
        for i in np.flatnonzero((levels != canvas.pixels[n].reshape(len(r), -1)).any(axis=1) & ~given):
            assert task.head.edge_distance(got[i : i + 1], words[i : i + 1], task.sampling) < EDGE


@pytest.mark.parametrize(
    ("head", "side", "told", "options"),
    [
        (Softmax(16), 3, 5, {"draw": 256, "embedding": 2}),
        (Logistics(1, 2, 4), 1, 0, {}),
        (Logistics(3, 2), 2, 4, {"sampling": Sampling(0.5, True)}),
        (Softmax(40), 2, 0, {"sampling": Sampling(2.0)}),
    ],
    ids=["softmax, 3x3, embedding", "4 levels, 1x1", "RGB, 2x2, modes", "softmax, warm"],
)
def test_any_head_any_side_relu_and_what_is_told(head, side, told, options):
    task = toy_job(head, side, 4, 5, 2, told, **options)
    canvas = drawn(triton.Triton(poison=True), task, keep=True)
    as_the_plan_says(task, canvas)
    assert len(np.unique(canvas.pixels)) > 2 and canvas.finished.tolist() == [4, 4]


@pytest.fixture(scope="module")
def plain() -> Job:
    return toy_job(Softmax(16), 2, 4, 5, 3, 5)


@pytest.fixture(scope="module")
def expected(plain) -> Canvas:
    """What it draws."""
    return drawn("torch", plain, keep=True)


def test_given_pixels_are_kept_and_not_computed(plain, expected, monkeypatch):
    """Rows, single pixels, of each image its own; the others are what they are when the given ones were drawn before."""
    expected, mask = expected.pixels, np.random.default_rng(4).random((3, 4, 5)) < 0.5
    mask[:, :2] = True
    mask[1] = True
    launch, waves = Images.launch, []
    monkeypatch.setattr(Images, "launch", lambda self, work: (waves.append(int(self.wave)), launch(self, work)))
    for given in (expected, 15 - expected):
        counts = []
        canvas = drawn(triton.Triton(poison=True), plain, Given(given, mask), counts.append)
        np.testing.assert_array_equal(canvas.pixels[mask], given[mask])
        np.testing.assert_array_equal(canvas.pixels, drawn("torch", plain, Given(given, mask)).pixels)
        assert (canvas.pixels == expected).all() == (given is expected)
        assert sum(counts) == mask.size and canvas.finished.tolist() == [4] * 3
    assert waves == 2 * [2, 3, 4, 5]  # row 2 has its first block in wave 2


def test_parameters_of_given_pixels_are_kept_too(plain):
    """A score: everything is given, of all images alike or not."""
    g = np.random.default_rng(6)
    pixels = g.integers(0, 16, (3, 4, 5, 1)).astype(np.uint8)
    canvas = drawn(triton.Triton(poison=True), plain, Given(pixels, np.ones((4, 5), bool)), keep=True)
    np.testing.assert_array_equal(canvas.pixels, pixels)
    as_the_plan_says(plain, canvas)


def test_finished_rows_are_there_before_each_report(plain, expected):
    canvas, seen = plain.canvas(), []

    def report(count):
        rows = int(canvas.finished[0])
        seen.append(rows)
        np.testing.assert_array_equal(canvas.pixels[:, :rows], expected.pixels[:, :rows])

    triton.Triton(poison=True).draw(plain, canvas, report)
    assert seen == sorted(seen) and set(seen) == {0, 1, 2, 3, 4}


def test_batches_one_after_the_other(monkeypatch):
    """Images one by one are those in company; the memory of a batch is free when the next one's is taken."""
    make, batches, alive, task = Images.__init__, [], [], toy_job(Softmax(16), 2, 2, 3, 3, 5)
    expected = drawn("torch", task, keep=True)

    def counted(self, network, job, piece, poison):
        alive.append(sum(batch() is not None for batch in batches))
        batches.append(weakref.ref(self))
        make(self, network, job, piece, poison)

    monkeypatch.setattr(Images, "__init__", counted)
    monkeypatch.setattr(OnDevice, "images_together", lambda *arguments: 1)
    canvas = drawn(triton.Triton(poison=True), task, keep=True)
    assert alive == [0, 0, 0]
    np.testing.assert_array_equal(canvas.pixels, expected.pixels)
    np.testing.assert_allclose(canvas.params, expected.params, atol=1e-4)


def test_any_seed_and_image_numbers():
    task = toy_job(Logistics(1, 2), 1, 2, 3, 1)
    task = replace(task, seed=(1 << 64) - 1, images=np.uint32([(1 << 32) - 1]), draw=(1 << 32) - 256)
    as_the_plan_says(task, drawn(triton.Triton(), task, keep=True))


def test_what_report_raises_stops_the_drawing(plain):
    def stop(count):
        raise Enough

    canvas = plain.canvas()
    with pytest.raises(Enough):
        triton.make().draw(plain, canvas, stop)
    if not HAVE_GPU:
        assert canvas.pixels[:, 0, :2].any() and not canvas.pixels[:, 1:].any() and not canvas.pixels[:, 0, 2:].any()
        assert canvas.finished.tolist() == [0] * 3


def test_a_wave_that_fails_leaves_no_row_finished_that_is_not(plain, expected, monkeypatch):
    launch = Images.launch

    def fail(self, work):
        if int(self.wave) == 3:
            raise KeyboardInterrupt
        launch(self, work)

    monkeypatch.setattr(Images, "launch", fail)
    canvas = plain.canvas()
    with pytest.raises(KeyboardInterrupt):
        triton.make().draw(plain, canvas)
    assert (
        canvas.finished.tolist() == [1] * 3
    )  # of 3 blocks: row 0 is complete after wave 2, row 1 would be after wave 3
    np.testing.assert_array_equal(canvas.pixels[:, 0], expected.pixels[:, 0])


def test_known_windows(plain):
    g, plan = np.random.default_rng(7), plan_at(plain.network.graph, 4, 4)
    shapes = {name: (4, plan.values[name].places, plan.values[name].channels) for name in plan.inputs}
    inputs, code = (
        {name: g.normal(size=shape).astype(np.float32) for name, shape in shapes.items()},
        np.float32(g.normal(size=(4, 2))),
    )
    got = triton.make().evaluate(plain.network, 4, 4, inputs, code)
    np.testing.assert_allclose(got, execute(plan, double(inputs), code)[plan.output], atol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("precision", "network_of", "height", "width", "images"),
    [("fp32", *what) for what in FOR_A_GPU] + [(precision, *FOR_A_GPU[0]) for precision in triton.PRECISIONS[1:]],
    ids=str,
)
def test_on_a_gpu(precision, network_of, height, width, images):
    task, expected = expected_images(network_of, height, width, images)
    counts = []
    pixels = drawn(triton.make(precision), task, report=counts.append).pixels
    assert sum(counts) == images * height * width and np.ptp(pixels) > 100
    if precision in ("fp32", "tf32x3"):
        same_images(task, pixels, expected)


# ---- tables ----------------------------------------------------------------------------------------------------------


def test_kernels_read_columns_by_name():
    """Every table's columns have the numbers that its type gives them, and changed ones change the key of compiled kernels."""
    names = [
        (tables, windows, n)
        for n in ("GROUP", "OPERATION", "CHUNK", "PART", "PIXEL", "INPUT", "PROGRAM", "DIRECTORY", "JOB")
    ]
    names += [(raster_tables, raster, n) for n in ("PLACES", "PIECE", "ITEM")]
    for of_rows, of_columns, name in names:
        rows, columns = getattr(of_rows, name), getattr(of_columns, name)
        assert columns.size * 4 == rows.itemsize
        assert [getattr(columns, column) * 4 for column in rows.names] == [
            rows.fields[column][1] for column in rows.names
        ]
        swapped = np.dtype([(column, rows[column]) for column in reversed(rows.names)])
        assert repr(windows.Columns(swapped)) != repr(columns)
        assert not hasattr(columns, "of_another_table")


def test_one_array_holds_all_tables(plain):
    layout = network_layout(plan_at(plain.network.graph, 2, 2), INTERPRETER)
    flat_, directory = layout.flat(), dict(zip(tables.DIRECTORY.names, layout.flat()))
    for name, table in (
        ("operations", layout.operations),
        ("step_chunks", layout.steps.chunks),
        ("inputs", layout.inputs),
    ):
        begin = directory[name] * tables.UNIT
        np.testing.assert_array_equal(flat_[begin : begin + table.size * len(table.dtype)].view(table.dtype), table)


# ---- the interface ---------------------------------------------------------------------------------------------------


def test_options():
    for options, message in (
        ({"precision": "fp16"}, "precision: expected fp32, tf32x3, tf32, bf16 for the triton engine, got 'fp16'"),
        *(
            []
            if triton.EMULATED
            else [({"device": "cpu"}, "device: expected cuda or cuda:N for the triton engine, got 'cpu'")]
        ),
    ):
        with pytest.raises(SpxError, match=message):
            triton.make(**options)


def test_jobs_that_it_cannot_draw(plain):
    engine, planes = triton.make(), Planes(np.zeros((1, 4, 5, 5), np.float32))
    assert engine.why_not(plain) is None
    places = {name: Places(f.maps, f.extra) if name != "x" else f for name, f in plain.feeds.items()}
    for change in (
        {"head": Softmax(300)}, {"network": None}, {"feeds": plain.feeds | {"places.1": planes}}, {"feeds": places},
        {"tiles": replace(plain.tiles, step=2)},
    ):  # fmt: skip
        reason = engine.why_not(replace(plain, **change))
        assert reason and reason.startswith("it ") and not reason.endswith("."), reason


def test_as_many_images_together_as_the_memory_holds(spatial):
    compiled, task = (
        triton.make().compiled(spatial.network, 4),
        replace(spatial, height=9, width=13, images=np.arange(300)),
    )
    for keep in (False, True):
        canvas = task.canvas(keep=keep)
        todo, more = native_job(task, canvas), 4 * 9 * 13 * 9 * keep
        for count in (1, 40, 299):
            memory = 4 * compiled.arena_numbers(9, 13, count) + more * count
            found = compiled.images_together(todo, memory)
            assert count <= found and 4 * compiled.arena_numbers(9, 13, found) + more * found <= memory
            assert found == 300 or 4 * compiled.arena_numbers(9, 13, found + 1) + more * (found + 1) > memory


def test_images_too_wide_for_the_memory_are_refused(spatial):
    message = r"^height and width: expected an image whose windows fit into 0.0 GB of GPU memory, got .* GB for 4x5"
    with pytest.raises(SpxError, match=message):
        drawn(triton.Triton(memory=1000), spatial)


def test_a_gpu_with_too_little_shared_memory_gets_a_sentence(plain, monkeypatch):
    def launch(self, work):
        raise OutOfResources(125952, 101376, "shared memory")

    monkeypatch.setattr(Images, "launch", launch)
    message = (
        r"^precision: a kernel in tf32x3 takes 125952 of shared memory, and this GPU has 101376 for it: a newer Triton"
    )
    with pytest.raises(SpxError, match=message):
        drawn(triton.make("tf32x3"), plain)


def test_memory_that_torch_keeps_counts_as_free(monkeypatch):
    engine = triton.Triton()
    engine.device = torch.device("cuda")
    for name, value in (("mem_get_info", (10, 99)), ("memory_reserved", 50), ("memory_allocated", 20)):
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert engine.memory_for_images() == int(40 * triton.MEMORY_SHARE)


def test_without_a_gpu_it_says_so(monkeypatch):
    monkeypatch.setattr(triton, "EMULATED", False)
    monkeypatch.setattr(triton, "driver", lambda: Driver("", ()))
    with pytest.raises(
        SpxError, match=r"^engine: triton cannot run here: there is no NVIDIA GPU, or no driver for it, on this machine"
    ):
        engines.get("triton")


def test_auto_does_not_take_the_interpreter(monkeypatch):
    monkeypatch.setattr(triton, "EMULATED", True)
    assert engines.why_not("triton") is None and engines.emulated("triton") and engines.get().name != "triton"


def test_triton_is_imported_only_when_it_is_asked_for():
    code = "import sys, spxcore; spxcore.engines.why_not('triton'); assert not {'triton', 'torch'} & set(sys.modules)"
    if HAVE_GPU:
        code = "import sys, spxcore; assert 'triton' not in sys.modules"
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_block_sizes_of_unknown_gpus():
    assert all(blocks_for(major, "tf32x3").lanes == 64 for major in (8, 9, 12))
    assert blocks_for(9) == blocks_for(10) and blocks_for(99) == blocks_for(12) and blocks_for(7).stages == 2


# ---- the compiler ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("capability", "precisions"),
    [
        (90, ["fp32", "bf16", "tf32x3", "tf32"]),
        pytest.param(80, ["bf16"], marks=pytest.mark.slow),
    ],
)
def test_kernels_compile_for_gpus_that_are_not_here(capability, precisions):
    """Down to machine code, with the arguments of real launches; they fit into a block's shared memory and use tensor cores."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    script = Path(__file__).parents[2] / "support" / "triton_compile.py"
    command = [sys.executable, str(script), str(capability), *precisions]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    kernels = {line["kernel"] for line in lines}
    assert kernels == {"inputs", "ahead", "steps", "forward_kernel", "backward_kernel"}
    assert len([line for line in lines if line["kernel"] == "ahead"]) == 2 * len(precisions)
    for line in lines:
        assert line["cubin"] > 1000 and line["shared"] <= (227 if capability == 90 else 99) * 1024, line
        # Stages of `steps` hand numbers on through memory: behind a barrier, and not through the read-only cache.
        # Only products are fused multiply-adds, and only in fp32 do these run without tensor cores.
        assert line["fused"] == 0 or line.get("precision") == "ieee", line
        assert line["unordered"] == 0 and (line["kernel"] != "steps" or line["barriers"] >= 3), line
    with_tensor_cores = [line for line in lines if line["kernel"] in ("ahead", "steps") and line["mma"]]
    shared = {"tf32", "bf16"} <= set(precisions)  # they have one `steps`
    assert len(with_tensor_cores) == 3 * len([p for p in precisions if p != "fp32"]) - shared
