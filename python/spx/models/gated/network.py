"""The network of Gated PixelCNN, a walk (`spxcore.walk`)."""

from __future__ import annotations

from spxcore.walk.language import Kernel, down, down_right


def above(n: int) -> Kernel:
    """The rows above of an n x n window around a place (the vertical stack's first layer)."""
    return down(n // 2, n).shifted(down=1)


def left(n: int) -> Kernel:
    """The places to the left in a 1 x n window (the horizontal stack's first layer: mask A)."""
    return down_right(1, n // 2).shifted(right=1)


def gated_pixelcnn(net, c):
    """Gated PixelCNN (van den Oord et al. 2016, sections 2.1 to 2.3) on a whole image: "x" [1, H, W] in [-1, 1] -> logits [K, H, W].

    The vertical stack `v` sees all rows above, so that no place is missed (section 2.2). The horizontal stack `h` sees the places to the
    left, and at its own place what the vertical stack sees. Each layer ends in tanh(a) sigmoid(b) (equation 2). Both stacks are told
    the class in every layer (equation 4: V^T h, a one-hot h). The vertical sum is told before the horizontal stack reads it: its
    1x1 convolution of V^T h is another vector that the horizontal stack's own V could be.

    The residual is the horizontal stack's alone. Each layer leaves a part for the head, too: a skip connection.

    Args:
        net: the words.
        c: a `NetworkConfig`.
    """
    p, x, z = c.filters, net.input("x", 1, ones=True, drawn=True), net.code(c.classes)
    told = iter(net.told("classes", 2 * c.layers, 2 * p, code=z))
    stack = down(c.kernel // 2 + 1, c.kernel), down_right(1, c.kernel // 2 + 1)
    v = h = x
    skips = None
    for i in range(c.layers):
        down_kernel, right_kernel = (above(c.first), left(c.first)) if i == 0 else stack
        v_sum = _told(net.conv(f"{i}.v", v, 2 * p, down_kernel), next(told))
        h_sum = net.conv(f"{i}.h", h, 2 * p, right_kernel) + net.conv(f"{i}.v_to_h", v_sum, 2 * p)
        v, seen = net.tanh_gate(v_sum), net.tanh_gate(_told(h_sum, next(told)))
        if i < c.layers - 1:
            out = net.conv(f"{i}.out", seen, p, exact=True)
            h = out if i == 0 else out + h
        skip = net.conv(f"{i}.skip", seen, c.head, exact=True)
        skips = skip if skips is None else skips + skip
    return net.conv("logits", net.relu(net.conv("head", net.relu(skips), c.head)), c.levels, exact=True)


def _told(total, h):
    """A sum with what it is told."""
    return total if h is None else total + h
