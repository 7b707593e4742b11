"""Sampled tests: `pytest` runs some cases of an exhaustive test, drawn by a printed seed; `pytest --sweep` runs all.

    @pytest.mark.sample(4)              # four cases of this test
    @pytest.mark.sample(1, per="name")  # one case for each value of its parameter `name`

`PISTE_TEST_SEED` or `--seed` draws other cases. Cases asked for by their ids run as they are.
"""

from __future__ import annotations

import os
import random
from collections import defaultdict
from typing import Any

import pytest

DEFAULT_SEED = "1"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("sampling")
    group.addoption("--sweep", action="store_true", help="run all cases of the tests marked `sample`")
    group.addoption("--seed", default=os.environ.get("PISTE_TEST_SEED", DEFAULT_SEED), help="draws the sampled cases")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "sample(count, per=None): run `count` cases, for each value of parameter `per`")


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
    groups: dict[tuple[str, Any], list[pytest.Item]] = defaultdict(list)
    counts: dict[tuple[str, Any], int] = {}
    for item in items:
        mark = item.get_closest_marker("sample")
        if mark is not None:
            key = _group_of(item, **mark.kwargs)
            groups[key].append(item)
            counts[key] = mark.args[0]
    dropped: set[pytest.Item] = set()
    for key, cases in groups.items():
        # Seeded by the test's name: its draw doesn't depend on other tests, nor on the worker of pytest-xdist.
        draw = random.Random(f"{config.getoption('seed')} {key}")
        dropped |= set(cases) - set(draw.sample(cases, min(counts[key], len(cases))))
    if dropped:
        config.hook.pytest_deselected(items=list(dropped))
        items[:] = [item for item in items if item not in dropped]


def _group_of(item: pytest.Item, per: str | None = None) -> tuple[str, str]:
    """The test function of a case, and the value of the parameter that each has its own draw for."""
    test = item.nodeid.partition("[")[0]
    return test, "" if per is None else str(item.callspec.params[per])  # type: ignore[attr-defined]
