"""Triton's interpreter without what it does again and again: less than a third of its time, the same numbers."""

from collections.abc import Callable

import pytest
from triton.language import core
from triton.runtime import interpreter


def quicken(patch: pytest.MonkeyPatch) -> None:
    """Leave out, until `patch` is undone, the look for integer overflow at every operation, the preparations at every call from one of
    our functions to another (the kernel's serve them all), and the description of a tensor that one of the same type has already."""
    if not hasattr(interpreter.InterpretedFunction, "rewrite"):  # Triton 3.0 and 3.1 neither look nor prepare
        return
    if hasattr(interpreter.InterpreterOptions(), "sanitize_overflow"):
        options = interpreter.InterpreterOptions(sanitize_overflow=False)
        patch.setattr(interpreter.interpreter_builder, "options", options)
    call = interpreter.InterpretedFunction.__call__

    def quick(self, *arguments, **named):
        ours = self.fn.__module__.startswith("spxcore.")
        return (self.rewrite() if ours else call.__get__(self))(*arguments, **named)

    patch.setattr(interpreter.InterpretedFunction, "__call__", quick)
    patch.setattr(core.tensor, "__init__", _tensor(core.tensor.__init__))
    patch.setattr(core.block_type, "__init__", _block_type(core.block_type.__init__))
    patch.setattr(interpreter, "_get_np_dtype", _numpy_type(interpreter._get_np_dtype))


# A type's name says its shape and its elements.


def _tensor(initialise: Callable) -> Callable:
    made: dict[str, dict] = {}

    def quick(self, handle, type):
        if type.name not in made:
            initialise(self, handle, type)
            made[type.name] = {name: value for name, value in vars(self).items() if name != "handle"}
        else:
            vars(self).update(made[type.name], handle=handle)

    return quick


def _block_type(initialise: Callable) -> Callable:
    made: dict[tuple, dict] = {}

    def quick(self, element_ty, shape):
        key = element_ty.name, *(getattr(side, "value", side) for side in shape)
        if key not in made:
            initialise(self, element_ty, shape)
            made[key] = dict(vars(self))
        else:
            vars(self).update(made[key])

    return quick


def _numpy_type(of: Callable) -> Callable:
    made: dict[str, object] = {}

    def quick(type):
        if type.name not in made:
            made[type.name] = of(type)
        return made[type.name]

    return quick
