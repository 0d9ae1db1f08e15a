"""Data sets: images of one size, uint8, with labels. Read, checked, refused with a sentence."""

from .images import Images, split
from .load import load
from .settings import DataSettings, Reading

__all__ = ["DataSettings", "Images", "Reading", "load", "split"]
