"""Sampled tests: `pytest` runs some cases of an exhaustive test, drawn by a printed seed; `pytest --sweep` runs all.

    @pytest.mark.sample(4)                         # four cases of this test
    @pytest.mark.sample(1, per="name")             # one case for each value of its parameter `name`
    @pytest.mark.sample(1, per="case.name")        # one case for each `case.name`, with the same `case` in every test
    @pytest.mark.sample(1, per="case.name", of=9)  # one case for each of nine names, the same names in every test
    def test_many_calls(drawn):                    # twenty of a hundred numbers inside one test
        for call in drawn(range(100), 20): ...

Tests that draw the same losses or optimizers share their kernels, and compiling kernels is most of the time of a first
run. `PISTE_TEST_SEED` or `--seed` draws other cases. Cases asked for by their ids run as they are.
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
    config.addinivalue_line(
        "markers", "sample(count, per=None, of=None): run `count` cases of each value of `per`, of `of` of its values"
    )


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
    tests: dict[str, dict[str, list[pytest.Item]]] = defaultdict(lambda: defaultdict(list))
    for item in items:
        if mark := item.get_closest_marker("sample"):
            tests[item.nodeid.partition("[")[0]][_value(item, mark.kwargs.get("per"))].append(item)
    seed = config.getoption("seed")
    dropped: set[pytest.Item] = set()
    for groups in tests.values():
        dropped.update(*groups.values())
        mark = next(iter(groups.values()))[0].get_closest_marker("sample")
        assert mark is not None
        for value in sorted(groups, key=partial(_digest, seed))[: mark.kwargs.get("of")]:
            rank = partial(_rank, seed, mark.kwargs.get("per"))
            dropped.difference_update(sorted(groups[value], key=rank)[: mark.args[0]])
    if dropped:
        config.hook.pytest_deselected(items=list(dropped))
        items[:] = [item for item in items if item not in dropped]


def _rank(seed: str, per: str | None, item: Any) -> tuple[bytes, bytes]:
    """Where a case stands in the draw, which is the same in every worker of pytest-xdist.

    The parameter that `per` names comes first, so that tests draw the same values of it and share their kernels. Its
    place in the list stands for an object of another library: its words may hold addresses, and sets in any order.
    """
    name = per.partition(".")[0] if per else ""
    value = item.callspec.params.get(name, "")
    is_plain = type(value) in (str, int, float, complex)
    is_own = type(value).__module__.startswith("tests.") and type(value).__str__ is not object.__str__
    first = str(value if is_plain or is_own else item.callspec.indices[name])
    return _digest(seed, first), _digest(seed, item.callspec.id)


def _digest(seed: str, text: str) -> bytes:
    return sha256(f"{seed} {text}".encode()).digest()


def _value(item: Any, path: str | None) -> str:
    """A parameter of a case, or an attribute of one: "name", "case.name"."""
    return str(attrgetter(path)(SimpleNamespace(**item.callspec.params))) if path else ""


@pytest.fixture
def drawn(request: pytest.FixtureRequest) -> Callable[[Sequence[Any], int], Sequence[Any]]:
    """Draw `count` of the values by the seed, the same ones in every test; with --sweep, return all of them."""

    def draw(values: Sequence[Any], count: int) -> Sequence[Any]:
        if request.config.getoption("sweep") or len(values) <= count:
            return values
        return random.Random(request.config.getoption("seed")).sample(values, count)

    return draw
