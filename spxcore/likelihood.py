"""Log-likelihood of the mixture of discretised logistics, in torch, for training and evaluation (PixelCNN++, section 2.1-2.2)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .mixture import MIN_LOG_SCALE, split


def log_prob(params: Tensor, x: Tensor) -> Tensor:
    """Log-probability of each pixel, in nats.

    P(x) = sum_k pi_k prod_c [sigmoid((x_c + 1/255 - mu_kc) / s_kc) - sigmoid((x_c - 1/255 - mu_kc) / s_kc)], the first and last
    of the 256 levels taking the tails (PixelCNN++, equation 2). The difference is evaluated as
    sigmoid(a) sigmoid(-b) (1 - exp(b - a)), which is exact and needs no branch for narrow or far components.

    Args:
        params: [B, P, H, W] network output, P = 3K (C = 1) or 10K (C = 3).
        x: [B, C, H, W] pixels in [-1, 1] on the 256-level grid.

    Returns:
        [B, H, W].
    """
    channels = x.shape[1]
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
    upper = inv_s * (centred + 1 / 255)  # a
    lower = inv_s * (centred - 1 / 255)  # b
    log_upper = F.logsigmoid(upper)  # log of the whole left tail up to this bin's upper edge
    log_lower = F.logsigmoid(-lower)  # log of the whole right tail from this bin's lower edge
    inside = log_upper + log_lower + torch.log(-torch.expm1(-inv_s * (2 / 255)))
    bin_ = torch.where(x[:, :, None] < -0.999, log_upper, torch.where(x[:, :, None] > 0.999, log_lower, inside))
    return torch.logsumexp(F.log_softmax(logits, dim=1) + bin_.sum(dim=1), dim=1)
