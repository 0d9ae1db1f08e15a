"""The engine "auto": which one it takes, which one it passes over, and what stands when one fails in the middle."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import close, config, double, drawn, job, network, windows

from spxcore import Given, SpxError, engines, native
from spxcore.draw import draw, score
from spxcore.drawing import Drawing, Round
from spxcore.engines import auto
from spxcore.engines.auto import Auto
from spxcore.engines.base import Unable
from spxcore.errors import require
from spxcore.memory import refuses_memory
from spxcore.plan import execute, plan_at
from spxcore.schedules import Raster

NET = network(config(conditioning="spatial"))
MODULE, WHY_NOT_TRUSTED = engines._module, auto.why_not_trusted


class Fake:
    """A module of an engine, and the engine: it draws what torch draws, and fails after some pixels of a drawing.

    Attributes:
        of_machine, of_job: why it cannot.
        precisions: that it has.
        error, after: what it raises, once it has told of so many pixels; None: it does not fail.
        asked, drawings: options of `make`; canvases that it was given.
    """

    EMULATED = False

    def __init__(self, name):
        self.name, self.of_machine, self.of_job, self.precisions = name, None, None, ("fp32", "bf16")
        self.error, self.after, self.asked, self.canvases = None, 0, [], []

    def make(self, precision="fp32", threads=None, device=None):
        require(precision in self.precisions, "precision", self.name, precision)
        gpu = self.name in auto.STARTUP
        allowed = device is None or self.name == "torch" or (device.startswith("cuda") if gpu else device == "cpu")
        require(allowed, "device", self.name, device)
        self.asked.append((precision, device))
        return self

    def why_not(self, job=None):
        return self.of_job if job else self.of_machine

    def draw(self, job, canvas, report=None):
        self.canvases.append(replace(canvas, finished=canvas.finished.copy()))
        seen = 0

        def tell(count):
            nonlocal seen
            seen += count
            if report:
                report(count)
            if self.error and seen >= self.after:
                raise self.error

        if self.error and not self.after:
            raise self.error
        MODULE("torch").make(device="cpu", threads=1).draw(job, canvas, tell)

    def evaluate(self, *arguments):
        if self.error:
            raise self.error
        return MODULE("torch").make(device="cpu", threads=1).evaluate(*arguments)


@pytest.fixture
def fakes(monkeypatch):
    """Every engine is there, and trusted. cpp draws `BIG` in 100 s, and `task()` in a hundredth."""
    monkeypatch.setattr(auto, "CORE", auto.multiply_adds(BIG) / (100 * native.cores()))
    made = {name: Fake(name) for name in engines.NAMES}
    monkeypatch.setattr(engines, "_module", made.__getitem__)
    monkeypatch.setattr(auto, "why_not_trusted", lambda *_: None)
    monkeypatch.setattr(auto, "_failed_on_gpu", set())
    return made


def task(height=9, width=12, images=2, **options):
    return job(config(conditioning="spatial"), height, width, images, of=NET, **options)


BIG = task(800, 800, 3)  # never drawn


def only(fakes, *names):
    """No other engine is on this machine."""
    for name, fake in fakes.items():
        fake.of_machine = None if name in names else "not here"


# ---- which one ---------------------------------------------------------------------------------------------------------------


def test_auto_is_the_fastest_that_can(fakes):
    assert engines.get("auto").name == engines.NAMES[-1] == "cuda"
    fakes["cuda"].of_machine = "not today"
    assert engines.get("auto").name == engines.NAMES[-2] == "triton"
    fakes["triton"].EMULATED = True
    assert engines.get("auto").name == "cpp"
    fakes["cpp"].of_job = "not this one"
    assert engines.get("auto").name == "cpp" and engines.get("auto", BIG).name == "torch"
    with pytest.raises(SpxError, match="cpp cannot run here: not this one"):
        engines.get("cpp", BIG)
    for fake in fakes.values():
        fake.of_job = "never"
    with pytest.raises(SpxError, match=r"^engine: none can draw this: cuda, cpp, torch, reference: never$"):
        fakes["cuda"].of_machine = None
        engines.get("auto", BIG)


def test_work_is_counted_as_the_plan_does():
    """Every place of a window, as the plan lists its taps; taps that padding or a stride leaves out are counted too."""
    counted = auto.multiply_adds(task(8, 8, 1)) / 64
    assert counted == auto.multiply_adds(task(16, 24, 5)) / (5 * 16 * 24)
    assert 1 <= counted / plan_at(NET.graph, 8, 8, fold=False).macs() <= 2


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.5, ["cpp", "cuda", "triton", "torch", "reference"]),
        (2, ["cuda", "cpp", "triton", "torch", "reference"]),
        (20, ["cuda", "triton", "cpp", "torch", "reference"]),
    ],
)
def test_a_small_job_goes_to_the_processor(monkeypatch, seconds, expected):
    monkeypatch.setattr(auto, "CORE", auto.multiply_adds(BIG) / (2 * seconds))
    assert auto.order(BIG, threads=2) == expected
    monkeypatch.setattr(native, "cores", lambda: 2)
    assert auto.order(BIG) == expected and auto.order(None)[0] == "cuda"


def test_whole_images_go_to_the_processor():
    """cpp computes every place once; GPU engines take the whole image for a window of each pixel."""
    big = replace(BIG, schedule=Raster())
    assert auto.order(big)[:3] == ["cpp", "cuda", "triton"]


def test_each_job_is_weighed(fakes):
    """Whatever engine was chosen for the first."""
    engine = engines.get("auto", BIG)
    assert engine.name == "cuda"
    drawn(engine, task())
    assert engine.name == "cpp" and not fakes["cuda"].canvases
    fakes["cpp"].of_machine = "not here"
    drawn(engine, task())
    assert engine.name == "cuda"


@pytest.mark.fault("wrong", "--engine auto --device cpu was refused on a machine with a GPU")
def test_auto_passes_over_engines_that_lack_an_option(fakes):
    assert engines.get("auto", BIG, device="cpu").name == "cpp" and not fakes["cuda"].asked
    fakes["cpp"].of_machine = "not here"
    assert engines.get("auto", BIG, device="cpu").name == "torch"
    assert engines.get("auto", BIG, device="cuda:1").name == "cuda" and fakes["cuda"].asked == [("fp32", "cuda:1")]
    fakes["cpp"].of_machine = None
    fakes["triton"].precisions = ("tf32",)
    assert engines.get("auto", BIG, precision="tf32").name == "triton"
    assert engines.get("auto", task(), precision="tf32").name == "triton"  # small, but nothing else has it
    fakes["triton"].precisions = ()
    reasons = "; ".join(f"{name}: precision: expected {name}, got tf32" for name in reversed(engines.NAMES))
    with pytest.raises(SpxError, match=f"^engine: none can draw this: {reasons}$"):
        engines.get("auto", BIG, precision="tf32")


@pytest.mark.fault("hang", "an hour's wait where bf16 was asked for on a processor that has none")
def test_pytorch_draws_no_bf16_on_a_processor(monkeypatch):
    """It takes longer than fp32 there, and whoever asks for bf16 is in a hurry."""
    monkeypatch.setattr(MODULE("cpp"), "why_not", lambda: "there is no compiler")
    with pytest.raises(SpxError, match="torch: on a processor bf16 takes PyTorch longer than fp32; reference: "):
        engines.get("auto", task(), precision="bf16")
    assert engines.get("auto", task()).name == "torch"
    assert engines.get("torch", task(), precision="bf16").precision == "bf16"  # by name it does


def test_only_a_gpu_engine_that_would_draw_is_tested(fakes, monkeypatch):
    asked = []

    def why_not(name, precision, device):
        asked.append((name, precision, device))
        return "no" if name == "cuda" else None

    monkeypatch.setattr(auto, "why_not_trusted", why_not)
    assert engines.get("auto", task(), precision="bf16").name == "cpp" and asked == []
    assert engines.get("auto", BIG, precision="bf16", device="cuda:1").name == "triton"
    assert asked == [("cuda", "bf16", "cuda:1"), ("triton", "bf16", "cuda:1")]
    assert engines.get("cuda", BIG).name == "cuda" and len(asked) == 2  # whoever names it takes it as it is


def test_without_a_job_nothing_is_tested_before_it_draws(fakes, monkeypatch):
    """A sampler makes its engine once, for small jobs and for large ones."""
    asked = []
    monkeypatch.setattr(auto, "why_not_trusted", lambda *how: asked.append(how) or "no")
    engine = engines.get("auto")
    assert engine.name == "cuda" and asked == []
    drawn(engine, task())
    assert engine.name == "cpp" and asked == []
    assert engine.why_not(BIG) is None and engine.name == "cpp" and len(asked) == 2
    _, inputs, code = windows(config(conditioning="spatial"))
    engine.evaluate(NET, 8, 8, inputs, code)
    assert engine.name == "cpp" and len(asked) == 4


def test_a_driver_that_fails_is_passed_over(fakes, capsys):
    def broken(job=None):
        raise RuntimeError("unknown error\nmore")

    fakes["cuda"].why_not = broken
    engine = engines.get("auto", BIG)
    assert engine.name == "triton" and engine.why_not(BIG) is None
    assert capsys.readouterr().err.count("warning: the cuda engine failed (RuntimeError: unknown error); please") == 1


# ---- one that fails ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole():
    return drawn("torch", task()).pixels


@pytest.mark.fault("lost", "an engine that failed in the middle lost the drawing")
@pytest.mark.parametrize("error", [RuntimeError("CUDA error: an illegal memory access was encountered"), AssertionError(),
                                   Unable("it takes too much"), MemoryError("GPU"), ValueError("x")], ids=repr)  # fmt: skip
def test_another_engine_goes_on(fakes, whole, error, capsys):
    """What is finished stands to the bit; every pixel is told of once; one line says so."""
    only(fakes, "cuda", "cpp", "torch")
    fakes["cuda"].error, fakes["cuda"].after = error, 130
    of, engine, told = task(), Auto(device=None), []
    engine._able = lambda job, test=True: iter([fakes["cuda"], fakes["cpp"]])
    canvas = of.canvas()
    engine.draw(of, canvas, told.append)
    assert engine.name == "cpp" and sum(told) == 2 * 9 * 12 and min(told) >= 0
    np.testing.assert_array_equal(canvas.pixels, whole)
    (second,) = fakes["cpp"].canvases
    kept = second.given.all(axis=(0, 2))
    assert 1 <= kept.sum() < 8 and not kept[-1] and (second.given == kept[:, None]).all()
    assert (canvas.finished == 9).all()
    err = capsys.readouterr().err
    assert err.startswith("warning: the cuda engine") and err.count("\n") == 1
    assert "the cpp engine goes on, and nothing is lost" in err
    assert ("please report" in err) == (type(error) in (RuntimeError, AssertionError, ValueError))


def test_what_stands_is_not_drawn_again(fakes, whole):
    """The rows that the first engine finished are its own, whatever the next would draw there; so are given pixels."""
    of, engine = task(), Auto()
    mask = np.zeros((2, 9, 12), bool)
    mask[0, 8, 3] = mask[1, 2] = True
    fakes["cuda"].error, fakes["cuda"].after = RuntimeError(), 150
    engine._able = lambda job, test=True: iter([fakes["cuda"], fakes["cpp"]])
    draw_cuda = fakes["cuda"].draw

    def other(job, canvas, report):
        try:
            draw_cuda(replace(job, seed=1), canvas, report)
        finally:
            first.append((canvas.pixels.copy(), canvas.finished.copy()))

    first = []
    fakes["cuda"].draw = other
    given = Given(255 - whole, mask)
    canvas = drawn(engine, of, given)
    ((pixels, finished),) = first
    assert 0 < finished[0] < 9
    for n in range(2):
        np.testing.assert_array_equal(canvas.pixels[n, : finished[n]], pixels[n, : finished[n]])
    np.testing.assert_array_equal(canvas.pixels[mask], given.pixels[mask])
    stands = mask | (np.arange(9) < finished[:, None])[:, :, None]
    np.testing.assert_array_equal(canvas.pixels, drawn("torch", of, Given(canvas.pixels, stands)).pixels)
    assert (canvas.pixels != whole).any()


def test_parameters_are_kept_for_all_pixels(fakes):
    of, engine = task(), Auto()
    fakes["cuda"].error, fakes["cuda"].after = RuntimeError(), 100
    engine._able = lambda job, test=True: iter([fakes["cuda"], fakes["cpp"]])
    np.testing.assert_array_equal(drawn(engine, of, keep=True).params, drawn("torch", of, keep=True).params)


class Enough(Exception):
    pass


@pytest.mark.parametrize(
    ("name", "error"),
    [("cuda", SpxError("x: expected y")), ("cuda", KeyboardInterrupt()), ("cuda", SystemExit()), ("cpp", MemoryError()),
     ("cpp", RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"))], ids=repr,
)  # fmt: skip
def test_what_is_no_failure_of_an_engine(fakes, name, error, capsys):
    fakes[name].error, engine = error, Auto()
    engine._able = lambda job, test=True: iter([fakes[name], fakes["torch"]])
    with pytest.raises(type(error)) as caught:
        drawn(engine, task())
    assert caught.value is error and not fakes["torch"].canvases and not auto._failed_on_gpu
    assert capsys.readouterr().err == ""


def test_an_interrupt_that_a_library_hides_is_one(fakes):
    error = RuntimeError("callback failed")
    error.__cause__ = KeyboardInterrupt()
    fakes["cuda"].error, engine = error, Auto()
    engine._able = lambda job, test=True: iter([fakes["cuda"], fakes["torch"]])
    with pytest.raises(RuntimeError):
        drawn(engine, task())
    assert not fakes["torch"].canvases


@pytest.mark.parametrize("kind", [Enough, RuntimeError])
def test_what_report_raises_stops_the_drawing(fakes, kind):
    def stop(count):
        raise kind

    engine = Auto()
    with pytest.raises(kind):
        drawn(engine, task(), report=stop)
    assert engine.name == "cpp" and not fakes["torch"].canvases


def test_the_first_error_is_raised_where_no_engine_is_left(fakes, capsys):
    only(fakes, "cuda", "triton")
    fakes["cuda"].error, fakes["triton"].error = RuntimeError("first"), RuntimeError("second")
    with pytest.raises(RuntimeError, match=r"^first$"):
        drawn(Auto(device="cuda"), task())
    assert capsys.readouterr().err.count("warning") == 1  # of the one that went on


def test_after_a_failure_on_the_gpu_this_process_leaves_it_alone(fakes, capsys):
    """Not triton, which has the same context, and torch on the processor; also in the next drawing. Whoever asks for a device gets it."""
    only(fakes, "cuda", "triton", "torch")
    fakes["cuda"].error = RuntimeError("an illegal memory access")
    of = task()
    drawn(Auto(), of)
    assert fakes["torch"].asked == [("fp32", "cpu")] and not fakes["triton"].canvases
    drawn(Auto(), of)
    assert len(fakes["cuda"].canvases) == 1 and len(fakes["torch"].canvases) == 2
    assert capsys.readouterr().err.count("warning") == 1
    drawn(Auto(device="cuda"), of)
    assert len(fakes["cuda"].canvases) == 2 and len(fakes["triton"].canvases) == 1


def test_a_gpu_without_memory_is_asked_again_in_the_next_drawing(fakes):
    only(fakes, "cuda", "torch")
    fakes["cuda"].error = (
        torch.OutOfMemoryError("CUDA out of memory") if hasattr(torch, "OutOfMemoryError") else MemoryError()
    )
    for count in (1, 2):
        drawn(Auto(), task())
        assert len(fakes["cuda"].canvases) == count and fakes["torch"].asked[-1] == ("fp32", None)


def test_which_errors_are_of_memory():
    refused = [MemoryError(), RuntimeError("CUDA out of memory. Tried"), RuntimeError("can't allocate memory: you")]
    others = [
        RuntimeError("an illegal memory access was encountered"),
        ValueError("out of memory"),
        SpxError("allocate"),
    ]
    assert all(map(refuses_memory, refused)) and not any(map(refuses_memory, others))


def drawing(of, images):
    only = Round("image", (of.height, of.width), NET, of.head, of.schedule, lambda earlier, batch: {
        name: feed if feed.channels == 1 else replace(feed, maps=feed.maps[batch]) for name, feed in of.feeds.items()
    }, of.code, bytes_an_image=1 << 30)  # fmt: skip
    return Drawing((only,), np.arange(images), of.seed)


def test_a_drawing_of_many_batches_fails_once(fakes, whole, capsys):
    """And the score too: a batch is an image here."""
    only(fakes, "triton", "torch")
    fakes["triton"].error, fakes["triton"].after = Unable("x"), 60
    np.testing.assert_array_equal(draw(drawing(task(), 2)), whole)
    assert len(fakes["triton"].canvases) == 1 and len(fakes["torch"].canvases) == 2
    assert capsys.readouterr().err.count("warning") == 1
    score(drawing(task(), 2), {"image": whole})
    assert len(fakes["triton"].canvases) == 2 and len(fakes["torch"].canvases) == 4


def test_a_named_engine_fails_as_it_is(fakes):
    fakes["cuda"].error = RuntimeError("as it is")
    with pytest.raises(RuntimeError, match="as it is"):
        draw(drawing(task(), 2), "cuda")
    assert not fakes["torch"].canvases


def test_evaluation_goes_on_too(fakes, capsys):
    c = config(conditioning="spatial")
    _, inputs, code = windows(c)
    fakes["cuda"].error = RuntimeError("x")
    got = engines.get("auto").evaluate(NET, 8, 8, inputs, code)
    plan = plan_at(NET.graph, 8, 8)
    assert close(got, execute(plan, double(inputs), code)[plan.output], 1e-5)
    assert "the cpp engine goes on" in capsys.readouterr().err
