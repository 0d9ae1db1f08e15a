"""What every engine takes and returns."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ..canvas import Canvas
from ..drawing import LARGEST_WINDOW, Job
from ..errors import SpxError, require
from ..feeds import Pixels, Places, floats
from ..walk.network import Network

if TYPE_CHECKING:
    import torch

# Called now and then with the number of pixels drawn since the last call; what it raises stops the drawing and is passed on.
Report = Callable[[int], None]


class Unable(SpxError):
    """An engine finds in the middle of a drawing that this machine cannot do it; another engine may."""


class Engine(Protocol):
    """A way to draw pixels. Every engine draws the same ones, up to draws within float rounding of a bin edge.

    A module of an engine also has `why_not()`, of the machine; `EMULATED`, whether it runs here for tests only; and
    `make(precision, threads, device)`.
    """

    @property
    def name(self) -> str:
        """By which it is found."""
        ...

    def why_not(self, job: Job) -> str | None:
        """Why it cannot draw a job, in one sentence; None if it can. It may compile the network to find out."""
        ...

    def draw(self, job: Job, canvas: Canvas, report: Report | None = None) -> None:
        """Draw a checked job on its canvas: its `pixels`, except the given ones; `finished`; and `params`, where asked for.

        What was drawn before a stop is on the canvas.
        """
        ...

    def evaluate(
        self,
        network: Network,
        height: int,
        width: int,
        inputs: Mapping[str, np.ndarray],
        code: np.ndarray | None = None,
    ) -> np.ndarray:
        """The network's output for inputs that are known: an encoder, a decoder, windows that a likelihood needs.

        Args:
            network: the network to evaluate.
            height, width: of the image or window, in pixels.
            inputs: float32 [N, places, C] of each of the graph's inputs but "z", which is the code.
            code: float32 [N, Z], or None.

        Returns:
            float32 [N, places, P].
        """
        ...


# Levels of a channel that native code draws.
NATIVE_LEVELS = 256


def why_no_window(job: Job, levels: int = 1 << 16) -> str | None:
    """Why an engine for the sliding window, with at most `levels` levels, cannot draw a job; None if it can."""
    if not job.side:
        return f"it draws by the sliding window only, or whole images that are square and of up to {LARGEST_WINDOW} pixels a side"
    told = [feed for feed in job.feeds.values() if not isinstance(feed, Pixels)]
    if not all(isinstance(feed, Places) and feed is told[0] for feed in told):
        return "it reads one feed of Places beside the pixels, and no Planes"
    return _why_no_pixels(job, levels)


def why_no_raster(job: Job, levels: int = 1 << 16) -> str | None:
    """Why an engine for the raster schedule, with at most `levels` levels, cannot draw a job of it; None if it can."""
    if any(isinstance(feed, Places) for feed in job.feeds.values()):
        return "it reads Pixels and Planes of a whole image, and no Places"
    return _why_no_pixels(job, levels)


def _why_no_pixels(job: Job, levels: int) -> str | None:
    """Why an engine that draws one moment a pixel, of at most `levels` levels, cannot draw a job; None if it can."""
    if job.network is None:
        return "it draws from networks only"
    if not job.tiles.whole:
        return "it draws whole canvases only"
    if job.head.levels > levels:
        return f"it draws up to {levels} levels, and this head has {job.head.levels}"
    if len(job.network.graph.drawn) != 1:
        return "it draws one moment a pixel only"
    return None


def known_inputs(
    network: Network, height: int, width: int, inputs: Mapping[str, np.ndarray], code: np.ndarray | None
) -> dict[str, np.ndarray]:
    """The arguments of `Engine.evaluate` in the graph's order, "z" among them, contiguous.

    Raises:
        SpxError: for an input that is missing, or has another shape.
    """
    graph = network.graph
    given = dict(inputs)
    if graph.code:
        z = floats("code", np.zeros(0) if code is None else code)
        n = len(next(iter(inputs.values()))) if inputs else len(z)
        require(z.shape == (n, graph.code), "code", f"shape [{n}, {graph.code}]", list(z.shape))
        require(bool(np.isfinite(z).all()), "code", "finite numbers", "NaN or infinity")
        if "z" in graph.inputs:
            given["z"] = z[:, None]
    require(set(given) == set(graph.inputs), "inputs", str(list(graph.inputs)), sorted(given))
    n, result = len(next(iter(given.values()))), {}
    for name in graph.inputs:
        h, w = graph.values[name].size(height, width)
        shape = n, h * w, graph.values[name].channels
        result[name] = floats(f"inputs: {name}", given[name])
        require(result[name].shape == shape, f"inputs: {name}", f"shape {list(shape)}", list(result[name].shape))
        require(bool(np.isfinite(result[name]).all()), f"inputs: {name}", "finite numbers", "NaN or infinity")
    return result


def torch_device(device: str | None) -> torch.device:
    """The torch device of that name, or the best one for None.

    Raises:
        SpxError: for a device that is not there.
    """
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device is None:
        return torch.device("cuda" if count else "cpu")
    with contextlib.suppress(RuntimeError):
        found = torch.device(device)
        if found.type == "cpu" or (found.type == "cuda" and (found.index or 0) < count):
            return found
    gpus = f", cuda, or cuda:0 to cuda:{count - 1}" if count else " (this machine has no GPU torch can use)"
    raise SpxError(f"device: expected cpu{gpus}, got {device!r}")
