"""The Python interface given anything: it returns what it says, or raises an SpxError; other ways to write a value draw the same pixels."""

import math

import numpy as np
import pytest
from helpers import digits, tiny_model
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import spx
from spxcore import Canvas, Drawing, Logistics, Round, Sampling, Softmax, SpxError, draw, engines, memory
from spxcore.canvas import overlaps_itself
from spxcore.drawing import check_images
from spxcore.engines import base
from spxcore.feeds import Pixels, unit_levels
from spxcore.schedules import Window

same_each_time = settings(
    derandomize=True, deadline=None, max_examples=40, database=None, phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip

SIDE, HEIGHT, WIDTH = 8, 9, 10
HERE = [name for name in ("reference", "torch", "cpp", "triton") if engines.why_not(name) is None]


class Subclass(np.ndarray):
    """Nothing of its own."""


@pytest.fixture(scope="module")
def model():
    return spx.Sampler(tiny_model(patch=SIDE))


@pytest.fixture(scope="module")
def expected(model):
    return model.sample(HEIGHT, WIDTH, n=2, seed=3, digit=3, engine="cpp")


@pytest.fixture(autouse=True)
def small_machine(monkeypatch):
    """What is a terabyte here may fit elsewhere."""
    monkeypatch.setattr(memory, "machine_memory", lambda: 1 << 34)


PICTURES = digits(2, side=28)[0][:, :HEIGHT, :WIDTH, None]
MASK = np.indices((HEIGHT, WIDTH)).sum(axis=0) % 3 == 0

STRANGE = (
    None, True, "9", "", b"9", 9.0, -1, 0, -(10**21), 10**21, 10**5000, 1 << 63, 1 << 64, math.nan, math.inf, 3j, [], [9], {},
    object(), np.array([9, 9]), np.bool_(True), np.float32(9), np.datetime64(9, "s"),
)  # fmt: skip
VALUES = {
    "height": (HEIGHT, np.uint8(HEIGHT), np.int64(HEIGHT), 7, 1 << 20, (1 << 20) + 1, 10**12),
    "width": (WIDTH, np.uint8(WIDTH), np.int16(WIDTH), 7, 1 << 20, 10**12),
    "n": (2, np.uint8(2), np.uint64(2), 1 << 32, 10**12),
    "seed": (3, np.uint8(3), np.int64(3)),
    "digit": (3, np.uint8(3), 4, 10, 255, np.int64(-1)),
    "temperature": (1, np.float32(1), np.int8(1), 1e-40, 1e-46, 1e39, 1e40, np.float64(1e300), -math.inf, 0.0),
    "mode": (False, np.bool_(False)),
    "engine": ("cpp", "auto", "gpu", engines.Engine, "cuda"),
    "progress": (lambda pixels: None,),
}


def sampled(model, arguments):
    given = {"height": HEIGHT, "width": WIDTH, "n": 2, "seed": 3, "digit": 3, "engine": "cpp", **arguments}
    return model.sample(**given)


def is_as_said(values: dict, default_pixels, found) -> bool:
    """Pixels of the right kind; those of the plain arguments if every value equals its plain one."""
    plain = all(
        type(v) is not bool and bool(np.all(v == VALUES[name][0])) for name, v in values.items() if name != "mode"
    )
    return found.dtype == np.uint8 and found.ndim == 4 and (not plain or bool((found == default_pixels).all()))


@pytest.mark.fault("traceback", "another exception than SpxError for a bad argument of the Python interface")
@same_each_time
@given(data=st.data())
def test_any_argument_of_sample(model, expected, data):
    names = data.draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=2, unique=True))
    # None is the default of these: a size of the data's own, which takes a while to draw.
    values = {
        name: data.draw(st.sampled_from(VALUES[name] + tuple(s for s in STRANGE if s is not None)), name)
        for name in names
    }
    if values.get("engine", "cpp") in ("auto",):
        values["engine"] = "cpp"
    try:
        found = sampled(model, values)
    except SpxError as error:
        assert ": " in str(error) and len(str(error)) < 800
    else:
        assert is_as_said(values, expected, found) or set(values) & {"temperature", "mode", "engine", "progress"}


@pytest.mark.fault("wrong", "NumPy's small integers overflow into other pixels")
@pytest.mark.parametrize("engine", HERE)
def test_numpys_integers_draw_the_same(engine):
    """Of every engine, through `spxcore` too: 200 * 2 is 144 in uint8."""
    tiny = spx.Sampler(tiny_model(patch=4, latent=0, conditioning="paper", coordinates=False, filters=4))
    small = dict(height=np.uint8(4), width=np.uint8(4), n=np.uint8(2), seed=np.uint8(200), temperature=np.float16(1))
    plain = dict(height=4, width=4, n=2, seed=200, temperature=1.0)
    np.testing.assert_array_equal(tiny.sample(engine=engine, **small), tiny.sample(engine=engine, **plain))


