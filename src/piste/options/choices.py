"""Options that are no numbers: flags, words, tensors and functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from ..errors import InvalidType, InvalidValue, did_you_mean, nearest
from .option import NoLetters

__all__ = ["Choice", "Flag", "Function", "TensorOption"]


@dataclass(frozen=True)
class Flag(NoLetters):
    """True or False; also None if that is the default.

    Args:
        default: The default.
        doc: The meaning, as the end of a sentence.

    Example:
        >>> from piste.optim.options import Flag
        >>> Flag(None).range
        'True, False or None'
    """

    default: bool | None = False
    doc: str = ""

    @property
    def annotation(self) -> str:
        """The type in a stub."""
        return "bool" if self.default is not None else "bool | None"

    @property
    def range(self) -> str:
        """The valid values in words."""
        return "True or False" if self.default is not None else "True, False or None"

    def check(self, name: str, value: Any) -> None:
        """Raise unless `value` is in the range."""
        if not isinstance(value, bool) and not (value is None and self.default is None):
            raise InvalidType(f"`{name}` must be {self.range}; received {name}={value!r}.")


@dataclass(frozen=True)
class Choice(NoLetters):
    """One of a few words or numbers.

    Args:
        default: The default.
        allowed: The valid values.
        doc: The meaning, as the end of a sentence.
        help_for: The help for words that are not valid, in lower case, as sentences without their period.

    Example:
        >>> from piste.optim.options import Choice
        >>> Choice("mean", ("mean", "sum")).range
        'one of "mean", "sum"'
    """

    default: Any
    allowed: tuple[Any, ...]
    doc: str = ""
    help_for: Mapping[Any, str] = field(default_factory=dict, hash=False)

    @property
    def annotation(self) -> str:
        """The type in a stub."""
        return f"Literal[{', '.join(map(_quoted, self.allowed))}]"

    @property
    def range(self) -> str:
        """The valid values in words."""
        if all(isinstance(word, str) for word in self.allowed):
            return "one of " + ", ".join(map(_quoted, self.allowed))
        return " or ".join(map(_quoted, self.allowed))

    def check(self, name: str, value: Any) -> None:
        """Raise unless `value` is in the range."""
        if value in self.allowed:
            return
        words = [word for word in self.allowed if isinstance(word, str)]
        if not words:
            raise InvalidValue(f"`{name}` must be {self.range}; received {name}={value!r}.")
        help = self.help_for.get(value.lower()) if isinstance(value, str) else None
        if help is not None:
            raise InvalidValue(f"`{name}` must be {self.range}; received {value!r}. Help: {help}.")
        hint = f" {did_you_mean(value, words)}" if isinstance(value, str) and nearest(value, words) else ""
        raise InvalidValue(f"`{name}` must be {self.range}; received {value!r}.{hint}")


@dataclass(frozen=True)
class TensorOption(NoLetters):
    """A tensor, or None.

    Args:
        doc: The meaning, as the end of a sentence.

    Example:
        >>> from piste.optim.options import TensorOption
        >>> TensorOption("the weight of each class").check("weight", None)
    """

    doc: str = ""
    default: None = None
    range = "a torch.Tensor or None"
    annotation = "Tensor | None"

    def check(self, name: str, value: Any) -> None:
        """Raise unless `value` is in the range."""
        if value is not None and not isinstance(value, torch.Tensor):
            is_numbers = isinstance(value, (int, float, list, tuple))
            help = f" Help: torch.tensor({value!r})." if is_numbers else ""
            raise InvalidType(f"`{name}` must be a torch.Tensor or None; received {type(value).__name__}.{help}")


@dataclass(frozen=True)
class Function(NoLetters):
    """A function of two tensors, or None.

    Args:
        doc: The meaning, as the end of a sentence.

    Example:
        >>> from piste.optim.options import Function
        >>> Function("the distance").check("distance_function", max)
    """

    doc: str = ""
    default: None = None
    range = "a function of two tensors, or None"
    annotation = "Callable[[Tensor, Tensor], Tensor] | None"

    def check(self, name: str, value: Any) -> None:
        """Raise unless `value` is in the range."""
        if value is not None and not callable(value):
            raise InvalidType(f"`{name}` must be {self.range}; received {value!r}.")


def _quoted(word: Any) -> str:
    return f'"{word}"' if isinstance(word, str) else repr(word)
