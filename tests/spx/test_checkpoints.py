"""Checkpoints: written whole or not at all, read back the same, refused with a sentence when something is wrong."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import sign, tiny_model, tiny_prior
from safetensors.torch import load_file, save_file

import spx
from spx import checkpoints
from spx.checkpoints import CONFIG, WEIGHTS, load_model, read_checkpoint, save_checkpoint
from spx.evaluation.lenet import load_lenet
from spx.models import registry
from spx.models.spatial import MODEL
from spx.models.spatial.module import SpatialPixelCNN
from spx.models.spatial.prior import prior_of
from spxcore.errors import SpxError

KINDS = {
    "spatial": {},
    "paper": {"conditioning": "paper"},
    "RGB": {"channels": 3},
    "normal prior": {"prior": False},
    "no latent": {"conditioning": "paper", "latent": 0, "coordinates": False},
}


def tiny(kind: str) -> SpatialPixelCNN:
    return tiny_model(**KINDS[kind])


@pytest.fixture
def copy(checkpoint, tmp_path):
    return shutil.copytree(checkpoint, tmp_path / "copy")


def same_weights(a: SpatialPixelCNN, b: SpatialPixelCNN) -> None:
    ours, theirs = a.state_dict(), b.state_dict()
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]) and ours[name].dtype == theirs[name].dtype, name
    assert (a.config, a.about, a.family) == (b.config, b.about, b.family)


@pytest.mark.parametrize("kind", KINDS)
def test_save_and_load(kind, tmp_path):
    model = tiny(kind)
    save_checkpoint(model, tmp_path / "new" / "folder")
    loaded = load_model(tmp_path / "new" / "folder")
    same_weights(model, loaded)
    assert not loaded.training
    assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == [CONFIG, WEIGHTS]
    images = [spx.Model(m).sample(8, n=2, seed=3, engine="torch") for m in (model, loaded)]
    np.testing.assert_array_equal(*images)
    assert images[0].shape == (2, 8, 8, model.network_config.channels)


@pytest.mark.parametrize("kind", [*KINDS, "deep"])
def test_the_tensors_it_must_hold(kind):
    """Names and shapes from the configuration alone are those of the torch model."""
    deep = {"patch": 12, "layers": 3, "maps": 4, "filters": 5, "mixtures": 2}
    model = tiny_model(**deep) if kind == "deep" else tiny(kind)
    assert MODEL.shapes(model.config) == {name: tuple(t.shape) for name, t in model.state_dict().items()}


@pytest.mark.parametrize("kind", KINDS)
def test_hugging_faces_own_methods(kind, tmp_path):
    """save_pretrained and from_pretrained on a local folder, and ours on theirs, whichever way round."""
    model = tiny(kind)
    model.save_pretrained(tmp_path / "a")
    same_weights(model, SpatialPixelCNN.from_pretrained(tmp_path / "a"))
    same_weights(model, load_model(tmp_path / "a"))
    save_checkpoint(model, tmp_path / "b")
    again = SpatialPixelCNN.from_pretrained(str(tmp_path / "b"))
    same_weights(model, again)
    again.save_pretrained(tmp_path / "c")
    same_weights(model, load_model(tmp_path / "c"))


def test_from_pretrained_is_as_strict_as_load(copy):
    tensors = load_file(copy / WEIGHTS)
    tensors.pop("network.nin_out.bias")
    save_file(tensors, copy / WEIGHTS)
    sign(copy)
    with pytest.raises(SpxError, match=r"expected a tensor network\.nin_out\.bias, got none"):
        SpatialPixelCNN.from_pretrained(copy)


def test_a_prior_fitted_later_is_saved(tmp_path):
    model = tiny_model(prior=False)
    model.set_prior(tiny_prior())
    model.save_pretrained(tmp_path / "a")
    loaded = SpatialPixelCNN.from_pretrained(tmp_path / "a")
    assert loaded.components == 3
    for name in ("weights", "classes", "means", "cholesky"):
        np.testing.assert_array_equal(getattr(loaded.prior, name), getattr(tiny_prior(), name))


def test_a_prior_laid_aside_is_not_drawn_from():
    model = tiny_model()
    fitted = prior_of(model.checkpoint())
    model.components = 0
    assert (fitted.kind, prior_of(model.checkpoint()).kind, model.prior.kind) == ("mixture", "normal", "normal")


def test_overwriting_a_checkpoint(copy):
    other = tiny_model(seed=1)
    save_checkpoint(other, copy)
    same_weights(other, load_model(copy))


def test_config_is_plain_json(checkpoint):
    config = json.loads((checkpoint / CONFIG).read_text())
    assert config["network"]["patch"] == 8 and config["network"]["sizes"] == [28, 1400]
    assert config["vae"]["latent"] == 5 and config["components"] == 3


def test_a_checkpoint_says_its_family(checkpoint, copy):
    """One that says none, as the first ones, is of the first family; one of a family that is not there is refused."""
    config = json.loads((checkpoint / CONFIG).read_text())
    assert config.pop("family") == "spatial"
    (copy / CONFIG).write_text(json.dumps(config))
    assert read_checkpoint(copy).family == "spatial"
    same_weights(load_model(copy), load_model(checkpoint))
    (copy / CONFIG).write_text(json.dumps({**config, "family": "none-such"}))
    known = " or ".join(registry.names())
    refused(copy, rf"config\.json: not a model .family: expected {known}, got 'none-such'")


def test_about_is_kept(tmp_path):
    model = tiny_model()
    model.about = {"data": "bars", "recipe": {"steps": 3}}
    save_checkpoint(model, tmp_path / "a")
    assert load_model(tmp_path / "a").about == read_checkpoint(tmp_path / "a").about == model.about


def test_no_pickle_is_read(copy, tmp_path):
    """A folder with a pickle in place of the safetensors is refused, and the pickle not opened."""
    (copy / WEIGHTS).unlink()

    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    torch.save({"a": Trap()}, copy / "pytorch_model.bin")
    for load in (load_model, SpatialPixelCNN.from_pretrained):
        with pytest.raises(SpxError, match=r"expected model\.safetensors beside config\.json, got none"):
            load(copy)
    torch.save({"a": Trap()}, copy / WEIGHTS)
    with pytest.raises(SpxError, match=r"model\.safetensors: damaged"):
        load_model(copy)
    assert not (tmp_path / "sprung").exists()


def refused(folder, message: str) -> None:
    with pytest.raises(SpxError, match=message) as caught:
        spx.load(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("keep", [0, 4, 100, 5000, -1])
def test_truncated_weights(copy, keep):
    raw = (copy / WEIGHTS).read_bytes()
    (copy / WEIGHTS).write_bytes(raw[:keep])
    refused(copy, r"model\.safetensors: damaged \(its SHA-256 .*; fetch the checkpoint again")
    sign(copy)
    refused(copy, r"model\.safetensors: damaged \(.*; fetch the checkpoint again$")


def test_weights_that_are_text(copy):
    (copy / WEIGHTS).write_text("<html>not found</html>" * 100)
    refused(copy, r"model\.safetensors: damaged")


def edited(folder, edit) -> None:
    tensors = load_file(folder / WEIGHTS)
    edit(tensors)
    save_file(tensors, folder / WEIGHTS)
    sign(folder)


def test_wrong_shape(copy):
    edited(copy, lambda t: t.update({"network.nin_out.bias": torch.zeros(7)}))
    refused(copy, r"network\.nin_out\.bias: expected shape \(9,\), got \(7,\)")


def test_missing_tensor(copy):
    edited(copy, lambda t: t.pop("maps.code.g"))
    refused(copy, r"expected a tensor maps\.code\.g, got none")


def test_surplus_tensor(copy):
    edited(copy, lambda t: t.update(extra=torch.zeros(1)))
    refused(copy, "expected only the network's tensors, got also extra")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["network.u_in.v", "prior_cholesky"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_weights_that_are_no_numbers(copy, name, value, dtype):
    edited(copy, lambda t: t.update({name: torch.full_like(t[name], value, dtype=dtype)}))
    refused(copy, rf"{name}: expected finite numbers of float32, got NaN or infinity")


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_weights_of_other_precisions(copy, dtype):
    edited(copy, lambda t: t.update({n: v.to(dtype) for n, v in t.items() if v.is_floating_point()}))
    model = load_model(copy)
    assert model.network.nin_out.bias.dtype == torch.float32
    torch.testing.assert_close(model.network.nin_out.bias, tiny_model().network.nin_out.bias, rtol=1e-2, atol=1e-3)


def test_weights_of_a_type_numpy_lacks(copy):
    edited(copy, lambda t: t.update({"network.u_in.v": t["network.u_in.v"].bfloat16()}))
    refused(copy, "expected tensors of NumPy's types, got another .*BF16.*; save it in float32")


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", '"text"', "{}", '{"network": 5', "\xff\xfe"])
def test_bad_json(copy, text):
    (copy / CONFIG).write_text(text, encoding="latin-1")
    refused(copy, r"config\.json: (cannot be read|expected an object|not a model)")


@pytest.mark.parametrize(
    "change",
    [
        {"network": {"patchsize": 8}},
        {"network": 5},
        {"network": {"patch": "8"}},
        {"network": {"filters": 2.5}},
        {"network": {"sizes": 3}},
        {"vae": {"hidden": 1}},
        {"vae": 3},
        {"components": -1},
        {"components": 1.5},
        {"vae": {"latent": 6}},
        {"vae": {"channels": 3}},
        {"vae": {"filters": [4, "4", 8]}},
        {"components": "three"},
        {"network": {"patch": 6}},
        {"network": {"conditioning": "other"}},
        {"vae": None},
        {"surprise": 1},
    ],
    ids=str,
)
def test_config_with_a_wrong_field(copy, change):
    config = json.loads((copy / CONFIG).read_text())
    for name, value in change.items():
        config[name] = {**config[name], **value} if isinstance(value, dict) else value
    (copy / CONFIG).write_text(json.dumps(config))
    refused(copy, r"config\.json: ")


def test_config_of_another_network(copy):
    config = json.loads((copy / CONFIG).read_text())
    config["network"]["filters"] += 1
    (copy / CONFIG).write_text(json.dumps(config))
    refused(copy, "do not belong together")


def test_no_config(copy):
    (copy / CONFIG).unlink()
    refused(copy, "got a folder without config.json")


def test_unknown_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("mnist-9x9", "./none", "/none/such", "a/b/c"):
        with pytest.raises(
            SpxError, match=rf"^checkpoint: expected one of .*, a folder, or a hub name owner/name, got '{name}'"
        ):
            load_model(name)


def test_hub_names(checkpoint, monkeypatch):
    """A hub name is fetched, whole and by name; what the hub says goes into the sentence."""
    asked = []

    def fetch(name, revision, allow_patterns):
        asked.append((name, revision, allow_patterns))
        return str(checkpoint)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    same_weights(load_model("owner/name"), tiny_model())
    same_weights(load_model("owner/name@v1.2"), tiny_model())
    assert asked == [("owner/name", None, [CONFIG, WEIGHTS]), ("owner/name", "v1.2", [CONFIG, WEIGHTS])]

    def fail(name, revision, allow_patterns):
        raise OSError("no network\nand more")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(
        SpxError,
        match=r"^checkpoint: owner/name is no folder here, and the Hugging Face hub gave none .OSError: no network.$",
    ):
        load_model("owner/name")


@pytest.mark.parametrize("existing", [False, True])
def test_a_failed_write_leaves_what_was_there(checkpoint, tmp_path, monkeypatch, existing):
    folder = tmp_path / "run"
    if existing:
        shutil.copytree(checkpoint, folder)

    def half(path, raw):
        with open(path, "wb") as file:
            file.write(raw[:4])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(SpxError, match=r"cannot be written .No space left on device.; choose another folder"):
        save_checkpoint(tiny_model(seed=1), folder)
    assert sorted(p.name for p in folder.iterdir()) == ([CONFIG, WEIGHTS] if existing else [])
    if existing:
        same_weights(load_model(folder), tiny_model())


@pytest.mark.parametrize("existing", [False, True])
def test_a_folder_that_cannot_be(tmp_path, existing):
    (tmp_path / "file").write_text("")
    with pytest.raises(SpxError, match=r"cannot be written"):
        save_checkpoint(tiny_model(), tmp_path / "file" if existing else tmp_path / "file" / "below")


@pytest.mark.skipif(not checkpoints.shipped(), reason="no checkpoint is shipped yet")
def test_shipped_checkpoints_load():
    for name in checkpoints.shipped():
        model = spx.load(name)
        assert model.sample(8, n=1, engine="torch").shape == (1, 8, 8, 1)
    assert spx.load("mnist-8x8").module.prior.kind == "mixture"


def test_the_shipped_pixelcnnpp_draws_the_class_that_is_asked_for():
    """And the pixels that the naive loop drew: `spx-sample --checkpoint pixelcnnpp-mnist --n 2 --seed 5 --engine reference --json`."""
    sampler = spx.load("pixelcnnpp-mnist")
    found = [hashlib.sha256(image.tobytes()).hexdigest()[:16] for image in sampler.sample(n=2, seed=5)]
    assert found == ["f8b694dfd99db08f", "1e1281a48a90a6d2"]
    classifier = load_lenet()
    for digit in (3, 8):
        images = sampler.sample(n=30, seed=1, digit=digit)
        probabilities = classifier.probabilities(images)
        assert (np.asarray(probabilities).argmax(axis=1) == digit).mean() > 0.8