@pytest.mark.fault("wrong", "NumPy's small integers overflow into other pixels")
def test_sizes_become_pythons():
    head, soft = Logistics(np.uint8(3), np.uint8(100), np.uint16(256)), Softmax(np.uint16(300))
    assert (head.parameters, soft.parameters, Window(np.uint8(200)).side ** 2) == (1000, 300, 40000)
    made = Round("", (np.uint8(200), np.uint8(3)), None, head, Window(2), lambda earlier, batch: {})
    assert made.size == (200, 3) and made.size[0] * 200 == 40000
    sampling = Sampling(np.float32(0.5), np.bool_(True))
    assert type(sampling.temperature) is float and sampling.mode is True


# ---- out -------------------------------------------------------------------------------------------------------------


def read_only(array):
    array.flags.writeable = False
    return array


SHAPE = (2, HEIGHT, WIDTH, 1)
GOOD_OUT = {
    "contiguous": lambda: np.zeros(SHAPE, np.uint8),
    "subclass": lambda: np.zeros(SHAPE, np.uint8).view(Subclass),
    "masked array": lambda: np.ma.zeros(SHAPE, np.uint8),
    "every other pixel": lambda: np.zeros((2, HEIGHT, 2 * WIDTH, 1), np.uint8)[:, :, ::2],
    "upside down": lambda: np.zeros(SHAPE, np.uint8)[:, ::-1],
    "transposed": lambda: np.zeros((1, WIDTH, HEIGHT, 2), np.uint8).T,
    "odd address": lambda: np.zeros(2 * HEIGHT * WIDTH + 1, np.uint8)[1:].reshape(SHAPE),
}
BAD_OUT = {
    "int8": lambda: np.zeros(SHAPE, np.int8),
    "float": lambda: np.zeros(SHAPE),
    "objects": lambda: np.zeros(SHAPE, object),
    "fewer": lambda: np.zeros((1, *SHAPE[1:]), np.uint8),
    "rank": lambda: np.zeros(SHAPE[:3], np.uint8),
    "read-only": lambda: read_only(np.zeros(SHAPE, np.uint8)),
    "a list": lambda: np.zeros(SHAPE, np.uint8).tolist(),
    "a number": lambda: 5,
    "bytes": lambda: bytearray(2 * HEIGHT * WIDTH),
    "hidden entries": lambda: np.ma.masked_array(np.zeros(SHAPE, np.uint8), np.ones(SHAPE)),
    "one row for all": lambda: np.lib.stride_tricks.as_strided(np.zeros(WIDTH, np.uint8), SHAPE, (0, 0, 1, 1)),
    "rows that overlap": lambda: np.lib.stride_tricks.as_strided(np.zeros(300, np.uint8), SHAPE, (90, 5, 1, 1)),
    "one image for all": lambda: np.lib.stride_tricks.as_strided(np.zeros(90, np.uint8), SHAPE, (0, 10, 1, 1)),
}


@pytest.mark.fault("wrong", "engines differ in which arrays they draw into")
@pytest.mark.parametrize("engine", [name for name in HERE if name != "triton"])
@pytest.mark.parametrize("case", GOOD_OUT)
def test_any_layout_is_drawn_into(engine, case):
    tiny, out = small_model(), GOOD_OUT[case]()
    assert tiny.sample(HEIGHT, WIDTH, n=2, engine=engine, out=out) is out
    np.testing.assert_array_equal(np.asarray(out), small_pixels(engine))


@pytest.mark.fault("wrong", "an `out` that overlaps itself")
@pytest.mark.parametrize("case", BAD_OUT)
def test_other_memory_is_refused(case):
    with pytest.raises(SpxError, match=r"^out: expected "):
        small_model().sample(HEIGHT, WIDTH, n=2, engine="cpp", out=BAD_OUT[case]())


def test_a_mapped_file_is_drawn_into(tmp_path):
    out = np.memmap(tmp_path / "pixels", np.uint8, "w+", shape=SHAPE)
    small_model().sample(HEIGHT, WIDTH, n=2, engine="cpp", out=out)
    del out
    pixels = np.fromfile(tmp_path / "pixels", np.uint8).reshape(SHAPE)
    np.testing.assert_array_equal(pixels, small_pixels("cpp"))


