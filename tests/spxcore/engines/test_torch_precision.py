"""fp32 is fp32 on a GPU too, and torch's switches are put back: seen without a GPU, by what they say while a network runs."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import config, digits, drawn, job, network
from torch.nn import functional as F

from spxcore import engines
from spxcore.engines import torch_precision
from spxcore.engines.torch_precision import full_precision, repeatable

BACKENDS = torch.backends
NEW = hasattr(BACKENDS.cudnn, "conv")  # torch 2.9 and later


def flags() -> tuple:
    """What a GPU is told of fp32 convolutions and products: by the new names, and the old ones or that torch cannot tell."""
    new = [BACKENDS.cudnn.conv, BACKENDS.cudnn.rnn, BACKENDS.cuda.matmul] if NEW else []
    found: list = [part.fp32_precision for part in new]
    for part in (BACKENDS.cudnn, BACKENDS.cuda.matmul):
        try:
            found.append(part.allow_tf32)
        except RuntimeError:
            found.append("cannot tell")
    return tuple(found)


def is_full(told: tuple) -> bool:
    return not {"tf32", "bf16", True} & {*told}


@pytest.fixture(params=["torch's own", "old names", *(["new names", "one for all"] if NEW else [])])
def tf32(request):
    """Callers who allow TF32, each in another way."""
    before = (
        [(part, part.fp32_precision) for part in (BACKENDS.cudnn.conv, BACKENDS.cudnn.rnn, BACKENDS.cuda.matmul)]
        if NEW
        else []
    )
    old = flags()[-2:]
    if request.param == "old names":
        BACKENDS.cudnn.allow_tf32 = BACKENDS.cuda.matmul.allow_tf32 = True
    elif request.param == "new names":
        BACKENDS.cudnn.conv.fp32_precision = BACKENDS.cuda.matmul.fp32_precision = "tf32"
    elif request.param == "one for all":
        BACKENDS.cudnn.allow_tf32 = False
        BACKENDS.fp32_precision = "tf32"
    assert not is_full(flags())
    yield flags()
    if NEW:
        BACKENDS.fp32_precision = "none"
    BACKENDS.cudnn.allow_tf32, BACKENDS.cuda.matmul.allow_tf32 = old
    for part, value in before:
        part.fp32_precision = value


@pytest.fixture
def seen(monkeypatch):
    """The flags in each convolution that runs."""
    found, conv2d = [], F.conv2d

    def watched(*arguments, **options):
        found.append(flags())
        return conv2d(*arguments, **options)

    monkeypatch.setattr(F, "conv2d", watched)
    return found


@pytest.mark.fault("wrong", "fp32 on a GPU was TF32: torch's default for convolutions")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["reference", "torch"])
def test_engines(seen, name, precision):
    """The layers that bf16 leaves in fp32 too. Drawing, evaluating, and after an error the caller's flags are back."""
    if (name, precision) == ("reference", "bf16"):
        return
    before, task = flags(), job(config(), 9, 8)
    engine = engines.get(name, precision=precision, device="cpu", threads=1)
    drawn(engine, task)
    inputs = {"x": np.zeros((1, 64, 1), np.float32)}
    net = network(config(latent=0, coordinates=False))
    engine.evaluate(net, 8, 8, inputs)
    assert len(seen) > 100 and all(map(is_full, seen)) and flags() == before
    with pytest.raises(KeyboardInterrupt):
        drawn(engine, task, report=_stop)
    assert flags() == before


def _stop(count):
    raise KeyboardInterrupt


def test_likelihood_and_codes(seen):
    """The model's own networks that torch runs beside the engine."""
    import spx

    before = flags()
    checkpoint = spx.Sampler.load("mnist-8x8").checkpoint
    images = digits(1)[0][..., None]
    checkpoint.model.bits(checkpoint, images, engine=SimpleNamespace(evaluate=_zeros), refine=1)
    assert len(seen) > 20 and all(map(is_full, seen)) and flags() == before


def _zeros(network, height, width, inputs, code):
    return np.zeros((len(code), height * width, network.graph.values[network.graph.output].channels), np.float32)


def test_flags_are_put_back(tf32):
    with pytest.raises(ZeroDivisionError), full_precision():
        assert is_full(flags())
        with full_precision():
            pass
        assert is_full(flags())
        _ = 1 / 0
    assert flags() == tf32


def test_an_older_torch(monkeypatch):
    """Before torch 2.9 there were two switches."""
    cudnn, matmul = SimpleNamespace(allow_tf32=True), SimpleNamespace(allow_tf32=True)
    fake = SimpleNamespace(backends=SimpleNamespace(cudnn=cudnn, cuda=SimpleNamespace(matmul=matmul)))
    monkeypatch.setattr(torch_precision, "torch", fake)
    with full_precision():
        assert not cudnn.allow_tf32 and not matmul.allow_tf32
    assert cudnn.allow_tf32 and matmul.allow_tf32


def switches() -> tuple:
    return (
        torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled(),
        BACKENDS.cudnn.benchmark, torch.utils.deterministic.fill_uninitialized_memory,
    )  # fmt: skip


def test_steps_that_repeat(monkeypatch):
    """On a GPU deterministic operations, with a warning of what has none; on a CPU nothing changes."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(BACKENDS.cudnn, "benchmark", True)
    before = switches()
    assert before[:3] == (False, False, True)
    with repeatable(torch.device("cpu")):
        assert switches() == before
    with pytest.raises(ZeroDivisionError), repeatable(torch.device("cuda:1")):
        assert switches() == (True, True, False, False)
        assert torch_precision.os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        _ = 1 / 0
    assert switches() == before


def test_whoever_forbids_other_operations_is_obeyed():
    torch.use_deterministic_algorithms(True)
    try:
        with repeatable(torch.device("cuda")):
            assert switches()[:2] == (True, False)
        assert switches()[:2] == (True, False)
    finally:
        torch.use_deterministic_algorithms(False)
