"""Fixtures of the tests of the engine."""

from array import array

import pytest

from piste.engine.native import gradients, tensor_memory


@pytest.fixture(params=["fast path", "asking libtorch", "no fast path"])
def fast_path_on_and_off(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test with machine code that compares the memory of tensors, that asks libtorch, and with Python alone."""
    if request.param == "no fast path":
        monkeypatch.setattr(gradients, "native_guard", lambda: None)
        return
    assert gradients.native_guard(), "the self-test of the native guard fails on this machine"
    if request.param == "asking libtorch":
        for module in (gradients, tensor_memory):
            monkeypatch.setattr(module, "fact_words", lambda: tensor_memory.FactWords(0, array("q")))
