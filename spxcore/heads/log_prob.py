"""Log-likelihood of the heads, in torch, for training, scoring and evaluation."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from . import Head, Softmax
from .logistics import MIN_LOG_SCALE, split


def log_prob(head: Head, params: Tensor, levels: Tensor) -> Tensor:
    """Log-probability of each pixel, in nats.

    Args:
        head: the distribution.
        params: [B, P, H, W] network output.
        levels: whole numbers [B, C, H, W], 0 to head.levels - 1.

    Returns:
        [B, H, W].
    """
    if isinstance(head, Softmax):
        # `cross_entropy` of planes has no deterministic way on a GPU; of a list it has.
        logs, wanted = F.log_softmax(params.float(), dim=1), levels[:, 0].long()
        return -F.nll_loss(logs.movedim(1, -1).flatten(0, 2), wanted.flatten(), reduction="none").view(wanted.shape)
    return logistics_log_prob(params, levels.float() / ((head.levels - 1) / 2) - 1, head.levels)


def logistics_log_prob(params: Tensor, x: Tensor, levels: int = 256) -> Tensor:
    """Log-probability under a mixture of discretised logistics, in nats (PixelCNN++, sections 2.1 and 2.2).

    P(x) = sum_k pi_k prod_c [sigmoid((x_c + h - mu_kc) / s_kc) - sigmoid((x_c - h - mu_kc) / s_kc)], h = 1 / (levels - 1), the
    first and last level taking the tails (PixelCNN++, equation 2). The difference is evaluated as
    sigmoid(a) sigmoid(-b) (1 - exp(b - a)), which is exact and needs no branch for narrow or far components.

    Args:
        params: [B, P, H, W] network output, P = 3K (C = 1) or 10K (C = 3).
        x: [B, C, H, W] pixels in [-1, 1], on the grid of `levels` levels.

    Returns:
        [B, H, W].
    """
    channels, h = x.shape[1], 1 / (levels - 1)
    logits, means, log_scales, coeffs = split(params.float(), channels)
    if channels == 3:
        c = torch.tanh(coeffs)
        red, green = x[:, 0, None], x[:, 1, None]
        means = torch.stack(
            [means[:, 0], means[:, 1] + c[:, 0] * red, means[:, 2] + c[:, 1] * red + c[:, 2] * green], dim=1
        )
    # Above e^80 all is in the two tails; without an upper limit 1 / s underflows and its gradient is NaN.
    inv_s = torch.exp(-log_scales.clamp(MIN_LOG_SCALE, 80.0))
    centred = x[:, :, None] - means  # [B, C, K, H, W]
    upper = inv_s * (centred + h)  # a
    lower = inv_s * (centred - h)  # b
    log_upper = F.logsigmoid(upper)  # log of the whole left tail up to this bin's upper edge
    log_lower = F.logsigmoid(-lower)  # log of the whole right tail from this bin's lower edge
    inside = log_upper + log_lower + torch.log(-torch.expm1(-inv_s * (2 * h)))
    end = 1 - h  # between the last level and the one before it
    bin_ = torch.where(x[:, :, None] < -end, log_upper, torch.where(x[:, :, None] > end, log_lower, inside))
    return torch.logsumexp(F.log_softmax(logits, dim=1) + bin_.sum(dim=1), dim=1)
