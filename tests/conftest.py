"""The sampling of exhaustive tests; and Ctrl-C, which is tested even where the shell ignores it in the background."""

import gc
import os
import signal
import sys
from collections.abc import Iterator

import pytest

collect_ignore = ["optim/record_trajectories.py", "pytorch/recorder.py"]
"""Scripts that run in environments of their own, which the collection of doctests would import."""

pytest_plugins = ["tests.isolation", "tests.sampling", "pytester"]
os.environ["PISTE_LANG"] = "en"  # tests quote English messages, whatever the locale
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Leave what was imported and collected, 13,000 tests, out of every later collection of garbage: 2 s each.

    Numba and torch.compile make millions of objects that stay, and a collection after each 700 would look at them.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    """Let torch.compile forget the functions of each test, because it compiles each only a few times."""
    yield
    compiler = sys.modules.get("torch._dynamo.convert_frame")
    if compiler is not None and compiler.input_codes.seen:
        sys.modules["torch._dynamo"].reset()  # type: ignore[attr-defined]
