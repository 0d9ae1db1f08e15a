"""PixelCNN++'s two streams (Salimans et al. 2017), a part of walks."""

from __future__ import annotations

from spxcore.errors import require
from spxcore.heads import Logistics
from spxcore.walk.language import down, down_right, gated_resnet

# Halvings of the image: resolutions k = 0, 1, 2 of sides m, m/2 and m/4, rounded up.
RESOLUTIONS = 3


class StreamsConfig:
    """What the configurations of such networks share. Each is a dataclass with these fields; its own docstring says what they are."""

    channels: int
    filters: int
    layers: int
    mixtures: int
    dropout: float

    def check_streams(self) -> None:
        """Raise an `SpxError` for one of these fields that is out of range."""
        require(self.channels in (1, 3), "channels", "1 or 3", self.channels)
        require(self.filters >= 1, "filters", "at least 1", self.filters)
        require(self.layers >= 1, "layers", "at least 1", self.layers)
        require(1 <= self.mixtures <= 64, "mixtures", "1 to 64", self.mixtures)
        require(0 <= self.dropout < 1, "dropout", "0 <= p < 1", self.dropout)

    @property
    def head(self) -> Logistics:
        """The distribution of a pixel."""
        return Logistics(self.channels, self.mixtures)

    @property
    def outputs(self) -> int:
        """P, numbers of a pixel's mixture."""
        return self.head.parameters


def gated_layers(layers: int, k: int) -> int:
    """Gated layers of *each* stream at resolution k, `layers` of them on the way down. At 0 and 1 the way back has one more."""
    return 2 * layers + (1 if k < 2 else 0)


def streams(net, x, c, told):
    """PixelCNN++: six blocks of gated layers, three going down in resolution, three coming back with skip connections.

    Stream `u` sees all rows above, stream `ul` rows above and pixels to the left.

    Args:
        net: the words.
        x: the pixels [C, H, W], with a channel of ones.
        c: a `StreamsConfig`.
        told: per resolution, what each gated layer is told, in the order they run: u, ul, u, ul ...

    Returns:
        A convolution's result, [outputs, H, W].
    """
    nf, U, UL = c.filters, down(2, 3), down_right(2, 2)
    h = [iter(parts) for parts in told]

    def gated(name, k, x, kernel, *aux):
        return gated_resnet(net, name, x, kernel, aux, next(h[k]), c.dropout)

    def conv(name, x, kernel=None, outputs=nf):
        return net.conv(name, x, outputs, kernel, exact=True)

    us = [conv("u_in", x, down(2, 3).shifted(down=1))]
    above, left = down(1, 3).shifted(down=1), down_right(2, 1).shifted(right=1)
    uls = [conv("ul_in_above", x, above) + conv("ul_in_left", x, left)]
    for k in range(RESOLUTIONS):
        for i in range(c.layers):
            us.append(gated(f"u_down.{k}.{i}", k, us[-1], U))
            uls.append(gated(f"ul_down.{k}.{i}", k, uls[-1], UL, us[-1]))
        if k < 2:
            us.append(conv(f"u_shrink.{k}", us[-1], U.halved()))
            uls.append(conv(f"ul_shrink.{k}", uls[-1], UL.halved()))

    u, ul = us.pop(), uls.pop()
    for k in (2, 1, 0):
        for i in range(
            gated_layers(c.layers, k) - c.layers
        ):  # one more than going down at 0 and 1, to consume every skip
            u = gated(f"u_up.{k}.{i}", k, u, U, us.pop())
            ul = gated(f"ul_up.{k}.{i}", k, ul, UL, u, uls.pop())
        if k > 0:
            u = conv(f"u_grow.{k - 1}", u, U.doubled(crop=1))
            ul = conv(f"ul_grow.{k - 1}", ul, UL.doubled())
    return conv("nin_out", net.elu(ul), outputs=c.outputs)
