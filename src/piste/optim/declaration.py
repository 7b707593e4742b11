"""The declared options of a rule: defaults, signature and documentation."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from ..formula.expression import FormulaError
from ..options import Option, document, make_signature
from .options import SHARED

MISSING: Any = object()
"""The default of `params`: marks a call without it."""


def check_declaration(cls: Any) -> None:
    """Raise for options and buffers of a rule that can't be those of an optimizer.

    A class without a step is a base class of rules, which may declare the rest.

    Raises:
        FormulaError: An option is a plain value, there is no learning rate, or a buffer names no option.
    """
    for name, option in cls.options.items():
        if not (hasattr(option, "check") and hasattr(option, "default")):
            raise FormulaError(
                f"{cls.__name__}.options must hold options of piste.optim.options; received {name}={option!r}. Help: "
                f'"{name}": Number({option!r}, "its meaning").'
            )
    if not cls.options or not (hasattr(cls, "update") or cls.matrix is not None):
        return
    if "lr" not in cls.options:
        raise FormulaError(
            f'{cls.__name__}.options must have the learning rate, "lr": rate(1e-3); it has {", ".join(cls.options)}.'
        )
    for key, buffer in {**cls.buffers, **cls.counters}.items():
        named = [x for x in (buffer.when, buffer.start) if isinstance(x, str) and x != "p"]
        for name in named:
            if name not in all_options(cls):
                raise FormulaError(
                    f"{cls.__name__}.buffers names an option `{name}` for {key}, which is none. Known: "
                    f"{', '.join(f'`{x}`' for x in cls.options)}."
                )


def all_options(cls: Any) -> dict[str, Option]:
    """Return the options of a rule, followed by those that every optimizer has."""
    return {**cls.options, **SHARED}


def defaults(cls: Any) -> dict[str, Any]:
    """Return the entries of a param group to which nothing was passed."""
    return {name: option.default for name, option in all_options(cls).items()} | cls.group_constants


def signature(options: Mapping[str, Option]) -> inspect.Signature:
    """Return the signature for `help` and editors: `params`, the options in order, the shared options by keyword."""
    return make_signature(["params"], {n: o for n, o in options.items() if n not in SHARED}, SHARED)


def document_options(cls: Any) -> str:
    """Return the docstring with an Args section, made from the declared options, in front of its example."""
    text = inspect.cleandoc(cls.__doc__ or "")
    if not cls.options or "Args:" in text:
        return text
    params = "    params: parameters, named parameters, or param groups, as in torch.optim."
    body, heading, example = text.partition("\n\nExample:")
    return "\n".join([body, "", "Args:", params, *document(all_options(cls))]) + heading + example
