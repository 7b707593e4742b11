"""Other options than the learning rate that a search tries, where it is asked to: values to choose among, by name."""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ..errors import InvalidType, InvalidValue, did_you_mean

Knobs = dict[str, tuple[Any, ...]]
"""The values of each option that are tried, the optimizer's own default first."""
MOST_SETTINGS = 1000
"""Every setting is built once before anything is trained; more than these couldn't be searched anyway."""


def find_knobs(search: Any, makers: Mapping[str, Callable[..., Any]]) -> dict[str, Knobs]:
    """For every optimizer the options of `search` that it takes. One that nobody takes is refused."""
    found: dict[str, Knobs] = {name: {} for name in makers}
    if search is None:
        return found
    if not isinstance(search, Mapping):
        raise InvalidType(f'`search` must be a dict such as {{"momentum": [0, 0.9]}}; received {search!r}.')
    taken = {name: _arguments(make) for name, make in makers.items()}
    for option, values in search.items():
        if option == "lr":
            raise InvalidValue("`search` names `lr`, which is searched anyway; its range lies around lr=.")
        if not isinstance(values, Sequence) or isinstance(values, str) or not values:
            raise InvalidType(f"`search` must hold a list of values to try for `{option}`; received {values!r}.")
        takers = [name for name in makers if option in taken[name]]
        if not takers:
            known = dict.fromkeys(itertools.chain.from_iterable(taken.values()))
            raise InvalidValue(
                f"`search` names `{option}`, which no optimizer here takes. {did_you_mean(str(option), known)}"
            )
        for name in takers:
            default = taken[name][option]
            plain = [tuple(value) if isinstance(value, list) else value for value in values]
            found[name][option] = (default, *(value for value in plain if value != default))
    for name, knobs in found.items():
        count = math.prod(map(len, knobs.values()))
        if count > MOST_SETTINGS:
            raise InvalidValue(
                f"`search` must make at most {MOST_SETTINGS:,} settings; received {count:,} for {name}. "
                f"Give fewer values."
            )
    return found


def settings(knobs: Knobs) -> Iterator[dict[str, Any]]:
    """Every choice of a value for each option, the defaults first."""
    for chosen in itertools.product(*knobs.values()):
        yield dict(zip(knobs, chosen, strict=True))


def spoken(options: Mapping[str, Any]) -> str:
    """A setting as it stands in a call.

    >>> spoken({"momentum": 0.9, "nesterov": True})
    'momentum=0.9, nesterov=True'
    """
    return ", ".join(f"{name}={value!r}" for name, value in options.items())


def _arguments(make: Callable[..., Any]) -> dict[str, Any]:
    """The arguments that have a default, but for the learning rate."""
    parameters = inspect.signature(make).parameters.items()
    return {n: p.default for n, p in parameters if p.default is not inspect.Parameter.empty and n != "lr"}
