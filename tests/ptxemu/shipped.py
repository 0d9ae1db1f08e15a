"""A digit of the shipped checkpoint, drawn by the PTX with the launch that device.cu chooses by itself: python shipped.py [SIZE] [PRECISION]

In fp32 the cpp engine draws the same, else the host build. It prints how many pixels differ, and exits with 1 if any does.
"""

import os
import sys
import time

os.environ.setdefault("TRITON_INTERPRET", "1")

import emulator

emulator.be_the_gpu()

import numpy as np
from test_cuda import host_build

import spx
from spxcore import engines, native
from spxcore.engines import cuda

size, precision = int((sys.argv[1:] or ["28"])[0]), (sys.argv[2:] or ["fp32"])[0]
emulator.settings(mma="sequential")
made = {
    "expected": lambda: engines.get("cpp") if precision == "fp32" else host_build(precision),
    "ptx": lambda: cuda.Cuda(native.cuda().Engine, precision),
}
images, model = {}, spx.load("mnist-8x8")
for name, make in made.items():
    started, engine = time.time(), make()
    engines.get = lambda *values, engine=engine, **options: engine
    images[name] = np.asarray(model.sample(height=size, width=size, n=1, seed=0, engine="cpp"))
    print(f"{name}: {time.time() - started:.0f} s", flush=True)
reports = emulator.reports()
differ = int((images["expected"] != images["ptx"]).sum())
found = {kind for report in reports for kind in (*report["findings"], *filter(None, [report["failed"]]))}
print(
    f"{size}x{size}, {precision}: {differ} of {images['ptx'].size} pixels differ; {sum(r['instructions'] for r in reports) / 1e9:.1f} G"
)
print(f"warp instructions; found: {sorted(found) or 'nothing'}")
sys.exit(bool(differ or found))
