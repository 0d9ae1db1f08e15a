"""The window program: compiled from a network's weights, executed by every engine. See `spxcore.plan.model`."""

from __future__ import annotations

from .compile import compile_network, fold_constants
from .execute import execute
from .model import FORMS, TIERS, Plan, Source, Stage, Value

__all__ = ["FORMS", "TIERS", "Plan", "Source", "Stage", "Value", "compile_network", "execute", "fold_constants"]
