"""Every argument of the Python interface reaches the request or the engine: by the methods' own signatures, so none is forgotten."""

import inspect
import re
from dataclasses import asdict

import numpy as np
import pytest
from helpers import digits, tiny_model

import spx
from spx import api
from spx.request import Request
from spxcore import Given

IMAGES, MASK = digits(2, side=9)[0][..., None], np.arange(81).reshape(9, 9) < 30
# Options of all methods that draw: what is asked for, and what is told of it.
OPTIONS = {
    "temperature": (0.5, {"temperature": 0.5}), "mode": (True, {"mode": True}), "engine": ("torch", {"engine": "torch"}),
    "progress": (print, {"progress": print}), "out": (IMAGES, {"out": IMAGES}),
    "return_log_prob": (True, {"log_prob": True}),
}  # fmt: skip
# Of each method: what it is called with, and its arguments.
METHODS = {
    "sample": ({}, {
        "height": (9, {"height": 9, "width": 9}), "width": (31, {"width": 31}), "n": (3, {"n": 3}), "seed": (3, {"seed": 3}),
        "digit": (3, {"label": 3}),
    }),
    "reconstruct": ({"images": IMAGES}, {
        "images": (IMAGES[:1], {"source": IMAGES[:1], "n": 1}), "height": (9, {"height": 9, "width": 9}), "width": (31, {"width": 31}),
        "seed": (3, {"seed": 3}), "refine": (3, {"refine": 3}),
    }),
    "complete": ({"images": IMAGES[:1], "mask": MASK}, {
        "images": (IMAGES, {"pixels": IMAGES, "n": 2}), "mask": (~MASK, {"mask": ~MASK}), "n": (3, {"n": 3}), "seed": (3, {"seed": 3}),
        "digit": (3, {"label": 3}),
    }),
}  # fmt: skip


@pytest.fixture
def asked(monkeypatch):
    """Call a method of a sampler; everything it asked for, by name."""
    told, sampler = {}, spx.Sampler(tiny_model())

    def draw(request, engine, out, progress, log_prob=None):
        told.update({f: getattr(request, f) for f in Request.__dataclass_fields__ if f not in ("sampling", "given")})
        told.update(asdict(request.sampling), engine=engine, out=out, progress=progress, log_prob=log_prob is not None)
        if request.given is not None:
            told.update(pixels=request.given.pixels, mask=request.given.mask)

    monkeypatch.setattr(api, "draw", draw)
    monkeypatch.setattr(api.engines, "get", lambda name: name)
    monkeypatch.setattr(api, "check_call", lambda *_: None)  # an `out` of any shape
    monkeypatch.setattr(sampler, "drawing", lambda request: request)

    def of(method, **arguments):
        told.clear()
        getattr(sampler, method)(**arguments)
        return dict(told)

    return of


def test_the_arguments_are_all_here():
    for name, (_, arguments) in METHODS.items():
        own = set(inspect.signature(getattr(spx.Sampler, name)).parameters) - {"self", "options"}
        assert own == set(arguments), name
    told = spx.Sampler.__doc__.split("Options of all methods that draw:")[1]
    assert set(re.findall(r"^\s{8}(\w+):", told, re.MULTILINE)) == set(OPTIONS)


@pytest.mark.fault("unseen", "an argument of the Python interface that changes nothing, or another one")
@pytest.mark.parametrize(
    "method, name", [(m, n) for m, (_, arguments) in METHODS.items() for n in [*arguments, *OPTIONS]]
)
def test_an_argument_reaches_the_request(asked, method, name):
    base, arguments = METHODS[method]
    value, changes = (arguments | OPTIONS)[name]
    without, found = asked(method, **base), asked(method, **{**base, name: value})
    assert without.keys() == found.keys()
    for key in found:
        if key in changes:
            np.testing.assert_equal(found[key], changes[key], err_msg=key)
            assert not np.array_equal(without[key], found[key]), key
        else:
            np.testing.assert_equal(found[key], without[key], err_msg=key)


def test_what_is_asked_for_without_arguments(asked):
    """The data's own size, one image, seed 0, no class, as the model says."""
    common = {
        "seed": 0,
        "temperature": 1.0,
        "mode": False,
        "engine": "auto",
        "out": None,
        "progress": None,
        "log_prob": False,
        "refine": 0,
        "label": None,
    }
    for method, (base, _) in METHODS.items():
        size = 9 if method == "complete" else 28
        expected = {**common, "height": size, "width": size, "n": 2 if method == "reconstruct" else 1}
        found = asked(method, **base)
        assert {key: found[key] for key in expected} == expected, method


@pytest.mark.parametrize("kind", ["source", "code", "given"])
def test_pictures_say_how_many(kind):
    """Of a request without n; with one, as many or one for all."""
    made = {"source": IMAGES, "code": np.zeros((2, 5), np.float32), "given": Given(IMAGES, MASK)}[kind]
    assert Request(9, **{kind: made}).n == 2
    with pytest.raises(spx.SpxError, match="n: expected 3 codes or pictures, or one for all, got 2"):
        Request(9, n=3, **{kind: made})


def test_a_score_and_a_code_are_of_what_is_asked(monkeypatch):
    sampler, told = spx.Sampler(tiny_model()), []
    monkeypatch.setattr(api.engines, "get", lambda name: name)
    monkeypatch.setattr(type(sampler.family), "score", lambda family, *arguments: told.append(arguments))
    sampler.score(IMAGES, seed=3, engine="torch")
    sampler.score(IMAGES)
    assert told == [(sampler.checkpoint, IMAGES, 3, "torch"), (sampler.checkpoint, IMAGES, 0, "auto")]
