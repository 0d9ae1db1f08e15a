"""The network of PixelCNN++, a walk (`spxcore.walk`)."""

from __future__ import annotations

from ..parts.streams import RESOLUTIONS, gated_layers, streams


def pixelcnnpp(net, c):
    """PixelCNN++ (Salimans et al. 2017) on a whole image: "x" [C, H, W] in [-1, 1] -> the mixture's parameters [P, H, W].

    Every gated layer is told the class, a one-hot code (section 2.4 of van den Oord et al. 2016: V^T h, the same at every place).

    Args:
        net: the words.
        c: a `NetworkConfig`.
    """
    x, z = net.input("x", c.channels, ones=True, drawn=True), net.code(c.classes)
    told = [net.told(f"classes.{k}", 2 * gated_layers(c.layers, k), 2 * c.filters, code=z) for k in range(RESOLUTIONS)]
    return streams(net, x, c, told)
