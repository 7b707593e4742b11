"""Sampled tests: `pytest` runs some cases of an exhaustive test, drawn by a printed seed; `pytest --sweep` runs all.

    @pytest.mark.sample(4)                   # four cases of this test
    @pytest.mark.sample(1, per="name")       # one case for each value of its parameter `name`
    @pytest.mark.sample(1, per="case.name")  # one case for each `case.name`, with the same `case` in every test
    def test_many_calls(drawn):              # twenty of a hundred numbers inside one test
        for call in drawn(range(100), 20): ...

`PISTE_TEST_SEED` or `--seed` draws other cases. Cases asked for by their ids run as they are.
"""

from __future__ import annotations

import os
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import sha256
from operator import attrgetter
from types import SimpleNamespace
from typing import Any

import pytest

DEFAULT_SEED = "1"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("sampling")
    group.addoption("--sweep", action="store_true", help="run all cases of the tests marked `sample`")
    group.addoption("--seed", default=os.environ.get("PISTE_TEST_SEED", DEFAULT_SEED), help="draws the sampled cases")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "sample(count, per=None): run `count` cases, of each value of `per`")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Name the seed below the failures: pytest's header isn't shown with -q."""
    if config.getoption("sweep"):
        terminalreporter.write_line("Every case of every test ran (--sweep).")
    else:
        seed = config.getoption("seed")
        terminalreporter.write_line(f"Sampled tests ran the cases drawn by --seed={seed}; --sweep runs all of them.")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("sweep") or any("[" in arg for arg in config.args):
        return
    groups: dict[tuple[str, str], list[pytest.Item]] = defaultdict(list)
    for item in items:
        if mark := item.get_closest_marker("sample"):
            test = item.nodeid.partition("[")[0]
            groups[test, _value(item, mark.kwargs.get("per"))].append(item)
    dropped: set[pytest.Item] = set()
    for cases in groups.values():
        mark = cases[0].get_closest_marker("sample")
        assert mark is not None
        rank = partial(_rank, config.getoption("seed"), mark.kwargs.get("per"))
        dropped.update(sorted(cases, key=rank)[mark.args[0] :])
    if dropped:
        config.hook.pytest_deselected(items=list(dropped))
        items[:] = [item for item in items if item not in dropped]


def _rank(seed: str, per: str | None, item: Any) -> tuple[bytes, bytes]:
    """Where a case stands in the draw, which is the same in every worker of pytest-xdist.

    The parameter that `per` names comes first, so that tests draw the same values of it and share their kernels.
    """
    first = _value(item, per and per.partition(".")[0])
    return tuple(sha256(f"{seed} {text}".encode()).digest() for text in (first, item.callspec.id))  # type: ignore[return-value]


def _value(item: Any, path: str | None) -> str:
    """A parameter of a case, or an attribute of one: "name", "case.name"."""
    return str(attrgetter(path)(SimpleNamespace(**item.callspec.params))) if path else ""


@pytest.fixture
def drawn(request: pytest.FixtureRequest) -> Callable[[Sequence[Any], int], Sequence[Any]]:
    """Draw `count` of the values by the seed and the test's name; with --sweep, return all of them."""

    def draw(values: Sequence[Any], count: int) -> Sequence[Any]:
        if request.config.getoption("sweep"):
            return values
        return random.Random(f"{request.config.getoption('seed')} {request.node.nodeid}").sample(values, count)

    return draw
