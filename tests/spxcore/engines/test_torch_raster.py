"""Whole images in torch: every place once, when its latest pixel is drawn, and what the naive loop draws."""

import numpy as np
import pytest
import torch
from helpers import close, drawn, same_images
from wholes import expected, streams_job, whole_job

from spxcore import Given, Logistics, engines
from spxcore.engines.torch_raster import Activations, WholeNetwork
from spxcore.plan import plan_at
from spxcore.plan.reach import first_rows, latest_pixel, macs_ahead


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(5, 7), (6, 3), (8, 8), (1, 9), (9, 1)])
def test_it_draws_what_the_naive_loop_draws(size, channels):
    """Images whose sides are multiples of the coarsest level's four pixels, and others."""
    task = streams_job(*size, channels=channels)
    naive = drawn("reference", task, keep=True)
    for given in (None, Given(naive.pixels, np.ones(size, bool)), Given(naive.pixels, np.arange(size[1]) > 0)):
        if given is not None:
            given = Given(given.pixels, np.broadcast_to(given.mask, size))
        canvas = drawn("torch", task, given, keep=True)
        same_images(task, naive.pixels, canvas.pixels)
        if (canvas.pixels == naive.pixels).all():
            assert close(canvas.params, naive.params, 1e-5)  # a NaN, of a place that is read too early, is never close
        assert (canvas.finished == size[0]).all()


@pytest.mark.parametrize("head", [Logistics(1, 3), Logistics(3, 2)], ids=["grey", "colour"])
def test_parameters_are_the_plans(head):
    """Planes and a code are told; half of the pixels of each image are given."""
    task, g = whole_job(6, 7, images=3, head=head, gated=True), np.random.default_rng(0)
    given = Given(g.integers(0, 256, (3, 6, 7, head.channels), np.uint8), g.random((3, 6, 7)) < 0.5)
    canvas = drawn("torch", task, given, keep=True)
    assert (canvas.pixels == given.pixels)[given.mask].all()
    assert close(canvas.params, expected(task, canvas.pixels), 1e-5)


def test_every_place_is_computed_once(monkeypatch):
    """Whether its row is drawn or given; and no place that nothing reads."""
    task, kept = streams_job(6, 6, images=1), {}

    def keep(self, name, places, value):
        kept.setdefault(name, []).extend(places.tolist())
        original(self, name, places, value)

    original = Activations._keep
    monkeypatch.setattr(Activations, "_keep", keep)
    mask = np.zeros((6, 6), bool)
    mask[2:4] = True
    drawn("torch", task, Given(np.zeros((1, 6, 6, 1), np.uint8), mask))
    plan = plan_at(task.network.graph, 6, 6, fold=False)
    wanted = {name: np.flatnonzero(need) for name, need in plan.needed(range(36)).items()}
    wanted["x"] = np.arange(36)
    assert {name: sorted(places) for name, places in kept.items()} == {n: p.tolist() for n, p in wanted.items()}


def test_latest_pixels_and_first_rows_are_those_of_the_dependencies():
    """`Plan.dependencies` and `leads_to` list every pair of places."""
    graph = streams_job(6, 5).network.graph
    plan = plan_at(graph, 6, 5, fold=False)
    latest, first = latest_pixel(plan), first_rows(graph, 6, 5)
    for name, on in plan.dependencies().items():
        if name not in plan.inputs:
            np.testing.assert_array_equal(latest[name], np.where(on, np.arange(30), -1).max(axis=1))
    for name, to in plan.leads_to.items():
        of_places = np.where(to, np.arange(30) // 5, 6).min(axis=1)
        np.testing.assert_array_equal(first[name], of_places.reshape(len(first[name]), -1).min(axis=1))


def test_images_are_drawn_together_as_far_as_the_memory_goes(monkeypatch):
    """One at a time here; reports count every pixel once."""
    task, counts = streams_job(4, 5, images=3), []
    together = drawn("torch", task).pixels
    monkeypatch.setattr("spxcore.engines.torch.MEMORY", 1)
    engine, canvas = engines.get("torch"), task.canvas()
    engine.draw(task, canvas, counts.append)
    same_images(task, together, canvas.pixels)
    assert sum(counts) == 60 and max(counts) == 1
    whole = WholeNetwork(task.network, 4, 5, torch.device("cpu"))
    of = Activations(whole, task, canvas, np.arange(1)).values
    places = {seen: tensor[:, :-1].numel() for seen, tensor in of.items()}
    assert whole.bytes_an_image == 4 * sum(places.values())


def test_what_runs_ahead_of_a_row_is_counted():
    """Against every pair of a place and a pixel that it depends on."""
    graph = streams_job(6, 5).network.graph
    plan = plan_at(graph, 6, 5, fold=False).cone(range(30))
    pixels, ahead = {n: [set(np.flatnonzero(p)) for p in on] for n, on in plan.dependencies().items()}, 0
    first = first_rows(graph, 6, 5)
    for stage in plan.stages:
        for (row, source, place, _), macs in zip(stage.taps.tolist(), stage.tap_macs()):
            to = int(stage.places[row])
            drawn_rows = {p // 5 for p in pixels[stage.output][to]} or {-1}
            needed = first[stage.output][to // plan.values[stage.output].width]
            own = max(drawn_rows) if max(drawn_rows) == needed else max(drawn_rows) + 1
            ahead += int(macs) * all(p // 5 < own for p in pixels[stage.sources[source].value][place])
    assert macs_ahead(plan, graph) == ahead < plan.macs()


def test_bf16_is_not_for_whole_images():
    task = streams_job(4, 4)
    assert "fp32" in engines.get("torch", precision="bf16").why_not(task)
