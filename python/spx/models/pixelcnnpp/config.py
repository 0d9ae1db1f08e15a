"""What a PixelCNN++ is: the hyperparameters of its network. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

from spxcore.errors import require
from spxcore.heads import Logistics

from ...fields import make_plain

# The largest numbers that fields may hold: config.json may come from anywhere, and nothing may be built that takes minutes or the memory.
# The paper's network has 5 layers of 160 filters.
LARGEST = {"side": 4096, "filters": 4096, "layers": 64, "mixtures": 64, "classes": 1 << 14}


@dataclass(frozen=True)
class NetworkConfig:
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
        require(self.channels in (1, 3), "channels", "1 or 3", self.channels)
        require(self.filters >= 1, "filters", "at least 1", self.filters)
        require(self.layers >= 1, "layers", "at least 1", self.layers)
        require(1 <= self.mixtures <= 64, "mixtures", "1 to 64", self.mixtures)
        require(self.classes >= 0, "classes", "0 (none) or more", self.classes)
        require(0 <= self.dropout < 1, "dropout", "0 <= p < 1", self.dropout)

    @property
    def head(self) -> Logistics:
        """The distribution of a pixel."""
        return Logistics(self.channels, self.mixtures)

    @property
    def outputs(self) -> int:
        """P, numbers of a pixel's mixture."""
        return self.head.parameters
