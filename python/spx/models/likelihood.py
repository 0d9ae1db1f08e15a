"""What images cost under a model, in bits."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from spxcore import engines
from spxcore.draw import score as score_drawing
from spxcore.engines import Engine

from ..request import Request, check_images

if TYPE_CHECKING:
    from .model import Checkpoint

# Told of each part of a long piece of work: the part's name, the share of it that is done (0 to 1).
Progress = Callable[[str, float], None]

# Images that are scored at once; each keeps the parameters of all its pixels.
_BATCH = 100


class Score(NamedTuple):
    """What images cost under a model.

    Attributes:
        bits: float64 [N], bits per dimension of each image, its code's included.
        pixel_bits: float32 [N, H, W], bits per dimension at each pixel, without the code's.
        code_bits: float64 [N], the code's share of `bits`.
    """

    bits: np.ndarray
    pixel_bits: np.ndarray
    code_bits: np.ndarray


@dataclass(frozen=True)
class Likelihood:
    """Bits per dimension of a set of images under a model.

    Attributes:
        image_bits: float64 [N], of each image given its code.
        code_bits: float64 [N], what the image's code costs, spread over the image's dimensions; 0 without codes.
        pixel_bits: [H, W], bits per dimension at each pixel, the mean over the images.
        prior: the kind of prior that codes are paid by; "none" without codes. With codes the sum is an upper bound.
    """

    image_bits: np.ndarray
    code_bits: np.ndarray
    pixel_bits: np.ndarray
    prior: str = "none"

    @property
    def images(self) -> int:
        """Number of images."""
        return len(self.image_bits)

    @property
    def given_codes(self) -> float:
        """The mean without the codes'."""
        return float(self.image_bits.mean())

    @property
    def codes(self) -> float:
        """The mean of the codes'."""
        return float(self.code_bits.mean())

    @property
    def bound(self) -> float:
        """The mean with the codes paid for."""
        return self.given_codes + self.codes


def score(
    checkpoint: Checkpoint,
    images: np.ndarray,
    seed: int = 0,
    engine: str | Engine = "auto",
    progress: Progress | None = None,
) -> Score:
    """Bits per dimension of images; with a code, those of the code included (an upper bound).

    Args:
        checkpoint: the model.
        images: [N, H, W, C] levels, uint8.
        seed: of the codes' noise.
        engine: a name of `spxcore.engines.CHOICES`, or an engine.
        progress: told of the part "likelihood".

    Raises:
        SpxError: for images that are none of the model's.
    """
    model, config = checkpoint.model, checkpoint.config
    head = model.head(config)
    shape = check_images(images, head.channels).shape[1:3]
    model.schedule(config).check_size(*shape)
    codes, nats = model.paid_codes(checkpoint, images, engines.evaluate, seed)
    dimensions = images[0].size
    total, pixel_bits = np.zeros(len(images)), np.zeros(images.shape[:3], np.float32)
    for start in range(0, len(images), _BATCH):
        some = slice(start, start + _BATCH)
        request = Request(*shape, n=len(images[some]), code=None if codes is None else codes[some])
        offered = model.offers(config) | {"code"}  # a family's own codes, whether or not a user may give one
        drawing = model.drawing(checkpoint, request.check(offered, head.channels), engines.evaluate)
        rounds = model.split(config, images[some], np.ones(shape, bool))
        found = score_drawing(drawing, {name: given.pixels for name, given in rounds.items()}, engine)
        total[some] = sum(part.sum(axis=(1, 2), dtype=np.float64) for part in found.values())
        pixel_bits[some] = sum(part for part in found.values() if part.shape[1:] == shape)
        if progress:
            progress("likelihood", min(1.0, (start + _BATCH) / len(images)))
    per_bit = -1 / math.log(2)
    code_bits = nats / math.log(2) / dimensions
    return Score(per_bit * total / dimensions + code_bits, per_bit * pixel_bits / head.channels, code_bits)
