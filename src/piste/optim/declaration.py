"""The declared options of a rule: defaults, signature and documentation."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from ..options import Option, document, make_signature
from .options import SHARED

MISSING: Any = object()
"""The default of `params`: marks a call without it."""


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
