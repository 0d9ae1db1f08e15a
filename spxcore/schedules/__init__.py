"""Schedules: the order in which pixels are drawn, and the evaluations that they come from. One file each."""

from __future__ import annotations

from .window import Window

Schedule = Window

__all__ = ["Schedule", "Window"]
