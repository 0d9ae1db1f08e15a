"""The raster schedule: what it draws, by the plan's meaning; sizes; jobs of it that are a window too."""

from dataclasses import replace

import numpy as np
import pytest
from helpers import close, drawn, same_images
from walks import relu_job
from wholes import expected, whole_job

from spxcore import Given, Logistics, Softmax, engines
from spxcore.compare import first_difference
from spxcore.errors import SpxError
from spxcore.feeds import Places, Planes
from spxcore.schedules import Raster, Window


@pytest.mark.parametrize("head", [Logistics(1, 3), Logistics(3, 2), Softmax(5)], ids=["grey", "colour", "softmax"])
@pytest.mark.parametrize("size", [(5, 7), (4, 3)])
def test_the_naive_loop_draws_by_the_whole_network(size, head):
    task = whole_job(*size, head=head)
    canvas = drawn("reference", task, keep=True)
    assert close(canvas.params, expected(task, canvas.pixels), 1e-5)
    assert (canvas.finished == size[0]).all() and first_difference(task, canvas.pixels, canvas.pixels) is None
    same_images(task, canvas.pixels, drawn("torch", task).pixels)


def test_given_pixels_stand_and_the_others_are_their_own():
    """A mask of each image's own; what is drawn after the given pixels follows from them."""
    task, g = whole_job(6, 5), np.random.default_rng(1)
    given = Given(g.integers(0, 256, (2, 6, 5, 1), np.uint8), g.random((2, 6, 5)) < 0.5)
    for engine in ("reference", "torch"):
        canvas = drawn(engine, task, given, keep=True)
        assert (canvas.pixels == given.pixels)[given.mask].all() and (canvas.pixels != given.pixels)[~given.mask].any()
        assert close(canvas.params, expected(task, canvas.pixels), 1e-5)


@pytest.mark.parametrize("size", [(0, 3), (3, 0), (-1, 3), ((1 << 20) + 1, 3), (2.0, 3), (True, 3)])
def test_sizes_that_no_image_has_are_refused(size):
    Raster().check_size(1, 1 << 20)
    with pytest.raises(SpxError, match=r"^(height|width): expected"):
        Raster().check_size(*size)


def test_a_small_square_image_is_a_window():
    """Engines of the sliding window draw it, told what windows are told; others say what they draw."""
    task = relu_job(6, 6, 6, images=2, told=True)
    whole = replace(task, schedule=Raster())
    assert (task.side, whole.side, replace(whole, width=7).side) == (6, 6, 0)
    expected = drawn("reference", task).pixels
    np.testing.assert_array_equal(drawn("reference", whole).pixels, expected)
    if engines.why_not("cpp") is None:
        np.testing.assert_array_equal(drawn("cpp", whole).pixels, expected)
        reason = engines.get("cpp").why_not(replace(task, schedule=Raster(), height=33, width=33))
        assert reason and "32 pixels a side" in reason
    assert replace(task, schedule=Window(4)).side == 4


def test_what_a_whole_image_is_not_told():
    task = whole_job(4, 4)
    assert "no Places" in engines.get("torch").why_not(replace(task, feeds={**task.feeds, "where": Places()}))
    for planes in (np.zeros((2, 4, 4, 2)), np.zeros((2, 2, 3, 2))):
        with pytest.raises(SpxError, match=r"^feed where: expected \(2, 2\) places"):
            replace(task, feeds={**task.feeds, "where": Planes(planes)}).check()
