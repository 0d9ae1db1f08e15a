"""The plan: its cone and what depends on what, the counts of multiply-adds, and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
from helpers import close, config, double, network, tiny_model, windows

from spx.checkpoints import save_checkpoint
from spx.models.spatial.config import preset
from spxcore import Network
from spxcore.errors import SpxError
from spxcore.plan import Plan, execute, plan_at
from spxcore.plan.check import check
from spxcore.plan.reach import macs_by_tier, tiers
from spxcore.walk.module import Module

NETWORKS = {
    "8x8 spatial": {"patch": 8, "conditioning": "spatial"},
    "8x8 two layers": {"patch": 8, "layers": 2, "filters": 7},
    "8x8 rgb, neither": {"patch": 8, "channels": 3, "coordinates": False, "latent": 0},
    "12x12 rgb": {"patch": 12, "channels": 3},
}


def plan_of(name: str, fold: bool = True) -> Plan:
    c = config(**NETWORKS[name])
    return plan_at(network(c).graph, c.patch, c.patch, fold)


def test_close_sees_every_fault():
    a = np.random.default_rng(0).normal(size=(4, 5))
    assert close(a, a * (1 + 1e-7), 1e-6)
    assert not close(a, -a, 1e-6) and not close(0 * a, a, 1e-6) and not close(0 * a, 0 * a, 1e-6)
    nan = a.copy()
    nan[1, 1] = np.nan
    assert not close(nan, a, 1e-6) and not close(a, nan, 1e-6) and not close(a[:1], a, 1e-6)
    off = a.copy()
    off[3, 2] += 1e-4
    assert not close(off, a, 1e-6)


@pytest.mark.parametrize("name", ["8x8 spatial", "8x8 rgb, neither", "12x12 rgb"])
def test_a_cone_gives_the_same_numbers(name):
    c = config(**NETWORKS[name])
    plan = plan_of(name)
    _, inputs, z = windows(c)
    whole = execute(plan, double(inputs), z)[plan.output]
    m = c.patch
    for targets in ([m * m - 1], [m - 1], [0], [m * m - m, m * m - m + 1], [3 * m + 2]):
        cone = check(plan.cone(targets))
        assert cone.macs() < plan.macs()
        got = execute(cone, double(inputs), z)[plan.output]
        # The same taps in the same order; only the matrix products' batches differ.
        np.testing.assert_allclose(got[:, targets], whole[:, targets], rtol=1e-12)


@pytest.mark.parametrize("name", ["8x8 spatial", "8x8 rgb, neither", "8x8 two layers"])
def test_dependencies_by_poisoned_pixels(name):
    """A NaN in one pixel reaches exactly the places that are said to depend on it."""
    c = config(**NETWORKS[name])
    plan = plan_of(name, fold=False)
    depends = plan.dependencies()
    _, inputs, z = windows(c, batch=1)
    for pixel in (0, 9, 31, c.patch**2 - 2, c.patch**2 - 1):
        poisoned = double(inputs)
        poisoned["x"][:, pixel] = np.nan
        for value, numbers in execute(plan, poisoned, z).items():
            np.testing.assert_array_equal(np.isnan(numbers[0]).any(axis=1), depends[value][:, pixel], err_msg=value)
    later = np.triu(np.ones((c.patch**2,) * 2, bool))
    assert not (depends[plan.output] & later).any(), "a pixel sees itself or a later one"


def test_what_a_place_leads_to_is_what_needs_it():
    plan = plan_of("8x8 two layers")
    for target in (0, 9, 62, 63):
        for value, need in plan.needed([target]).items():
            np.testing.assert_array_equal(plan.leads_to[value][:, target], need, err_msg=value)


# Design, section 3: full window, cone, what depends on the last pixel, in millions. Ours are a little smaller: the channel of
# ones is a bias here.
TABLE = {
    "pixelcnnpp-small-4x4": (3.00, 2.61, 0.086),
    "pixelcnnpp-small-8x8": (14.38, 9.55, 0.086),
    "pixelcnnpp-small-16x16": (62.7, 32.2, 0.086),
}


@pytest.mark.parametrize("name", TABLE)
def test_multiply_adds_are_those_of_the_design(name):
    window, cone, last = TABLE[name]
    graph, m = Network.of(Module(preset(name).walk)).graph, preset(name).patch
    plan, target = plan_at(graph, m, m, fold=False), m * m - 1
    mine = plan.cone([target])
    assert plan.macs() / 1e6 == pytest.approx(window, rel=0.005) and mine.macs() / 1e6 == pytest.approx(cone, rel=0.005)
    assert sum(macs_by_tier(plan, target)) == plan.macs()
    tier, by_place = tiers(mine, target), np.zeros(4)
    for stage in mine.stages:
        np.add.at(by_place, tier[stage.output][stage.places][stage.taps[:, 0]], stage.tap_macs())
    assert by_place[3] / 1e6 == pytest.approx(last, rel=0.03)
    if name == "pixelcnnpp-small-8x8":
        assert by_place[2:].sum() / 1e6 == pytest.approx(0.40, rel=0.02)
        assert plan_at(graph, m, m).cone([target]).macs() / 1e6 == pytest.approx(8.32, rel=0.002)


def test_a_faulty_plan_is_refused():
    plan = plan_of("8x8 spatial", fold=False)

    def with_stage(number, **change):
        stages = list(plan.stages)
        stages[number] = replace(stages[number], **change)
        return replace(plan, stages=tuple(stages))

    def taps(column, value):
        changed = plan.stages[2].taps.copy()
        changed[5, column] = value
        return with_stage(2, taps=changed)

    cases = {
        "place of u_in: expected 0 to 63": taps(2, 64),
        "block of u_in: expected 0 to 5": taps(3, 6),
        "taps, source: expected 0 to 0": taps(1, 1),
        "sorted by row": taps(0, 63),
        "0 to 63, got": taps(2, -1),
        "places not computed before": replace(plan, stages=(*plan.stages[:3], plan.stages[2], *plan.stages[3:])),
        "computed before they are read": replace(plan, stages=(plan.stages[2], *plan.stages[:2])),
        "the name of a value": with_stage(2, output="nowhere"),
        "a value that some stage computes": replace(plan, output="nowhere"),
        "outputs": with_stage(2, bias=np.zeros((1, 5), np.float32)),
        "code: expected shape": with_stage(3, code=np.zeros((4, 12), np.float32)),
        "bias_row: expected 0 to 0": with_stage(2, bias_row=np.ones(64, np.int32)),
    }
    for message, faulty in cases.items():
        with pytest.raises(SpxError) as caught:
            check(faulty)
        assert message in str(caught.value)


def test_the_command(tmp_path, capsys):
    from spx.cli.plan import main

    save_checkpoint(tiny_model(), tmp_path / "tiny")
    assert main([str(tmp_path / "tiny"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["patch"] == 8
    assert main([str(tmp_path / "tiny")]) == 0
    assert "rows above" in capsys.readouterr().out
    assert main([str(tmp_path / "nothing")]) == 2
    assert "error: checkpoint: expected" in capsys.readouterr().err
