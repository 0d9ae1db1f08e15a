"""The triton engine: its kernels in Triton's interpreter (or on a GPU) against the plan's meaning and the other engines.

The interpreter takes milliseconds for each operation of each tile, so networks and images are tiny here.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import EDGE, FOR_A_GPU, Enough, config, double, expected_images, job, network, same_images

pytest.importorskip("triton", reason="Triton is not installed")

from spxcore import Weights, engines, mixture
from spxcore.coords import axis, scale
from spxcore.engines import triton
from spxcore.engines.torch import TorchWavefront
from spxcore.errors import SpxError
from spxcore.kernels import draw as drawing
from spxcore.kernels.run import DeviceNetwork, Images
from spxcore.kernels.tables import ALIGN, interleaved, network_tables, padded
from spxcore.kernels.tuning import INTERPRETER, Blocks, blocks_for
from spxcore.network import place_inputs
from spxcore.plan import compile_network, execute
from spxcore.rng import philox4x32, pixel_words
from spxcore.sampler import edge_distance
from spxcore.schedule import window_origin

pytestmark = pytest.mark.timeout(900)  # on a busy machine the interpreter takes minutes

HAVE_GPU = torch.cuda.is_available()
DEVICE = "cuda" if HAVE_GPU else "cpu"
BLOCKS = blocks_for(torch.cuda.get_device_capability()[0]) if HAVE_GPU else INTERPRETER
SPATIAL = {"patch": 4, "conditioning": "spatial"}

# Largest difference from the NumPy executor in fp64, relative to the largest number of the stage. Measured in the interpreter, where
# inputs are not rounded to tf32: 3e-7 to 4e-7, bf16 1.2e-2. tf32's 1e-2 is an allowance for 11 bits of mantissa, not measured.
TOLERANCE = {"fp32": 1e-5, "tf32x3": 1e-5, "tf32": 1e-2, "bf16": 5e-2}


@pytest.fixture(autouse=True)
def quick_interpreter(monkeypatch):
    """Without the interpreter's look for integer overflow at every operation, half of its time."""
    if not HAVE_GPU:
        from triton.runtime import interpreter

        options = interpreter.InterpreterOptions(sanitize_overflow=False)
        monkeypatch.setattr(interpreter.interpreter_builder, "options", options)


# ---- random numbers and draws ----------------------------------------------------------------------------------------


def bits(array: np.ndarray) -> torch.Tensor:
    """Unsigned numbers as the signed ones of the same bits."""
    return torch.from_numpy(array.view(f"int{8 * array.itemsize}").copy()).to(DEVICE)


@pytest.mark.parametrize("seed", [0, 1 << 31, (1 << 64) - 1, 0xFEDCBA9876543210])
def test_philox_is_bit_exact(seed):
    counters = np.random.default_rng(1).integers(0, 1 << 32, (200, 4), dtype=np.uint64).astype(np.uint32)
    counters[:2] = [[0] * 4, [0xFFFFFFFF] * 4]
    words = torch.zeros(200, 4, dtype=torch.int32, device=DEVICE)
    drawing.words_kernel[(2,)](bits(counters), bits(np.uint64([seed])), words, 200, 128)
    np.testing.assert_array_equal(words.cpu().numpy().view(np.uint32), philox4x32(seed, counters))


@pytest.mark.parametrize("map", [False, True])
@pytest.mark.parametrize(("channels", "mixtures"), [(1, 10), (3, 3), (1, 1)])
def test_draws_are_the_same_but_on_an_edge(channels, mixtures, map):
    g, count = np.random.default_rng(2), 500
    params = g.normal(size=(count, mixtures * (3 if channels == 1 else 10))).astype(np.float32)
    params[:, mixtures * (1 + channels) : mixtures * (1 + 2 * channels)] -= 3
    params[0, 1 + channels :] = 80  # far beyond both ends
    params[1, mixtures * (1 + channels) : mixtures * (1 + 2 * channels)] = -90  # below the smallest scale
    where = g.integers(0, 1400, (3, count)).astype(np.int32)
    task = job(config(latent=0), 8, 8, seed=11, temperature=0.7, map=map)
    levels = torch.zeros(count, channels, dtype=torch.uint8, device=DEVICE)
    drawing.draw_kernel[(4,)](
        torch.from_numpy(params).to(DEVICE), *map_to_device(where), bits(np.uint64([11])), count, 0.7, levels,
        MAP=map, C=channels, K=mixtures, KP=16, BLOCK=128,
    )  # fmt: skip
    words = pixel_words(11, *where)
    expected = mixture.draw(params, words, channels, 0.7, map)
    assert expected.std() > 50
    for i in np.flatnonzero((levels.cpu().numpy() != expected).any(axis=1)):
        assert edge_distance(params[i : i + 1], words[i : i + 1], task, channels) < EDGE


