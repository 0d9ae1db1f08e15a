"""GPU tests skip with a reason where there is no GPU, and Triton's kernels run in its interpreter there."""

import importlib.util
import os

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # several processes share the cores, so each keeps to one
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

HAVE_GPU = torch.cuda.is_available()

if not HAVE_GPU:
    # Triton reads this when a kernel is declared, so it has to be set before any test imports one.
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if HAVE_GPU:
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU, and PyTorch finds none"))


@pytest.fixture(scope="session")
def quick_interpreter():
    """Triton's interpreter without its look for integer overflow at every operation, and without its preparations at every call from
    one of our functions to another (the kernel's serve them all): less than half of its time."""
    with pytest.MonkeyPatch.context() as patch:
        if not HAVE_GPU and importlib.util.find_spec("triton"):
            from triton.runtime import interpreter

            options = interpreter.InterpreterOptions(sanitize_overflow=False)
            patch.setattr(interpreter.interpreter_builder, "options", options)
            call = interpreter.InterpretedFunction.__call__

            def quick(self, *arguments, **named):
                ours = self.fn.__module__.startswith("spxcore.")
                return (self.rewrite() if ours else call.__get__(self))(*arguments, **named)

            patch.setattr(interpreter.InterpretedFunction, "__call__", quick)
        yield


@pytest.fixture(scope="session", autouse=True)
def networks_lowered_once():
    from lowered_once import lowered_once

    with lowered_once():
        yield


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The folder of a tiny model, for the tests of the commands."""
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
