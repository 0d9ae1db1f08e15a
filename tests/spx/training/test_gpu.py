"""What a training does on a GPU, as far as it is seen without one: its precision, its operations, its device."""

import contextlib

import numpy as np
import pytest
import torch
from runs import events, settings
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from spx.models.spatial import module, training
from spx.models.spatial.patches import sample_patches
from spx.training.seeds import seed_of
from spx.training.trainer import Trainer
from spxcore.heads import Softmax
from spxcore.heads.log_prob import log_prob
from spxcore.walk.module import Module, _Run

# Without deterministic CUDA kernels by the documentation of `torch.use_deterministic_algorithms` (2.4 to 2.13): it raises.
NEVER = (
    "avg_pool3d_backward", "adaptive_avg_pool2d_backward", "_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward",
    "max_pool3d_with_indices_backward", "adaptive_max_pool2d_backward", "fractional_max_pool2d_backward",
    "fractional_max_pool3d_backward", "max_unpool2d", "max_unpool3d", "upsample_linear1d_backward", "upsample_bilinear2d_backward",
    "upsample_bicubic2d_backward", "_upsample_bilinear2d_aa_backward", "_upsample_bicubic2d_aa_backward",
    "upsample_trilinear3d_backward", "reflection_pad1d_backward", "reflection_pad2d_backward", "reflection_pad3d_backward",
    "replication_pad1d_backward", "replication_pad2d_backward", "replication_pad3d_backward", "nll_loss2d_forward",
    "nll_loss2d_backward", "_ctc_loss_backward", "_embedding_bag", "put", "put_", "histc", "bincount", "kthvalue", "median",
    "grid_sampler_2d_backward", "grid_sampler_3d_backward", "cumsum", "scatter_reduce",
)  # fmt: skip
# Deterministic on a GPU only if asked for, and slower then: sums by atomics. (Convolutions too, by cuDNN's choice.)
ATOMIC = ("index_put", "index_put_", "_index_put_impl_", "scatter_add", "scatter_add_", "index_add", "index_add_",
          "embedding_dense_backward", "gather_backward", "index_backward")  # fmt: skip


class Operations(TorchDispatchMode):
    """The names of the operations that run inside, those of backward passes too."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def only_deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.fault("wrong", "a GPU's training step added by atomics: a run that was stopped went on otherwise")
@pytest.mark.parametrize("mode", ["frozen, spatial", "joint", "no latent", "joint, spatial"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_has_no_sum_by_atomics(mode, precision, data_dir, tmp_path, only_deterministic):
    """All operations of a step of each phase, of the conditioning of every preset; and they may be the only ones allowed."""
    replaced = {"vae": "joint"} if mode == "joint, spatial" else {}
    of = "frozen, spatial" if replaced else mode
    s = settings(of, data_dir, precision=precision, spoilt=0.5 if of == "frozen, spatial" else 0.0, **replaced)
    trainer = Trainer(s, tmp_path / "run", progress=False)
    while True:
        with Operations() as seen:
            trainer._step()
        assert {"convolution_backward", "convolution"} <= seen.names  # what must be there is seen
        assert not seen.names & {*NEVER, *ATOMIC}, (trainer.phase.name, seen.names & {*NEVER, *ATOMIC})
        if trainer.phase_index + 1 == len(trainer.phases):
            break
        trainer._next_phase()


def test_softmax_has_no_sum_by_atomics(only_deterministic):
    """Its likelihood and the gradient of that are cross entropy's."""
    g = torch.Generator().manual_seed(0)
    params, levels = torch.randn(3, 4, 5, 6, generator=g), torch.randint(4, (3, 1, 5, 6), generator=g)
    ours, theirs = params.clone().requires_grad_(), params.clone().requires_grad_()
    with Operations() as seen:
        found = log_prob(Softmax(4), ours, levels)
        found.square().sum().backward()
    assert not seen.names & {*NEVER, *ATOMIC}
    expected = -F.cross_entropy(theirs, levels[:, 0], reduction="none")
    expected.square().sum().backward()
    assert torch.equal(found, expected) and torch.equal(ours.grad, theirs.grad)


@pytest.mark.fault("wrong", "--precision fp32 was TF32 on a GPU")
def test_a_training_is_in_fp32(data_dir, tmp_path, monkeypatch):
    """From the initialisation to the last picture, backward passes too; the log says so, and the caller's flags are back."""

    def flags():
        return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32

    before, seen, conv2d = flags(), [], F.conv2d

    def watched(x, *arguments, **options):
        y = conv2d(x, *arguments, **options)
        seen.append(("forward", flags()))
        if y.requires_grad:
            y.register_hook(lambda g: seen.append(("backward", flags())))
        return y

    monkeypatch.setattr(F, "conv2d", watched)
    s = settings("frozen, spatial", data_dir, validate_every=2, sample_every=4, vae_steps=1, refine=1)
    trainer = Trainer(s, tmp_path / "run", progress=False)
    trainer.training.drawn = lambda **request: np.zeros((8, 28, 28, 1), np.uint8)
    assert flags() == before and seen
    trainer.train()
    assert flags() == before
    assert {how for how, _ in seen} == {"forward", "backward"} and {told for _, told in seen} == {(False, False)}
    (told,) = events(tmp_path / "run", "arithmetic")
    assert told["precision"] == "fp32" and told["tf32"] is False and told["device"] == "cpu"


