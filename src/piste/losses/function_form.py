"""The function form of a loss, derived from its declaration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from .arguments import bind

__all__ = ["functional_form", "make_function"]


_DOCUMENT = """Compute `{cls}` without building the module.

The class documents the formula, the options, shapes, errors and differences from torch.

Args:
    {operands}: the operands of a call of the module.
    options: the options of the module, and its reduction and checks.

Returns:
    The loss, as the module returns it.

Example:
    >>> import torch, piste
    >>> loss = piste.losses.{function}({example})
"""


def make_function(cls: Any) -> Callable[..., Tensor]:
    """Return the function form of a loss, under its name in torch.nn.functional and with torch's signature."""
    n, signature = len(cls.arguments), cls.functional_signature
    kinds = signature.parameters
    by_position = [name for name, p in kinds.items() if p.kind is p.POSITIONAL_OR_KEYWORD][n:]
    names, most = kinds.keys() - set(cls.arguments), n + len(by_position)
    called = cls.functional_name or cls.name

    def function(*args: Any, **kwargs: Any) -> Tensor:
        more = args[n:most]
        # Of equal lengths, because torch.compile of PyTorch 2.9 can't trace `zip` of others.
        given = dict(zip(by_position[: len(more)], more, strict=True)) if more else {}
        is_plain = n <= len(args) <= most
        for name, value in kwargs.items():
            is_plain = is_plain and name in names and name not in given
            given[name] = value
        if is_plain:
            return cls.run(args[:n], given)
        given = bind(cls, called, signature, args, kwargs)
        return cls.run(tuple(given.pop(name) for name in cls.arguments), given)

    function.__name__ = function.__qualname__ = called
    function.__module__ = f"{__package__}.functional"
    function.__doc__ = _DOCUMENT.format(
        cls=cls.__name__, operands=", ".join(cls.arguments), function=called, example=cls.example
    )
    function.__signature__ = signature  # type: ignore[attr-defined]
    function.loss = cls  # type: ignore[attr-defined]  # so that `explain` takes the function
    cls._function_form = function
    return function


def functional_form(cls: Any) -> Callable[..., Tensor]:
    """Return the function form of this class, made at first use."""
    return vars(cls).get("_function_form") or make_function(cls)
