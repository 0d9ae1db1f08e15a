"""The networks of a whole image as plans: against PyTorch, on every executor, and what the native module refuses."""

import dataclasses

import numpy as np
import pytest
import torch
from helpers import close, digits, double, flat, tiny_model

import spx
from spx import image_networks
from spx.checkpoints import Checkpoint
from spx.config import VAEConfig
from spx.feature_maps import FeatureMaps
from spx.image_networks import ImageNetworks, decoder_plan, encoder_plan, map_plan
from spx.patches import to_unit
from spx.resize import resize
from spx.vae import VAE, mean_image
from spxcore import engines, native
from spxcore.engines.image_network import ImageNetwork
from spxcore.plan import execute
from spxcore.plan.program import full_program, tables
from spxcore.plan.summary import image_summary

needs_native = pytest.mark.skipif(not native.have_native(), reason=native.why_no_native() or "built")
ALL_SETS = ("avx512", "avx2", "portable")
HERE = native.native().instruction_sets() if native.have_native() else []

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
        for name, p in module.named_parameters():
            mean, deviation = {"g": (1.0, 0.3), "bias": (0.0, 0.2)}.get(name.rsplit(".", 1)[-1], (0.0, 0.3))
            p.copy_(mean + deviation * torch.randn(p.shape, generator=g))
    return module.eval()


def tensors(module: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: t.numpy() for name, t in module.state_dict().items()}


def cases(name: str, batch: int):
    """Of the encoder, the decoder and the maps of a VAE: plan, inputs, z, and what torch computes."""
    config = VAEConfig(**VAES[name])
    vae, maps = spread(VAE(config)), spread(FeatureMaps(config, 7), 1)
    g = torch.Generator().manual_seed(2)
    x = torch.rand(batch, config.channels, config.size, config.size, generator=g) * 2 - 1
    z = torch.randn(batch, config.latent, generator=g)
    with torch.no_grad():
        mean, log_variance = vae.encoder(x)
        params, s = vae.decoder(z), maps(z, x)
        assert log_variance.min() > -12 and log_variance.max() < 4  # its bounds do not belong to the plan
    code = z.numpy()[:, None]
    return {
        "encoder": (
            encoder_plan(tensors(vae.encoder), config), {"x": flat(x)}, None, torch.cat([mean, log_variance], 1).numpy()[:, None],
        ),
        "decoder": (decoder_plan(tensors(vae.decoder), config), {"z": code}, z.numpy(), flat(params)),
        "maps": (map_plan(tensors(maps), config), {"z": code, "image": flat(x)}, None, flat(s)),
    }  # fmt: skip


@pytest.mark.parametrize("name", VAES)
def test_executed_in_numpy_they_are_the_networks(name):
    for plan, inputs, z, expected in cases(name, batch=2).values():
        got = execute(plan, double(inputs), z)[plan.output]
        assert close(got, expected, 1e-5), plan.about  # measured: 2e-7 to 5e-7


@needs_native
@pytest.mark.parametrize("isa", ALL_SETS)
@pytest.mark.parametrize("name", VAES)
def test_on_the_kernels_they_are_the_networks(name, isa):
    """Against NumPy, and the same bits one image at a time, side by side, and on any number of threads."""
    if isa not in HERE:
        pytest.skip(f"this machine has no {isa}")
    for plan, inputs, z, _ in cases(name, batch=19).values():
        network, given = ImageNetwork(plan, isa), [inputs[name] for name in plan.inputs]
        few = {name: value[:2] for name, value in inputs.items()}
        expected = execute(plan, double(few), None if z is None else z[:2])[plan.output]
        got = network(*given, z=z, narrow=False, threads=1)
        assert close(got[:2], expected, 1e-5), plan.about  # measured: 1e-7 to 9e-7
        np.testing.assert_array_equal(network(*given, z=z, narrow=True, threads=2), got)
        np.testing.assert_array_equal(network(*given, z=z, threads=7), got)
        alone = network(*(value[4:5] for value in given), z=None if z is None else z[4:5])
        np.testing.assert_array_equal(alone, got[4:5])


@pytest.mark.parametrize("channels", [1, 3])
def test_mean_image(channels):
    params = torch.randn(4, 30, 6, 6) * 3
    expected = flat(mean_image(params, channels))
    np.testing.assert_allclose(image_networks.mean_image(flat(params), channels), expected, atol=1e-6)


@pytest.mark.parametrize(
    "size", [(28, 28), (14, 14), (56, 56), (40, 90), (29, 28), (7, 300), (1, 1), (2, 3), (700, 333)]
)
@pytest.mark.parametrize("to", [8, 28])
def test_resize_is_torchs(size, to):
    """Training resamples with torch, drawing in NumPy."""
    x = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    x[0] = x[0].sign()  # bicubic weights go below 0: its values are cut off at the ends
    expected = VAE(VAEConfig(size=to, channels=3, filters=(1, 1, 1))).resample(x).permute(0, 2, 3, 1)
    got = resize(np.ascontiguousarray(x.permute(0, 2, 3, 1)), to)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected.numpy(), atol=1e-5)  # measured: up to 3e-6
    if size == (to, to):
        np.testing.assert_array_equal(got, expected.numpy())