def map_to_device(arrays):
    return [torch.from_numpy(np.ascontiguousarray(a)).to(DEVICE) for a in arrays]


def test_a_draw_from_nan_is_black():
    levels = torch.full((3, 1), 7, dtype=torch.uint8, device=DEVICE)
    params = torch.tensor([[float("nan")] * 3, [0.0, float("nan"), 0.0], [0.0, 0.0, float("nan")]], device=DEVICE)
    zero = torch.zeros(3, dtype=torch.int32, device=DEVICE)
    key = torch.zeros(1, dtype=torch.int64, device=DEVICE)
    drawing.draw_kernel[(1,)](params, zero, zero, zero, key, 3, 1.0, levels, MAP=False, C=1, K=1, KP=16, BLOCK=16)
    assert levels.flatten().tolist() == [0, 0, 0]


# ---- every stage, teacher forced -------------------------------------------------------------------------------------


class Forced:
    """One wave over an image that is known, each operation's result compared with the executor's.

    Args:
        fields: of the network.
        precision: of the engine.
        wave: which one.
        blocks: tile sizes.
    """

    def __init__(self, fields: dict, precision: str, wave: int, blocks: Blocks, images: int = 2, *, size):
        net = network(config(**fields))
        self.weights, self.precision, self.wave = Weights.of(net), precision, wave
        c = self.config = self.weights.config
        self.plan = compile_network(self.weights)
        self.tables = network_tables(self.plan, blocks)
        on_device = DeviceNetwork(c, self.tables, blocks, precision, torch.device(DEVICE))
        self.job = job(c, *size, images)
        self.task = Images(
            on_device, self.job, np.arange(images, dtype=np.uint32), self.job.z, self.job.maps,
            axis(size[0]), axis(size[1]), scale(*size, c.sizes),
        )  # fmt: skip
        self.pixels = np.random.default_rng(3).integers(0, 256, (images, *size, c.channels), dtype=np.uint8)
        self.task.image.copy_(torch.from_numpy(self.pixels))
        self.task.wave += wave
        self.windows = self.lanes_of_wave()
        self.worst, self.compared = {}, set()

    def lanes_of_wave(self) -> dict[int, list[tuple[int, int, dict]]]:
        """For each program its lanes that draw in this wave: lane, column of the block, the executor's values."""
        m, count = self.config.patch, self.task.count
        found, keep = {}, {}
        for number, (_, _, group, left, low, high, _) in enumerate(self.task.table.tolist()):
            first = max(low, self.wave - (0 if left else self.task.blocks - 1))
            for row in range(first, min(high, self.wave - (0 if left else 1)) + 1):
                for column in range((self.wave - row) * m, min((self.wave - row + 1) * m, self.job.width)):
                    for n in range(count):
                        y0, x0 = (int(a) for a in window_origin(np.int64(row), np.int64(column), m))
                        key = (n, y0, x0)
                        if key not in keep:
                            keep[key] = self.execute(*key)
                        at = (row - first) * count + n
                        lane = at if left else column % m * group + at
                        found.setdefault(number, []).append((lane, column % m, keep[key]))
        assert found
        return found

    def execute(self, n: int, y0: int, x0: int) -> dict[str, np.ndarray]:
        c, m = self.config, self.config.patch
        window = self.pixels[n, y0 : y0 + m, x0 : x0 + m].reshape(1, m * m, -1)
        y, x = (torch.from_numpy(axis(size)) for size in (self.job.height, self.job.width))
        ends = [(a[i].view(1, 1), a[i + m - 1].view(1, 1)) for a, i in ((y, y0), (x, x0))]
        maps = None if self.job.maps is None else torch.from_numpy(self.job.maps[n : n + 1])
        size = torch.full((1, 1), scale(self.job.height, self.job.width, c.sizes))
        inputs = {"x": mixture.to_unit(window)}
        for k, places in enumerate(place_inputs(c, *ends, size, maps)):
            if places is not None:
                inputs[f"places.{k}"] = places.flatten(2).transpose(1, 2).numpy()
        return execute(self.plan, double(inputs), None if self.job.z is None else self.job.z[n : n + 1])

    def row(self, program: int, first: int, width: int, acts: bool = False) -> np.ndarray:
        """A place of the arena, [lanes, width]."""
        base, lanes = self.task.table[program, :2].tolist()
        memory, times = (self.task.acts, self.task.network.scale) if acts else (self.task.arena, 1)
        start = (base + first * lanes) * times
        return memory[start : start + lanes * padded(width, ALIGN)].view(lanes, -1)[:, :width].float().cpu().numpy()

    def compare(self, operations: np.ndarray, step: bool) -> None:
        """Compare what some operations have left behind: their results, raw and activated."""
        for number in operations.tolist():
            program, stage, place = self.tables.places[number].tolist()
            _, _, partial, _, raw, act = self.tables.operations[number].tolist()
            if program not in self.windows or (partial >= 0) != step:
                continue
            stage = self.plan.stages[stage]
            lanes = [lane for lane, _, _ in self.windows[program]]
            expected = np.stack([values[stage.output][0, place] for _, _, values in self.windows[program]])
            if raw >= 0:
                self.record(stage.name, self.row(program, raw, expected.shape[1])[lanes], expected)
            if act >= 0:
                pairs = interleaved(np.concatenate([expected, -expected], axis=1), True)
                pairs = np.where(pairs > 0, pairs, np.expm1(np.minimum(pairs, 0)))
                self.record(stage.name, self.row(program, act, pairs.shape[1], acts=True)[lanes], pairs)
            self.compared.add(number)

    def record(self, stage: str, got: np.ndarray, expected: np.ndarray) -> None:
        assert np.isfinite(got).all(), stage
        error, largest = self.worst.get(stage, (0.0, 0.0))
        self.worst[stage] = max(error, np.abs(got - expected).max()), max(largest, np.abs(expected).max())

    def run(self) -> None:
        places = self.tables.places
        stages = [
            np.unique(np.concatenate([self.operations_of(self.tables.ahead, g) for g in groups]))
            for _, _, groups in self.tables.stages
        ]
        steps = self.operations_of(self.tables.steps, np.arange(len(self.tables.steps.groups)))

        def after(kind: str, number: int) -> None:
            if kind == "ahead":
                self.compare(stages[number], step=False)
            if kind == "steps":
                self.compare(steps, step=True)

        self.task.launch(self.task.work["top"], draw=False, after=after)
        np.testing.assert_array_equal(self.task.pixels(), self.pixels)  # it did not draw
        partials = np.setdiff1d(np.concatenate(stages), steps)
        wanted = [n for n in np.union1d(partials, steps) if places[n, 0] in self.windows]
        wanted = [n for n in wanted if n in steps or self.tables.operations[n, 2] < 0]
        assert self.compared == set(wanted)
        assert {self.plan.stages[places[n, 1]].name for n in wanted} == set(self.worst)

    @staticmethod
    def operations_of(part, groups: np.ndarray) -> np.ndarray:
        found = [np.arange(op, op + count) for op, count in part.groups[groups, :2].tolist()]
        return np.concatenate([*found, np.zeros(0, int)]).astype(int)


