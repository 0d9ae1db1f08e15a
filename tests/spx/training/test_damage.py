"""Runs whose files were damaged or changed, or whose data are others: refused with a sentence, or gone on as they were."""

import json
import shutil

import numpy as np
import pytest
from helpers import digits, write_dataset, write_idx
from runs import refused, result, run, settings, states
from safetensors.torch import load_file, save_file

from spx.cli.train import main
from spx.training.run_folder import fingerprint
from spx.training.trainer import images_of
from spxcore.errors import SpxError


@pytest.fixture(scope="module")
def begun(data_dir, tmp_path_factory):
    """A run stopped after its second step."""
    folder = tmp_path_factory.mktemp("damage") / "run"
    run(settings("no latent", data_dir), folder, stop_at=2)
    return folder


@pytest.fixture
def copy(begun, tmp_path):
    return shutil.copytree(begun, tmp_path / "run")


@pytest.mark.fault("wrong", "--resume with other data")
def test_other_data(copy, data_dir, tmp_path, capsys):
    """One pixel, one label, one image more, or other images: the same folder moved is gone on with."""
    before = states(copy)
    for change in ("pixel", "label", "count", "all"):
        folder = write_dataset(tmp_path / change, train=65 if change == "count" else 64)
        images, labels = digits(64, seed=0)
        if change == "pixel":
            images[5, 0, 0] ^= 1
        elif change == "label":
            labels[5] ^= 1
        elif change == "all":
            images = images[::-1]
        if change != "count":
            write_idx(folder / "train-images-idx3-ubyte.gz", images)
            write_idx(folder / "train-labels-idx1-ubyte", labels)
        refused(capsys, ["--out", copy, "--resume", f"--data-dir={folder}"], f"as the run in {copy} was started")
    assert states(copy) == before
    moved = shutil.copytree(data_dir, tmp_path / "moved")
    assert main(["--quiet", "--out", str(copy), "--resume", f"--data-dir={moved}"]) == 0


@pytest.mark.fault("unseen", "an old run says that its data cannot be compared, and goes on")
def test_an_old_run(copy, data_dir, uninterrupted, capsys):
    (copy / "data.json").unlink()
    for name in states(copy):  # an old state has no checksum
        path = copy / name / "state.safetensors"
        save_file(load_file(path), path)
    run(settings("no latent", data_dir), copy, resume=True, stop_at=3)
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "kept no data.json" in err
    run(settings("no latent", data_dir), copy, resume=True)
    assert capsys.readouterr().err == "" and result(copy) == result(uninterrupted("no latent"))


def test_the_fingerprint(data_dir):
    train, validation = images_of(settings("no latent", data_dir))
    found = fingerprint(train, validation)
    assert found["training images"] == [48, 1, 28, 28] and found["validation images"] == [16, 1, 28, 28]
    assert found == json.loads(json.dumps(found)) == fingerprint(train, validation)
    assert found != fingerprint(train.take(np.arange(48)[::-1]), validation)


@pytest.mark.fault("wrong", "a byte of a state that changed")
def test_a_byte_of_a_state(copy, capsys):
    path = copy / states(copy)[0] / "state.safetensors"
    raw = path.read_bytes()
    for place in (-1, -4000, len(raw) // 2):
        changed = bytearray(raw)
        changed[place] ^= 1
        path.write_bytes(changed)
        refused(capsys, ["--out", copy, "--resume"], "state.safetensors: expected tensors of its own SHA-256")


ODD = [None, True, "1", -1, 2.5, [1], {}, 10**18, "x" * 5000]


@pytest.mark.fault("traceback", "odd values in a state.json")
@pytest.mark.parametrize("name", ["phase_index", "step", "best", "best_epoch", "seconds", "components"])
def test_odd_values_of_a_state(copy, data_dir, name):
    path = copy / states(copy)[0] / "state.json"
    good = json.loads(path.read_text())
    s = settings("no latent", data_dir)
    # Places in ODD of what is a number.
    accepted = {"best": (0, 3, 4, 7), "seconds": (3, 4, 7), "best_epoch": (7,)}
    for place, value in enumerate(ODD):
        path.write_text(json.dumps({**good, name: value}))
        if place in accepted.get(name, ()):
            continue
        with pytest.raises(SpxError) as caught:
            run(s, copy, resume=True, stop_at=2)
        assert str(path.parent) in str(caught.value) and "\n" not in str(caught.value)
    path.write_text(json.dumps({key: value for key, value in good.items() if key != name}))
    with pytest.raises(SpxError):
        run(s, copy, resume=True, stop_at=2)


@pytest.mark.fault("traceback", "tensors that a state lacks, or of other shapes")
def test_tensors_of_a_state(copy, data_dir):
    path, s = copy / states(copy)[0] / "state.safetensors", settings("no latent", data_dir)
    good = load_file(path)
    for name in [
        next(n for n in good if n.startswith(kind))
        for kind in ("model.", "average.", "adam.exp_avg.", "adam.exp_avg_sq.")
    ]:
        for change in ({}, {name: good[name].reshape(-1)[:0]}):
            save_file({**{n: t for n, t in good.items() if n != name}, **change}, path)
            with pytest.raises(SpxError) as caught:
                run(s, copy, resume=True, stop_at=2)
            assert str(path.parent) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.fault("traceback", "a recipe.json of odd values")
def test_recipes(copy, capsys):
    path = copy / "recipe.json"
    good = json.loads(path.read_text())
    for name in (
        "model",
        "preset",
        "data",
        "lr",
        "compile",
        "steps",
        "sizes",
        "precision",
        "seed",
        "data_dir",
        "dropout",
    ):
        for value in (None, [], {}, [[1]], 10**19, "\n", "x" * 3000):
            path.write_text(json.dumps({**good, name: value}))
            if (name, value) in (("data_dir", "\n"), ("data_dir", "x" * 3000), ("lr", 10**19)):
                continue
            code = main(["--quiet", "--out", str(copy), "--resume"])
            err = capsys.readouterr().err
            assert code == 2 and err.startswith("error: ") and err.count("\n") == 1 and len(err) < 5000, (
                name,
                value,
                err,
            )
    for text in ("", "[]", "3", "[" * 100_000, '{"lr": NaN}', '{"lr": 1e999}', '{"lr": 1, "lr": 2}', "\ufeff{}"):
        path.write_text(text, encoding="utf-8")
        refused(capsys, ["--out", copy, "--resume"], "recipe.json: ")
