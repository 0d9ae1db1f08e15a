"""Schedules: in which order pixels are drawn, and from which evaluations of the network. One file each."""

from __future__ import annotations

from .window import Window

Schedule = Window

__all__ = ["Schedule", "Window"]
