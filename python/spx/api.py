"""The Python interface: load a checkpoint, draw samples, reconstruct, complete and score images; replace the weights."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spxcore import engines
from spxcore.canvas import Given
from spxcore.draw import check_call, draw
from spxcore.drawing import Drawing
from spxcore.engines import Engine, Report
from spxcore.errors import seed_number
from spxcore.heads import Sampling
from spxcore.memory import memory_is_refused

from .checkpoints import read_checkpoint
from .models.likelihood import Score
from .models.model import Checkpoint, Savable
from .request import Request, check_images

if TYPE_CHECKING:
    from torch import nn


class Sampler:
    """A trained model, ready to draw.

    What an image is conditioned on (codes, feature maps) is the same to the bit for every engine: `spxcore.engines.evaluate` computes
    it. Only torch engines, scores and training import torch.

    Args:
        model: a checkpoint, or a torch model that can make one, which `Sampler` does not change.

    Options of all methods that draw:
        temperature: factor on the pixels' spread; > 0 (1).
        mode: MAP sampling: the mean of the drawn mixture component, without noise (False).
        engine: "auto", "reference", "torch", "cpp", "triton", "cuda", or an engine object ("auto").
        progress: called with the number of pixels drawn since the last call.
        out: uint8 [N, H, W, C] to draw into.
        return_log_prob: return (images, log_prob): float64 [N], nats of each image's drawn pixels at temperature 1, given its code if
            the model has codes. Drawing computes them on its way, without another pass (False).
    """

    def __init__(self, model: Checkpoint | Savable):
        if isinstance(model, Checkpoint):
            self.checkpoint = model
        else:
            self.module = model.eval()
            self.checkpoint = model.checkpoint()
        self.family, self.config = self.checkpoint.model, self.checkpoint.config
        self.head, self.schedule = self.family.head(self.config), self.family.schedule(self.config)
        self._engines: dict[str, Engine] = {}

    @classmethod
    def load(cls, name_or_path: str | Path = "mnist-8x8") -> Sampler:
        """Load a checkpoint: one that is shipped, a folder, or a Hugging Face hub name.

        Raises:
            SpxError: if it cannot be found or is damaged.
        """
        return cls(read_checkpoint(name_or_path))

    @cached_property
    def module(self) -> nn.Module:
        """The torch model."""
        return self.checkpoint.module()

    def update(self, tensors: Mapping[str, Any]) -> None:
        """Replace the weights: what is drawn, completed or scored from now on is that of a fresh sampler of these weights, with every
        engine. The cpp engine keeps its tables, and takes new numbers in about the time in which it draws an image.

        Not to be called while another thread draws with this sampler.

        Args:
            tensors: NumPy arrays or torch tensors by name, such as `module.state_dict()`: all tensors of the model, which are copied.

        Raises:
            SpxError: for a name, a shape or a type that is not the model's, NaN or infinity; nothing is changed then.
        """
        self.checkpoint = self.checkpoint.with_tensors(tensors)
        self.__dict__.pop("module", None)

    def sample(
        self, height: int | None = None, width: int | None = None, n: int = 1, seed: int = 0, digit: int | None = None, **options
    ) -> np.ndarray:  # fmt: skip
        """Draw new images.

        Image i of a seed is the same whatever n, the engine or the batch; its code is drawn from the prior with the same seed, so
        that one seed gives one digit at every size.

        Args:
            height, width: H, W in pixels, at least the window's side; default the data's own; width defaults to height.
            n: number of images.
            seed: 0 <= seed < 2^64.
            digit: class to draw; None for any. Needs a checkpoint that knows classes.
            options: see the class.

        Returns:
            uint8 [n, H, W, C].

        Raises:
            SpxError: for an argument out of range, or one that this model does not understand.
        """
        return self._drawn(options, height, width=width, n=n, seed=seed, label=digit)

    def reconstruct(
        self, images: np.ndarray, height: int | None = None, width: int | None = None, seed: int = 0, refine: int = 0, **options
    ) -> np.ndarray:  # fmt: skip
        """Draw given images anew, at any size, from their codes (Akoury & Nguyen 2017, section 5.3).

        Args:
            images: uint8 [N, H', W', C] of any size; light strokes on dark, as the training data.
            height, width, seed: as of `sample`.
            refine: gradient steps that bring each code nearer to its image; they need torch.
            options: see the class.

        Returns:
            uint8 [N, H, W, C].
        """
        images = check_images(images, self.head.channels)
        return self._drawn(options, height, width=width, seed=seed, source=images, refine=refine)

    def complete(
        self, images: np.ndarray, mask: np.ndarray, n: int | None = None, seed: int = 0, digit: int | None = None, **options
    ) -> np.ndarray:  # fmt: skip
        """Draw what is missing in images; the given pixels are kept.

        Args:
            images: uint8 [N or 1, H, W, C]; what stands where nothing is given does not count.
            mask: bool [H, W] or [N, H, W], true where a pixel is given.
            n: number of completions of a single image; None for one of each.
            seed: as of `sample`.
            digit: class to draw; None: what the given pixels look like.
            options: see the class.

        Returns:
            uint8 [N, H, W, C].
        """
        images = check_images(images, self.head.channels)
        given = Given(images, mask)
        height, width = images.shape[1:3]
        return self._drawn(options, height, width=width, n=n, seed=seed, label=digit, given=given)

    @memory_is_refused()
    def score(self, images: np.ndarray, seed: int = 0, engine: str | Engine = "auto") -> Score:
        """Bits per dimension of images under the model. A model with a code adds the code's bits, which makes an upper bound.

        Args:
            images: uint8 [N, H, W, C].
            seed: of the codes' noise.
            engine: as of the class.
        """
        images = check_images(images, self.head.channels)
        check_call(images.shape, self.head.levels, engine)
        seed = seed_number(seed)
        return self.family.score(self.checkpoint, images, seed, self._engine(engine))

    @memory_is_refused()
    def encode(self, images: np.ndarray, refine: int = 0) -> np.ndarray:
        """The code of each image, by which `reconstruct` draws: uint8 [N, H, W, C] -> float32 [N, Z]."""
        images = check_images(images, self.head.channels)
        request = Request(1, source=images, refine=refine).check(self.family.offers(self.config), self.head.channels)
        codes = self.family.codes(self.checkpoint, images, engines.evaluate, request.refine)
        assert codes is not None, "a model that draws images anew has codes"
        return codes

    def drawing(self, request: Request) -> Drawing:
        """What `spxcore.draw` draws for a request."""
        request.check(self.family.offers(self.config), self.head.channels)
        self.schedule.check_size(request.height, request.width)
        return self.family.drawing(self.checkpoint, request, engines.evaluate)

    @memory_is_refused()
    def draw(
        self, request: Request, engine: str | Engine = "auto", progress: Report | None = None, out: np.ndarray | None = None,
        return_log_prob: bool = False,
    ) -> Any:  # fmt: skip
        """Draw a request's images, uint8 [N, H, W, C]; the other arguments as of the class."""
        shape = (request.n, request.height, request.width, self.head.channels)
        self.schedule.check_size(request.height, request.width)
        check_call(shape, self.head.levels, engine, out, progress)  # before the codes, which take time and memory too
        engine = self._engine(engine)
        if not return_log_prob:
            return draw(self.drawing(request), engine, out, progress)
        log_prob = np.zeros(request.n)
        return draw(self.drawing(request), engine, out, progress, log_prob), log_prob

    def _engine(self, engine: str | Engine) -> Engine:
        """An engine by name is made once: it keeps what it has compiled."""
        if not isinstance(engine, str):
            return engine
        if engine not in self._engines:
            self._engines[engine] = engines.get(engine)
        return self._engines[engine]

    def _drawn(self, options: dict, height: int | None, **what) -> Any:
        sampling = Sampling(**{name: options.pop(name) for name in ("temperature", "mode") if name in options})
        height = self.family.size(self.config) if height is None else height
        return self.draw(Request(height, sampling=sampling, **what), **options)


# Its name of old.
Model = Sampler

load = Sampler.load
