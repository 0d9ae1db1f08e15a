"""Networks of whole images on processor cores: a plan of `spxcore.plan` run once an image. Needs no torch.

What an image is conditioned on comes from such networks (a VAE's decoder, feature maps); they are small beside the drawing.
"""

from __future__ import annotations

import os

import numpy as np

from .. import native
from ..plan import Plan
from ..plan.program import full_program, tables
from .cpp import instruction_set

# From so many images on, lanes = images is faster than one image after the other. The bits are the same.
_SIDE_BY_SIDE = 4


class ImageNetwork:
    """A plan ready to run.

    Args:
        plan: its inputs, in their order, are what a call takes.
        isa: as of `spxcore.engines.cpp.make`.
    """

    def __init__(self, plan: Plan, isa: str | None = None):
        shared = tables(plan)
        inputs = [(plan.values[name].places, plan.values[name].channels) for name in plan.inputs]
        output = plan.values[plan.output]
        self._native = native.native().ImageNetwork(
            np.array(inputs, np.int32), output.places, output.channels, shared.weights, shared.blocks, shared.bias,
            shared.latent, full_program(plan, shared), instruction_set(isa),
        )  # fmt: skip

    def __call__(
        self, *inputs: np.ndarray, z: np.ndarray | None = None, narrow: bool | None = None, threads: int | None = None
    ) -> np.ndarray:
        """The output of a batch of images.

        Args:
            inputs: float32 [N, places, channels] each, contiguous.
            z: float32 [N, Z], or None for a plan without latent.
            narrow: one image at a time; None for where that is faster.
            threads: how many; None for one a core.

        Returns:
            float32 [N, places, channels].
        """
        narrow = len(inputs[0]) < _SIDE_BY_SIDE if narrow is None else narrow
        return self._native.evaluate(list(inputs), z, narrow, threads or len(os.sched_getaffinity(0)))
