"""What a network is written with. A walk is a function of `net`, whose words are read three ways: `shapes`, `graph`, `module`.

Read as a module the walk's values are tensors, and every word does at once what it says. Read otherwise they are symbols that know
`+` and `.shape[1]`. So a walk depends on its configuration only, and never on a number of a value.

The words, of `net`:

    input(name, channels, level=0, ones=False, drawn=False)
                      what is given: [B, channels, H, W] at a level. ones: a channel of ones is added, which tells padding from zero.
                      drawn: filled by the pixels drawn so far.
    code(channels)    the code z [B, channels, 1, 1]; None for 0 channels.
    told(name, parts, channels, places=None, code=None)
                      what layers are told of their place and of the code: one 1x1 convolution, cut into `parts` parts.
    conv(name, x, outputs, kernel=None, **options)
                      a weight-normalised convolution. Options, read by the module alone: init_scale, exact.
    elu, relu, concat_elu, dropout
                      what the next convolution sees of a value.
    tanh_gate(x)      the same: tanh(a) sigmoid(b), a and b being the halves of x (van den Oord et al. 2016, equation 2).
    gate(name, x, y, h=None)
                      x + a sigmoid(b), (a, b) = y + h (van den Oord et al. 2016, equation 4); x None: without a residual.
    `+`               the sum of convolutions, or of a convolution and a value (a residual), or what it is told.

A kernel may be no word's default argument but None (1x1): torch.compile cannot trace such a default.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Kernel:
    """What a place of a convolution's result sees.

    Attributes:
        size: (height, width).
        pad: zeros added (left, right, top, bottom).
        stride: of both axes.
        up: transposed; `crop` columns are cut off on the left of its result.
        shift: rows down and columns right by which the result is moved afterwards; what moves in is zero, without a bias.
        spread: level of the map that a transposed kernel makes of a single place.
        whole: reads the whole map at once, to a single place.
    """

    size: tuple[int, int] = (1, 1)
    pad: tuple[int, int, int, int] = (0, 0, 0, 0)
    stride: int = 1
    up: bool = False
    crop: int = 0
    shift: tuple[int, int] = (0, 0)
    spread: int | None = None
    whole: bool = False

    def halved(self) -> Kernel:
        """Stride 2."""
        return replace(self, stride=2)

    def doubled(self, crop: int = 0) -> Kernel:
        """Transposed, stride 2."""
        return replace(self, stride=2, up=True, crop=crop, pad=(0, 0, 0, 0))

    def shifted(self, down: int = 0, right: int = 0) -> Kernel:
        """The result moved down and to the right."""
        return replace(self, shift=(down, right))

    def level(self, of: int | None) -> int | None:
        """Level of the result of a value at a level (2^level pixels a place); None: a single place."""
        if self.whole:
            return None
        if of is None:
            return self.spread if self.up else None
        return of - 1 if self.up else of + self.stride - 1


HERE = Kernel()


def down(height: int, width: int) -> Kernel:
    """Its own row and rows above, all columns (stream u)."""
    side = (width - 1) // 2
    return Kernel((height, width), (side, side, height - 1, 0))


def down_right(height: int, width: int) -> Kernel:
    """Rows above and columns to the left, its own included (stream ul)."""
    return Kernel((height, width), (width - 1, 0, height - 1, 0))


def same(height: int, width: int) -> Kernel:
    """All around."""
    return Kernel((height, width), (width // 2, width // 2, height // 2, height // 2))


def from_code(side: int, level: int) -> Kernel:
    """A map of side x side places, each with its own weights, from a single place."""
    return Kernel((side, side), stride=side, up=True, spread=level)


def to_code(side: int) -> Kernel:
    """A single place from a map of side x side places."""
    return Kernel((side, side), whole=True)


def gated_resnet(net, name: str, x, kernel: Kernel, aux=(), h=None, dropout: float = 0.0):
    """x + a sigmoid(b), (a, b) = conv(concat_elu(conv(concat_elu(x)) + nin(concat_elu(aux)))) + h (PixelCNN++, Salimans et al. 2017).

    Args:
        name: of the layer.
        x: [B, nf, h, w]; the result has the same shape.
        kernel: of its two convolutions.
        aux: auxiliary inputs, each [B, nf, h, w].
        h: what it is told, [B, 2 nf, h or 1, w or 1], or None.
        dropout: probability of dropping a unit between the two convolutions.
    """
    nf = x.shape[1]
    y = net.conv(f"{name}.conv_in", net.concat_elu(x), nf, kernel)
    if aux:
        y = y + net.conv(f"{name}.nin_aux", net.concat_elu(*aux), nf)
    y = net.dropout(net.concat_elu(y), dropout)
    y = net.conv(f"{name}.conv_out", y, 2 * nf, kernel, init_scale=0.1)
    return net.gate(name, x, y, h)
