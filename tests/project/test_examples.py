"""The example that tells digits from clothes: what it takes off the bits, and that its curves become a picture.
`tests/spx/models/test_conformance.py` runs the other example."""

import importlib.util
import io
from pathlib import Path

import numpy as np
from helpers import tiny_model
from PIL import Image

import spx

SPEC = importlib.util.spec_from_file_location(
    "digits_or_clothes", Path(__file__).parents[2] / "examples" / "digits_or_clothes.py"
)
example = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(example)


def test_a_score_is_the_bits_less_those_of_a_lossless_file(tmp_path, monkeypatch):
    g, kept = np.random.default_rng(0), []
    images = np.stack([np.zeros((28, 28, 1), np.uint8), g.integers(0, 256, (28, 28, 1)).astype(np.uint8)])
    save = Image.Image.save

    def saved(image, file, **options):
        save(image, file, **options)
        kept.append((file.getvalue(), np.array(image)))

    monkeypatch.setattr(Image.Image, "save", saved)
    sampler = spx.Sampler(tiny_model())
    found, bits = example.scores(sampler, images), sampler.score(images).bits * 28 * 28
    np.testing.assert_allclose(found["bits"], bits)
    assert found.keys() == {"bits", "bits - PNG", "bits - JPEG 2000"}
    for name, files in (("bits - PNG", kept[:2]), ("bits - JPEG 2000", kept[2:])):
        np.testing.assert_allclose(bits - found[name], [8 * len(raw) for raw, _ in files])
        assert len(files[0][0]) < len(files[1][0])
        for raw, image in files:  # lossless
            np.testing.assert_array_equal(Image.open(io.BytesIO(raw)), image)


def test_the_curves_become_a_picture(tmp_path):
    example.draw(str(tmp_path / "roc.png"), {"a coin": (np.array([0.0, 1.0]), np.array([0.0, 1.0]))})
    assert Image.open(tmp_path / "roc.png").size == (520, 500)
