"""The learning rate of a step."""

from __future__ import annotations

import math

from ..models.settings import Settings


def learning_rate(settings: Settings, step: int, steps: int) -> float:
    """The rate of step `step`, counted from 0, of a phase of `steps` steps."""
    if settings.schedule == "exponential":
        return settings.lr * settings.lr_decay**step
    rise = min(1.0, (step + 1) / max(1, settings.warmup))
    return settings.lr * rise * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / steps)))
