"""From a request to the one round in which a Spatial PixelCNN draws. No torch: an engine evaluates the networks that do not draw."""

from __future__ import annotations

import numpy as np

from spxcore.canvas import Given
from spxcore.drawing import Drawing, Earlier, Round
from spxcore.feeds import Feed, Pixels, Places, scale, unit_levels
from spxcore.schedules import Window

from ...io.resize import resize
from ...request import Request
from ..model import Checkpoint, Evaluate
from .prior import prior_of
from .vae import mean_image, posterior, to_unit

# The round's name.
ROUND = "image"

# Times that missing pixels are guessed from the code, and the code from the image with the guess.
_GUESSES = 10


def drawing(checkpoint: Checkpoint, request: Request, evaluate: Evaluate) -> Drawing:
    """What is drawn for a checked request; see `Model.drawing`."""
    c, size, images = checkpoint.config.network, (request.height, request.width), np.arange(request.n)
    code = _code(checkpoint, request, images, evaluate) if c.latent else None
    levels, extra = Pixels(unit_levels(c.head.levels)), np.array([scale(*size, c.sizes)], np.float32)
    latest: dict[bytes, Places] = {}  # an engine may be chosen by the job that it then draws

    def feeds(earlier: Earlier, batch: np.ndarray) -> dict[str, Feed]:
        if not c.place_inputs:
            return {"x": levels}
        places = Places()
        if c.conditioning == "spatial" and code is not None:
            key = batch.tobytes()
            if key not in latest:
                latest.clear()
                latest[key] = Places(feature_maps(checkpoint, code[batch], evaluate), extra)
            places = latest[key]
        return {"x": levels, **{f"places.{k}": places for k in range(3)}}

    maps_bytes = 4 * c.maps * (2 * checkpoint.config.vae.size) ** 2 if c.conditioning == "spatial" else 0
    only = Round(
        ROUND, size, checkpoint.networks["network"], c.head, Window(c.patch), feeds, code, bytes_an_image=maps_bytes
    )
    given = {} if request.given is None else {ROUND: request.given}
    return Drawing((only,), images, request.seed, request.sampling, given)


def _code(checkpoint: Checkpoint, request: Request, images: np.ndarray, evaluate: Evaluate) -> np.ndarray:
    """The code of each image [n, latent]: told; of the picture that is drawn anew; of a class; guessed from given pixels, each image's
    from a draw of its own; or any."""
    if request.code is not None:
        code = np.asarray(request.code, np.float32)
    elif request.source is not None:
        code = codes(checkpoint, request.source, evaluate, request.refine)
    elif request.given is not None and request.label is None:
        code = guessed(checkpoint, request.given, prior_of(checkpoint).sample(request.seed, images), evaluate)
    else:
        code = prior_of(checkpoint).sample(request.seed, images, request.label)
    return code if len(code) == len(images) else np.repeat(code, len(images), axis=0)


# ---- the VAE ----------------------------------------------------------------------------------------------------------


def encode(checkpoint: Checkpoint, images: np.ndarray, evaluate: Evaluate) -> tuple[np.ndarray, np.ndarray]:
    """Mean and log-variance of q(z | x) of images uint8 [N, H, W, C] of any size, float32 [N, latent] each."""
    size = checkpoint.config.vae.size
    return _encode(checkpoint, resize(to_unit(images).transpose(0, 3, 1, 2), size), evaluate)


def _encode(checkpoint: Checkpoint, x: np.ndarray, evaluate: Evaluate) -> tuple[np.ndarray, np.ndarray]:
    """The same of images float32 [N, C, size, size] in [-1, 1]."""
    size = checkpoint.config.vae.size
    found = evaluate(checkpoint.networks["vae.encoder"], size, size, {"x": x.reshape(*x.shape[:2], -1).swapaxes(1, 2)})
    return posterior(found[:, 0])


def codes(checkpoint: Checkpoint, images: np.ndarray, evaluate: Evaluate, refine: int = 0) -> np.ndarray:
    """The code of each image: the mean of q(z | x), refined by gradient steps. These need torch."""
    mean, log_variance = encode(checkpoint, images, evaluate)
    if not refine:
        return np.ascontiguousarray(mean)
    import torch

    from .codes import refine as refined
    from .module import module_of

    device, patch = checkpoint.device, checkpoint.config.network.patch
    arrays = images.transpose(0, 3, 1, 2), mean, log_variance
    x, *q = (torch.from_numpy(np.array(a)).to(device) for a in arrays)
    prior = prior_of(checkpoint).distribution(device=device)
    return refined(module_of(checkpoint).coder, prior, patch, x, (q[0], q[1]), refine).cpu().numpy()


def _decode(checkpoint: Checkpoint, code: np.ndarray, evaluate: Evaluate) -> np.ndarray:
    """Mean images of codes [N, latent], float32 [N, places, C] in [-1, 1]."""
    config = checkpoint.config.vae
    params = evaluate(checkpoint.networks["vae.decoder"], config.size, config.size, {}, code)
    return mean_image(params.reshape(-1, params.shape[2]), config.channels).reshape(*params.shape[:2], -1)


def feature_maps(checkpoint: Checkpoint, code: np.ndarray, evaluate: Evaluate) -> np.ndarray:
    """Feature maps of codes, float32 [N, latent] -> [N, M, 2 size, 2 size]."""
    size, image = checkpoint.config.vae.size, _decode(checkpoint, code, evaluate)
    found = evaluate(checkpoint.networks["maps"], size, size, {"image": image}, code)
    return np.ascontiguousarray(found.transpose(0, 2, 1)).reshape(len(code), -1, 2 * size, 2 * size)


def guessed(checkpoint: Checkpoint, given: Given, code: np.ndarray, evaluate: Evaluate) -> np.ndarray:
    """Codes of images of which only some pixels are known, [N, latent].

    The missing pixels are guessed as the decoder's mean image of the code, and the code anew from the image with the guess, a few
    times (Rezende, Mohamed & Wierstra 2014, appendix F, with means in place of draws).

    Args:
        given: pixels of N images, or of one for all.
        code: [N, latent], that it begins with: the same pixels go on in another way from another code.
    """
    config, channels_first = checkpoint.config.vae, (0, 3, 1, 2)
    mask = given.mask[..., None] if np.ndim(given.mask) == 3 else given.mask[None, :, :, None]
    known = resize(to_unit(np.where(mask, given.pixels, np.uint8(0))).transpose(channels_first), config.size)
    share = resize(mask.astype(np.float32).transpose(channels_first), config.size).clip(0, 1)
    for _ in range(_GUESSES):
        guess = _decode(checkpoint, code, evaluate).swapaxes(1, 2).reshape(-1, *known.shape[1:])
        code, _ = _encode(checkpoint, share * known + (1 - share) * guess, evaluate)
        code = np.ascontiguousarray(code)
    return code
