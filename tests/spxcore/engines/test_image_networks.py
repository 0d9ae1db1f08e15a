"""The networks of a whole image: the VAE's and the feature maps, by torch, by the plan's meaning, and on every engine."""

import functools

import numpy as np
import pytest
import torch
from helpers import close, digits, double, flat, tiny_model

import spx
from spx.io.resize import resize
from spx.models.spatial import MODEL, drawing, network
from spx.models.spatial.config import VAEConfig
from spx.models.spatial.module import VAE
from spx.models.spatial.vae import mean_image, posterior, to_unit
from spxcore import Network, engines, native
from spxcore.lower.summary import image_summary
from spxcore.plan import execute, plan_at
from spxcore.walk.module import Module

needs_native = pytest.mark.skipif(not native.have_native(), reason=native.why_no_native() or "built")

VAES = {
    "8x8": {"size": 8, "filters": (3, 4, 5), "mixtures": 1, "latent": 4},
    "12x12 rgb": {"size": 12, "channels": 3, "filters": (4, 6, 8), "mixtures": 2, "latent": 5},
    "16x16, three layers": {"size": 16, "filters": (17, 6, 4), "layers": 3, "mixtures": 3, "latent": 1},
    "28x28": {"filters": (5, 6, 8), "mixtures": 2, "latent": 7},
    "28x28 rgb": {"channels": 3, "filters": (4, 4, 8), "mixtures": 2, "latent": 7},
}


def spread(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """The module with every weight drawn anew, nothing at its neutral value."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in sorted(module.named_parameters()):
            mean, deviation = {"g": (1.0, 0.3), "bias": (0.0, 0.2)}.get(name.rsplit(".", 1)[-1], (0.0, 0.3))
            p.copy_(mean + deviation * torch.randn(p.shape, generator=g))
    return module.eval()


def cases(name: str, batch: int):
    """Of the encoder, the decoder and the maps of a VAE: network, inputs, code, and what torch computes."""
    config = VAEConfig(**VAES[name])
    vae = spread(VAE(config))
    maps = spread(Module(functools.partial(network.maps, c=config, count=7)), 1)
    g = torch.Generator().manual_seed(2)
    x = torch.rand(batch, config.channels, config.size, config.size, generator=g) * 2 - 1
    z = torch.randn(batch, config.latent, generator=g)
    with torch.no_grad():
        encoded, params, s = vae.encoder({"x": x}), vae.decoder({}, z), maps({"image": x}, z)
    return {
        "encoder": (Network.of(vae.encoder), {"x": flat(x)}, None, flat(encoded)),
        "decoder": (Network.of(vae.decoder), {}, z.numpy(), flat(params)),
        "maps": (Network.of(maps), {"image": flat(x)}, z.numpy(), flat(s)),
    }


@pytest.mark.parametrize("name", VAES)
def test_executed_in_numpy_they_are_the_networks(name):
    size = VAEConfig(**VAES[name]).size
    for what, (of, inputs, code, expected) in cases(name, batch=2).items():
        plan = plan_at(of.graph, size, size)
        given = double(inputs) | ({} if code is None else {"z": code[:, None].astype(np.float64)})
        got = execute(plan, {name: given[name] for name in plan.inputs}, code)[plan.output]
        assert close(got, expected, 1e-5), what  # measured: 2e-7 to 5e-7


@pytest.mark.parametrize("engine", ["cpp", "torch"])
@pytest.mark.parametrize("name", VAES)
def test_engines_evaluate_them(name, engine):
    """And cpp gives the same bits whatever the batch and the number of threads."""
    if engines.why_not(engine):
        pytest.skip(engines.why_not(engine))
    size = VAEConfig(**VAES[name]).size
    for what, (of, inputs, code, expected) in cases(name, batch=19).items():
        got = engines.get(engine, threads=1).evaluate(of, size, size, inputs, code)
        assert close(got, expected, 1e-5), what  # measured: 1e-7 to 9e-7
        if engine == "cpp":
            again = engines.get(engine, threads=7).evaluate(of, size, size, inputs, code)
            np.testing.assert_array_equal(again, got)
            one = {name: value[4:5] for name, value in inputs.items()}
            alone = engines.get(engine, threads=2).evaluate(of, size, size, one, None if code is None else code[4:5])
            np.testing.assert_array_equal(alone, got[4:5])


@pytest.mark.parametrize("channels", [1, 3])
def test_mean_image(channels):
    """NumPy's and torch's are the same, and the mean of each pixel's mixture."""
    params = torch.randn(4, 30, 6, 6) * 3
    got = mean_image(flat(params).reshape(-1, 30), channels).reshape(4, 36, channels)
    np.testing.assert_allclose(got, flat(mean_image(params, channels, torch)), atol=1e-6)
    k = 30 // (3 if channels == 1 else 10)
    one = params[0, :, 2, 3].double()
    weights, before = one[:k].softmax(0), []
    for c in range(channels):
        means = one[k * (1 + c) : k * (2 + c)].clone()
        for i, earlier in enumerate(before):  # green sees red; blue sees red and green
            means += one[k * (6 + c + i) : k * (7 + c + i)].tanh() * earlier
        before.append(means.clamp(-1, 1))
        assert got[0, 2 * 6 + 3, c] == pytest.approx(float((weights * before[-1]).sum()), abs=1e-6)


def test_q_is_bounded():
    encoded = np.float32([[1, 2, -1e4, 1e4], [3, 4, -2, 2]])
    for mean, log_variance in (posterior(encoded), map(np.asarray, posterior(torch.from_numpy(encoded)))):
        np.testing.assert_array_equal(mean, [[1, 2], [3, 4]])
        np.testing.assert_array_equal(log_variance, [[-12, 4], [-2, 2]])


@pytest.mark.parametrize(
    "size", [(28, 28), (14, 14), (56, 56), (40, 90), (29, 28), (7, 300), (1, 1), (2, 3), (700, 333)]
)
@pytest.mark.parametrize("to", [8, 28])
def test_resize_is_torchs(size, to):
    """Against torch's own bicubic resampling; of an array and of a tensor."""
    x = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    x[0] = x[0].sign()  # bicubic weights go below 0: its values are cut off at the ends
    expected = torch.nn.functional.interpolate(x, (to, to), mode="bicubic", antialias=True).clamp(-1, 1)
    for got in (resize(x.numpy(), to), resize(x, to).numpy()):
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, x if size == (to, to) else expected, atol=1e-5)  # measured: up to 3e-6


