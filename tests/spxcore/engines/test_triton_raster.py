"""Whole images on the triton engine: every place by the plan's meaning, and the naive loop's pixels, in Triton's interpreter.

The interpreter takes 10 ms for a launch. A drawn pixel takes one for each stage that waits for it; a given row takes as many in all. So
most rows are given here.
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
from helpers import Enough, close, double, drawn, same_images
from walks import spread
from wholes import expected, streams_job, whole_job

pytest.importorskip("triton", reason="Triton is not installed")

from spxcore import Given, Job, Logistics, Softmax, SpxError
from spxcore.engines import triton
from spxcore.feeds import Pixels, unit_levels
from spxcore.kernels import launch
from spxcore.kernels.raster_launch import RasterImages
from spxcore.kernels.raster_tables import raster_layout
from spxcore.kernels.tuning import INTERPRETER, blocks_for
from spxcore.lower.job import native_job
from spxcore.lower.raster import raster_tables
from spxcore.lower.tables import FORM_PAIRS, FORM_RAW
from spxcore.plan import execute, plan_at
from spxcore.schedules import Raster
from spxcore.walk.language import down_right

pytestmark = [pytest.mark.timeout(900), pytest.mark.usefixtures("quick_interpreter")]

BLOCKS = blocks_for(torch.cuda.get_device_capability()[0]) if torch.cuda.is_available() else INTERPRETER
# Tiles of several images and places; pieces of fewer places than a row has.
SMALL_TILES = replace(BLOCKS, rows=16)


def engine(**options) -> triton.Triton:
    """The engine, in memory that is NaN at first."""
    return triton.Triton(poison=True, **options)


def layout_of(task: Job):
    """A job's tables."""
    return raster_layout(raster_tables(task.network.graph, task.height, task.width))


def rows_given(task: Job, rows, seed: int = 2) -> Given:
    """All pixels of some rows, at random."""
    size = len(task.images), task.height, task.width
    pixels = np.random.default_rng(seed).integers(0, task.head.levels, (*size, task.head.channels)).astype(np.uint8)
    return Given(pixels, np.isin(np.arange(task.height), rows)[:, None] & np.ones(task.width, bool))


# ---- every place -----------------------------------------------------------------------------------------------------


def all_values(task: Job, pixels: np.ndarray) -> dict[str, np.ndarray]:
    """Every value of the network, float64 [N, places, C], by the executor."""
    inputs = {name: feed.array if name != "x" else feed.table[pixels] for name, feed in task.feeds.items()}
    inputs = {
        name: array.reshape(len(pixels), -1, task.network.graph.values[name].channels) for name, array in inputs.items()
    }
    return execute(plan_at(task.network.graph, task.height, task.width), double(inputs), task.code.astype(np.float64))


