"""Fixtures of the tests of losses: seeds, the fast path, and a record of the backend."""

from collections.abc import Iterator

import pytest
import torch

from piste.engine import LossDispatcher, loss_dispatch
from piste.engine.cpu import fast_loss, is_one, loss_kernel, region_kernel
from piste.losses import call as call_module


@pytest.fixture(autouse=True)
def seeded_run() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture(params=["fast path", "no fast path"])
def fast_path_on_and_off(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each test with and without the fast path."""
    for made_once in (loss_kernel.kernel_of, is_one.make_is_one):
        made_once.cache_clear()
    monkeypatch.setattr(call_module, "_cached_settings", {})
    loss_dispatch._dispatcher.cache_clear()
    if request.param == "fast path":
        assert fast_loss.native_guard(), "the self-test of the native guard fails on this machine"
    else:
        monkeypatch.setattr(fast_loss, "native_guard", lambda: None)
        monkeypatch.setattr(is_one, "native_guard", lambda: None)


@pytest.fixture
def backends_not_chosen(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let losses choose their backends in a test, and again after it."""
    monkeypatch.setattr(call_module, "_cached_settings", {})
    loss_dispatch._dispatcher.cache_clear()
    yield
    loss_dispatch._dispatcher.cache_clear()


@pytest.fixture
def computed_by_kernel(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Record whether a kernel computed each loss."""
    seen: list[bool] = []
    original = LossDispatcher.loss

    def watched(*args, **kwargs):
        result = original(*args, **kwargs)
        seen.append(result is not None)
        return result

    monkeypatch.setattr(LossDispatcher, "loss", watched)
    monkeypatch.setattr(call_module, "_cached_settings", {})
    loss_dispatch._dispatcher.cache_clear()
    return seen


@pytest.fixture
def kernel_calls(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """The calls that the kernel of regions computed."""
    calls: list[None] = []
    original = region_kernel.RegionKernel.compute

    def compute(self, operands, arguments):
        computed = original(self, operands, arguments)
        calls.append(None)
        return computed

    monkeypatch.setattr(region_kernel.RegionKernel, "compute", compute)
    return calls
