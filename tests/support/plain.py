"""A family of models that no room of spx knows: one masked convolution, registered by the tests that use it."""

from __future__ import annotations

from dataclasses import dataclass

from spx.models.model import Model, Row
from spx.models.settings import Settings
from spxcore import Softmax
from spxcore.walk.language import down, down_right


@dataclass(frozen=True)
class Config:
    """Side, levels of a pixel, filters."""

    side: int
    levels: int = 256
    filters: int = 2


def network(net, c):
    """One masked convolution: "x" [1, side, side] -> logits [levels, side, side]."""
    x = net.input("x", 1, drawn=True)
    h = net.conv("above", x, c.filters, down(1, 3).shifted(down=1))
    return net.conv("logits", h + net.conv("left", x, c.filters, down_right(1, 1).shifted(right=1)), c.levels)


class Plain(Model):
    """The family: all that is not said here has a default."""

    name, Config, Settings = "plain", Config, Settings
    presets = {"plain": {"batch": 4}}  # noqa: RUF012

    def networks(self, config):
        """See `Model.networks`."""
        return {"network": lambda net: network(net, config)}

    def head(self, config):
        """See `Model.head`."""
        return Softmax(config.levels)

    def rows(self):
        """A row to reproduce, and one that is judged at another temperature."""
        settings = {"model": "plain", "preset": "plain"}
        published = {"network": "plain", "bits": 7.5, "bound": False, "ms_ssim": {}, "confidence": {}, "accuracy": {}}
        return [
            Row("plain-row", "plain table", "all defaults", settings, published),
            Row("plain-cold", "plain table", "colder", settings, of="plain-row", base="plain-row", temperature=0.5),
        ]


MODEL = Plain()