class Forced:
    """Images that are known go through the schedule; after each row what it computed is compared with the executor's.

    Args:
        task: what to draw; its pixels are random.
        given: rows that run at once; others pixel by pixel.
        blocks: tile sizes.
    """

    def __init__(self, task: Job, given: list[int], blocks=BLOCKS):
        self.task, canvas = task, task.canvas()
        canvas.pixels[:] = rows_given(task, []).pixels
        on_device = engine(blocks=blocks).whole(task.network, task.height, task.width)
        self.images, self.layout = on_device.images(native_job(task, canvas), slice(None), True), on_device.layout
        self.given, self.values = given, all_values(task, canvas.pixels)
        self.compared: dict[str, list[int]] = {}

    def run(self) -> None:
        tables = self.layout.tables
        for row in range(self.task.height):
            self.images.begin(row)
            work = self.images.work(int(tables.rows[row]))
            for _ in self.images.launches(*work, row in self.given, draw=False):
                pass
            kind = tables.kinds[tables.rows[row]]
            for op in tables.ops[kind["op"] : kind["op_end"]]:
                self.compare(op, row // tables.period)

    def compare(self, op: np.void, base: int) -> None:
        """The results of an op, raw and activated."""
        tables, stage = self.layout.tables, self.task.network.graph.stages[op["stage"]]
        columns = op["first"] + op["step"] * np.arange(op["count"])
        for name in ("raw", "activated"):
            number = int(tables.stages[name][op["stage"]])
            if number < 0:
                continue
            ring = tables.rings[number]
            y, kept = int(op["row"]) + base * int(ring["rise"]), self.images._ring(number)
            got = kept[y % len(kept), columns].cpu().numpy()  # [places, N, numbers]
            want = self.values[stage.output][:, y * int(ring["width"]) + columns].transpose(1, 0, 2)
            if ring["form"] == FORM_PAIRS:
                want = np.stack([want, -want], axis=-1).reshape(*want.shape[:2], -1)
                want = np.where(want > 0, want, np.expm1(np.minimum(want, 0)))
            elif ring["form"] != FORM_RAW:
                want = np.maximum(want, 0)
            error, padding = np.abs(got[..., : want.shape[2]] - want).max(), got[..., want.shape[2] :]
            assert error <= 1e-5 * max(1, np.abs(want).max()) and (padding == 0).all(), stage.name
            self.compared.setdefault(f"{stage.output} {name}", []).extend(y * int(ring["width"]) + columns)


@pytest.mark.parametrize(
    ("task", "given", "blocks"),
    [
        (whole_job(4, 5, images=3), [0, 3], SMALL_TILES),
        (streams_job(5, 4, channels=3, images=1), [0, 1, 2, 3], SMALL_TILES),
    ],
    ids=["relu, planes", "streams, colour, one image"],
)  # fmt: skip
def test_every_stage_teacher_forced(task, given, blocks):
    forced = Forced(task, given, blocks)
    forced.run()
    plan = plan_at(task.network.graph, task.height, task.width, fold=False)
    needed = {
        name: np.flatnonzero(need).tolist() for name, need in plan.needed(range(task.height * task.width)).items()
    }
    for name, places in forced.compared.items():
        assert len(set(places)) == len(places)  # every place once
        assert set(needed[name.split()[0]]) <= set(places)
    assert {name.split()[0] for name in forced.compared} == {stage.output for stage in task.network.graph.stages}


@pytest.mark.parametrize("places", [1, 3, 100])
def test_every_place_of_a_row_runs_once(places):
    """In pieces of at most so many; before the row, or with its partial sum in exactly one step."""
    layout = layout_of(streams_job(9, 7))
    ops = layout.tables.ops
    for number, kind in enumerate(layout.tables.kinds):
        work, mine = layout.work(number, places), np.arange(kind["op"], kind["op_end"])

        def run(runs, work=work):
            items = [(stage, item) for stage, a, b in runs.tolist() for item in work.items[a:b].tolist()]
            assert all(ops["stage"][op] == stage and 0 < end - begin <= places for stage, (op, begin, end) in items)
            return sorted((op, place) for _, (op, begin, end) in items for place in range(begin, end))

        late = [(op, place) for op in mine[ops["waits"][mine] != 0].tolist() for place in range(ops["count"][op])]
        ahead = mine[(ops["waits"][mine] == 0) | (ops["tap_begin"][mine] < ops["tap_late"][mine])].tolist()
        assert run(work.whole) == run(work.steps) == late and len(late) > 0
        assert run(work.ahead) == [(op, place) for op in ahead for place in range(ops["count"][op])]
        assert len(work.begins) == layout.tables.width + 2 and work.begins[-1] == len(work.steps)


def test_memory_grows_with_what_is_read_not_with_the_image():
    rows = {(h, w): layout_of(streams_job(h, w)).rows for h, w in ((16, 12), (160, 12), (16, 24))}
    assert rows[16, 12] == rows[160, 12] < rows[16, 24] <= 2 * rows[16, 12]


@pytest.mark.parametrize(
    ("channels", "side", "layers", "expected"), [(1, 28, 2, (1096, 13034, 1726)), (3, 32, 5, (2581, 33152, 3973))]
)
def test_launches_of_the_presets(channels, side, layers, expected):
    """Of an image, or of a batch, whatever the filters: ahead of rows, in them, and of a score. docs/gpu.md has these figures."""
    layout = layout_of(streams_job(side, side, channels, layers=layers))
    kinds, counts = layout.tables.rows, []
    for number in range(len(layout.tables.kinds)):
        work = layout.work(number, 64)
        counts.append((len(work.ahead), len(work.steps) + side, len(work.whole) + 2))
    ahead, steps, given = np.array(counts)[kinds].sum(axis=0)
    assert (ahead, steps, ahead + given) == expected


# ---- images ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "given"),
    [
        (whole_job(3, 5), []),
        (whole_job(4, 4, images=3, head=Logistics(3, 2)), [0, 1, 2]),
        (whole_job(2, 4, head=Softmax(5)), [0]),
        (streams_job(5, 4), [0, 1, 2, 3]),
    ],
    ids=["grey", "colour", "softmax", "classes"],
)  # fmt: skip
def test_it_draws_what_the_naive_loop_draws(task, given):
    counts, given = [], rows_given(task, given)
    naive = drawn("reference", task, given)
    canvas = drawn(engine(), task, given, counts.append, keep=True)
    same_images(task, canvas.pixels, naive.pixels)
    assert (canvas.finished == task.height).all() and sum(counts) == task.height * task.width * len(task.images)
    if "where" in task.feeds:
        assert close(canvas.params, expected(task, canvas.pixels), 1e-5)
    assert len(np.unique(canvas.pixels[:, ~given.mask])) > 1


