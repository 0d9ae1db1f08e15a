"""What the benchmarks share: the network, and the conditions that go into pytest-benchmark's JSON (--benchmark-json FILE)."""

import os

import numpy as np
import pytest
import torch

from spx.models.spatial.config import NetworkConfig, preset
from spxcore import Network, __version__, native
from spxcore.walk.module import Module


def pytest_benchmark_update_machine_info(config, machine_info):
    """What the figures depend on beyond the machine."""
    machine_info["spx"] = {
        "version": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "native": native.native().build_info(),
        "instruction_sets": native.native().instruction_sets(),
        "cores": native.cores(),
        "load_average": os.getloadavg(),
        "fma_peak_per_core": native.native().fma_peak(0.5),
        "bf16_peak_per_core": native.native().bf16_peak(0.5),
    }


@pytest.fixture(scope="session")
def config() -> NetworkConfig:
    """The shipped kind of network."""
    return preset("small-8x8")


@pytest.fixture(scope="session")
def network(config) -> Network:
    """It with random weights: speed does not depend on what it learnt."""
    torch.manual_seed(0)
    return Network.of(Module(config.walk))
