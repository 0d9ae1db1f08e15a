"""Compile the Triton kernels for a GPU that need not be there, by the launches that a drawing makes.

Run as a script without TRITON_INTERPRET: python triton_compile.py [--whole] [--registers] CAPABILITY PRECISION...; prints a line of JSON
for each kernel. --whole: those for whole images, else all others. --registers: with the assembler's account of registers and spilled
bytes, which takes its time once more.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget


class Driver:
    """Stands in for a GPU's driver: Triton asks it what to compile for."""

    def __init__(self, capability: int):
        self.target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


class Compiling:
    """Stands in for a kernel: a launch compiles it, once for each set of constants, and runs nothing."""

    def __init__(self, kernel, capability: int, found: list):
        self.kernel, self.capability, self.found, self.seen = kernel, capability, found, set()

    def __getitem__(self, grid):
        return lambda *values, **named: self.compile(grid, *values, **named)

    def compile(self, grid, *values, **named) -> None:
        compiled = self.kernel.warmup(*values, grid=grid, **named)
        if compiled.hash in self.seen:
            return
        self.seen.add(compiled.hash)
        ptx, shown = compiled.asm["ptx"], ("GATED", "LATE", "OF_PAIRS", "num_warps", "num_stages")
        line = {"kernel": self.kernel.__name__, **{k: named[k] for k in shown if k in named}}
        if "TILE" in named:
            line |= {name: getattr(named["TILE"], name) for name in ("lanes", "places", "precision")}
        line |= {"capability": self.capability, "cubin": len(compiled.asm["cubin"]), "shared": compiled.metadata.shared}
        line |= {"mma": len(re.findall(r"wgmma\.mma_async|mma\.sync", ptx)), "async_16": ptx.count("cp.async.cg")}
        line |= {"barriers": ptx.count("bar.sync"), "unordered": ptx.count("ld.global.nc")}
        line |= {"fused": ptx.count("fma.rn.f32")}
        self.found.append(line | (registers(ptx) if "--registers" in sys.argv else {}))


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
    from helpers import config, job
    from wholes import streams_job

    from spxcore.kernels import gated, raster, windows
    from spxcore.kernels.launch import OnDevice
    from spxcore.kernels.raster_launch import RasterOnDevice
    from spxcore.kernels.raster_tables import raster_layout
    from spxcore.kernels.tables import network_layout
    from spxcore.kernels.tuning import blocks_for
    from spxcore.lower.job import native_job
    from spxcore.lower.raster import raster_tables
    from spxcore.plan import plan_at

    arguments = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
    capability, found = int(arguments[0]), []
    triton.runtime.driver.set_active(Driver(capability))
    for module, names in (
        (windows, ("inputs", "ahead", "steps")),
        (raster, ("places", "pixels")),
        (gated, ("forward_kernel", "backward_kernel")),
    ):
        for name in names:
            setattr(module, name, Compiling(getattr(module, name), capability, found))
    for precision in arguments[1:]:
        blocks, device = blocks_for(capability // 10, precision), torch.device("cpu")
        if "--whole" in sys.argv:
            # The small PixelCNN++, with a lane for each of many images; and in colour, with places of one image.
            for channels, count in ((3, 3),):
                whole = streams_job(5, 6, channels, count, filters=25, mixtures=10)
                layout = raster_layout(raster_tables(whole.network.graph, 5, 6))
                on_device = RasterOnDevice(layout, blocks, precision, device)
                images = on_device.images(native_job(whole, whole.canvas()), slice(0, count))
                for kind in range(len(layout.tables.kinds)):
                    images.launch(*images.work(kind), False)
        else:
            c = config(patch=8, filters=25, mixtures=10, latent=60, maps=12, conditioning="spatial")
            task = job(c, 28, 28)
            layout = network_layout(plan_at(task.network.graph, c.patch, c.patch), blocks)
            images = OnDevice(layout, blocks, precision, device).images(native_job(task, task.canvas()), slice(0, 1))
            images.launch(images.work["top"])
    if "--whole" not in sys.argv:
        for h in (None, torch.zeros(2, 50, 1, 1, requires_grad=True), torch.zeros(2, 50, 8, 8, requires_grad=True)):
            x, y = torch.zeros(2, 25, 8, 8, requires_grad=True), torch.zeros(2, 50, 8, 8, requires_grad=True)
            gated.gate(x, y, h).sum().backward()
    for line in found:
        print(json.dumps(line))


if __name__ == "__main__":
    os.environ.pop("TRITON_INTERPRET", None)
    main()
