"""The self-test of an engine: it draws small jobs, and the cpp engine draws them too. `engines.trust` runs it in a process of its own.

fp32 pixels must be the same, up to draws within rounding of a bin edge. In tf32 and bf16 a GPU's tensor cores need not draw the pixels of
any other machine. So there fp32 pixels are compared first, and then the parameters of those pixels, given them.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np

from . import engines
from .canvas import Given
from .compare import first_difference
from .drawing import Job
from .engines import Engine
from .errors import SpxError
from .feeds import Feed, Pixels, Places, Planes, unit_levels
from .heads import Logistics
from .memory import refuses_memory
from .schedules import Raster, Window
from .walk.language import down, down_right, gated_resnet
from .walk.network import Network
from .walk.shapes import shapes_of

# How far from a bin edge a draw may lie and still fall on either side: levels, or shares of the component weights' sum.
EDGE = 1e-3

# Root of the mean squared error of tf32 and bf16 parameters, as a share of the root of their mean square.
# Measured on this job in the host build of the cuda engine: 0.0005 and 0.0025.
TOLERANCE = 0.01

_HEAD, _LATENT, _MAPS = Logistics(1, 3), 5, 2


def _walk(net):
    """A small network with all that engines run: two resolutions, both streams, gates told of a place and of a code."""
    x = net.input("x", 1, ones=True, drawn=True)
    places = net.input("where", 2 + _MAPS, 1)
    (told,) = net.told("told", 1, 24, places, net.code(_LATENT))
    u = net.conv("above", x, 12, down(2, 3).shifted(down=1))
    ul = net.conv("over", x, 12, down(1, 3).shifted(down=1)) + net.conv(
        "left", x, 12, down_right(2, 1).shifted(right=1)
    )
    u = gated_resnet(net, "u", u, down(2, 3))
    ul = gated_resnet(net, "ul", ul, down_right(2, 2), (u,))
    low = net.conv("shrink", net.concat_elu(ul), 12, down_right(2, 2).halved())
    low = gated_resnet(net, "low", low, down_right(2, 2), h=told)
    grown = net.conv("grow", low, 12, down_right(2, 2).doubled())
    return net.conv("out", net.elu(gated_resnet(net, "last", grown, down_right(2, 2), (ul,))), _HEAD.parameters)


def small_jobs() -> tuple[Job, Job]:
    """Three images of 9x14 by windows of 4x4: several windows side by side, waves of several blocks, and all borders. And three whole
    images of 5x7."""
    g, n = np.random.default_rng(1), 3
    centre = {"g": (1.0, 0.3), "bias": (0.0, 0.3)}
    tensors = {}
    for name, shape in shapes_of(_walk).items():
        mean, deviation = centre.get(name.rsplit(".", 1)[-1], (0.0, 0.3))
        tensors[name] = (mean + deviation * g.normal(size=shape)).astype(np.float32)
    feeds: dict[str, Feed] = {
        "x": Pixels(unit_levels(_HEAD.levels)),
        "where": Places(g.normal(size=(n, _MAPS, 5, 6)).astype(np.float32)),
    }
    code = g.normal(size=(n, _LATENT)).astype(np.float32)
    network, images = Network(_walk, tensors), np.arange(n)
    planes = Planes(g.normal(size=(n, 3, 4, 2 + _MAPS)).astype(np.float32))
    return (
        Job(network, _HEAD, Window(4), feeds, 9, 14, images, code, seed=11).check(),
        Job(network, _HEAD, Raster(), {**feeds, "where": planes}, 5, 7, images, code, seed=11).check(),
    )


def check(engine: str, precision: str = "fp32", device: str | None = None) -> tuple[str, str]:
    """Compare an engine with the cpp engine, or with torch on the processor where that is missing.

    Returns:
        What was wrong, "" if nothing; and what was compared.
    """
    native = engines.why_not("cpp") is None
    judge = engines.get("cpp" if native else "torch", threads=1, device="cpu")
    exact, rounded = engines.get(engine, device=device), engines.get(engine, precision=precision, device=device)
    # Every engine draws windows.
    window, whole = small_jobs()
    jobs = [job for job in (window, whole) if job is window or rounded.why_not(job) is None]
    sizes = " and ".join(f"{len(job.images)} images of {job.height}x{job.width}" for job in jobs)
    compared = f"fp32 pixels of {sizes} with the {judge.name} engine's"
    if precision != "fp32":
        compared += f"; {precision} parameters of these pixels with its fp32 ones"
    faults = (_fault(job, exact, rounded, judge, precision) for job in jobs)
    return next(filter(None, faults), ""), compared


def _fault(job: Job, exact: Engine, rounded: Engine, judge: Engine, precision: str) -> str:
    """What is wrong with what an engine draws in fp32, and in `precision`; "" if nothing."""
    expected = _drawn(judge, job)
    fault = _different_pixels(job, _drawn(exact, job), expected)
    if fault or precision == "fp32":
        return fault
    got, params = (_params(e, job, expected) for e in (rounded, judge))
    error = float(np.sqrt(np.mean((got - params) ** 2) / np.mean(params**2)))
    if error <= TOLERANCE:  # false for NaN
        return ""
    return f"its {precision} parameters are {100 * error:.2g} % off, and {100 * TOLERANCE:.2g} % is allowed"


def _drawn(engine: Engine, job: Job) -> np.ndarray:
    canvas = job.canvas()
    engine.draw(job, canvas)
    return canvas.pixels


def _params(engine: Engine, job: Job, pixels: np.ndarray) -> np.ndarray:
    """The parameters of pixels that are given."""
    canvas = job.canvas(Given(pixels, np.ones((job.height, job.width), bool)), keep=True)
    engine.draw(job, canvas)
    assert canvas.params is not None
    return canvas.params.astype(np.float64)


def _different_pixels(job: Job, drawn: np.ndarray, expected: np.ndarray) -> str:
    """Where two drawings part further from a bin edge than rounding reaches; "" if they do not. Each image parts by itself."""
    for n in range(len(drawn)):
        only = expected.copy()
        only[n] = drawn[n]
        found = first_difference(job, only, expected)
        if found and not found.edge_distance <= EDGE:
            a, b = (",".join(map(str, levels)) for levels in found.levels)
            return (
                f"pixel ({found.row}, {found.column}) of image {n} of its self-test is {a}, not {b}, "
                f"and its draw is {found.edge_distance:.3g} from a bin edge"
            )
    return ""


def main(argv: list[str]) -> int:
    """ENGINE PRECISION DEVICE: print a `trust.Verdict` as a line of JSON."""
    print(json.dumps(verdict(lambda: check(*argv))), flush=True)
    return 0


def verdict(checked: Callable[[], tuple[str, str]]) -> dict:
    """The fields of a `trust.Verdict`, whatever is raised."""
    try:
        fault, compared = checked()
        return {"fault": fault, "compared": compared}
    except Exception as error:
        first = (str(error).splitlines() or [""])[0][:300]
        what = first if isinstance(error, SpxError) else f"{type(error).__name__}: {first}"
        passing = refuses_memory(error) or "busy or unavailable" in str(error)
        return {"fault": f"its self-test failed ({what})", "lasting": not passing}
