"""Fixtures of the tests of the engine."""

import pytest

from piste.engine.native import gradients


@pytest.fixture(params=["fast path", "no fast path"])
def fast_path_on_and_off(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test with machine code that checks the tensors of a step, and with Python in its place."""
    if request.param == "fast path":
        assert gradients.native_guard(), "the self-test of the native guard fails on this machine"
    else:
        monkeypatch.setattr(gradients, "native_guard", lambda: None)
