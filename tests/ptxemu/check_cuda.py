"""The CUDA kernels as compiled to PTX draw what the reference draws: pytest tests/ptxemu/check_cuda.py (run.py calls it).

`pytest -p gpu_plugin` puts the interpreter in the GPU's place and sees to it that nothing is found. fp32 is compared with the reference,
tf32 and bf16 with the host build of the same precision, teacher-forced windows with the plan in float64. Schedules are orderly, and random
by a seed; races are looked for.
"""

import emulator
import numpy as np
import pytest
from helpers import close, config, double, drawn, expected_images, job, network, same_images, windows
from test_cuda import TOLERANCE, TOYS, forced, host_build, masks, toy_job

from spxcore import Given, native
from spxcore.engines import cuda
from spxcore.lower.passes import PRECISIONS
from spxcore.plan import execute, plan_at

SMALL = {"patch": 4, "filters": 3, "conditioning": "spatial"}

precisions = pytest.mark.parametrize("precision", PRECISIONS)
slow = pytest.mark.slow


def on_ptx(precision: str, blocks: int = 2, warps: int = 2, windows: int = 3) -> cuda.Cuda:
    return cuda.Cuda(native.cuda().Engine, precision, cuda.Options(blocks=blocks, warps=warps, windows=windows))


def same_as_without_a_gpu(task, precision: str, given=None, keep: bool = False, settings=None, **options) -> None:
    """Draw a job on the PTX. The order in which tensor cores sum is their own: in the host build's order the pixels are the host
    build's."""
    order = {} if precision == "fp32" else {"mma": "sequential"}
    emulator.settings(**{"races": 1, **order, **(settings or {})})
    engine = on_ptx(precision, **options)
    got, expected = (drawn(e, task, given, keep=keep) for e in (engine, host_build(precision)))
    assert (got.finished == task.height).all()
    if precision == "fp32":
        same_images(task, got.pixels, expected.pixels)
    else:
        np.testing.assert_array_equal(got.pixels, expected.pixels)
    if keep:
        # A last bit of exp may turn a rounding to tf32 or bf16.
        assert close(got.params, expected.params, 1e-5 if precision == "fp32" else TOLERANCE[precision])


# ---- images ----------------------------------------------------------------------------------------------------------


@precisions
@pytest.mark.parametrize(
    ("images", "options", "settings"),
    [
        pytest.param(1, {}, {}, id="orderly"),
        pytest.param(2, {"blocks": 3, "windows": 2}, {"schedule": "random", "seed": 1}, id="random"),
        pytest.param(1, {"blocks": 5, "warps": 1, "windows": 2}, {"resident": 1}, id="one block at a time", marks=slow),
        pytest.param(
            1, {"warps": 3, "windows": 4}, {"shared": 2048, "schedule": "random", "seed": 9}, id="arenas in global memory", marks=slow,
        ),
    ],
)  # fmt: skip
def test_images(images, options, settings, precision):
    same_as_without_a_gpu(job(config(**SMALL), 12, 12, images), precision, settings=settings, **options)


@slow
@precisions
@pytest.mark.parametrize("seed", range(2, 8))
def test_random_schedules(seed, precision):
    task = job(config(**SMALL), 12, 12, 2)
    same_as_without_a_gpu(task, precision, settings={"schedule": "random", "seed": seed}, blocks=3, windows=2)


def test_fp32_draws_the_references_pixels():
    task, expected = expected_images(SMALL, 12, 12, 2)
    emulator.settings(races=1)
    same_images(task, drawn(on_ptx("fp32"), task).pixels, expected)


@slow
@precisions
@pytest.mark.parametrize(
    ("fields", "height", "width"),
    [
        ({"patch": 8, "channels": 3, "conditioning": "spatial"}, 11, 17),
        ({"patch": 4, "filters": 25, "mixtures": 10, "conditioning": "spatial"}, 9, 13),
        ({"patch": 4, "coordinates": False, "latent": 0}, 7, 9),
    ],
)
def test_other_networks(fields, height, width, precision):
    same_as_without_a_gpu(job(config(**fields), height, width), precision, warps=4)


@slow
@precisions
@pytest.mark.parametrize("name", TOYS)
def test_toys(name, precision):
    settings = {"schedule": "random", "seed": 3}
    same_as_without_a_gpu(toy_job(*TOYS[name]), precision, settings=settings, blocks=3, windows=2)


@precisions
@pytest.mark.parametrize("name", ["every second", pytest.param("columns", marks=slow), pytest.param("all", marks=slow)])
def test_given_pixels(name, precision):
    task = job(config(**SMALL), 12, 12, 2)
    given = Given(drawn(host_build(precision), task).pixels, masks(12, 12, 2)[name])
    settings = {"schedule": "random", "seed": 4}
    same_as_without_a_gpu(task, precision, given, settings=settings, keep=name == "every second", blocks=3)


@slow
@precisions
def test_last_bits_and_the_order_of_sums_change_little(precision):
    """exp and the rest are off by what the manual allows, and sums are cut: another draw of nearly the same distribution."""
    emulator.settings(approx="perturb", seed=5, mma="truncate")
    got, expected = forced(on_ptx(precision), job(config(**SMALL), 6, 7, images=2))
    assert close(got, expected, TOLERANCE[precision])


# ---- numbers ---------------------------------------------------------------------------------------------------------


@precisions
def test_teacher_forced(precision):
    emulator.settings(races=1)
    got, expected = forced(on_ptx(precision), job(config(patch=4, channels=3), 6, 7, images=1))
    assert close(got, expected, TOLERANCE[precision])


@precisions
def test_known_windows(precision):
    """`evaluate`, the other kernel."""
    emulator.settings(races=1, schedule="random", seed=6)
    c = config(patch=4, channels=3)
    net, (_, inputs, z) = network(c), windows(c, batch=3)
    expected = execute(plan_at(net.graph, 4, 4), double(inputs), z)["nin_out"]
    got = on_ptx(precision).evaluate(net, 4, 4, inputs, z)
    assert close(got, expected, TOLERANCE[precision])


# ---- what goes wrong on a machine ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "sentence"),
    [(35, "the NVIDIA driver is older"), (3, "a process that was forked"), (209, "not built for this GPU")],
    ids=["driver", "fork", "architecture"],
)
def test_errors_of_the_machine_get_a_sentence(status, sentence):
    """An old driver, a forked child, another GPU: the interpreter gives CUDA's error."""
    emulator.settings(status=status)
    with pytest.raises(RuntimeError, match=rf"^CUDA: counting the devices: .*: .*{sentence}"):
        native.cuda().device_count()
    engine, task = cuda.Cuda(native.cuda().Engine), job(config(**SMALL), 4, 4)
    with pytest.raises(RuntimeError, match=rf"^CUDA: asking for the current device: .*{sentence}"):
        drawn(engine, task)
    emulator.settings()
    assert native.cuda().device_count() == 1


def test_a_kernel_that_the_driver_ends_gets_a_sentence():
    """A display's watchdog: the kernel is ended after some instructions."""
    emulator.settings(most=2000)
    with pytest.raises(RuntimeError, match=r"^CUDA: .*a GPU that a display uses; draw fewer or smaller images"):
        drawn(on_ptx("fp32"), job(config(**SMALL), 12, 12))
    assert set(emulator.findings()) == {"failed: too many steps"}
    emulator.settings()