@pytest.mark.fault("wrong", "an `out` that overlaps itself")
@same_each_time
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(-12, 12)), min_size=1, max_size=4))
def test_overlaps_are_found(axes):
    """Against every address; an array that is said to overlap may be one of interleaved axes that does not, which no slice is."""
    shape, strides = zip(*axes)
    start = sum((n - 1) * -s for n, s in axes if s < 0)
    array = np.lib.stride_tricks.as_strided(np.zeros(400, np.uint8)[start:], shape, strides)
    addresses = sum(np.indices(shape)[i] * s for i, s in enumerate(strides)).ravel()
    if len(set(addresses.tolist())) < len(addresses):
        assert overlaps_itself(array)


@same_each_time
@given(data=st.data())
def test_slices_and_transposes_never_overlap(data):
    shape = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    array = np.zeros(shape, np.uint8).transpose(data.draw(st.permutations(range(len(shape)))))
    for axis in range(array.ndim):
        step = data.draw(st.sampled_from((1, 2, 3, -1, -2)))
        array = array[(slice(None),) * axis + (slice(None, None, step),)]
    assert not overlaps_itself(array)


_SMALL = {}


def small_model():
    """A model without codes, which every engine draws in milliseconds."""
    if "model" not in _SMALL:
        _SMALL["model"] = spx.Sampler(tiny_model(patch=4, latent=0, conditioning="paper", coordinates=False, filters=4))
    return _SMALL["model"]


def small_pixels(engine: str):
    if engine not in _SMALL:
        _SMALL[engine] = small_model().sample(HEIGHT, WIDTH, n=2, engine=engine)
    return _SMALL[engine]


# ---- images and masks ------------------------------------------------------------------------------------------------

GOOD_IMAGES = {
    "subclass": PICTURES.view(Subclass),
    "masked array": np.ma.masked_array(PICTURES),
    "other layout": np.asfortranarray(PICTURES),
    "reversed twice": PICTURES[::-1].copy()[::-1],
    "read-only": read_only(PICTURES.copy()),
}
BAD_IMAGES = (
    *STRANGE, PICTURES.astype(np.int16), PICTURES.astype(np.float32), np.full(PICTURES.shape, np.nan), PICTURES.astype(bool),
    PICTURES[..., 0], PICTURES[:0], PICTURES[:, :0], PICTURES.repeat(3, 3), PICTURES.tolist(), [[1], [1, 2]],
    PICTURES.astype(object), np.ma.masked_array(PICTURES, PICTURES > 0), np.matrix([[1, 2]], np.uint8),
)  # fmt: skip
GOOD_MASKS = {
    "numbers": MASK.astype(np.uint8),
    "floats": MASK.astype(np.float64),
    "lists": MASK.tolist(),
    "an image": np.stack([MASK, MASK]),
    "matrix": np.matrix(MASK),
    "bytes": (MASK * np.uint8(7)).view(bool),
    "masked array": np.ma.masked_array(MASK),
}
BAD_MASKS = (
    *STRANGE, MASK.T, MASK[1:], MASK[None, None], np.stack([MASK] * 3), np.where(MASK, np.nan, 0.0), MASK * 2, MASK.astype("U1"),
    [[True], [True, False]], np.ma.masked_array(MASK, MASK), np.zeros((0, HEIGHT, WIDTH), bool),
)  # fmt: skip


@pytest.mark.fault("wrong", "engines differ in which images they read")
@pytest.mark.parametrize("case", [*GOOD_IMAGES, *GOOD_MASKS])
@pytest.mark.parametrize("engine", ["torch", "cpp"])
def test_other_ways_to_write_images_and_masks(engine, case):
    images, mask = GOOD_IMAGES.get(case, PICTURES), GOOD_MASKS.get(case if case not in GOOD_IMAGES else None, MASK)
    expected = small_model().complete(PICTURES, MASK, engine=engine)
    np.testing.assert_array_equal(small_model().complete(images, mask, engine=engine), expected)


@pytest.mark.fault("traceback", "another exception than SpxError for images or a mask that are none")
@pytest.mark.parametrize("what", ["complete", "score", "encode", "reconstruct"])
def test_images_that_are_none(model, what):
    for images in BAD_IMAGES:
        arguments = (images, MASK) if what == "complete" else (images,)
        with pytest.raises(SpxError, match=r"^images: expected"):
            getattr(model, what)(*arguments)


