"""A digit of the shipped checkpoint on the PTX, with the launch that device.cu chooses: python shipped.py [SIZE] [PRECISION]

In fp32 the cpp engine draws the same, else the host build. It prints how many pixels differ, and exits with 1 if any does.
"""

import sys
import time

import emulator


def main(size: int, precision: str) -> None:
    emulator.be_the_gpu()
    import numpy as np
    from test_cuda import host_build

    import spx
    from spxcore import engines, native
    from spxcore.engines import cuda

    emulator.settings(mma="sequential")
    made = {
        "expected": engines.get("cpp") if precision == "fp32" else host_build(precision),
        "ptx": cuda.Cuda(native.cuda().Engine, precision),
    }
    images, model = {}, spx.load("mnist-8x8")
    for name, engine in made.items():
        started = time.time()
        engines.get = lambda *values, engine=engine, **options: engine
        images[name] = np.asarray(model.sample(height=size, width=size, n=1, seed=0, engine="cpp"))
        print(f"{name}: {time.time() - started:.0f} s", flush=True)
    reports = emulator.reports()
    differ = int((images["expected"] != images["ptx"]).sum())
    found = {kind for report in reports for kind in (*report["findings"], *filter(None, [report["failed"]]))}
    run = sum(report["instructions"] for report in reports) / 1e9
    print(f"{size}x{size}, {precision}: {differ} of {images['ptx'].size} pixels differ, {run:.2f} G warp instructions")
    print(f"found: {', '.join(sorted(found)) or 'nothing'}")
    sys.exit(bool(differ or found))


if __name__ == "__main__":
    main(int((sys.argv[1:] or ["28"])[0]), (sys.argv[2:] or ["fp32"])[0])
