"""The raster schedule on the cpp engine: every place by the plan's meaning, the same bits whoever draws, no number that leads astray."""

from dataclasses import replace

import numpy as np
import pytest
from helpers import close, drawn, same_images, stops_when_told
from wholes import expected, whole_job

from spxcore import Given, Job, Logistics, Softmax, native
from spxcore.engines.cpp import Options, make
from spxcore.feeds import Planes
from spxcore.lower.job import native_job
from spxcore.lower.raster import RasterTables, raster_tables

pytestmark = pytest.mark.skipif(not native.have_native(), reason=native.why_no_native() or "built")


def cpp(task: Job, given=None, **options):
    """What the cpp engine draws, in memory that is NaN at first, and its parameters."""
    return drawn(make(poison=True, **options), task, given, keep=True)


@pytest.mark.parametrize("head", [Logistics(1, 3), Logistics(3, 2), Softmax(5)], ids=["grey", "colour", "softmax"])
@pytest.mark.parametrize("size", [(5, 7), (8, 4), (9, 1), (1, 9), (1, 1)])
def test_cpp_computes_every_place_as_the_plan_says(size, head):
    task = whole_job(*size, head=head, gated=True)
    canvas = cpp(task)
    assert close(canvas.params, expected(task, canvas.pixels), 1e-5) and (canvas.finished == size[0]).all()
    same_images(task, canvas.pixels, drawn("reference", task).pixels)


def test_cpp_gives_the_same_bits_whoever_draws():
    """Lanes are images, or channels; threads; images alone and in company; given pixels."""
    task, g = whole_job(6, 9, images=20, gated=True), np.random.default_rng(2)
    for isa in native.native().instruction_sets():
        canvas = cpp(task, isa=isa, threads=2)
        assert close(canvas.params, expected(task, canvas.pixels), 1e-5)
        for of in (slice(0, 1), slice(3, 7), slice(1, 18)):
            feeds = {**task.feeds, "where": Planes(task.feeds["where"].array[of])}
            part = replace(task, feeds=feeds, images=task.images[of], code=task.code[of])
            alone = cpp(part, isa=isa, threads=1)
            np.testing.assert_array_equal(alone.pixels, canvas.pixels[of])
            np.testing.assert_array_equal(alone.params, canvas.params[of])
        mask = g.random((20, 6, 9)) < 0.5
        given = cpp(task, Given(canvas.pixels, mask), isa=isa)
        np.testing.assert_array_equal(given.params, canvas.params)
        other = Given(255 - canvas.pixels, mask)
        kept = cpp(task, other, isa=isa)
        assert (kept.pixels == other.pixels)[mask].all()
        assert close(kept.params, expected(task, kept.pixels), 1e-5)


def test_cpp_draws_the_same_bits_when_threads_share_an_image():
    """A network that is large enough; lanes are channels, or images; teams of equal and of unequal size."""
    task = whole_job(3, 5, images=16, filters=208, gated=True)
    raster = make(threads=3).raster(task.network, 3, 5)
    assert [raster.workers(n) for n in (1, 2, 16)] == [3, 3, 3]
    for isa in native.native().instruction_sets():
        canvas = cpp(task, isa=isa, threads=2)
        assert close(canvas.params, expected(task, canvas.pixels), 1e-5)
        for count, threads in [(16, 1), (16, 3), (1, 1), (1, 2), (1, 3), (2, 3)]:
            feeds = {**task.feeds, "where": Planes(task.feeds["where"].array[:count])}
            part = replace(task, feeds=feeds, images=task.images[:count], code=task.code[:count])
            alone = cpp(part, isa=isa, threads=threads)
            np.testing.assert_array_equal(alone.pixels, canvas.pixels[:count])
            np.testing.assert_array_equal(alone.params, canvas.params[:count])


def test_cpp_stops_when_it_is_told():
    stops_when_told(make(threads=1), whole_job(4000, 400, images=1))  # many times what a report waits for


def test_memory_grows_with_what_is_read_not_with_the_image():
    tables = [raster_tables(whole_job(height, 12).network.graph, height, 12) for height in (16, 160)]
    np.testing.assert_array_equal(tables[0].rings, tables[1].rings)
    assert [len(t.ops) for t in tables] == [len(tables[0].ops)] * 2 and len(tables[1].rows) == 160


def every_number(tables: RasterTables):
    """Tables in which one number is out of range, and the field it is in."""
    for name, table in zip(tables._fields, tables):
        if not isinstance(table, np.ndarray) or table.dtype.kind == "f" or not table.size:
            continue
        for column in table.dtype.names or [None]:
            for value in (-2, 1 << 29):
                wrong = table.copy()
                (wrong if column is None else wrong[column]).reshape(-1)[-1] = value
                yield f"{name} {column} {value}", tables._replace(**{name: wrong})


def test_no_number_of_the_tables_leads_outside_an_array():
    """A number that is out of range is refused, or harmless."""
    task = whole_job(5, 6, images=1, gated=True)
    good = raster_tables(task.network.graph, 5, 6, tanh_gate=True)
    options = Options(native.native().instruction_sets()[0], False, True, 1)
    native.native().Raster(good, options)
    harmless = set()
    for name, wrong in every_number(good):
        try:
            native.native().Raster(wrong, options).draw(native_job(task, task.canvas()), None)
            harmless.add(name)
        except (ValueError, MemoryError):
            pass
    # A ring has every row: row y is the (y mod depth)-th.
    assert {name.rsplit(" ", 1)[0] for name in harmless} <= {"ops row", "taps row"}, sorted(harmless)
