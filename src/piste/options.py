"""Options, each declared once: its default, its range and its meaning.

An optimizer and a loss list their options; the signature, the validation, the documentation and the type stubs are
derived from that list. `piste.compare` validates its arguments with the same classes.
"""

from __future__ import annotations

import inspect
import math
import numbers
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from .errors import InvalidType, InvalidValue, did_you_mean, nearest

__all__ = [
    "Choice",
    "Flag",
    "Function",
    "Integer",
    "Number",
    "NumberOrTensor",
    "Numbers",
    "Option",
    "TensorOption",
    "as_float",
    "document",
    "make_signature",
]


class Option(Protocol):
    """A declared option: `check` raises for a value outside `range`; `annotation` is its type in a stub."""

    @property
    def default(self) -> Any:
        """The value of an argument that is not passed."""

    @property
    def doc(self) -> str:
        """The meaning, as the end of a sentence."""

    @property
    def range(self) -> str:
        """The valid values in words."""

    @property
    def annotation(self) -> str:
        """The type in a stub."""

    def check(self, name: str, value: Any) -> None:
        """Raise unless `value` is in the range.

        Args:
            name: The name of the argument, for the message.
            value: The value passed.

        Raises:
            InvalidType: The value is of the wrong type.
            InvalidValue: The value is out of the range.
        """

    def letters(self, name: str, value: Any) -> Iterator[tuple[str, Any]]:
        """Yield the numbers of the option by their names in a formula."""


@dataclass(frozen=True)
class _NoLetters:
    """The base of options that are not numbers in the formula of an optimizer."""

    def letters(self, name: str, value: Any) -> Iterator[tuple[str, Any]]:
        """Yield the numbers of the option by their names in a formula."""
        return iter(())


@dataclass(frozen=True)
class Number:
    """A real number in a range, [low, high) unless stated otherwise.

    Args:
        default: The default.
        doc: The meaning, as the end of a sentence.
        letter: The name in the formula, if it differs from that of the argument.
        low: The lower end of the range.
        high: The upper end of the range.
        above: Exclude `low`.
        closed: Include `high`.

    Example:
        >>> from piste.optim.options import Number
        >>> Number(0.9, "the decay rate", high=1.0).check("rho", 1.5)
        Traceback (most recent call last):
            ...
        piste.errors.InvalidValue: `rho` must be in [0, 1); received rho=1.5.
    """

    default: float
    doc: str = ""
    letter: str = ""
    low: float = 0.0
    high: float = math.inf
    above: bool = False
    closed: bool = False
    annotation = "float"

    @property
    def range(self) -> str:
        """The valid values in words."""
        is_open = self.above or self.low == -math.inf
        return f"{'(' if is_open else '['}{self.low:g}, {self.high:g}{']' if self.closed else ')'}"

    def check(self, name: str, value: Any) -> None:
        """Raise unless `value` is in the range."""
        number = as_float(name, value, f"a number in {self.range}")
        is_above = number > self.low if self.above or self.low == -math.inf else number >= self.low
        is_below = number <= self.high if self.closed else number < self.high
        if not (is_above and is_below):  # NaN is neither
            raise InvalidValue(f"`{name}` must be in {self.range}; received {name}={number!r}.")

    def letters(self, name: str, value: Any) -> Iterator[tuple[str, Any]]:
        """Yield the numbers of the option by their names in a formula."""
        yield self.letter or name, value


@dataclass(frozen=True)
class Limit(Number):
    """A number that may be None, for no limit."""

    default: float | None = None  # type: ignore[assignment]
    annotation = "float | None"

    def check(self, name: str, value: Any) -> None:
        """Raise unless `value` is in the range."""
        if value is not None:
            super().check(name, value)

    def letters(self, name: str, value: Any) -> Iterator[tuple[str, Any]]:
        """Yield the numbers of the option by their names in a formula."""
        return iter(()) if value is None else super().letters(name, value)


@dataclass(frozen=True)
class NumberOrTensor(Limit):
    """A number, a tensor of numbers, or None. The values of a tensor are checked where it is used."""

    annotation = "float | Tensor | None"

    @property
    def range(self) -> str:
        """The valid values in words."""
        return f"{super().range}, a torch.Tensor or None"

    def check(self, name: str, value: Any) -> None:
        """Raise unless `value` is in the range."""
        if not isinstance(value, torch.Tensor):
            super().check(name, value)


@dataclass(frozen=True)
class Integer(_NoLetters):
    """A whole number between `low` and `high`, both included; also None if that is the default.

    Args:
        default: The default.
        doc: The meaning, as the end of a sentence.
        low: The smallest valid number, or None.
        high: The largest valid number, or None.

    Example:
        >>> from piste.optim.options import Integer
        >>> Integer(1, low=1, high=100).range
        'a whole number from 1 to 100'
    """

    default: int | None = None
    doc: str = ""
    low: int | None = None
    high: int | None = None

    @property
    def annotation(self) -> str:
        """The type in a stub."""
        return "int" if self.default is not None else "int | None"

    @property
    def range(self) -> str:
        """The valid values in words."""
        if self.low is None:
            return "an int"
        if self.high is None:
            return f"a whole number, at least {self.low}"
        return f"a whole number from {self.low} to {self.high}"

    def check(self, name: str, value: Any) -> None:
        """Raise unless `value` is in the range."""
        if value is None and self.default is None and self.low is None:
            return
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise InvalidType(f"`{name}` must be {self.range}; received {value!r}.")
        if (self.low is not None and value < self.low) or (self.high is not None and value > self.high):
            raise InvalidValue(f"`{name}` must be {self.range}; received {value}.")


