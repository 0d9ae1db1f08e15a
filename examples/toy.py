"""A model of one's own in one file: a plain masked PixelCNN (van den Oord, Kalchbrenner & Kavukcuoglu 2016) over 8x8 digits of 16 levels.
`python examples/toy.py` trains it in some ten seconds, draws by every engine, completes half digits, and scores digits and noise."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from sklearn.datasets import load_digits

from spx.models import registry
from spx.models.model import Checkpoint, Model
from spxcore import Softmax
from spxcore.heads.log_prob import log_prob
from spxcore.walk.language import down, down_right
from spxcore.walk.module import Module, data_dependent_initialisation


@dataclass(frozen=True)
class Config:
    side: int = 8  # of the images
    levels: int = 16  # of a pixel
    filters: int = 32
    layers: int = 4


def pixelcnn(net, c):
    """Masked convolutions and ReLU: "x" [1, side, side] in [-1, 1] -> logits [levels, side, side]."""

    def masked(name, x, k, own):  # k x k: it sees rows above, its row to the left and, with mask B, its own place
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


def digits():
    """1,797 handwritten digits that scikit-learn brings (Alpaydin & Kaynak 1998, UCI), uint8 [N, 8, 8, 1] of 16 levels."""
    return load_digits().images.clip(0, 15).astype(np.uint8)[..., None]


def train(images, config=Config(), steps=400):
    """A checkpoint of the greatest likelihood of images uint8 [N, side, side, 1]."""
    torch.manual_seed(0)
    module, levels = Module(MODEL.networks(config)["network"]), torch.from_numpy(images).permute(0, 3, 1, 2)
    x = levels.float() / ((config.levels - 1) / 2) - 1
    with data_dependent_initialisation(module), torch.no_grad():
        module({"x": x[:128]})
    optimiser = torch.optim.Adam(module.parameters(), 3e-3)
    for _ in range(steps):
        batch = torch.randint(len(x), (128,))
        optimiser.zero_grad()
        (-log_prob(MODEL.head(config), module({"x": x[batch]}), levels[batch]).sum() / 128).backward()
        optimiser.step()
    return Checkpoint("toy", config, {f"network.{name}": t.numpy() for name, t in module.state_dict().items()})


if __name__ == "__main__":
    import spx
    from spx.io.pictures import grid
    from spxcore import engines

    sampler, unseen = spx.Sampler(train(digits()[:1500])), digits()[1500:1512]
    for engine in engines.NAMES:
        reason = engines.why_not(engine)
        print(f"{engine:10}", reason or sampler.sample(8, n=3, seed=1, engine=engine).tobytes().hex()[:32])
    noise = np.random.default_rng(0).integers(0, 16, unseen.shape, dtype=np.uint8)
    print(
        "bits a pixel of unseen digits and of noise:",
        *(sampler.score(of).bits.mean().round(2) for of in (unseen, noise)),
    )
    upper = np.repeat([[True], [False]], 4, axis=0).repeat(8, axis=1)
    rows = [sampler.sample(8, n=12, seed=2), unseen, *(sampler.complete(unseen, upper, seed=s) for s in (3, 4))]
    grid(np.concatenate(rows).repeat(6, axis=1).repeat(6, axis=2) * 17, columns=12).save("toy.png")
    print("toy.png: drawn; unseen digits; their upper halves completed, twice")
