"""Search spaces: for each optimizer, the options that a search varies in addition to the learning rate."""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ..errors import InvalidType, InvalidValue, did_you_mean

SearchSpace = dict[str, tuple[Any, ...]]
"""The values to try for each option, the optimizer's default first."""
MAX_CONFIGURATIONS = 1000
"""Every configuration is built once before training, and a search could not cover a larger number anyway."""


def find_search_spaces(search: Any, makers: Mapping[str, Callable[..., Any]]) -> dict[str, SearchSpace]:
    """Return the options of `search` that each optimizer takes, by optimizer.

    Raises:
        InvalidValue: If no optimizer takes an option, or the values make too many configurations.
        InvalidType: If `search` is not a dict of lists.
    """
    spaces: dict[str, SearchSpace] = {name: {} for name in makers}
    if search is None:
        return spaces
    if not isinstance(search, Mapping):
        raise InvalidType(f'`search` must be a dict such as {{"momentum": [0, 0.9]}}; received {search!r}.')
    arguments = {name: _arguments(make) for name, make in makers.items()}
    for option, values in search.items():
        if option == "lr":
            raise InvalidValue("`search` must not contain `lr`: the learning rate is always searched, around lr=.")
        if not isinstance(values, Sequence) or isinstance(values, str) or not values:
            raise InvalidType(f"`search` must hold a list of values to try for `{option}`; received {values!r}.")
        takers = [name for name in makers if option in arguments[name]]
        if not takers:
            known = dict.fromkeys(itertools.chain.from_iterable(arguments.values()))
            known.pop("convention", None)  # names a formula, and is too like `momentum` to be suggested for it
            raise InvalidValue(
                f"`search` contains `{option}`, which no optimizer of this comparison takes. "
                f"{did_you_mean(str(option), known)}"
            )
        for name in takers:
            default = arguments[name][option]
            hashable = [tuple(value) if isinstance(value, list) else value for value in values]
            spaces[name][option] = (default, *(value for value in hashable if value != default))
    for name, space in spaces.items():
        count = math.prod(map(len, space.values()))
        if count > MAX_CONFIGURATIONS:
            raise InvalidValue(
                f"`search` must make at most {MAX_CONFIGURATIONS:,} configurations; received {count:,} for {name}. "
                f"Give fewer values."
            )
    return spaces


def configurations(space: SearchSpace) -> Iterator[dict[str, Any]]:
    """Return every combination of the options' values, the defaults first."""
    for values in itertools.product(*space.values()):
        yield dict(zip(space, values, strict=True))


def format_options(options: Mapping[str, Any]) -> str:
    """Options as they are written in a call.

    >>> format_options({"momentum": 0.9, "nesterov": True})
    'momentum=0.9, nesterov=True'
    """
    return ", ".join(f"{name}={value!r}" for name, value in options.items())


def _arguments(make: Callable[..., Any]) -> dict[str, Any]:
    """Return the arguments that have a default, except the learning rate."""
    parameters = inspect.signature(make).parameters.items()
    return {n: p.default for n, p in parameters if p.default is not inspect.Parameter.empty and n != "lr"}
