"""Compile the Triton kernels for a GPU that need not be there, with the arguments that they are launched with.

Run as a script without TRITON_INTERPRET: python triton_compile.py CAPABILITY PRECISION...; prints a line of JSON for each kernel.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

_TYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.uint8: "u8", torch.int32: "i32", torch.int64: "i64"}


class Compiling:
    """Stands in for a kernel: a launch compiles it, once for each set of constants, and runs nothing."""

    def __init__(self, kernel, capability: int, found: list):
        self.kernel, self.capability, self.found, self.seen = kernel, capability, found, set()

    def __getitem__(self, grid):
        return self.launch

    def launch(self, *values, **named) -> None:
        options = {name: named.pop(name) for name in ("num_warps", "num_stages") if name in named}
        arguments = dict(zip(self.kernel.arg_names, values)) | named
        signature, constants, aligned = {}, {}, {}
        for number, parameter in enumerate(self.kernel.params):
            value = arguments[parameter.name]
            if parameter.is_constexpr:
                signature[parameter.name], constants[parameter.name] = "constexpr", value
            elif isinstance(value, torch.Tensor):
                signature[parameter.name] = "*" + _TYPES[value.dtype]
                aligned[(number,)] = [["tt.divisibility", 16]]
            else:
                signature[parameter.name] = "fp32" if isinstance(value, float) else "i32"
        key = str((signature, constants))
        if key in self.seen:
            return
        self.seen.add(key)
        target = GPUTarget("cuda", self.capability, 32)
        compiled = triton.compile(ASTSource(self.kernel, signature, constants, aligned), target=target, options=options)
        ptx, shown = compiled.asm["ptx"], ("GATED", "PRECISION", "LANES", "PLACES")
        line = {"kernel": self.kernel.__name__, **{k: constants[k] for k in shown if k in constants}, **options}
        line |= {"capability": self.capability, "cubin": len(compiled.asm["cubin"]), "shared": compiled.metadata.shared}
        line |= {"mma": len(re.findall(r"wgmma\.mma_async|mma\.sync", ptx)), "async_16": ptx.count("cp.async.cg")}
        line |= {"barriers": ptx.count("bar.sync"), "unordered": ptx.count("ld.global.nc")}
        self.found.append(line | registers(ptx))


def registers(ptx: str) -> dict:
    """Registers and spilled bytes by the assembler's account; nothing if the assembler that comes with Triton cannot say."""
    folder = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    target = re.search(r"\.target (\w+)", ptx)[1]
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "kernel.ptx"
        source.write_text(ptx)
        for name in ("ptxas-blackwell", "ptxas"):
            command = [folder / name, "-v", f"-arch={target}", source, "-o", Path(scratch) / "kernel.cubin"]
            if command[0].exists():
                said = subprocess.run(command, capture_output=True, text=True).stderr
                used, spilled = (re.search(pattern, said) for pattern in (r"Used (\d+) reg", r"(\d+) bytes spill st"))
                if used and spilled:
                    return {"registers": int(used[1]), "spilled": int(spilled[1])}
    return {}


def main() -> None:
    os.environ.pop("TRITON_INTERPRET", None)
    from helpers import config, job, network

    from spxcore import Weights
    from spxcore.coords import axis
    from spxcore.kernels import gated, program
    from spxcore.kernels.run import DeviceNetwork, Images
    from spxcore.kernels.tables import network_tables
    from spxcore.kernels.tuning import blocks_for
    from spxcore.plan import compile_network

    capability, found = int(sys.argv[1]), []
    for name in ("inputs", "ahead", "steps"):
        setattr(program, name, Compiling(getattr(program, name), capability, found))
    for name in ("forward_kernel", "backward_kernel"):
        setattr(gated, name, Compiling(getattr(gated, name), capability, found))
    weights = Weights.of(network(config(patch=8, filters=25, mixtures=10, latent=60, maps=12, conditioning="spatial")))
    blocks, task = blocks_for(capability // 10), job(weights.config, 28, 28)
    tables = network_tables(compile_network(weights), blocks)
    for precision in sys.argv[2:]:
        on_device = DeviceNetwork(weights.config, tables, blocks, precision, torch.device("cpu"))
        images = Images(on_device, task, np.arange(1), task.z, task.maps, axis(28), axis(28), 0.0)
        images.launch(images.work["top"])
    x, y = torch.zeros(2, 25, 8, 8, requires_grad=True), torch.zeros(2, 50, 8, 8, requires_grad=True)
    for h in (None, torch.zeros(2, 50, 1, 1, requires_grad=True), torch.zeros(2, 50, 8, 8, requires_grad=True)):
        gated.gate(x, y, h).sum().backward()
    for line in found:
        print(json.dumps(line))


if __name__ == "__main__":
    main()
