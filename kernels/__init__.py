"""Triton kernels (imported as spxcore.kernels): a plan's programs on a GPU, and the gated layer of training.

`tables` lays a plan out for them, `windows` and `heads` are the kernels, `launch` launches them, `tuning` has their block sizes;
`gated` is for training.
Nothing here is imported unless the triton engine or fused training is asked for.
"""
