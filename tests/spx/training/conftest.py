"""Fixtures of the tests of training."""

import signal
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from helpers import write_dataset
from runs import run, settings
from small_networks import small_networks


@pytest.fixture(scope="package", autouse=True)
def one_thread():
    """Sums are made in the same order in every process of a test."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", autouse=True)
def few_filters(request):
    """All but the tests of the presets' own numbers train small networks."""
    with nullcontext() if request.path.name == "test_settings.py" else small_networks():
        yield


@pytest.fixture(autouse=True)
def own_signals():
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in previous.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def uninterrupted(data_dir, tmp_path_factory):
    """Folders of finished runs by mode, each run once."""
    folders: dict[str, Path] = {}

    def of(mode: str) -> Path:
        if mode not in folders:
            folders[mode] = tmp_path_factory.mktemp("whole") / "run"
            run(settings(mode, data_dir), folders[mode])
        return folders[mode]

    return of
