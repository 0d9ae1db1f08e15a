"""A model of one's own in one file: a plain masked PixelCNN (van den Oord, Kalchbrenner & Kavukcuoglu 2016) over 8x8 digits of 16 levels.

    python examples/toy.py

trains it in some ten seconds, draws from it by every engine that can run here, completes half a digit, and scores digits and noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from spx.models import registry
from spx.models.model import Checkpoint, Model
from spxcore import Softmax
from spxcore.walk.language import down, down_right


@dataclass(frozen=True)
class Config:
    """Side of the images, levels of a pixel, filters of a layer, layers."""

    side: int = 8
    levels: int = 16
    filters: int = 32
    layers: int = 4


def pixelcnn(net, c):
    """Masked convolutions and ReLU: "x" [1, side, side] in [-1, 1] -> logits [levels, side, side]."""

    def masked(
        name, x, k, own
    ):  # a k x k convolution that sees rows above, its row to the left and, with mask B, its own place
        above, left = down(k // 2, k).shifted(down=1), down_right(1, k // 2 + own)
        left = left if own else left.shifted(right=1)
        return net.conv(f"{name}.above", x, c.filters, above) + net.conv(f"{name}.left", x, c.filters, left)

    h = masked("first", net.input("x", 1, drawn=True), 7, own=False)
    for i in range(c.layers):
        h = masked(f"layers.{i}", net.relu(h), 3, own=True) + h
    return net.conv("logits", net.relu(net.conv("out", net.relu(h), c.filters)), c.levels)


class Toy(Model):
    """The family: all that is not said here has a default."""

    name, Config = "toy", Config

    def networks(self, config):
        return {"network": partial(pixelcnn, c=config)}

    def head(self, config):
        return Softmax(config.levels)

    def tiny(self):
        return Config(side=3, levels=2, filters=4, layers=1)


MODEL = Toy()
registry.register("toy", __name__)


def digits() -> np.ndarray:
    """1,797 handwritten digits that scikit-learn brings (Alpaydin & Kaynak 1998, UCI), uint8 [N, 8, 8, 1] of 16 levels."""
    from sklearn.datasets import load_digits

    return load_digits().images.clip(0, 15).astype(np.uint8)[..., None]


def train(images: np.ndarray, config: Config = Config(), steps: int = 400, seed: int = 0) -> Checkpoint:
    """Maximise the likelihood of images uint8 [N, side, side, 1]."""
    import torch

    from spxcore.heads.log_prob import log_prob
    from spxcore.walk.module import Module, data_dependent_initialisation

    torch.manual_seed(seed)
    module, head = Module(MODEL.networks(config)["network"]), MODEL.head(config)
    levels = torch.from_numpy(images).permute(0, 3, 1, 2)
    x = levels.float() / ((config.levels - 1) / 2) - 1
    with data_dependent_initialisation(module), torch.no_grad():
        module({"x": x[:128]})
    optimiser = torch.optim.Adam(module.parameters(), 3e-3)
    for _ in range(steps):
        batch = torch.randint(len(x), (128,))
        loss = -log_prob(head, module({"x": x[batch]}), levels[batch]).sum(dim=(1, 2)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return Checkpoint("toy", config, {f"network.{name}": t.numpy() for name, t in module.state_dict().items()})


if __name__ == "__main__":
    from PIL import Image

    import spx
    from spxcore import engines

    images = digits()
    sampler = spx.Sampler(train(images[:1500]))
    for engine in engines.NAMES:
        reason = engines.why_not(engine)
        print(f"{engine:10}", reason or sampler.sample(8, n=3, seed=1, engine=engine).tobytes().hex()[:32])
    upper = np.arange(8)[:, None] < np.full(8, 4)
    rows = [sampler.sample(8, n=12, seed=2), images[1500:1512]]
    rows += [sampler.complete(images[1500:1512], np.broadcast_to(upper, (8, 8)), seed=s) for s in (3, 4)]
    picture = np.concatenate([np.concatenate(list(row[..., 0]), axis=1) for row in rows])
    Image.fromarray((picture * 17).astype(np.uint8)).resize((12 * 64, 4 * 64), Image.Resampling.NEAREST).save("toy.png")
    noise = np.random.default_rng(0).integers(0, 16, (50, 8, 8, 1), dtype=np.uint8)
    for name, of in (("unseen digits", images[1500:1550]), ("noise", noise)):
        print(f"{name}: {sampler.score(of).bits.mean():.2f} bits a pixel")
    print("toy.png: drawn; unseen digits; their upper halves completed, twice")
