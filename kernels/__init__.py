"""Triton kernels of the sampler (imported as spxcore.kernels)."""
