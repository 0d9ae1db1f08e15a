"""Nothing moves: the pixels of mnist-8x8 and the tables that native code reads are those of 855cef8, by SHA-256.

`hashes.json` was recorded before the first move of the rebuilding. A commit that changes pixels or tables on purpose records it anew
(`python tests/project/test_hashes.py`) and says so in the changelog.
"""

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import spx
from spx.checkpoints import read_checkpoint
from spx.request import Request
from spxcore import Given, Sampling, draw, engines, native
from spxcore.kernels.tables import network_layout
from spxcore.kernels.tuning import INTERPRETER, Blocks
from spxcore.lower.passes import PRECISIONS, window_products
from spxcore.lower.window import full_program, pack, window_programs
from spxcore.plan import plan_at

RECORD = Path(__file__).with_name("hashes.json")

# engine, precision, size, and options of `sample`. "cpp" is the fastest instruction set of the machine, as users have it.
DRAWINGS = {
    "28": (("cpp", "torch"), "fp32", (28, 28), {"n": 4, "seed": 7}),
    "28, one": (("cpp", "reference"), "fp32", (28, 28), {"n": 1, "seed": 7}),
    "28, batch of 33": (("cpp",), "fp32", (28, 28), {"n": 33, "seed": 0}),
    "28, digit 3": (("cpp", "torch"), "fp32", (28, 28), {"n": 2, "seed": 1, "digit": 3}),
    "28, cooler": (("cpp",), "fp32", (28, 28), {"n": 2, "seed": 3, "temperature": 0.8}),
    "28, modes": (("cpp", "torch"), "fp32", (28, 28), {"n": 2, "seed": 3, "mode": True}),
    "31x45": (("cpp", "torch"), "fp32", (31, 45), {"n": 2, "seed": 9}),
    "56": (("cpp",), "fp32", (56, 56), {"n": 3, "seed": 5}),
    "56, digit 8": (("cpp",), "fp32", (56, 56), {"n": 1, "seed": 2**63 + 5, "digit": 8}),
    "28, bf16": (("cpp",), "bf16", (28, 28), {"n": 4, "seed": 7}),
    "31x45, bf16": (("cpp",), "bf16", (31, 45), {"n": 1, "seed": 9}),
    "8x11": (("cpp", "triton", "reference"), "fp32", (8, 11), {"n": 2, "seed": 4}),
}


# Rows that a slow engine draws itself: the rows above are given, as cpp has drawn them, which draws every entry whole. Torch and the
# reference take ten seconds for all of 28x28, Triton's interpreter
# a minute for all of 8x11: it draws two pixels.
LAST_ROWS = {"reference": 8, "torch": 8}


def matrix_unit() -> str:
    """What computes bf16 here: its sums have an order of their own, so its pixels are recorded for each."""
    return "amx" if native.native().cpu_features()["amx_bf16"] else "avx512"


def cases():
    for name, (names, precision, _, _) in DRAWINGS.items():
        for engine in names:
            yield name, engine, precision


def drawing(name: str, engine: str) -> str:
    _, precision, (height, width), options = DRAWINGS[name]
    sampler, rows = spx.load("mnist-8x8"), 1 if engines.emulated(engine) else LAST_ROWS.get(engine, height)
    first = engines.get(engine if rows == height else "cpp", precision=precision, threads=1)
    images = sampler.sample(height, width, **options, engine=first)
    if rows < height:
        mask = np.zeros((height, width), bool)
        mask[:-rows] = True
        if engines.emulated(engine):
            mask[-1, :7] = mask[-1, 9:] = (
                True  # the last pixel of the first window, and the next, away from the left edge
            )
        sampling = Sampling(options.get("temperature", 1.0), options.get("mode", False))
        label = options.get("digit")
        drawing = sampler.drawing(Request(height, width, options["n"], options["seed"], sampling, label))
        given = Given(np.where(mask[..., None], images, 0).astype(np.uint8), mask)
        images = draw(replace(drawing, given={drawing.rounds[-1].name: given}), engine)
    return hashlib.sha256(images.tobytes()).hexdigest()


def digest(*arrays) -> str:
    found = hashlib.sha256()
    for array in arrays:
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def first(table: np.ndarray, columns: int) -> np.ndarray:
    """The first columns of a table of int32: those that it had when the hashes were recorded."""
    count = len(table.dtype.names)
    return np.ascontiguousarray(table).view(np.int32).reshape(len(table), count)[:, :columns]


def program_digests(name: str, plan, programs) -> dict[str, str]:
    packed = pack(plan)
    found = {f"{name}/shared": digest(packed.weights, first(packed.blocks, 3), packed.bias, packed.code)}
    for number, p in enumerate(programs(plan, packed)):
        parts = (
            p.targets, first(p.ops, 11), first(p.taps, 4), p.begins, first(p.pixels, 2), first(p.told, 3), p.params,
            np.int64(p.rows), p.origin,
        )  # fmt: skip
        found[f"{name}/program {number}"] = digest(*parts)
    return found


def table_digests() -> dict[str, str]:
    checkpoint = read_checkpoint("mnist-8x8")
    networks, side = checkpoint.networks, checkpoint.config.network.patch
    plan = plan_at(networks["network"].graph, side, side)

    def all_programs(plan, packed):
        return [*window_programs(plan, packed), full_program(plan, packed)]

    found, size = program_digests("cpp/network", plan, all_programs), checkpoint.config.vae.size
    for name in ("vae.encoder", "vae.decoder", "maps"):
        # What they compute alike for every image was not folded when the hashes were recorded; nothing is, to fold.
        image_plan = plan_at(networks[name].graph, size, size, fold=False)
        name = f"cpp/{name.removeprefix('vae.')}"
        found |= program_digests(name, image_plan, lambda plan, packed: [full_program(plan, packed)])
    for precision in PRECISIONS:
        p = window_products(plan, precision)
        # When the hashes were recorded, -1 was a source of zeros, and fp32 weights stood word by word.
        sources, weights = np.maximum(p.sources, -1), p.weights
        if precision == "fp32":
            weights = np.ascontiguousarray(weights.reshape(-1, 8, 4, 2, 2).swapaxes(2, 3)).ravel()
        parts = (
            np.int64(p.words), first(p.programs, 8), p.parts, first(p.products, 9), first(p.places, 7), p.kinds, sources,
            weights, p.bias, p.code, first(p.pixels, 2), first(p.told, 3), p.params,
        )  # fmt: skip
        found[f"cuda/{precision}"] = digest(*parts)
    for name, blocks in (("a GPU", Blocks()), ("the interpreter", INTERPRETER)):
        n = network_layout(plan, blocks)
        parts = (
            n.pair_weights, n.raw_weights, n.bias, n.code, first(n.operations, 6), first(n.ahead.groups, 9),
            first(n.ahead.chunks, 4), n.ahead.sources, first(n.steps.groups, 9), first(n.steps.chunks, 4), n.steps.sources,
            first(n.parts, 5), n.first_part.astype(np.int64), first(n.step_pixels, 2), first(n.inputs, 4), n.rows, n.places,
        )  # fmt: skip
        found[f"triton/{name}"] = digest(*parts)
    return found


def key_of(name: str, precision: str) -> str:
    return f"{name}, {matrix_unit()}" if precision == "bf16" else name


@pytest.fixture(scope="module")
def recorded() -> dict:
    return json.loads(RECORD.read_text())


@pytest.mark.parametrize(("name", "engine", "precision"), list(cases()))
def test_pixels(name, engine, precision, recorded, quick_interpreter):
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
