"""Schedules: the order in which pixels are drawn, and the evaluations that they come from. One file each."""

from __future__ import annotations

from .raster import Raster
from .window import Window

Schedule = Window | Raster

__all__ = ["Raster", "Schedule", "Window"]