@dataclass(frozen=True)
class Numbers:
    """Several numbers in a tuple or list, each with its own letter and range.

    Args:
        parts: The numbers.
        doc: The meaning, as the end of a sentence.
        ordered: Reject a number above the next.

    Example:
        >>> from piste.optim.options import Number, Numbers
        >>> Numbers((Number(0.5, letter="low"), Number(2.0, letter="high"))).default
        (0.5, 2.0)
    """

    parts: tuple[Number, ...]
    doc: str = ""
    ordered: bool = False

    @property
    def default(self) -> tuple[float, ...]:
        """The defaults."""
        return tuple(part.default for part in self.parts)

    @property
    def annotation(self) -> str:
        """The type in a stub."""
        return f"tuple[{', '.join(part.annotation for part in self.parts)}]"

    @property
    def range(self) -> str:
        """The valid values in words."""
        count = ("two", "three")[len(self.parts) - 2]
        ranges = [part.range for part in self.parts]
        if len(set(ranges)) == 1:
            return f"{count} numbers in {ranges[0]}"
        return f"{count} numbers, in {' and '.join(ranges)}"

    def check(self, name: str, value: Any) -> None:
        """Raise unless `value` is in the range."""
        if not isinstance(value, (tuple, list)) or len(value) != len(self.parts):
            example = ", ".join("None" if part.default is None else f"{part.default:g}" for part in self.parts)
            raise InvalidType(f"`{name}` must be {self.range}; received {name}={value!r}. Write {name}=({example}).")
        for i, part in enumerate(self.parts):
            part.check(f"{name}[{i}]", value[i])
            if self.ordered and i and not float(value[i - 1]) <= float(value[i]):
                raise InvalidValue(f"`{name}[{i - 1}]` must not exceed `{name}[{i}]`; received {name}={value!r}.")

    def letters(self, name: str, value: Any) -> Iterator[tuple[str, Any]]:
        """Yield the numbers of the option by their names in a formula."""
        for part, number in zip(self.parts, value, strict=True):
            yield part.letter, number


@dataclass(frozen=True)
class Flag(_NoLetters):
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
class Choice(_NoLetters):
    """One of a few words or numbers.

    Args:
        default: The default.
        allowed: The valid values.
        doc: The meaning, as the end of a sentence.

    Example:
        >>> from piste.optim.options import Choice
        >>> Choice("mean", ("mean", "sum")).range
        'one of "mean", "sum"'
    """

    default: Any
    allowed: tuple[Any, ...]
    doc: str = ""

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
        hint = f" {did_you_mean(value, words)}" if isinstance(value, str) and nearest(value, words) else ""
        raise InvalidValue(f"`{name}` must be {self.range}; received {value!r}.{hint}")


@dataclass(frozen=True)
class TensorOption(_NoLetters):
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
class Function(_NoLetters):
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


def as_float(name: str, value: Any, wanted: str) -> float:
    """Return an option as a float.

    Args:
        name: The name of the option, for the message.
        value: A real number, or a tensor of one element.
        wanted: The valid values in words, for the message.

    Returns:
        The value.

    Raises:
        InvalidType: The value is a string, a bool or no real number.
        InvalidValue: The value is a tensor of several elements.

    Example:
        >>> import torch
        >>> from piste.optim.options import as_float
        >>> as_float("lr", torch.tensor([0.5]), "a number")
        0.5
    """
    if isinstance(value, torch.Tensor):
        if value.numel() != 1:
            raise InvalidValue(
                f"`{name}` must be {wanted}; received a tensor of shape {tuple(value.shape)}. "
                "Tensor lr must be 1-element, and so must any other option given as a tensor."
            )
        return float(value.detach())
    if isinstance(value, str):
        raise InvalidType(
            f"`{name}` must be {wanted}; received the string {value!r}. "
            f'YAML reads 1e-3 as a string: write 1.0e-3 there, or convert it with float("{value}").'
        )
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise InvalidType(f"`{name}` must be {wanted}; received {name}={value!r} of type {type(value).__name__}.")
    return float(value)


def make_signature(
    leading: Iterable[str], positional: Mapping[str, Option], keyword_only: Mapping[str, Option]
) -> inspect.Signature:
    """Arguments without a default, then the options by position, then those by keyword."""
    kinds = inspect.Parameter
    parameters = [kinds(name, kinds.POSITIONAL_OR_KEYWORD) for name in leading]
    parameters += [kinds(n, kinds.POSITIONAL_OR_KEYWORD, default=o.default) for n, o in positional.items()]
    parameters += [kinds(n, kinds.KEYWORD_ONLY, default=o.default) for n, o in keyword_only.items()]
    return inspect.Signature(parameters)


def document(options: Mapping[str, Option]) -> list[str]:
    """Return the lines of an Args section, one for each option."""
    return [f"    {name} (default {o.default!r}, {o.range}): {o.doc}." for name, o in options.items()]


def _quoted(word: Any) -> str:
    return f'"{word}"' if isinstance(word, str) else repr(word)