@needs_native
@pytest.mark.parametrize("channels", [1, 3])
def test_a_models_codes_and_maps_are_those_of_torch(channels):
    model = tiny_model(channels=channels)
    drawer, images = spx.Model(model), digits(5, channels=channels)[0].reshape(5, 28, 28, channels)
    large = images.repeat(2, axis=1).repeat(3, axis=2)
    with torch.no_grad():
        for given in (images, large):
            x = to_unit(torch.from_numpy(given).permute(0, 3, 1, 2))
            expected = model.vae.encode(x)[0]
            assert close(drawer.encode(given), expected.numpy(), 1e-5)
            np.testing.assert_array_equal(drawer.encode(given[3:4])[0], drawer.encode(given)[3])
        assert close(drawer.feature_maps(expected.numpy()), model.image_maps(expected).numpy(), 1e-5)


@needs_native
def test_without_the_native_module_torch_computes_them(monkeypatch):
    with_plans = spx.Model(tiny_model())
    monkeypatch.setattr(native, "have_native", lambda: False)
    without = spx.Model(tiny_model())
    images = digits(2)[0][..., None]
    codes = without.encode(images)
    assert close(with_plans.encode(images), codes, 1e-5)
    assert close(with_plans.feature_maps(codes), without.feature_maps(codes), 1e-5)


@needs_native
def test_every_engine_is_told_the_same():
    """Codes and maps of a job, to the bit: only the drawing differs between engines."""
    model = spx.Model(tiny_model())
    jobs = []

    class Recorder:
        name = "recorder"

        def sample(self, weights, job, progress=None, out=None):
            jobs.append(job)
            return engines.get(self.engine).sample(weights, job, progress, out)

    for engine in ("reference", "torch", "cpp"):
        recorder = Recorder()
        recorder.engine = engine
        model.sample(8, n=2, seed=3, engine=recorder)
    for job in jobs[1:]:
        np.testing.assert_array_equal(job.z, jobs[0].z)
        np.testing.assert_array_equal(job.maps, jobs[0].maps)


# ---- figures and refusals --------------------------------------------------------------------------------------------


def test_figures():
    found = image_summary(image_networks.plans(Checkpoint.of(tiny_model())))
    assert [network["name"] for network in found] == ["encoder", "decoder", "maps"]
    for network in found:
        assert network["macs"] == sum(stage["macs"] for stage in network["stages"]) > 0 and network["bytes"] > 0
    plain = tiny_model(conditioning="paper", latent=0, coordinates=False)
    assert image_networks.plans(Checkpoint.of(plain)) == {}


@needs_native
def test_native_arguments_are_checked():
    plan, inputs, z, _ = cases("8x8", batch=2)["decoder"]
    network, code = ImageNetwork(plan), inputs["z"]
    for given, codes, message in (
        ([code[:, :, :3]], z, r"inputs: expected a float32 numpy array \[N, 1, 4\]"),
        ([code[:, 0]], z, "inputs: expected a float32 numpy array"),
        ([code, code], z, "inputs: expected 1 arrays, got 2"),
        ([code], None, "z: expected a float32 numpy array"),
        ([code], z[:1], r"z: expected a float32 numpy array \[2, 4\]"),
    ):
        with pytest.raises(ValueError, match=message):
            network(*given, z=codes)
    assert network(code[:0], z=z[:0]).shape == (0, 64, 3)

    shared, program = tables(plan), full_program(plan, tables(plan))

    def make(program=program, **change):
        arguments = {
            "inputs": np.array([[1, 4]], np.int32), "places": 64, "outputs": 3, "weights": shared.weights, "blocks": shared.blocks,
            "bias": shared.bias, "latent": shared.latent, "program": program,
        }  # fmt: skip
        return native.native().ImageNetwork(**{**arguments, **change})

    make()
    for change, message in (
        ({"inputs": np.zeros((0, 2), np.int32)}, "inputs: expected at least one"),
        ({"inputs": np.array([[1, 0]], np.int32)}, "inputs: expected 1 to"),
        ({"inputs": np.array([[1, 1 << 19]], np.int32)}, "pixels, row: expected"),
        ({"places": 0}, "places and outputs: expected 1 to"),
        ({"places": 63}, "targets: expected 0 to 62, got 63"),
        ({"outputs": 1 << 19}, "params: expected"),
        ({"program": dataclasses.replace(program, pixels=program.pixels + 1)}, "pixels, place: expected 0 to 0, got 1"),
        (
            {"program": dataclasses.replace(program, conditioning=np.zeros((1, 3), np.int32))},
            "conditioning, resolution: expected",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            make(**change)


@needs_native
def test_networks_are_compiled_once_and_only_when_used():
    networks = ImageNetworks(Checkpoint.of(tiny_model()))
    assert not any(isinstance(part, ImageNetwork) for part in vars(networks).values())
    networks.encode(digits(1)[0][..., None])
    (first,) = (part for part in vars(networks).values() if isinstance(part, ImageNetwork))
    networks.encode(digits(1)[0][..., None])
    assert [part for part in vars(networks).values() if isinstance(part, ImageNetwork)] == [first]
