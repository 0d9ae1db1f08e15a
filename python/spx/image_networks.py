"""The networks of a whole image as plans: the VAE's encoder and decoder, and the feature maps. No torch.

They are compiled from the tensors of `spx.vae` and `spx.feature_maps` as the window's network is, run on the same kernels once an
image, and give the same bits whatever the batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import numpy as np

from spxcore.engines.image_network import ImageNetwork
from spxcore.mixture import split, to_unit
from spxcore.plan import Plan
from spxcore.plan.compile import Builder, Connections, convolution, pointwise, transposed

from .checkpoints import Checkpoint
from .config import VAEConfig
from .resize import resize

Tensors = Mapping[str, np.ndarray]


def same(side: int, kernel: int = 3, stride: int = 1) -> Connections:
    """Connections of `spxcore.layers.same`: zeros on all sides."""
    return convolution(side, (kernel, kernel), kernel // 2, stride, top=kernel // 2)


def grow(side: int) -> Connections:
    """Connections of `spx.vae.grow`."""
    return transposed(side, (2, 2), 0)


def from_code(side: int) -> Connections:
    """Connections of a transposed convolution of a 1x1 map to side x side: each place has its own weights."""
    every = np.arange(side * side)
    return np.stack([every, np.zeros_like(every), every], axis=1)


def to_code(side: int) -> Connections:
    """Connections of a convolution of a whole map, to 1x1."""
    return from_code(side)[:, [1, 0, 2]]


def encoder_plan(tensors: Tensors, config: VAEConfig) -> Plan:
    """`spx.vae.Encoder`: image "x" [size^2, C] in [-1, 1] -> "code" [1, 2 latent], means and unbounded log-variances."""
    b, half, quarter = Builder(tensors), config.size // 2, config.size // 4
    x = b.value("x", config.size, config.channels)
    h = b.layer("shrink_1", x, "raw", half, same(half, 5, stride=2))
    for i in range(config.layers):
        h = b.gated(f"layers_1.{i}", h, same(half))
    h = b.layer("shrink_2", h, "concat_elu", quarter, same(quarter, stride=2))
    for i in range(config.layers):
        h = b.gated(f"layers_2.{i}", h, same(quarter))
    code = b.layer("code", h, "concat_elu", 1, to_code(quarter))
    return b.plan(config.size, 0, (x,), code, {"network": "encoder"})


def decoder_plan(tensors: Tensors, config: VAEConfig) -> Plan:
    """`spx.vae.Decoder`: code "z" [1, latent] -> "nin_out" [size^2, P], mixture parameters."""
    b, size, half, quarter = Builder(tensors), config.size, config.size // 2, config.size // 4

    def gated(name: str, h: str, side: int) -> str:
        return b.gated(name, h, same(side), latent=np.ascontiguousarray(b.tensor(f"{name}.latent").T))

    z = b.value("z", 1, config.latent)
    h = b.layer("code", z, "raw", quarter, from_code(quarter))
    for i in range(config.layers):
        h = gated(f"layers_2.{i}", h, quarter)
    h = b.layer("grow_2", h, "concat_elu", half, grow(half))
    for i in range(config.layers):
        h = gated(f"layers_1.{i}", h, half)
    h = gated("layers_0.0", b.layer("grow_1", h, "concat_elu", size, grow(size)), size)
    params = b.layer("nin_out", h, "concat_elu", size, pointwise(size))
    return b.plan(size, config.latent, (z,), params, {"network": "decoder"})


def map_plan(tensors: Tensors, config: VAEConfig) -> Plan:
    """`spx.feature_maps.FeatureMaps`: code "z" [1, latent], "image" [size^2, C] -> "grow_0" [(2 size)^2, maps]."""
    b, size, half, quarter = Builder(tensors), config.size, config.size // 2, config.size // 4
    z, image = b.value("z", 1, config.latent), b.value("image", size, config.channels)
    h = b.layer("code", z, "raw", quarter, from_code(quarter))
    h = b.gated("layer_1", b.layer("grow_2", h, "concat_elu", half, grow(half)), same(half))
    w = b.blocks("grow_1")
    bias = b.tensor("grow_1.bias") + b.tensor("image.bias")
    reads = [(h, "concat_elu", w, grow(size)), (image, "raw", b.blocks("image"), same(size, 5))]
    h = b.stage("grow_1", b.value("grow_1", size, w.shape[2]), reads, bias[None])
    maps = b.layer("grow_0", b.gated("layer_0", h, same(size)), "concat_elu", 2 * size, grow(2 * size))
    return b.plan(size, 0, (z, image), maps, {"network": "feature maps"})


def mean_image(params: np.ndarray, channels: int) -> np.ndarray:
    """`spx.vae.mean_image` in NumPy: float32 [N, places, P] -> [N, places, C]."""
    logits, means, _, _ = split(params.reshape(-1, params.shape[2]), channels)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    image = (weights[:, None] * np.clip(means, -1, 1)).sum(axis=2)
    return image.reshape(*params.shape[:2], channels)


def plans(checkpoint: Checkpoint) -> dict[str, Plan]:
    """The plans of a checkpoint's image-level networks: encoder, decoder and maps, as far as it has them."""
    config, found = checkpoint.config, {}
    if config.vae:
        found["encoder"] = encoder_plan(checkpoint.part("vae.encoder."), config.vae)
    if config.network.conditioning == "spatial":
        found["decoder"] = decoder_plan(checkpoint.part("vae.decoder."), config.vae)
        found["maps"] = map_plan(checkpoint.part("maps."), config.vae)
    return found


class ImageNetworks:
    """A checkpoint's image-level networks, each compiled when it is first used.

    Args:
        checkpoint: one with a VAE.
        isa: as of `spxcore.engines.cpp.make`.
    """

    def __init__(self, checkpoint: Checkpoint, isa: str | None = None):
        self._checkpoint, self._config, self._isa = checkpoint, checkpoint.config.vae, isa

    @cached_property
    def _encoder(self) -> ImageNetwork:
        return ImageNetwork(encoder_plan(self._checkpoint.part("vae.encoder."), self._config), self._isa)

    @cached_property
    def _decoder(self) -> ImageNetwork:
        return ImageNetwork(decoder_plan(self._checkpoint.part("vae.decoder."), self._config), self._isa)

    @cached_property
    def _maps(self) -> ImageNetwork:
        return ImageNetwork(map_plan(self._checkpoint.part("maps."), self._config), self._isa)

    def encode(self, images: np.ndarray) -> np.ndarray:
        """Mean of q(z | x): uint8 [N, H, W, C] of any size -> float32 [N, latent]."""
        config = self._config
        x = resize(to_unit(images), config.size)
        code = self._encoder(np.ascontiguousarray(x.reshape(len(x), config.size**2, config.channels)))
        return np.ascontiguousarray(code[:, 0, : config.latent])

    def maps(self, z: np.ndarray) -> np.ndarray:
        """Feature maps of codes, float32 [N, latent] -> [N, M, 2 size, 2 size]."""
        config, codes = self._config, z[:, None]
        image = mean_image(self._decoder(codes, z=z), config.channels)
        maps = self._maps(codes, np.ascontiguousarray(image))
        return np.ascontiguousarray(maps.transpose(0, 2, 1)).reshape(len(z), -1, 2 * config.size, 2 * config.size)
