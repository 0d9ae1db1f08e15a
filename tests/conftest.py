"""GPU tests skip with a reason where there is no GPU, and Triton's kernels run in its interpreter there."""

import importlib.util
import os
import signal

import pytest

if (
    signal.getsignal(signal.SIGINT) == signal.SIG_IGN
):  # as a shell starts what runs in the background; the tests send it
    signal.signal(signal.SIGINT, signal.default_int_handler)

if "PYTEST_XDIST_WORKER" in os.environ:  # several processes share the cores, so each keeps to one
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

HAVE_GPU = torch.cuda.is_available()

if not HAVE_GPU:
    # Triton reads this when a kernel is declared, so it has to be set before any test imports one.
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_configure(config: pytest.Config) -> None:
    if not config.pluginmanager.hasplugin("timeout"):  # a machine with a GPU has what it has
        config.addinivalue_line("markers", "timeout(seconds): of pytest-timeout, which is not installed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not item.get_closest_marker("gpu"):
            continue
        if HAVE_GPU:
            item.add_marker(pytest.mark.usefixtures("gpu_engine_is_trusted"))
            if not item.get_closest_marker("timeout"):
                item.add_marker(pytest.mark.timeout(120))
        else:
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU, and PyTorch finds none"))


@pytest.fixture(scope="module")
def gpu_engine_is_trusted(request):
    """Before a file's first test on a GPU its engine draws in a process of its own: a fault there spoils no other test."""
    from gpu_smoke import why_not_trusted

    reason = why_not_trusted("triton" if "triton" in request.path.name else "cuda")
    if reason:
        pytest.fail(reason)


@pytest.fixture(scope="session")
def quick_interpreter():
    """Triton's interpreter in a third of its time; see `tests/support/quick_triton.py`."""
    with pytest.MonkeyPatch.context() as patch:
        if not HAVE_GPU and importlib.util.find_spec("triton"):
            from quick_triton import quicken

            quicken(patch)
        yield


@pytest.fixture(scope="session", autouse=True)
def networks_lowered_once():
    from lowered_once import lowered_once

    with lowered_once():
        yield


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The folder of a tiny model, which no test changes."""
    from helpers import tiny_model

    from spx.checkpoints import save_checkpoint

    folder = tmp_path_factory.mktemp("checkpoint")
    save_checkpoint(tiny_model(), folder)
    return folder


@pytest.fixture(scope="module")
def model(checkpoint):
    """That model, loaded."""
    import spx

    return spx.load(checkpoint)
