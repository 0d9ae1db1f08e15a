"""The fused end of a gated layer against PyTorch: values, gradients, and a network that uses it."""

import contextlib
import copy
from types import SimpleNamespace

import pytest
import torch
from helpers import config, module, windows
from torch.autograd import gradcheck

pytest.importorskip("triton", reason="Triton is not installed")

from spxcore.errors import SpxError
from spxcore.kernels import gated
from spxcore.kernels.gated import gate
from spxcore.walk.module import Module

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPES = {"none": None, "one number a plane": (2, 6, 1, 1), "all": (2, 6, 2, 3)}


def plain(x, y, h=None):
    a, b = (y if h is None else y + h).chunk(2, dim=1)
    return x + a * torch.sigmoid(b)


def inputs(shape, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)

    def tensor(*size):
        return torch.randn(size, generator=g).mul(2).to(DEVICE, dtype).requires_grad_()

    return tensor(2, 3, 2, 3), tensor(2, 6, 2, 3), None if shape is None else tensor(*shape)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_gradients(shape):
    arguments = inputs(shape)
    assert gradcheck(gate, arguments)
    torch.testing.assert_close(gate(*arguments), plain(*arguments))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)],  # measured: 2e-7, and half a unit in the last of bf16's 8 bits
    ids=["fp32", "bf16"],
)
def test_it_is_what_pytorch_computes(shape, dtype, tolerance):
    """With y and h in another type than x, as under autocast."""
    x, y, h = inputs(shape, torch.float32)
    ours = [x.detach().clone().requires_grad_(), y.to(dtype).detach().requires_grad_()]
    ours += [None if h is None else h.to(dtype).detach().requires_grad_()]
    theirs = [None if t is None else t.detach().float().clone().requires_grad_() for t in ours]
    out, expected = gate(*ours), plain(*theirs)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, expected, atol=1e-6, rtol=1e-6)
    weight = torch.randn_like(out)
    (out * weight).sum().backward()
    (expected * weight).sum().backward()
    for a, b in zip(ours, theirs):
        if a is not None:
            assert a.grad.dtype == a.dtype
            torch.testing.assert_close(
                a.grad.float(), b.grad, atol=tolerance * b.grad.abs().max().item(), rtol=tolerance
            )


def test_a_gate_far_open_and_far_shut():
    x, y, _ = inputs(None, torch.float32)
    with torch.no_grad():
        y[:, 3:] = torch.where(y[:, 3:] > 0, 1e4, -1e4)
    out = gate(x, y)
    torch.testing.assert_close(out, plain(x, y))
    out.sum().backward()
    assert torch.isfinite(y.grad).all() and (y.grad[:, 3:] == 0).all()


def test_tensors_that_are_not_contiguous():
    x, y, h = inputs((2, 6, 2, 3))
    other = [t.detach().transpose(2, 3).contiguous().transpose(2, 3) for t in (x, y, h)]
    torch.testing.assert_close(gate(*other), plain(x, y, h))


@pytest.mark.fault("wrong", "what a layer is told, some channels of a wider tensor, was copied in every layer")
@pytest.mark.parametrize("places", [(2, 3), (1, 1)])
def test_some_channels_of_a_wider_tensor_are_read_where_they_are(places):
    x, y, _ = inputs(None)
    wide = torch.randn(2, 18, *places, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(DEVICE)
    wider_x = torch.cat([x, x + 1], dim=1).detach()
    wide.requires_grad_(), wider_x.requires_grad_()
    h = wide.split(6, dim=1)[1]
    found = gate(wider_x[:, 3:], y, h)
    assert [t.data_ptr() for t in found.grad_fn.saved_tensors] == [y.data_ptr(), h.data_ptr()] and not h.is_contiguous()
    expected = plain(wider_x[:, 3:], y, h)
    torch.testing.assert_close(found, expected)
    weight = torch.randn(2, 3, 3, 2, dtype=torch.float64).to(DEVICE).transpose(2, 3)  # and so is the gradient
    ours, theirs = (torch.autograd.grad((r * weight).sum(), (wider_x, y, wide)) for r in (found, expected))
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b)


