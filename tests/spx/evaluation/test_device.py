"""What an evaluation computes with torch is computed on the device that is asked for. "meta", which keeps no numbers, stands for a GPU."""

import contextlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import digits
from torch.utils._python_dispatch import TorchDispatchMode

import spx
from spx.evaluation.lenet import LeNet
from spx.evaluation.measures import copies, similarity
from spx.models.spatial import codes
from spx.models.spatial.module import module_of
from spx.models.spatial.prior import Prior

IMAGES = digits(3)[0][..., None]


class Places(TorchDispatchMode):
    """Which operations ran where, and those that mixed places."""

    def __init__(self):
        super().__init__()
        self.there, self.here, self.mixed = set(), set(), set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        tensors = [t for t in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        devices = {t.device.type for t in tensors if t.dim()}
        if len(devices) > 1 and "copy" not in name:
            self.mixed.add(name)
        (self.there if "meta" in devices else self.here).add(name)
        return func(*args, **(kwargs or {}))


def similar():
    similarity(IMAGES, "meta")


def near():
    flat = IMAGES.reshape(3, -1).astype(np.float32)
    copies(flat, flat, flat, "meta")


def judged():
    LeNet().to("meta").probabilities(IMAGES)


def encoded():
    codes.posterior(_checkpoint(), IMAGES)


def refined():
    checkpoint = _checkpoint()
    q = torch.zeros(3, 60, device="meta"), torch.zeros(3, 60, device="meta")
    images = torch.from_numpy(IMAGES.transpose(0, 3, 1, 2)).to("meta")
    codes.refine(module_of(checkpoint).coder, codes.prior_of(checkpoint).distribution(device="meta"), 8, images, q, 1)


def _checkpoint():
    return replace(spx.Sampler.load("mnist-8x8").checkpoint, device="meta")


@pytest.mark.fault("wrong", "encoding, refinement, the classifier and MS-SSIM stayed on the CPU")
@pytest.mark.parametrize(
    ("work", "heavy"),
    [
        (similar, "convolution"),
        (near, "mm"),
        (judged, "convolution"),
        (encoded, "convolution"),
        (refined, "convolution_backward"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_where_it_is_computed(work, heavy, monkeypatch):
    monkeypatch.setattr(codes, "prior_of", lambda checkpoint: Prior(60))
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # which knows no meta
    monkeypatch.setattr(codes, "coverage", lambda side, patch: torch.ones(side, side))  # made once, on the CPU
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", False)  # it would read numbers
    with Places() as seen, contextlib.suppress(RuntimeError, NotImplementedError):  # once the result is read
        work()
    assert heavy in seen.there and not seen.mixed
    assert not seen.here & {"convolution", "convolution_backward", "mm", "addmm", "bmm"}


def test_the_same_figures_on_any_device():
    """The CPU by another name."""
    from spx.evaluation.metrics import ms_ssim_pairs

    checkpoint = spx.Sampler.load("mnist-8x8").checkpoint
    assert ms_ssim_pairs(IMAGES) == ms_ssim_pairs(IMAGES, device="cpu:0")
    ours, theirs = (codes.posterior(replace(checkpoint, device=device), IMAGES, 1) for device in ("cpu", "cpu:0"))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs))
