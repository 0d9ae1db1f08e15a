"""The plan: a network at one size, every place and every tap as data. See `spxcore.plan.plan`."""

from __future__ import annotations

from .at import plan_at
from .execute import execute
from .plan import Plan, Source, Stage, Value

__all__ = ["Plan", "Source", "Stage", "Value", "execute", "plan_at"]