SMALL_TILES = Blocks(
    lanes=16, places=1, warps=1, stages=2, step_places=2
)  # more than one tile of everything; one place a tile


@pytest.mark.parametrize(
    ("fields", "precision", "wave", "blocks"),
    [
        (SPATIAL, "fp32", 5, BLOCKS),  # interior, and the first window of a row
        (SPATIAL, "fp32", 2, BLOCKS),  # the rows above it
        (SPATIAL, "bf16", 5, BLOCKS),
        ({"patch": 4, "channels": 3}, "fp32", 4, BLOCKS),
        ({"patch": 4, "coordinates": False, "latent": 0, "filters": 17}, "tf32x3", 3, BLOCKS),
        (SPATIAL, "tf32", 1, SMALL_TILES),
    ],
    ids=["spatial", "top rows", "bf16", "rgb", "neither, 17 filters", "small tiles"],
)
def test_every_stage_teacher_forced(fields, precision, wave, blocks):
    size = (6, 11) if blocks is BLOCKS else (4, 8)
    forced = Forced(fields, precision, wave, blocks, size=size)
    forced.run()
    for stage, (error, largest) in forced.worst.items():
        assert largest > 0 and error <= TOLERANCE[precision] * largest, (stage, error, largest)
    if precision == "bf16":
        assert max(error / largest for error, largest in forced.worst.values()) > 1e-4  # it did round


# ---- images ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def spatial() -> Weights:
    return Weights.of(network(config(**SPATIAL)))


@pytest.mark.parametrize(
    ("fields", "height", "width", "images"),
    [
        (SPATIAL, 5, 6, 1),
        ({"patch": 4, "channels": 3}, 5, 5, 3),
        ({"patch": 4, "latent": 0, "coordinates": False}, 4, 4, 64),
        pytest.param({"patch": 8, **SPATIAL, "filters": 3}, 8, 9, 1, marks=pytest.mark.slow),
    ],
    ids=lambda value: str(value).replace(" ", ""),
)
def test_free_running_it_draws_what_the_others_draw(fields, height, width, images):
    """The wavefront in torch stands for the reference, which its own tests compare it with."""
    weights = Weights.of(network(config(**fields)))
    task, counts = job(weights.config, height, width, images), []
    drawn = triton.make().sample(weights, task, counts.append)
    assert np.ptp(drawn) > 50  # a comparison of constants would prove nothing
    same_images(weights, task, drawn, TorchWavefront().sample(weights, task))
    assert sum(counts) == images * height * width and min(counts) > 0


