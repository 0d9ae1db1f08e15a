"""Presets of few filters: what a test shows of training holds for any width."""

from contextlib import contextmanager

import pytest

from spx.models.spatial import config


@contextmanager
def small_networks():
    """Networks of "small" presets have 6 filters and one layer a block, VAEs 4, 8 and 16 filters, until the context ends."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(config._SIZES, "small", {"filters": 6, "layers": 1})
        names = list(config.VAEConfig.__dataclass_fields__)
        defaults = list(config.VAEConfig.__init__.__defaults__)
        defaults[names.index("filters")] = (4, 8, 16)
        patch.setattr(config.VAEConfig.__init__, "__defaults__", tuple(defaults))
        yield
