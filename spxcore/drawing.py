"""What is to be drawn, as data: a drawing is rounds, a round made concrete is a job, and an engine only ever sees a job and a canvas."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import TYPE_CHECKING

import numpy as np

from .canvas import Canvas, Given, plain
from .errors import kind_of, require, seed_number, whole_number
from .feeds import Feed, Pixels, Places, Planes, check_feed, floats
from .heads import Head, Sampling
from .rng import DRAWS_A_ROUND
from .schedules import Schedule, Window

if TYPE_CHECKING:
    from .walk.network import Network

# Side in pixels of the largest whole image that engines for the sliding window draw as a single window: its programs take time to make.
LARGEST_WINDOW = 32


@dataclass(frozen=True)
class Tiles:
    """Which pixels of its canvas a round draws: (top + step y, left + step x), cut into independent side x side pieces.

    Attributes:
        top, left: the first.
        step: from one to the next, along both axes.
        side: of a piece, in drawn pixels; None: one piece.
    """

    top: int = 0
    left: int = 0
    step: int = 1
    side: int | None = None

    @property
    def whole(self) -> bool:
        """Whether that is every pixel, in one piece."""
        return self == Tiles()


@dataclass(frozen=True)
class Job:
    """One round made concrete, for some images: all that an engine is told. `csrc/job.h` has the same names.

    Attributes:
        network: what is evaluated; None: the feed "params" holds the head's parameters already.
        head: the distribution of a pixel.
        schedule: the order in which pixels are drawn.
        feeds: what fills each of the network's inputs, by name.
        height, width: H, W of the canvas, in pixels.
        images: uint32 [N] image numbers; the third word of every pixel's Philox counter.
        code: float32 [N, Z], or None for a network without a code.
        seed: 0 <= seed < 2^64.
        draw: fourth word of the counter, 256 * round.
        sampling: temperature and mode.
        tiles: which pixels are drawn.
    """

    network: Network | None
    head: Head
    schedule: Schedule
    feeds: Mapping[str, Feed]
    height: int
    width: int
    images: np.ndarray = field(default_factory=lambda: np.arange(1, dtype=np.uint32))
    code: np.ndarray | None = None
    seed: int = 0
    draw: int = 0
    sampling: Sampling = field(default_factory=Sampling)
    tiles: Tiles = field(default_factory=Tiles)

    def check(self) -> Job:
        """The job with contiguous arrays of the right types.

        Raises:
            SpxError: for numbers out of range, or arrays that do not fit the network or each other.
        """
        self.schedule.check_size(self.height, self.width)
        seed_number(self.seed)
        whole_number("draw", self.draw, 0, (1 << 32) - 1, "0 to 2^32 - 1")
        images = check_images(self.images)
        once = {id(feed): check_feed(name, feed, len(images)) for name, feed in self.feeds.items()}
        feeds = {name: once[id(feed)] for name, feed in self.feeds.items()}  # a feed of several inputs stays one
        code = self.code
        if self.network is not None:
            graph = self.network.graph
            require(set(feeds) == set(graph.inputs), "feeds", f"one for each of {list(graph.inputs)}", sorted(feeds))
            for name, feed in feeds.items():
                drawn, pixels = name in graph.drawn, isinstance(feed, Pixels)
                require(drawn == pixels, f"feed {name}", "Pixels" if drawn else "Places or Planes", type(feed).__name__)
                if isinstance(feed, Pixels):
                    levels = len(feed.table)
                    require(levels == self.head.levels, f"feed {name}", f"{self.head.levels} levels", levels)
                wanted, channels = graph.values[name].channels, feed.channels * (self.head.channels if pixels else 1)
                require(channels == wanted, f"feed {name}", f"{wanted} numbers a place", channels)
                if isinstance(feed, Planes):
                    size = graph.values[name].size(self.height, self.width)
                    require(feed.array.shape[1:3] == size, f"feed {name}", f"{size} places", feed.array.shape[1:3])
            if graph.code:
                require(code is not None, "code", f"shape [{len(images)}, {graph.code}]", None)
                code = floats("code", code)
                require(
                    code.shape == (len(images), graph.code), "code", f"shape [{len(images)}, {graph.code}]", code.shape
                )
                require(bool(np.isfinite(code).all()), "code", "finite numbers", "NaN or infinity")
            else:
                require(code is None, "code", "None for this network", kind_of(code))
        return replace(
            self,
            height=int(self.height),
            width=int(self.width),
            seed=int(self.seed),
            draw=int(self.draw),
            images=images,
            feeds=feeds,
            code=code,
        )

    @property
    def side(self) -> int:
        """Side of the windows that draw it: a small square image of the raster schedule is a window too. 0: no windows do."""
        if isinstance(self.schedule, Window):
            return self.schedule.side
        return self.height if self.height == self.width <= LARGEST_WINDOW else 0

    @property
    def evaluated(self) -> Network:
        """The network of a job that has one."""
        assert self.network is not None, "a job without a network"
        return self.network

    @property
    def drawn(self) -> Pixels:
        """The feed of the drawn pixels, of a job that draws one moment a pixel."""
        return next(feed for feed in self.feeds.values() if isinstance(feed, Pixels))

    @property
    def told(self) -> Places:
        """What places are told, of a job of the sliding window; nothing but coordinates without such a feed."""
        return next((feed for feed in self.feeds.values() if isinstance(feed, Places)), Places())

    def canvas(self, given: Given | None = None, out: np.ndarray | None = None, keep: bool = False) -> Canvas:
        """A blank canvas of this job's; `keep`: with room for every pixel's parameters. Other arguments as of `Canvas.blank`."""
        parameters = self.head.parameters if keep else 0
        return Canvas.blank(
            len(self.images), self.height, self.width, self.head.channels, self.head.levels, given, out, parameters
        )


def check_images(images: np.ndarray) -> np.ndarray:
    """Image numbers as uint32 [N].

    Raises:
        SpxError: unless there is at least one, all of them whole and below 2^32.
    """
    images = plain("images", images) if isinstance(images, np.ndarray) else np.array(images, dtype=object)
    if (
        images.dtype == object
        and images.ndim == 1
        and all(isinstance(i, Integral) and not isinstance(i, bool) for i in images)
    ):
        images = np.array([min(max(int(i), -1), 1 << 32) for i in images], np.int64)  # numbers of any size in a list
    good = images.ndim == 1 and len(images) >= 1 and images.dtype.kind in "iu"
    good = good and int(images.min()) >= 0 and int(images.max()) < 1 << 32
    require(good, "images", "at least one image number, whole, 0 to 2^32 - 1", images)
    return np.ascontiguousarray(images, np.uint32)


# Finished images of the rounds before, by name: [N, H, W, C] each, for the images of the batch in work.
Earlier = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Round:
    """One pass over the pixels of a drawing. Lazy: its feeds may need the images of earlier rounds.

    Attributes:
        name: by which later rounds, and given pixels, refer to it.
        size: (H, W) of its canvas, in pixels.
        network, head, schedule, tiles: as of `Job`.
        feeds: called with the earlier rounds' images and the indices [n] of the batch's images in the drawing; returns the feeds.
        code: float32 [N, Z], one for each image of the drawing, or None.
        start: pixels that stand before it begins, made from the earlier rounds' images; None: none do.
        bytes_an_image: memory that the feeds take for an image, so that the loop can cut the batch.
    """

    name: str
    size: tuple[int, int]
    network: Network | None
    head: Head
    schedule: Schedule
    feeds: Callable[[Earlier, np.ndarray], Mapping[str, Feed]]
    code: np.ndarray | None = None
    tiles: Tiles = field(default_factory=Tiles)
    start: Callable[[Earlier], Given] | None = None
    bytes_an_image: int = 0

    def __post_init__(self):
        size = tuple(self.size)
        require(len(size) == 2, "size", "height and width", size)
        whole = (whole_number(name, n, -(1 << 62), 1 << 62, "in pixels") for name, n in zip(("height", "width"), size))
        object.__setattr__(self, "size", tuple(whole))


@dataclass(frozen=True)
class Drawing:
    """Rounds in the order they are drawn; the last one's canvas is the result.

    Attributes:
        rounds: see `Round`.
        images: [N] image numbers. Image i of a seed is the same alone and in company.
        seed: 0 <= seed < 2^64.
        sampling: temperature and mode.
        given: pixels that stand, by the name of the round.
    """

    rounds: tuple[Round, ...]
    images: np.ndarray
    seed: int = 0
    sampling: Sampling = field(default_factory=Sampling)
    given: Mapping[str, Given] = field(default_factory=dict)

    def __post_init__(self):
        names = [r.name for r in self.rounds]
        require(
            len(names) >= 1 and len(set(names)) == len(names), "rounds", "at least one, each with its own name", names
        )
        object.__setattr__(self, "images", check_images(self.images))
        object.__setattr__(self, "seed", seed_number(self.seed))
        strangers = sorted(set(self.given) - set(names))
        require(not strangers, "given", f"names of rounds, {names}", strangers)

    def job(self, number: int, batch: np.ndarray, earlier: Earlier) -> Job:
        """Round `number` made concrete for the images with indices `batch` [n]."""
        r, images = self.rounds[number], self.images
        code = None if r.code is None else r.code[batch]
        return Job(
            r.network, r.head, r.schedule, r.feeds(earlier, batch), *r.size, images[batch], code, self.seed,
            DRAWS_A_ROUND * number, self.sampling, r.tiles,
        ).check()  # fmt: skip