@pytest.mark.parametrize("channels", [1, 3])
def test_a_models_codes_and_maps_are_those_of_torch(channels):
    model = tiny_model(channels=channels)
    drawer, images = spx.Sampler(model), digits(5, channels=channels)[0].reshape(5, 28, 28, channels)
    large = images.repeat(2, axis=1).repeat(3, axis=2)
    with torch.no_grad():
        for given in (images, large):
            x = to_unit(torch.from_numpy(given).permute(0, 3, 1, 2))
            expected = model.vae.encode(x)[0]
            assert close(drawer.encode(given), expected.numpy(), 1e-5)
            assert close(drawer.encode(given[3:4])[0], drawer.encode(given)[3], 1e-5)
        maps = drawing.feature_maps(drawer.checkpoint, expected.numpy(), engines.evaluate)
        assert close(maps, model.image_maps(expected).numpy(), 1e-5)


@needs_native
def test_without_the_native_module_torch_computes_them(monkeypatch):
    model, images = spx.Sampler(tiny_model()), digits(2)[0][..., None]
    codes = model.encode(images)
    maps = drawing.feature_maps(model.checkpoint, codes, engines.evaluate)
    monkeypatch.setattr(engines, "why_not", lambda name: "not today" if name == "cpp" else None)
    assert close(model.encode(images), codes, 1e-5)
    assert close(drawing.feature_maps(model.checkpoint, codes, engines.evaluate), maps, 1e-5)


def test_every_engine_is_told_the_same():
    """Codes and maps of a job, to the bit: only the drawing differs between engines."""
    model, jobs = spx.Sampler(tiny_model()), []

    class Recorder:
        name = "recorder"

        def __init__(self, engine):
            self.engine = engines.get(engine)

        def why_not(self, job):
            return None

        def draw(self, job, canvas, report=None):
            jobs.append(job)
            self.engine.draw(job, canvas, report)

    names = [name for name in ("reference", "torch", "cpp") if engines.why_not(name) is None]
    for name in names:
        model.sample(8, n=2, seed=3, engine=Recorder(name))
    assert len(jobs) == len(names)
    for job in jobs[1:]:
        np.testing.assert_array_equal(job.code, jobs[0].code)
        np.testing.assert_array_equal(job.feeds["places.0"].maps, jobs[0].feeds["places.0"].maps)


def test_figures():
    checkpoint = tiny_model().checkpoint()
    plans = {
        name: plan_at(of.graph, *[MODEL.side(checkpoint.config, name)] * 2)
        for name, of in checkpoint.networks.items()
        if not of.graph.drawn
    }
    found = image_summary(plans)
    assert [network["name"] for network in found] == ["vae.encoder", "vae.decoder", "maps"]
    for figures in found:
        assert figures["macs"] == sum(stage["macs"] for stage in figures["stages"]) > 0
        # Held at least: one number of each value's places that is not an input.
        assert figures["bytes"] >= 4 * plans[figures["name"]].values[plans[figures["name"]].output].channels
    plain = tiny_model(conditioning="paper", latent=0, coordinates=False).checkpoint()
    assert list(plain.networks) == ["network"]


def test_a_network_is_the_same_whenever_it_is_asked_for():
    """So engines compile it once."""
    checkpoint = tiny_model().checkpoint()
    assert all(checkpoint.networks[name] is checkpoint.networks[name] for name in MODEL.networks(checkpoint.config))
