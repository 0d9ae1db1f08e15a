"""Checkpoints that are damaged, replaced while they are read, or made to do harm: one test a kind of fault."""

import json
import shutil
import struct
import threading
import time

import numpy as np
import pytest
from helpers import sign, tiny_model
from safetensors.numpy import load_file, save_file

from spx.checkpoints import SHIPPED, read_checkpoint, resolve, save_checkpoint, shipped
from spx.evaluation.lenet import LeNet, load_lenet, save_lenet
from spx.io import tensors
from spx.models.spatial.config import preset
from spxcore.errors import SpxError


@pytest.fixture
def copy(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(tensors, "_WAITS", ())
    return shutil.copytree(checkpoint, tmp_path / "copy")


def refused(folder, message: str) -> None:
    began = time.monotonic()
    with pytest.raises(SpxError, match=message) as caught:
        read_checkpoint(folder)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000
    assert time.monotonic() - began < 10


def change(folder, **replaced) -> None:
    found = load_file(folder / "model.safetensors")
    save_file({**found, **{name.replace("__", "."): t for name, t in replaced.items()}}, folder / "model.safetensors")
    sign(folder)


@pytest.mark.fault("wrong", "weights of another kind of numbers, or infinite once they are float32")
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("network.u_in.v", np.int32, "expected floating-point numbers, got int32"),
        ("network.u_in.v", np.uint8, "expected floating-point numbers, got uint8"),
        ("network.u_in.v", np.bool_, "expected floating-point numbers, got bool"),
        ("network.u_in.v", np.complex64, "expected floating-point numbers, got complex64"),
        ("network.u_in.v", 1e39, "expected finite numbers of float32, got NaN or infinity"),
        ("network.u_in.v", -1e300, "expected finite numbers of float32, got NaN or infinity"),
        ("prior_weights", np.int64, "expected floating-point numbers, got int64"),
        ("prior_classes", np.float32, "expected whole numbers, got float32"),
        ("prior_classes", np.bool_, "expected whole numbers, got bool"),
        ("prior_classes", 2**63 + 1, "expected numbers of 64 bits, got larger ones"),
    ],
)
def test_kinds_of_numbers(copy, name, value, message):
    old = load_file(copy / "model.safetensors")[name]
    kind = value if isinstance(value, type) else np.uint64 if isinstance(value, int) else np.float64
    new = old.astype(kind) if isinstance(value, type) else np.full(old.shape, value, kind)
    change(copy, **{name.replace(".", "__"): new})
    refused(copy, message)


@pytest.mark.fault("wrong", "a byte of the weights that changed")
def test_one_byte(copy):
    path = copy / "model.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-3] ^= 1
    path.write_bytes(raw)
    refused(copy, r"damaged \(its SHA-256 is not the one in config\.json\); .*take weights_sha256 out of config\.json")


@pytest.mark.fault("unseen", "a checkpoint without a checksum")
def test_without_a_checksum(copy, capsys):
    """One of an older version loads, with one line; saved again it has one. Those that are shipped have one."""
    path = copy / "config.json"
    config = json.loads(path.read_text())
    del config["weights_sha256"]
    path.write_text(json.dumps(config))
    found = read_checkpoint(copy)
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.startswith(f"warning: {copy}: config.json has no weights_sha256")
    save_checkpoint(found, copy)
    again = read_checkpoint(copy)
    assert all((again.tensors[name] == tensor).all() for name, tensor in found.tensors.items())
    for name in shipped():
        assert json.loads((SHIPPED / name / "config.json").read_text())["weights_sha256"]
        read_checkpoint(name)
    load_lenet()
    assert capsys.readouterr().err == ""
    for value in (3, "", "0" * 63, ["0" * 64]):
        path.write_text(json.dumps({**config, "weights_sha256": value}))
        refused(copy, "weights_sha256: expected a SHA-256")


