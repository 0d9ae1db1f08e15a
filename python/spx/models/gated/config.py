"""What a Gated PixelCNN is: the hyperparameters of its network. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

from spxcore.errors import require

from ...fields import make_plain

# The largest numbers that fields may hold: config.json may come from anywhere, and nothing may be built that takes minutes or the memory.
LARGEST = {
    "side": 4096, "levels": 256, "filters": 4096, "layers": 256, "first": 63, "kernel": 63, "head": 8192, "classes": 1 << 14,
}  # fmt: skip


@dataclass(frozen=True)
class NetworkConfig:
    """Hyperparameters of a Gated PixelCNN (van den Oord et al. 2016), everything that fixes its tensors' shapes.

    Attributes:
        side: of the training images, in pixels. It draws images of any size.
        levels: K, of a pixel; the head is a softmax over them.
        filters: p, feature maps of a stack.
        layers: gated layers.
        first: side of the first layer's kernel, odd.
        kernel: n, side of the other layers' kernels, odd.
        head: feature maps between the layers and the logits.
        classes: that it is told; 0: none.
    """

    side: int = 28
    levels: int = 256
    filters: int = 32
    layers: int = 12
    first: int = 7
    kernel: int = 3
    head: int = 64
    classes: int = 0

    def __post_init__(self):
        make_plain(self, LARGEST)
        require(self.side >= 1, "side", "at least 1", self.side)
        require(self.levels >= 2, "levels", f"2 to {LARGEST['levels']}", self.levels)
        for name in ("filters", "layers", "head"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        for name in ("first", "kernel"):
            value = getattr(self, name)
            require(value >= 3 and value % 2 == 1, name, f"an odd number, 3 to {LARGEST[name]}", value)
        require(self.classes >= 0, "classes", "0 (none) or more", self.classes)