def test_given_pixels_of_many_images_are_kept():
    """More images than a tile has, each with given pixels of its own: images alone and in company are the same."""
    task, g = whole_job(2, 3, images=19), np.random.default_rng(0)
    given = Given(rows_given(task, []).pixels, g.random((19, 2, 3)) < 0.5)
    naive = drawn("reference", task, given)
    canvas = drawn(engine(), task, given, keep=True)
    assert (canvas.pixels == given.pixels)[given.mask].all()
    same_images(task, canvas.pixels, naive.pixels)
    assert close(canvas.params, expected(task, canvas.pixels), 1e-5)
    assert launch.power_of_two(19) > BLOCKS.step_rows  # two tiles, the second not full


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("precision", "size", "channels", "images"),
    [("fp32", (28, 28), 1, 64), ("fp32", (9, 45), 3, 1), ("fp32", (45, 9), 1, 3), ("tf32x3", (28, 28), 1, 3), ("tf32", (28, 28), 1, 3)],
    ids=str,
)  # fmt: skip
def test_on_a_gpu(precision, size, channels, images):
    """The small PixelCNN++; graphs are replayed."""
    task, counts = streams_job(*size, channels, images, filters=25, layers=2, mixtures=10), []
    canvas = drawn(triton.make(precision), task, report=counts.append)
    assert sum(counts) == images * size[0] * size[1] and np.ptp(canvas.pixels) > 100
    if precision != "tf32":
        same_images(task, canvas.pixels, drawn("torch", task).pixels)


@pytest.mark.parametrize("size", [(2, 34), (1, 1), (3, 1)])
def test_a_score_of_any_size(size):
    """All pixels are given; no window holds such an image."""
    task = whole_job(*size)
    canvas = drawn(engine(), task, rows_given(task, range(size[0])), keep=True)
    np.testing.assert_array_equal(canvas.pixels, rows_given(task, []).pixels)
    assert close(canvas.params, expected(task, canvas.pixels), 1e-5)


def test_batches_one_after_the_other():
    task = whole_job(2, 3, images=3)
    rows = layout_of(task).rows
    assert engine().whole(task.network, 2, 3).images_together(native_job(task, task.canvas()), 4 * rows * 2 + 7) == 2
    given = rows_given(task, [0])
    canvas = drawn(engine(memory=4 * (rows + 2 * 3 * 9)), task, given, keep=True)
    same_images(task, canvas.pixels, drawn("reference", task, given).pixels)
    with pytest.raises(
        SpxError, match=r"^height and width: expected an image whose rows fit into 0.0 GB of GPU memory"
    ):
        drawn(engine(memory=4 * rows - 1), task)


def test_rows_are_finished_before_each_report():
    task, seen = whole_job(3, 2, images=2), []
    given, canvas = rows_given(task, [0, 1, 2]), None

    def report(count):
        seen.append((count, *canvas.finished.tolist()))
        if canvas.finished[0] == 2:
            raise Enough

    canvas = task.canvas(given)
    with pytest.raises(Enough):
        engine().draw(task, canvas, report)
    assert seen == [(4, 1, 1), (4, 2, 2)]


