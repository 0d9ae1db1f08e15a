"""The window program: its NumPy meaning against PyTorch, the cone, the tiers, the flat programs, and what it refuses."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import close, config, double, flat, network, tiny_model, windows
from torch.nn import functional as F

from spx.checkpoints import save_checkpoint
from spxcore import Weights, preset
from spxcore.errors import SpxError
from spxcore.network import PixelCNN
from spxcore.plan import FORMS, Plan, compile_network, execute
from spxcore.plan.compile import convolution, transposed
from spxcore.plan.execute import form_of
from spxcore.plan.program import OP, full_program, tables, window_programs
from spxcore.plan.summary import as_text, summary

SPATIAL = {"conditioning": "spatial"}
NETWORKS = {
    "4x4": {"patch": 4},
    "8x8 spatial": {"patch": 8, **SPATIAL},
    "8x8 rgb spatial": {"patch": 8, "channels": 3, **SPATIAL},
    "8x8 two layers": {"patch": 8, "layers": 2, "filters": 7},
    "8x8 without coordinates": {"patch": 8, "coordinates": False},
    "8x8 without latent": {"patch": 8, "latent": 0},
    "8x8 rgb, neither": {"patch": 8, "channels": 3, "coordinates": False, "latent": 0},
    "12x12 rgb": {"patch": 12, "channels": 3},
    "16x16 spatial": {"patch": 16, **SPATIAL},
    "20x20": {"patch": 20, "filters": 3},
    "28x28 spatial": {"patch": 28, "filters": 2, "mixtures": 1, **SPATIAL},
}


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


# ---- against PyTorch -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_executed_in_numpy_it_is_the_network(name):
    c = config(**NETWORKS[name])
    net = network(c)
    arguments, inputs, z = windows(c)
    with torch.no_grad():
        expected = flat(net(*arguments))
    for fold in (False, True):
        got = execute(compile_network(Weights.of(net), fold), double(inputs), z)["params"]
        assert close(got, expected, 1e-5)  # measured: 3e-7 to 2e-6


@pytest.mark.parametrize("name", ["pixelcnnpp-small-8x8", "large-4x4"])
def test_presets(name):
    net = network(preset(name, dropout=0.0))
    arguments, inputs, z = windows(net.config, batch=1)
    with torch.no_grad():
        expected = flat(net(*arguments))
    # Hundreds of filters with weights of this size lose digits in fp32; the large network is deep: measured 3e-6.
    assert close(execute(compile_network(Weights.of(net)), double(inputs), z)["params"], expected, 2e-5)


def dense(connections, side_in: int, side_out: int, weights: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """What connections compute, weights [outputs, inputs, kh, kw]."""
    out = torch.zeros(x.shape[0], weights.shape[0], side_out * side_out)
    blocks, x = weights.flatten(2), x.flatten(2)
    for row, at, block in connections:
        out[:, :, row] += x[:, :, at] @ blocks[:, :, block].T
    return out.view(x.shape[0], -1, side_out, side_out)


@pytest.mark.parametrize("side", [1, 2, 3, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("kernel", "left", "right"), [((2, 3), 1, 1), ((2, 2), 1, 0), ((1, 3), 1, 1), ((2, 1), 0, 0)])
def test_taps_of_a_convolution(side, stride, kernel, left, right):
    x, w = torch.randn(2, 3, side * stride, side * stride), torch.randn(4, 3, *kernel)
    expected = F.conv2d(F.pad(x, (left, right, kernel[0] - 1, 0)), w, stride=stride)
    got = dense(convolution(side, kernel, left, stride), side * stride, side, w, x)
    torch.testing.assert_close(got, expected)
    if stride == 1:  # shifted down and to the right, zeros moving in
        shifted = F.pad(expected, (1, 0, 1, 0))[:, :, :-1, :-1]
        torch.testing.assert_close(dense(convolution(side, kernel, left, shift=(1, 1)), side, side, w, x), shifted)


@pytest.mark.parametrize("side", [2, 4, 8])
@pytest.mark.parametrize(("kernel", "crop"), [((2, 3), 1), ((2, 2), 0)])
def test_taps_of_a_transposed_convolution(side, kernel, crop):
    x, w = torch.randn(2, 3, side // 2, side // 2), torch.randn(4, 3, *kernel)
    full = F.conv_transpose2d(x, w.transpose(0, 1), stride=2, output_padding=1)
    expected = full[:, :, :side, crop : crop + side]
    torch.testing.assert_close(dense(transposed(side, kernel, crop), side // 2, side, w, x), expected)


def test_forms():
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    t = torch.from_numpy(x)
    expected = {"raw": t, "elu": F.elu(t), "concat_elu": F.elu(torch.cat([t, -t], dim=1))}
    assert set(expected) == set(FORMS)
    for form, value in expected.items():
        np.testing.assert_allclose(form_of(x, form), value.numpy(), rtol=1e-6, atol=1e-7)


# ---- cone and tiers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["8x8 spatial", "8x8 rgb, neither", "12x12 rgb"])
def test_a_cone_gives_the_same_numbers(name):
    c = config(**NETWORKS[name])
    plan = compile_network(Weights.of(network(c)))
    _, inputs, z = windows(c)
    whole = execute(plan, double(inputs), z)["params"]
    m = c.patch
    for targets in ([m * m - 1], [m - 1], [0], [m * m - m, m * m - m + 1], [3 * m + 2]):
        cone = plan.cone(targets).validate()
        assert cone.macs() < plan.macs()
        got = execute(cone, double(inputs), z)["params"]
        # The same taps in the same order; only the matrix products' batches differ.
        np.testing.assert_allclose(got[:, targets], whole[:, targets], rtol=1e-12)


@pytest.mark.parametrize("name", ["8x8 spatial", "8x8 rgb, neither", "8x8 two layers"])
def test_dependencies_by_poisoned_pixels(name):
    """A NaN in one pixel reaches exactly the places that are said to depend on it."""
    c = config(**NETWORKS[name])
    plan = compile_network(Weights.of(network(c)), fold=False)
    depends = plan.dependencies()
    _, inputs, z = windows(c, batch=1)
    for pixel in (0, 9, 31, c.patch**2 - 2, c.patch**2 - 1):
        poisoned = double(inputs)
        poisoned["x"][:, pixel] = np.nan
        for value, numbers in execute(plan, poisoned, z).items():
            np.testing.assert_array_equal(np.isnan(numbers[0]).any(axis=1), depends[value][:, pixel], err_msg=value)
    later = np.triu(np.ones((c.patch**2,) * 2, bool))
    assert not (depends["params"] & later).any(), "a pixel sees itself or a later one"


def test_what_a_place_leads_to_is_what_needs_it():
    plan = compile_network(Weights.of(network(config(**NETWORKS["8x8 two layers"]))))
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
    plan = compile_network(Weights.of(PixelCNN(preset(name))), fold=False)
    target = plan.patch**2 - 1
    mine = plan.cone([target])
    assert plan.macs() / 1e6 == pytest.approx(window, rel=0.005) and mine.macs() / 1e6 == pytest.approx(cone, rel=0.005)
    assert sum(plan.macs_by_tier(target)) == plan.macs()
    tiers, by_place = mine.tiers(target), np.zeros(4)
    for stage in mine.stages:
        np.add.at(by_place, tiers[stage.output][stage.places][stage.taps[:, 0]], stage.tap_macs())
    assert by_place[3] / 1e6 == pytest.approx(last, rel=0.03)
    if name == "pixelcnnpp-small-8x8":
        assert by_place[2:].sum() / 1e6 == pytest.approx(0.40, rel=0.02)
        folded = compile_network(Weights.of(PixelCNN(preset(name))))
        assert folded.cone([target]).macs() / 1e6 == pytest.approx(8.32, rel=0.002)


# ---- the flat programs -----------------------------------------------------------------------------------------------


def run_program(program, shared, configuration, inputs, z) -> np.ndarray:
    """`csrc/cpu/kernels_impl.h` in NumPy, for one window, on an arena that holds NaN wherever nothing was written."""
    arena = np.full(program.rows, np.nan)
    uz = None if z is None else z[0] @ shared.latent
    for place, row in program.pixels:
        arena[row : row + configuration.channels] = inputs["x"][0, place]
    for k, place, row in program.conditioning:
        arena[row : row + configuration.place_inputs] = inputs[f"places.{k}"][0, place]
    for numbers in program.ops:
        op = dict(zip(OP, numbers.tolist()))
        n = op["outputs"]
        if op["partial_in"] >= 0:
            total = arena[op["partial_in"] : op["partial_in"] + n].copy()
        else:
            total = shared.bias[op["bias"] : op["bias"] + n].astype(np.float64)
            if op["latent"] >= 0:
                total += uz[op["latent"] : op["latent"] + n]
        for source, weights, count, _ in program.taps[op["tap_begin"] : op["tap_end"]]:
            total += arena[source : source + count] @ shared.weights[weights : weights + count * n].reshape(count, n)
        if op["partial_out"] >= 0:
            arena[op["partial_out"] : op["partial_out"] + n] = total
            continue
        x = max(op["residual"], op["residual_ahead"])
        if x >= 0:
            a, b = np.split(total, 2)
            total = arena[x : x + n // 2] + a / (1 + np.exp(-b))
        if op["raw"] >= 0:
            arena[op["raw"] : op["raw"] + len(total)] = total
        if op["act"] >= 0:
            pairs = form_of(total, "concat_elu").reshape(2, -1).T
            arena[op["act"] : op["act"] + pairs.size] = pairs.ravel()
    return np.stack([arena[row : row + configuration.outputs] for row in program.params])


@pytest.mark.parametrize("name", ["4x4", "8x8 spatial", "8x8 rgb, neither", "8x8 two layers"])
def test_programs_give_the_plans_numbers(name):
    """Every program of every kind of window, with its memory reused: what was not written is NaN and would show."""
    c = config(**NETWORKS[name])
    plan = compile_network(Weights.of(network(c)))
    shared = tables(plan)
    _, inputs, z = windows(c, batch=1)
    expected = execute(plan, double(inputs), z)["params"][0]
    programs = [*window_programs(plan, shared), full_program(plan, shared)]
    assert len(programs) == 2 * c.patch + 1
    for program in programs:
        got = run_program(program, shared, c, double(inputs), z)
        assert close(got, expected[program.targets], 1e-6), program.name


def test_the_ahead_part_reads_rows_above_only():
    c = config(**NETWORKS["8x8 spatial"])
    plan = compile_network(Weights.of(network(c)))
    shared, m = tables(plan), c.patch
    for i, program in enumerate(window_programs(plan, shared)):
        current = {row for place, row in program.pixels.tolist() if place >= i // 2 * m}
        ahead = program.ops[: program.begins[1]]
        taps = program.taps[: ahead[-1][OP.index("tap_end")]]
        # Pixels of the current row live to the end, so no other buffer shares their rows.
        assert not current & set(taps[:, 0].tolist())
        assert sum(program.macs[1:]) < 0.35 * sum(program.macs)


def test_memory_is_reused():
    c = config(**NETWORKS["8x8 two layers"])
    plan = compile_network(Weights.of(network(c)))
    every = sum(value.places * value.channels * 3 for value in plan.values.values())
    assert full_program(plan, tables(plan)).rows < 0.6 * every


# ---- files, figures, refusals ----------------------------------------------------------------------------------------


def test_saved_and_loaded(tmp_path):
    c = config(**NETWORKS["8x8 spatial"])
    plan = compile_network(Weights.of(network(c)))
    plan.save(tmp_path / "plan.npz")
    again = Plan.load(tmp_path / "plan.npz")
    _, inputs, z = windows(c)
    np.testing.assert_array_equal(execute(again, inputs, z)["params"], execute(plan, inputs, z)["params"])
    assert again.about == plan.about and again.values == plan.values and again.inputs == plan.inputs
    data = (tmp_path / "plan.npz").read_bytes()
    for damaged in (b"", b"nonsense", data[: len(data) // 2]):
        (tmp_path / "bad.npz").write_bytes(damaged)
        with pytest.raises(SpxError, match=r"bad\.npz: expected a plan"):
            Plan.load(tmp_path / "bad.npz")
    with pytest.raises(SpxError, match="expected a plan"):
        Plan.load(tmp_path / "none.npz")


def test_a_faulty_plan_is_refused():
    plan = compile_network(Weights.of(network(config(**NETWORKS["8x8 spatial"]))), fold=False)

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
        "latent: expected shape": with_stage(3, latent=np.zeros((4, 12), np.float32)),
        "bias_row: expected 0 to 0": with_stage(2, bias_row=np.ones(64, np.int32)),
    }
    for message, faulty in cases.items():
        with pytest.raises(SpxError) as caught:
            faulty.validate()
        assert message in str(caught.value)
    with pytest.raises(SpxError, match=r"weights: u_in\.v: expected a tensor"):
        compile_network(Weights(config(), {}))


def test_summary_adds_up():
    plan = compile_network(Weights.of(network(config(**NETWORKS["8x8 spatial"]))))
    figures = summary(plan)
    assert sum(stage["macs"] for stage in figures["stages"]) == figures["macs"]["window"] == plan.macs()
    assert sum(stage["cone_macs"] for stage in figures["stages"]) == figures["macs"]["cone"]
    assert sum(figures["macs"]["tiers"].values()) == figures["macs"]["cone"]
    text = as_text(json.loads(json.dumps(figures)))
    assert "cone of its last pixel" in text and "ul_up.0.1.conv_out" in text and "row 7, all columns" in text


def test_the_command(tmp_path, capsys):
    from spx.cli.plan import main

    save_checkpoint(tiny_model(), tmp_path / "tiny")
    assert main([str(tmp_path / "tiny"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["patch"] == 8
    assert main([str(tmp_path / "tiny")]) == 0
    assert "rows above" in capsys.readouterr().out
    assert main([str(tmp_path / "nothing")]) == 2
    assert "error: checkpoint: expected" in capsys.readouterr().err