@pytest.mark.fault("wrong", "on a second GPU the kernel was launched on the first")
def test_it_is_launched_where_the_tensors_are(monkeypatch):
    inside, seen = [], []

    @contextlib.contextmanager
    def device(which):
        inside.append(which)
        yield
        inside.pop()

    class Kernel:
        def __getitem__(self, grid):
            return lambda *arguments, **options: seen.append(inside[-1])

    monkeypatch.setattr(torch.cuda, "device", device)
    x, y = (
        SimpleNamespace(
            shape=(2, c, 2, 3),
            dtype=torch.float32,
            is_cuda=True,
            device="cuda:1",
            numel=lambda: 36,
            stride=lambda i: 18,
        )
        for c in (3, 6)
    )
    gated._launch(Kernel(), x, y, None, x)
    assert seen == ["cuda:1"] and not inside


def test_shapes_that_do_not_fit():
    x, y, h = inputs((2, 6, 2, 3))
    with pytest.raises(SpxError, match=r"^y: expected shape \[2, 6, 2, 3\], got"):
        gate(x, y[:, :5])
    with pytest.raises(SpxError, match=r"^h: expected shape \[2, 6, 2, 3\] or \[2, 6, 1, 1\], got"):
        gate(x, y, h[:, :, :1])


@pytest.mark.parametrize("fields", [{"patch": 4, "conditioning": "spatial"}, {"patch": 4, "coordinates": False}])
def test_a_network_that_uses_it(fields):
    """The whole network, forward and backward: fields chosen so that h has a number a place, and one a plane."""
    configuration = config(**fields)
    plain_net = module(configuration).to(DEVICE)
    fused_net = copy.deepcopy(plain_net)
    fused_net.fused = gate
    (maps, code), _, _ = windows(configuration)
    maps, code = {name: value.to(DEVICE) for name, value in maps.items()}, code.to(DEVICE)
    a, b = (net(maps, code) for net in (plain_net, fused_net))
    torch.testing.assert_close(b, a, atol=1e-4, rtol=1e-4)  # measured: 2e-6
    for out in (a, b):
        out.square().mean().backward()
    for (name, p), q in zip(plain_net.named_parameters(), fused_net.parameters()):
        if p.grad is not None:
            worst = (p.grad - q.grad).abs().max() / p.grad.abs().max().clamp(min=1e-3)
            assert worst < 1e-3, name  # measured: 1e-5


def test_training_with_it(tmp_path, monkeypatch):
    """A run with --fused is the run without, to rounding; and where it cannot run a sentence says so."""
    from helpers import write_dataset

    from spx.models.spatial.settings import preset as recipe
    from spx.training.trainer import Trainer
    from spxcore.engines import triton

    data = write_dataset(tmp_path / "data", train=16, test=4)
    small = {"batch": 4, "patches_per_image": 2, "steps": 2, "validate_every": 0, "sample_every": 0, "vae": "none"}
    runs = [
        recipe("pixelcnnpp-small-4x4", data="idx", data_dir=str(data), dropout=0.0, fused=fused, **small)
        for fused in (False, True)
    ]
    trainers = [Trainer(r, tmp_path / str(n), device=DEVICE, progress=False) for n, r in enumerate(runs)]
    networks = [[m for m in trainer.module.modules() if isinstance(m, Module)] for trainer in trainers]
    assert [{m.fused for m in found} for found in networks] == [{None}, {gate}]
    before = torch.nn.utils.parameters_to_vector(trainers[0].module.parameters()).detach().clone()
    for trainer in trainers:
        trainer.train()
    after, fused = (torch.nn.utils.parameters_to_vector(t.module.parameters()).detach() for t in trainers)
    assert (after - before).abs().median() > 1e-3
    # Adam's first steps are all alike in size: where a gradient is but rounding, their signs are too.
    assert ((after - fused).abs() < 1e-4).float().mean() > 0.95
    monkeypatch.setattr(triton, "why_not", lambda: "not today")
    with pytest.raises(
        SpxError, match=r"^fused: expected a GPU that Triton can use, got not today \(leave --fused out\)"
    ):
        Trainer(runs[1], tmp_path / "third", device=DEVICE, progress=False)