@pytest.mark.fault("traceback", "another exception than SpxError for images or a mask that are none")
def test_masks_that_are_none():
    for mask in BAD_MASKS:
        with pytest.raises(SpxError, match=r"^mask: expected|expected .* got"):
            small_model().complete(PICTURES, mask, engine="cpp")


@pytest.mark.fault("wrong", "pixels are given in the memory that is drawn into")
def test_completing_in_place():
    expected = small_model().complete(PICTURES[:1], np.stack([MASK, ~MASK]), n=2, engine="cpp")
    memory = np.concatenate([PICTURES[:1], PICTURES[:1]])
    found = small_model().complete(memory[:1], np.stack([MASK, ~MASK]), n=2, engine="cpp", out=memory)
    np.testing.assert_array_equal(found, expected)


@same_each_time
@given(refine=st.sampled_from(STRANGE), seed=st.sampled_from(STRANGE))
def test_seeds_and_steps_that_are_none(model, refine, seed):
    for call in (
        lambda: model.encode(PICTURES, refine=refine),
        lambda: model.score(PICTURES, seed=seed),
        lambda: model.reconstruct(PICTURES, 8, seed=seed, refine=refine, engine="cpp"),
    ):
        try:
            call()
        except SpxError as error:
            assert ": expected a whole number" in str(error)


# ---- engines' options, memory ----------------------------------------------------------------------------------------


@pytest.mark.fault("traceback", "engines' options of another type")
@pytest.mark.parametrize("engine", [*HERE, "auto"])
def test_options_of_engines(engine):
    for name in ("threads", "device", "precision"):
        for value in STRANGE:
            if value is None:
                continue
            with pytest.raises(SpxError, match=rf"^{name}: expected|^SPX|^engine"):
                engines.get(engine, **{name: value})
    assert engines.get(engine, threads=np.uint8(1))


@pytest.mark.fault("crash", "terabytes that are asked for end the process, or raise a MemoryError")
@pytest.mark.parametrize(
    "ask", [{"height": 1 << 20, "width": 1 << 20}, {"n": 1 << 31}, {"n": 1 << 32, "height": 1 << 20}]
)
def test_terabytes_are_refused_before_any_work(model, ask, monkeypatch):
    monkeypatch.setattr(base, "why_no_window", None)
    with pytest.raises(SpxError, match=r"^images: expected at most the 16384 MB of this machine's memory, got \d+ MB"):
        model.sample(**{"height": 9, **ask}, engine="cpp")


@pytest.mark.fault("traceback", "a MemoryError in the middle")
def test_memory_that_is_lacking_is_a_sentence(model, monkeypatch):
    def fails(*arguments, **options):
        raise MemoryError("Unable to allocate 1. TiB")

    monkeypatch.setattr(Canvas, "blank", fails)
    with pytest.raises(SpxError, match=r"^memory: expected .*got: Unable to allocate 1. TiB .ask for fewer"):
        small_model().sample(9, engine="cpp")
    with pytest.raises(SpxError, match=r"^memory: "):
        small_model().score(PICTURES, engine="cpp")


# ---- spxcore ---------------------------------------------------------------------------------------------------------


def noise_drawing(images=(0, 1), seed=0, size=(3, 4), table=None):
    """Pixels of a network's parameters that nobody computes: only what is refused is looked at."""
    head = Logistics(1, 2)
    feeds = {"x": Pixels(unit_levels(256) if table is None else table)}
    return Drawing((Round("only", size, None, head, Window(2), lambda earlier, batch: feeds),), images, seed)


@pytest.mark.fault("traceback", "another exception than SpxError for a bad drawing")
@same_each_time
@given(data=st.data())
def test_any_drawing(data):
    strange = st.sampled_from(STRANGE)
    name = data.draw(st.sampled_from(("images", "seed", "size", "table")))
    value = data.draw(st.tuples(strange, strange) if name == "size" else strange)
    with pytest.raises(SpxError):
        draw(noise_drawing(**{name: value}), engine=data.draw(st.sampled_from(("cpp", "torch", *STRANGE))))


@pytest.mark.parametrize("images", [[0, 2**32 - 1], np.array([0, 2**32 - 1], np.uint32), range(2**32 - 2, 2**32, 1)])
def test_image_numbers(images):
    numbers = check_images(images)
    assert numbers.dtype == np.uint32 and numbers[-1] == 2**32 - 1


@pytest.mark.parametrize("images", [[0, 2**32], [-1], [], [[1]], [10**30], [True], [1.5], "1", 5, [[1], [1, 2]]])
def test_image_numbers_that_are_none(images):
    with pytest.raises(SpxError, match=r"^images: expected at least one image number"):
        check_images(images)
