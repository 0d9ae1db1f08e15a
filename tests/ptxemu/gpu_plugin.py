"""pytest -p gpu_plugin: tests marked `gpu` run although PyTorch finds no GPU, because spxcore._cuda has the PTX interpreter."""

import emulator
import pytest

emulator.be_the_gpu()
# PTXEMU, the environment variable, says how.


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    for item in items:
        item.own_markers = [
            mark
            for mark in item.own_markers
            if not (mark.name == "skip" and "NVIDIA" in str(mark.kwargs.get("reason", "")))
        ]


@pytest.fixture(autouse=True)
def nothing_is_found():
    emulator.reports()
    yield
    assert emulator.findings() == {}