def test_options_and_company(spatial, monkeypatch):
    """Temperature, MAP, any seed and image numbers, drawn one by one, into an array of any layout."""
    task = job(spatial.config, 4, 4, images=2, temperature=0.5, map=True, seed=(1 << 64) - 1)
    task = replace(task, images=np.array([5, (1 << 32) - 1]))
    room = np.zeros((2, 4, 8, 1), np.uint8)
    out = room[:, :, ::2]
    with monkeypatch.context() as patch:
        patch.setattr(DeviceNetwork, "images_together", lambda *arguments: 1)
        assert engines.get("triton", precision="fp32").sample(spatial, task, out=out) is out
    same_images(spatial, task, out, TorchWavefront().sample(spatial, task))
    assert not room[:, :, 1::2].any()


def test_what_progress_raises_stops_the_drawing(spatial):
    def stop(count):
        raise Enough

    task = job(spatial.config, 9, 9)
    out = task.empty(spatial.config)
    with pytest.raises(Enough):
        triton.make().sample(spatial, task, stop, out)
    if not HAVE_GPU:
        assert out[0, 0, :4].any() and not out[0, 1:].any() and not out[0, 0, 4:].any()


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("precision", "network_of", "height", "width", "images"),
    [("fp32", *what) for what in FOR_A_GPU] + [(precision, *FOR_A_GPU[0]) for precision in triton.PRECISIONS[1:]],
    ids=str,
)
def test_on_a_gpu(precision, network_of, height, width, images):
    weights, task, expected = expected_images(network_of, height, width, images)
    counts = []
    drawn = triton.make(precision).sample(weights, task, counts.append)
    assert sum(counts) == images * height * width and np.ptp(drawn) > 100
    if precision in ("fp32", "tf32x3"):
        same_images(weights, task, drawn, expected)


# ---- the interface ---------------------------------------------------------------------------------------------------


def test_options():
    for options, message in (
        ({"precision": "fp16"}, "precision: expected fp32, tf32x3, tf32, bf16 for the triton engine, got 'fp16'"),
        *(
            []
            if triton.interpreted()
            else [({"device": "cpu"}, "device: expected cuda or cuda:N for the triton engine, got 'cpu'")]
        ),
    ):
        with pytest.raises(SpxError, match=message):
            triton.make(**options)


def test_as_many_images_together_as_the_memory_holds(spatial):
    compiled, task = triton.make().compiled(spatial), job(spatial.config, 9, 13, images=300)
    for count in (1, 40, 299):
        memory = 4 * compiled.arena_numbers(9, 13, count)
        found = compiled.images_together(task, memory)
        assert count <= found and 4 * compiled.arena_numbers(9, 13, found) <= memory
        assert found == 300 or 4 * compiled.arena_numbers(9, 13, found + 1) > memory


def test_images_too_wide_for_the_memory_are_refused(spatial):
    message = r"^height and width: expected an image whose windows fit into 0.0 GB of GPU memory, got .* GB for 8x9"
    with pytest.raises(SpxError, match=message):
        triton.Triton(memory=1000).sample(spatial, job(spatial.config, 8, 9))


def test_without_a_gpu_it_says_so(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(triton, "_devices", lambda: 0)
    with pytest.raises(
        SpxError, match=r"^engine: triton cannot run here: there is no NVIDIA GPU, or no driver for it, on this machine"
    ):
        engines.get("triton")


def test_auto_does_not_take_the_interpreter(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert engines.why_not("triton") is None and engines.fastest() != "triton"


def test_triton_is_imported_only_when_it_is_asked_for():
    code = "import sys, spxcore; spxcore.engines.fastest(); assert not {'triton', 'torch'} & set(sys.modules)"
    if HAVE_GPU:
        code = "import sys, spxcore; assert 'triton' not in sys.modules"
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_block_sizes_of_unknown_gpus():
    assert blocks_for(9) == blocks_for(10) and blocks_for(99) == blocks_for(12) and blocks_for(7).stages == 2


# ---- the compiler ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("capability", "precisions"), [(90, ["fp32", "tf32x3", "tf32", "bf16"]), (80, ["bf16"])])
def test_kernels_compile_for_gpus_that_are_not_here(capability, precisions):
    """Down to machine code, with the arguments of real launches; they fit into a block's shared memory and use tensor cores."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    script = Path(__file__).parent / "triton_compile.py"
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
        assert line["unordered"] == 0 and (line["kernel"] != "steps" or line["barriers"] >= 3), line
    with_tensor_cores = [line for line in lines if line["kernel"] in ("ahead", "steps") and line["mma"]]
    assert len(with_tensor_cores) == 3 * len([p for p in precisions if p != "fp32"])