@pytest.mark.fault("wrong", "config and weights of two models, while one replaces the other")
def test_replaced_while_it_is_read(tmp_path):
    """Two models of the same shapes are written in turn; a reader gets one or the other whole."""
    folder, made, over = tmp_path / "c", [], threading.Event()
    for seed in (0, 1):
        model = tiny_model(seed=seed)
        model.about = {"seed": seed}
        made.append(model.checkpoint())
    made[0].write(folder)

    def replace():
        turn = 0
        while not over.is_set():
            turn = 1 - turn
            made[turn].write(folder)
            over.wait(0.01)  # a reader gives up after a fifth of a second in which no look finds a pair

    thread, seen = threading.Thread(target=replace), set()
    thread.start()
    try:
        end = time.monotonic() + 60
        while time.monotonic() < end and not (len(seen) == 2 and time.monotonic() > end - 58):
            found = read_checkpoint(folder)
            seed = found.about["seed"]
            seen.add(seed)
            for name, tensor in made[seed].tensors.items():
                np.testing.assert_array_equal(found.tensors[name], tensor)
    finally:
        over.set()
        thread.join()
    assert seen == {0, 1}


@pytest.mark.fault("wrong", "a reader between the two names of a checkpoint that is replaced")
def test_between_the_two_names(checkpoint, tmp_path, monkeypatch):
    """New weights beside the old config: it waits for the new config, and refuses if none comes."""
    folder, new = shutil.copytree(checkpoint, tmp_path / "a"), tmp_path / "b"
    save_checkpoint(tiny_model(seed=1), new)
    shutil.copy(new / "model.safetensors", folder)
    waited = []

    def wait(seconds):
        waited.append(seconds)
        if len(waited) == 3:
            shutil.copy(new / "config.json", folder)

    monkeypatch.setattr(tensors.time, "sleep", wait)
    found = read_checkpoint(folder)
    assert len(waited) == 3
    np.testing.assert_array_equal(found.tensors["network.u_in.v"], read_checkpoint(new).tensors["network.u_in.v"])
    shutil.copy(checkpoint / "config.json", folder)
    refused(folder, "damaged")
    assert len(waited) > 6 and sum(waited[3:]) < 1


@pytest.mark.fault("hang", "sizes of a config.json that take minutes or the memory")
@pytest.mark.parametrize(
    ("at", "value"),
    [
        *(("network", {n: v}) for n in ("patch", "filters", "layers", "mixtures", "latent", "maps") for v in (100_000, 10**18)),
        *(("vae", {n: v}) for n in ("size", "layers", "mixtures", "latent") for v in (100_000, 10**18)),
        ("network", {"sizes": [28, 10**12]}), ("network", {"sizes": [8] * 10_000}), ("vae", {"filters": [10**6] * 3}),
        ("", {"components": 10**9}), ("network", {"filters": 4096, "layers": 64}),
        ("network", {"filters": 4096, "layers": 64, "patch": 256}),
        ("vae", {"size": 4096, "filters": [4096] * 3, "layers": 64}), ("", {"components": 1 << 18}),
    ],
    ids=lambda value: str(value)[:50],
)  # fmt: skip
def test_sizes(copy, at, value):
    config = json.loads((copy / "config.json").read_text())
    (config[at] if at else config).update(value)
    if at and "latent" in value:
        config["network"]["latent"] = config["vae"]["latent"] = value["latent"]
    (copy / "config.json").write_text(json.dumps(config))
    refused(copy, r"config\.json")


@pytest.mark.fault("traceback", "values of odd types in a config.json")
@pytest.mark.parametrize(
    ("at", "fields"),
    [
        ("", {"family": None}), ("", {"family": ["spatial"]}), ("", {"family": "x" * 10_000}), ("", {"about": 3}), ("", {"about": None}),
        ("", {"components": True}), ("", {"contrast": "1"}), ("", {"contrast": True}), ("", {"contrast": -1}), ("", {"vae": [1]}),
        ("network", {"coordinates": 1}), ("network", {"coordinates": "no"}), ("network", {"dropout": "0"}), ("network", {"dropout": None}),
        ("network", {"conditioning": ["spatial"]}), ("network", {"sizes": "28"}), ("network", {"sizes": [28.0, 28]}),
        ("network", {"sizes": None}),
        ("network", {"sizes": [True, 28]}), ("network", {"layers": None}), ("network", {"layers": [[2]]}), ("vae", {"filters": 3}),
        ("vae", {"filters": [4, True, 8]}), ("vae", {"channels": {}}),
    ],
    ids=str,
)  # fmt: skip
def test_odd_types(copy, at, fields):
    config = json.loads((copy / "config.json").read_text())
    (config[at] if at else config).update(fields)
    (copy / "config.json").write_text(json.dumps(config))
    refused(copy, r"config\.json: not a model \(")