@pytest.mark.fault("wrong", "bf16 rounded coordinates, the pixels of patches and the targets")
def test_bf16_does_not_round_what_is_not_the_networks(data_dir, tmp_path, monkeypatch):
    """Patches are cut, and what a network is told is computed, in fp32; the network's layers in bf16."""
    seen = {"patches": [], "told": [], "conv": []}

    def patches_(*arguments, **options):
        seen["patches"].append(torch.is_autocast_enabled("cpu"))
        return sample_patches(*arguments, **options)

    told, of_places = module.told_places, _Run.told

    def places(*arguments):
        result = told(*arguments)
        seen["told"] += [(torch.is_autocast_enabled("cpu"), t.dtype) for t in result]
        return result

    def h(self, *arguments, **options):
        result = of_places(self, *arguments, **options)
        seen["conv"] += [t.dtype for t in result]
        return result

    monkeypatch.setattr(training, "sample_patches", patches_)
    monkeypatch.setattr(module, "told_places", places)
    monkeypatch.setattr(_Run, "told", h)
    s = settings("frozen, spatial", data_dir, precision="bf16", vae="joint", targets="decoded")
    trainer = Trainer(s, tmp_path / "run", progress=False)
    layers = set()
    first = next(m for name, m in trainer.module.network.named_modules() if name.endswith("conv_in"))
    first.register_forward_hook(lambda m, x, y: layers.add(y.dtype))
    for kept in seen.values():
        kept.clear()
    trainer._step()
    assert layers == {torch.bfloat16}
    assert seen["patches"] == [False] and set(seen["told"]) == {(False, torch.float32)}
    assert set(seen["conv"]) == {torch.float32}


def test_columns_of_a_large_image_are_told_apart_in_bf16():
    """The eight columns of a window at 1400 pixels: what a layer is told of each is another number."""

    def walk(net):
        (h,) = net.told("told", 1, 2, places=net.input("places", 1))
        return h

    net = Module(walk)
    x = torch.linspace(-1, 1, 1400)[1392:]
    assert len(x.bfloat16().unique()) < 8
    with torch.autocast("cpu", torch.bfloat16):
        found = net({"places": x.view(1, 1, 1, 8)})
    assert found.dtype == torch.float32 and all(len(h.unique()) == 8 for h in found[0])


def test_a_target_of_another_size_is_not_rounded():
    """The VAE's image where its side is not the data's: bf16 has 8 bits, and there are 256 levels."""
    from spx.models.spatial.config import VAEConfig

    vae, x = (
        module.VAE(VAEConfig(size=8, latent=2)),
        torch.rand(2, 1, 10, 10, generator=torch.Generator().manual_seed(0)),
    )
    with torch.autocast("cpu", torch.bfloat16):
        found = vae.resample(x)
    assert torch.equal(found, vae.resample(x))


@pytest.mark.fault("wrong", "pictures of a training on one device were drawn on another")
def test_pictures_are_drawn_where_it_trains(data_dir, tmp_path, monkeypatch):
    """On a machine with two GPUs a training on the CPU touches neither; without the native module too."""
    from spxcore import engines

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    asked, get = [], engines.get

    def watched(name="auto", job=None, **options):
        asked.append((name, options.get("device")))
        return get(name, job, **options)

    monkeypatch.setattr(engines, "get", watched)
    monkeypatch.setattr(engines, "evaluate", None)  # no engine of its own choice
    trainer = Trainer(settings("joint", data_dir), tmp_path / "run", progress=False)
    trainer.training.images = trainer.training.images[:, :, :4, :4]  # small pictures
    with trainer._evaluating():
        again = trainer.training.drawn(source=trainer.training.originals())
    assert again.shape == (8, 4, 4, 1) and asked == [("torch", "cpu")]


def test_the_chosen_gpu_is_the_current_one(data_dir, tmp_path, monkeypatch):
    """Triton's kernels and libraries run on the current device."""
    inside = []

    @contextlib.contextmanager
    def device(which):
        inside.append(which)
        yield
        inside.pop()

    trainer = Trainer(settings("no latent", data_dir), tmp_path / "run", progress=False)
    monkeypatch.setattr(torch.cuda, "device", device)
    with trainer._arithmetic():
        assert inside == []
    trainer.device = torch.device("cuda:1")
    with trainer._arithmetic():
        assert inside == [torch.device("cuda:1")] and torch.are_deterministic_algorithms_enabled()
    assert inside == [] and not torch.are_deterministic_algorithms_enabled()


def test_an_epochs_order_is_sent_once(data_dir, tmp_path):
    order = Trainer(settings("no latent", data_dir), tmp_path / "run", progress=False).order
    order.device = "meta"  # stands for a GPU
    steps = [order.images("one", step, 4) for step in range(2)]
    assert steps[0].is_meta and steps[0].untyped_storage()._cdata == steps[1].untyped_storage()._cdata
    order.device = "cpu"
    expected = np.random.default_rng(seed_of(order.seed, "other", 0)).permutation(order.count)
    assert (order.images("other", 1, 4).numpy() == expected[4:8]).all()
