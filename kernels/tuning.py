"""Block sizes of the kernels, one row a GPU generation. Nothing is tuned at start.

None of these values has been measured on a GPU yet: they are what fits in registers and shared memory by the compiler's own
account (`docs/gpu.md`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Blocks:
    """How work is cut up.

    Attributes:
        lanes: windows of one tile of the ahead part; a multiple of 16.
        places: places of a stage that such a tile computes at once.
        warps, stages: of a tile of the ahead part: warps of 32 threads, and loads in flight.
        step_lanes: windows of one tile of the steps; a multiple of 16.
        step_places: places of a stage that such a tile computes at once.
        step_warps: of a tile of the steps.
        rows: of a tile of whole images, images times places; ahead of a row of the image.
        step_rows: of a tile that waits for a pixel; a multiple of 16.
    """

    lanes: int = 128
    places: int = 1
    warps: int = 4
    stages: int = 3
    step_lanes: int = 16
    step_places: int = 8
    step_warps: int = 8
    rows: int = 64
    step_rows: int = 16


# By compute capability. Not measured yet.
GENERATIONS = {
    8: Blocks(stages=2),  # Ampere, Ada: 100 kB of shared memory a block on the smaller ones
    9: Blocks(),  # Hopper
    10: Blocks(),  # Blackwell (data centre)
    12: Blocks(stages=2),  # Blackwell (desktop)
}

# For the interpreter, where every operation costs about the same whatever its size.
INTERPRETER = Blocks(lanes=64, places=16, warps=1, stages=1, rows=128)


def blocks_for(major: int, precision: str = "fp32") -> Blocks:
    """Block sizes for a compute capability `major`.x; unknown newer GPUs get those of the newest known one.

    tf32x3 keeps three products' operands: with tiles of 128 windows they spill, and Triton 3.0 to 3.2 asks for 123 to 147 kB of shared
    memory, where the smaller GPUs have 99.
    """
    known = [generation for generation in GENERATIONS if generation <= major]
    blocks = GENERATIONS[max(known)] if known else Blocks(stages=2)
    return replace(blocks, lanes=64) if precision == "tf32x3" else blocks