def raw_tensors(header: object, body: bytes = b"", size: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + body


@pytest.mark.fault("crash", "headers of safetensors that lie")
@pytest.mark.parametrize(
    "raw",
    [
        raw_tensors({}, size=2**63), raw_tensors({}, size=2**64 - 1), raw_tensors({}, size=10**8), raw_tensors(b"[" * 100_000),
        raw_tensors({"a": {"dtype": "F32", "shape": [2**32, 2**32, 2**32], "data_offsets": [0, 4]}}, b"\0" * 4),
        raw_tensors({"a": {"dtype": "F32", "shape": [2**62], "data_offsets": [0, 0]}}),
        raw_tensors({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, b"\0" * 4),
        raw_tensors({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 2**60]}}, b"\0" * 4),
        raw_tensors({n: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for n in "ab"}, b"\0" * 4),
        raw_tensors({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"\0" * 8),
        raw_tensors({"a": {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}}, b"\0"),
        raw_tensors({"a": {"dtype": "Q4", "shape": [1], "data_offsets": [0, 1]}}, b"\0"), raw_tensors({"a": None}), raw_tensors([]),
        b"", b"\0" * 7, b"\0" * 8, raw_tensors({}),
    ],
    ids=range(18),
)  # fmt: skip
def test_headers(copy, raw):
    (copy / "model.safetensors").write_bytes(raw)
    sign(copy)
    refused(copy, r"model\.safetensors: (damaged|expected)")


@pytest.mark.fault("hang", "weights that are larger than the model")
def test_a_huge_file(copy):
    with open(copy / "model.safetensors", "wb") as file:
        file.truncate(1 << 40)
    refused(copy, r"model\.safetensors: expected at most \d+ bytes, got more")


@pytest.mark.fault("traceback", "a classifier that is damaged or of odd values")
def test_the_lenet(tmp_path, monkeypatch):
    monkeypatch.setattr(tensors, "_WAITS", ())
    model = LeNet(3)
    save_lenet(model, tmp_path, {"data": "none"})
    same = load_lenet(tmp_path).state_dict()
    assert all((same[name] == tensor).all() for name, tensor in model.state_dict().items())
    config = json.loads((tmp_path / "config.json").read_text())
    for value in (None, True, "3", 0, -1, 2.5, [3], 10**9, 10**18, 4):
        (tmp_path / "config.json").write_text(json.dumps({**config, "classes": value}))
        with pytest.raises(SpxError, match=r"classes: expected|shape") as caught:
            load_lenet(tmp_path)
        assert "\n" not in str(caught.value)
    for text in ("", "[]", "{}", '{"network": {}}', "[" * 100_000):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(SpxError, match=r"config\.json"):
            load_lenet(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    raw = bytearray((tmp_path / "model.safetensors").read_bytes())
    raw[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(raw)
    with pytest.raises(SpxError, match="damaged"):
        load_lenet(tmp_path)


@pytest.mark.fault("traceback", "names that are no checkpoint's")
@pytest.mark.parametrize(
    "name", ["", "a" * 5000, "a\0b", "~nobody-of-that-name/x", "a/b@", "a/b@c d", "@x", "a/../b", "a//b"]
)
def test_names(name, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", None)
    with pytest.raises(SpxError, match=r"^checkpoint: expected one of") as caught:
        resolve(name)
    assert len(str(caught.value)) < 500


@pytest.mark.fault("traceback", "what the hub says becomes a sentence")
@pytest.mark.parametrize("error", [OSError(""), ValueError("a\nb"), RuntimeError(), KeyError("x")])
def test_the_hub(monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(SpxError, match=rf"^checkpoint: a/b@v1 is no folder here, .*\({type(error).__name__}") as caught:
        resolve("a/b@v1")
    assert "\n" not in str(caught.value)


@pytest.mark.fault("traceback", "a preset of more digits than Python reads")
def test_a_long_preset():
    with pytest.raises(SpxError, match="preset: expected"):
        preset("small-" + "9" * 5000 + "x" + "9" * 5000)
