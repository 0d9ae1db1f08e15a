"""Nothing moves: the pixels of mnist-8x8 and the tables that native code reads are those of 855cef8, by SHA-256.

`hashes.json` was recorded before the first move of the rebuilding. A commit that changes pixels or tables on purpose records it anew
(`python tests/test_hashes.py`) and says so in the changelog.
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

import spx
from spx.checkpoints import read_checkpoint
from spx.image_networks import plans
from spxcore import engines, native
from spxcore.kernels.tables import network_tables
from spxcore.kernels.tuning import INTERPRETER, Blocks
from spxcore.plan import compile_network
from spxcore.plan.passes import PRECISIONS, window_passes
from spxcore.plan.program import full_program, tables, window_programs

RECORD = Path(__file__).with_name("hashes.json")

# engine, precision, size, and options of `sample`. "cpp" is the fastest instruction set of the machine, as users have it.
DRAWINGS = {
    "28": (("cpp", "torch"), "fp32", (28, 28), {"n": 4, "seed": 7}),
    "28, one": (("cpp", "reference", "torch"), "fp32", (28, 28), {"n": 1, "seed": 7}),
    "28, batch of 33": (("cpp",), "fp32", (28, 28), {"n": 33, "seed": 0}),
    "28, digit 3": (("cpp", "torch"), "fp32", (28, 28), {"n": 2, "seed": 1, "digit": 3}),
    "28, cooler": (("cpp",), "fp32", (28, 28), {"n": 2, "seed": 3, "temperature": 0.8}),
    "28, modes": (("cpp", "torch"), "fp32", (28, 28), {"n": 2, "seed": 3, "map": True}),
    "31x45": (("cpp", "torch"), "fp32", (31, 45), {"n": 2, "seed": 9}),
    "56": (("cpp",), "fp32", (56, 56), {"n": 3, "seed": 5}),
    "56, digit 8": (("cpp",), "fp32", (56, 56), {"n": 1, "seed": 2**63 + 5, "digit": 8}),
    "28, bf16": (("cpp",), "bf16", (28, 28), {"n": 4, "seed": 7}),
    "31x45, bf16": (("cpp",), "bf16", (31, 45), {"n": 1, "seed": 9}),
    "8x11": (("cpp", "triton", "reference"), "fp32", (8, 11), {"n": 2, "seed": 4}),
}


def matrix_unit() -> str:
    """What computes bf16 here: its sums have an order of their own, so its pixels are recorded for each."""
    return "amx" if native.native().cpu_features()["amx_bf16"] else "avx512"


def cases():
    for name, (names, precision, _, _) in DRAWINGS.items():
        for engine in names:
            yield name, engine, precision


def drawing(name: str, engine: str) -> str:
    _, precision, (height, width), options = DRAWINGS[name]
    images = spx.load("mnist-8x8").sample(
        height, width, engine=engines.get(engine, precision=precision, threads=1), **options
    )
    return hashlib.sha256(images.tobytes()).hexdigest()


def digest(*arrays) -> str:
    found = hashlib.sha256()
    for array in arrays:
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def columns(table: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """The named columns of a table of int32, structured or not."""
    return np.stack([table[name] for name in names], axis=1) if table.dtype.names else table[:, : len(names)]


OP = ("bias", "latent", "partial_in", "partial_out", "residual", "residual_ahead", "raw", "act", "outputs", "tap_begin", "tap_end")  # fmt: skip
TAP = ("source", "weights", "inputs", "pairs")


def program_digests(name: str, plan, programs) -> dict[str, str]:
    shared = tables(plan)
    found = {f"{name}/shared": digest(shared.weights, shared.blocks, shared.bias, shared.latent)}
    for number, p in enumerate(programs(plan, shared)):
        parts = (
            p.targets, columns(p.ops, OP), columns(p.taps, TAP), p.begins, p.pixels, p.conditioning, p.params,
            np.int64(p.rows), p.origin,
        )  # fmt: skip
        found[f"{name}/program {number}"] = digest(*parts)
    return found


def table_digests() -> dict[str, str]:
    checkpoint = read_checkpoint("mnist-8x8")
    plan = compile_network(checkpoint.weights)

    def all_programs(plan, shared):
        return [*window_programs(plan, shared), full_program(plan, shared)]

    found = program_digests("cpp/network", plan, all_programs)
    for name, image_plan in plans(checkpoint).items():
        found |= program_digests(f"cpp/{name}", image_plan, lambda plan, shared: [full_program(plan, shared)])
    for precision in PRECISIONS:
        p = window_passes(plan, precision)
        parts = (
            np.int64(p.words), p.programs, p.parts, p.passes, p.rows, p.kinds, p.sources, p.weights, p.bias, p.latent,
            p.pixels, p.conditioning, p.params,
        )  # fmt: skip
        found[f"cuda/{precision}"] = digest(*parts)
    for name, blocks in (("a GPU", Blocks()), ("the interpreter", INTERPRETER)):
        n = network_tables(plan, blocks)
        parts = (
            n.act_weights, n.raw_weights, n.bias, n.latent, n.operations, n.ahead.groups, n.ahead.chunks, n.ahead.sources,
            n.steps.groups, n.steps.chunks, n.steps.sources, n.parts, n.first_part, n.step_pixels, n.inputs, n.rows, n.places,
        )  # fmt: skip
        found[f"triton/{name}"] = digest(*parts)
    return found


def key_of(name: str, precision: str) -> str:
    return f"{name}, {matrix_unit()}" if precision == "bf16" else name


@pytest.fixture(scope="module")
def recorded() -> dict:
    return json.loads(RECORD.read_text())


@pytest.mark.parametrize(("name", "engine", "precision"), cases())
def test_pixels(name, engine, precision, recorded):
    """mnist-8x8's pixels, whatever the engine."""
    reason = engines.why_not(engine)
    if reason or (precision == "bf16" and not native.native().have_bf16()):
        pytest.skip(reason or "this machine has no bf16")
    key = key_of(name, precision)
    if key not in recorded["pixels"]:
        pytest.skip(f"not recorded: {key}")
    assert drawing(name, engine) == recorded["pixels"][key]


def test_tables(recorded):
    """Every table of mnist-8x8 that native code or a Triton kernel reads."""
    found = table_digests()
    assert found.keys() == recorded["tables"].keys()
    assert [name for name in found if found[name] != recorded["tables"][name]] == []


if __name__ == "__main__":
    pixels = {}
    for name, engine, precision in cases():
        if precision == "bf16" and not native.native().have_bf16():
            continue
        found = drawing(name, engine)
        print(name, engine, found[:16], flush=True)
        if pixels.setdefault(key_of(name, precision), found) != found:
            sys.exit(f"{name}: {engine} draws other pixels")
    RECORD.write_text(json.dumps({"pixels": pixels, "tables": table_digests()}, indent=2) + "\n")