def test_a_row_that_fails_is_not_finished(monkeypatch):
    begin = RasterImages.begin

    def fail(self, row):
        if row == 1:
            raise KeyboardInterrupt
        begin(self, row)

    monkeypatch.setattr(RasterImages, "begin", fail)
    task = whole_job(2, 2)
    canvas = task.canvas(rows_given(task, [0]))
    with pytest.raises(KeyboardInterrupt):
        engine().draw(task, canvas)
    assert canvas.finished.tolist() == [1, 1]


# ---- the interface ---------------------------------------------------------------------------------------------------


def test_which_jobs_it_draws():
    task = whole_job(3, 5)
    for size in ((3, 5), (40, 40)):
        assert engine().why_not(whole_job(*size)) is None
    assert engine(precision="bf16").why_not(task) == (
        "in bf16 it draws whole images that are square and of up to 32 pixels a side only; others in fp32, tf32x3, tf32"
    )
    assert engine(precision="bf16").why_not(streams_job(4, 4)) is None  # as a window
    for change in ({"head": Softmax(300)}, {"network": None}, {"tiles": replace(task.tiles, step=2)}):
        reason = engine().why_not(replace(task, **change))
        assert reason and reason.startswith("it ") and not reason.endswith("."), reason


def test_a_network_that_it_cannot_run_is_refused():
    def walk(net):
        x = net.conv("grow", net.input("x", 1, drawn=True), 3, down_right(2, 2).shifted(down=1).doubled())
        return net.conv("out", net.conv("shrink", x, 3, down_right(2, 2).halved()), 9)

    task = Job(spread(walk), Logistics(1, 3), Raster(), {"x": Pixels(unit_levels(256))}, 3, 5, np.arange(1)).check()
    assert (
        engine()
        .why_not(task)
        .startswith("it cannot run this network: value grow: expected a map no larger than the image")
    )


def test_the_latest_size_of_a_network_is_kept():
    made, task = engine(), whole_job(2, 3)
    first = made.whole(task.network, 2, 3)
    assert made.whole(task.network, 2, 3) is first and made.whole(task.network, 2, 4) is not first


def test_a_graph_is_captured_at_the_second_call_and_replayed(monkeypatch):
    """The first call compiles the kernels, which a capture must not."""
    done = []

    class Graph:
        def replay(self):
            done.append("replay")

    class Capture:
        def __init__(self, graph):
            assert isinstance(graph, Graph)

        def __enter__(self):
            done.append("capture")

        def __exit__(self, *error):
            done.append("captured")

    monkeypatch.setattr(torch.cuda, "synchronize", lambda: done.append("wait"))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", Capture)
    run = launch.replayed(lambda: done.append("launch"))
    for _ in range(3):
        run()
    assert done == ["launch", "wait", "capture", "launch", "captured", "replay", "replay"]


@pytest.mark.parametrize(
    ("capability", "precisions"),
    [(90, ["fp32"]), *(pytest.param(c, ["fp32", "tf32x3", "tf32"], marks=pytest.mark.slow) for c in (80, 90))],
)
def test_kernels_compile_for_gpus_that_are_not_here(capability, precisions):
    """As in `test_triton`: down to machine code, with the arguments of real launches."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    script = Path(__file__).parents[2] / "support" / "triton_compile.py"
    command = [sys.executable, str(script), "--whole", str(capability), *precisions]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    found = {tuple(line.get(name) for name in ("kernel", "GATED", "LATE", "OF_PAIRS")) for line in lines}
    places = {("places", gated, late, gated) for gated in (False, True) for late in (False, True)}
    assert found == {*places, ("pixels", None, None, None)}
    for line in lines:
        assert line["cubin"] > 1000 and line["shared"] <= (227 if capability == 90 else 99) * 1024, line
        # Only products are fused multiply-adds, and only in fp32 do these run without tensor cores. A pixel is seen behind a barrier.
        assert line["fused"] == 0 or (line["precision"] == "ieee" and line["kernel"] == "places"), line
        assert (line["mma"] > 0) == (line["precision"] != "ieee" and line["kernel"] == "places"), line
        assert line["unordered"] == 0 and line["barriers"] >= 1, line
