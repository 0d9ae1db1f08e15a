"""`Sampler.update`: weights replaced in place; what is refused, what is kept of the compiled tables, and that no number is misplaced."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import tiny_model
from wholes import whole_job

import spx
from spx.models import registry
from spx.models.model import Checkpoint
from spx.models.parts.classes import SHARES
from spxcore import SpxError, native
from spxcore.engines import cpp
from spxcore.lower.raster import RasterNumbers, raster_tables
from spxcore.walk.network import Network

needs_cpp = pytest.mark.skipif(not native.have_native(), reason=native.why_no_native() or "built")


def whole_model(seed: int) -> Checkpoint:
    """A PixelCNN++ with classes and random weights."""
    family = registry.family("pixelcnnpp")
    torch.manual_seed(seed)
    config = family.config({"side": 9, "filters": 5, "layers": 1, "mixtures": 2, "classes": 3})
    tensors = {name: tensor.numpy() for name, tensor in family.untrained(config).state_dict().items()}
    return Checkpoint("pixelcnnpp", config, tensors | {SHARES: np.full(3, 1 / 3, np.float32)})


def window_model(seed: int) -> Checkpoint:
    """A Spatial PixelCNN with codes and random weights."""
    return tiny_model(seed=seed).checkpoint()


MODELS = {"whole images": whole_model, "windows": window_model}


@pytest.fixture(params=MODELS)
def make(request):
    """Checkpoints of one family by their seeds."""
    return MODELS[request.param]


def changed(tensors, **replaced):
    """Tensors, some of them replaced; None: left out."""
    return {name: tensor for name, tensor in {**tensors, **replaced}.items() if tensor is not None}


def test_what_is_wrong_is_named_and_nothing_is_changed(make):
    sampler, tensors = spx.Sampler(make(0)), make(1).tensors
    before = sampler.sample(9, seed=1)
    name = next(name for name in tensors if name.endswith(".v"))
    holed = np.array(tensors[name])
    holed.flat[-1] = np.nan
    for wrong, message in (
        (changed(tensors, **{name: None}), f"tensors: expected a tensor {name}, got none"),
        (changed(tensors, more=np.zeros(1)), "tensors: expected only the network's tensors, got also more"),
        (changed(tensors, **{name: tensors[name][1:]}), rf"tensors: {name}: expected shape \(.*\), got \("),
        (changed(tensors, **{name: tensors[name].astype(int)}), f"{name}: expected floating-point numbers, got int64"),
        (changed(tensors, **{name: holed}), f"tensors: {name}: expected finite numbers of float32, got NaN"),
        (changed(tensors, **{name: torch.full(holed.shape, 1e300, dtype=torch.float64)}), "expected finite numbers"),
        (changed(tensors, **{name: tensors[name].tolist()}), f"{name}: expected a NumPy array or a torch tensor, got list"),
        (list(tensors.values()), "tensors: expected arrays by name"),
    ):  # fmt: skip
        with pytest.raises(SpxError, match=message):
            sampler.update(wrong)
        np.testing.assert_array_equal(sampler.sample(9, seed=1), before)


def test_torch_tensors_of_any_type_are_copied(make):
    """What a training step does to its own tensors afterwards is not seen; the torch module is of the new weights too."""
    rounded = {name: np.array(t) for name, t in make(1).tensors.items()}
    given = {name: torch.tensor(tensor) for name, tensor in rounded.items()}
    for name in list(given)[::2]:
        if given[name].is_floating_point():
            given[name] = given[name].bfloat16()
            rounded[name] = given[name].float().numpy()
    sampler = spx.Sampler(make(0))
    assert sampler.module is sampler.module
    sampler.update(given)
    for tensor in given.values():
        tensor.zero_()
    fresh = spx.Sampler(replace(make(0), tensors=rounded))
    np.testing.assert_array_equal(sampler.sample(9, n=2, seed=1), fresh.sample(9, n=2, seed=1))
    for name, tensor in sampler.module.state_dict().items():
        np.testing.assert_array_equal(tensor, rounded[name])


@needs_cpp
def test_tables_are_kept(make):
    """Neither programs nor the raster schedule are lowered again, and what the old networks held is let go."""
    sampler, engine = spx.Sampler(make(0)), cpp.make(poison=True)

    def compiled():
        return [known.engine for of_network in engine._compiled.values() for known in of_network.values()]

    sampler.sample(9, engine=engine)
    before = compiled()
    for seed in (1, 2):
        sampler.update(make(seed).tensors)
        fresh = spx.Sampler(make(seed)).sample(9, n=3, seed=4, engine="cpp")
        np.testing.assert_array_equal(sampler.sample(9, n=3, seed=4, engine=engine), fresh)
        assert len(before) == len(compiled()) and all(a is b for a, b in zip(before, compiled()))


@needs_cpp
def test_windows_whose_biases_were_alike_are_compiled_anew():
    """Places share a bias if the numbers are equal: new ones may tell them apart."""
    alike = {name: np.zeros_like(t) if name.endswith("bias") else t for name, t in window_model(0).tensors.items()}
    of = window_model(0)
    sampler = spx.Sampler(replace(of, tensors=alike))
    sampler.sample(9)
    told = {name: t + np.float32(0.3) if name.endswith("bias") else t for name, t in window_model(1).tensors.items()}
    sampler.update(told)
    fresh = spx.Sampler(replace(of, tensors=told))
    np.testing.assert_array_equal(sampler.sample(9, n=2, seed=3), fresh.sample(9, n=2, seed=3))


@needs_cpp
def test_numbers_stand_where_lowering_puts_them():
    """To the bit: strides, shifts, channels of ones, codes, planes; and of a PixelCNN++."""
    task, whole = whole_job(6, 9), whole_model(3).networks["network"]
    for network, size in ((task.network, (6, 9)), (whole, (9, 9)), (whole, (7, 10))):
        tables, numbers = raster_tables(network.graph, *size), RasterNumbers(network.structure.numbers, *size)
        for found, expected in zip(numbers(network.tensors), (tables.weights, tables.bias, tables.code)):
            assert found.dtype == np.float32 and found.size == expected.size
            np.testing.assert_array_equal(found, expected)


@needs_cpp
def test_tables_depend_on_shapes_alone():
    """A network of ones, whose biases are all alike, has the tables of any other."""
    network = whole_job(6, 9).network
    ones = Network(network.walk, {name: np.ones_like(t) for name, t in network.tensors.items()})
    tables = raster_tables(network.graph, 6, 9)
    for name, found, expected in zip(tables._fields, raster_tables(ones.graph, 6, 9), tables):
        if name not in ("weights", "bias", "code"):
            np.testing.assert_array_equal(found, expected)


@needs_cpp
def test_numbers_are_not_replaced_under_a_drawing(make):
    """A report of a drawing updates the sampler and draws: each drawing is of its own weights."""
    sampler, fresh, found = spx.Sampler(make(0)), spx.Sampler(make(1)), []
    expected = sampler.sample(9, n=40, seed=2, engine="cpp")

    def replaced(_pixels):
        if not found:
            sampler.update(make(1).tensors)
            found.append(sampler.sample(9, n=40, seed=2, engine="cpp"))

    np.testing.assert_array_equal(sampler.sample(9, n=40, seed=2, engine="cpp", progress=replaced), expected)
    np.testing.assert_array_equal(found[0], fresh.sample(9, n=40, seed=2, engine="cpp"))
