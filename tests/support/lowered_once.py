"""Lowering is a pure function that takes longer than drawing a few pixels: a run of the tests lowers a network once."""

from __future__ import annotations

import hashlib
import pickle
from collections import OrderedDict
from collections.abc import Callable
from contextlib import contextmanager

import pytest

import spxcore.plan
from spxcore.engines import cpp
from spxcore.lower import passes

# Results that are kept of each function.
KEPT = 64


def _content(thing):
    """What equals another thing's only if both were made alike."""
    if thing is None or isinstance(thing, (int, float, str)):
        return thing
    return hashlib.sha256(pickle.dumps(thing, protocol=5)).digest()


def remembered(function: Callable) -> Callable:
    """The function, called once for arguments of the same content."""
    known: OrderedDict = OrderedDict()
    marked: dict[int, tuple] = {}

    def call(*arguments, **named):
        key = tuple(map(mark, arguments)), tuple((name, mark(value)) for name, value in named.items())
        if key not in known:
            known[key] = function(*arguments, **named)
            if len(known) > KEPT:
                known.popitem(last=False)
        known.move_to_end(key)
        return known[key]

    def mark(thing):
        if id(thing) not in marked or marked[id(thing)][0] is not thing:
            if len(marked) > KEPT:
                marked.clear()
            marked[id(thing)] = thing, _content(thing)
        return marked[id(thing)][1]

    return call


@contextmanager
def lowered_once():
    """What the engines lower is remembered until the context ends. Tests of lowering call it by themselves, and do not go this way."""
    with pytest.MonkeyPatch.context() as patch:
        plan_at = remembered(spxcore.plan.plan_at)
        for module, name, function in (
            (spxcore.plan, "plan_at", plan_at),
            (cpp, "plan_at", plan_at),
            (cpp, "pack", remembered(cpp.pack)),
            (cpp, "window_programs", remembered(cpp.window_programs)),
            (passes, "window_products", remembered(passes.window_products)),
            (passes, "whole_products", remembered(passes.whole_products)),
        ):
            patch.setattr(module, name, function)
        yield
