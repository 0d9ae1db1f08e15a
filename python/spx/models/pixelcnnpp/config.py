"""What a PixelCNN++ is: the hyperparameters of its network. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

from spxcore.errors import require

from ...fields import make_plain
from ..parts.streams import StreamsConfig

# The largest numbers that fields may hold: config.json may come from anywhere, and nothing may be built that takes minutes or the memory.
# The paper's network has 5 layers of 160 filters.
LARGEST = {"side": 4096, "filters": 4096, "layers": 64, "mixtures": 64, "classes": 1 << 14}


@dataclass(frozen=True)
class NetworkConfig(StreamsConfig):
    """Hyperparameters of a PixelCNN++ (Salimans et al. 2017), everything that fixes its tensors' shapes.

    Attributes:
        side: of the training images, in pixels. It draws images of any size.
        channels: C, 1 (grey) or 3 (RGB).
        filters: nf, filters of every convolution (paper: 160).
        layers: gated ResNet layers a block (paper: 5).
        mixtures: K, logistics in the output mixture.
        classes: that it is told; 0: none.
        dropout: probability of dropping a unit inside a gated layer while training (paper: 0.5).
    """

    side: int = 28
    channels: int = 1
    filters: int = 25
    layers: int = 2
    mixtures: int = 10
    classes: int = 0
    dropout: float = 0.0

    def __post_init__(self):
        make_plain(self, LARGEST)
        require(self.side >= 1, "side", "at least 1", self.side)
        self.check_streams()
        require(self.classes >= 0, "classes", "0 (none) or more", self.classes)
