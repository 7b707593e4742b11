"""Machine code finds the gradients of a step on the GPU; the device is a fake, so no GPU is needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import piste
from piste.engine.native.native_guard import native_guard
from piste.errors import Unsupported

from .recording import recording

pytestmark = pytest.mark.skipif(native_guard() is None, reason="machine code can't ask libtorch about tensors here")


def parameters() -> list[torch.Tensor]:
    weights = [torch.ones(shape).requires_grad_() for shape in ((5, 3), (4100,), ())]
    for p in weights:
        p.grad = torch.ones_like(p)
    return weights


def plan_of(optimizer: Any) -> Any:
    return optimizer._step_plans._plans[0][0][1]


def addresses(weights: list[torch.Tensor]) -> list[int]:
    return [p.grad.data_ptr() for p in weights if p.grad is not None]


@pytest.mark.parametrize("is_native", [True, False], ids=["native", "python"])
def test_each_launch_gets_the_gradients_of_its_step(is_native, monkeypatch):
    if not is_native:
        monkeypatch.setattr("piste.engine.gpu.fast_step.can_check", lambda *args: False)
    with recording() as backend:
        weights = parameters()
        optimizer = piste.optim.AdamW(weights)
        kept = []
        for _ in range(4):
            optimizer.step()
            assert backend.device.gradients() == addresses(weights)
            kept.append([p.grad for p in weights])
            for p in weights:
                p.grad = torch.ones_like(p)
        assert (plan_of(optimizer)._try_fast is not None) == is_native
    assert [(entry, blocks) for entry, blocks, *_ in backend.device.launches] == [("step", 4)] * 4
    assert [p._version for p in weights] == [4, 4, 4]
    assert optimizer.state[weights[0]]["step"] == 4


def move(p: torch.Tensor) -> None:
    p.data = p.data.clone()


def other_order(p: torch.Tensor) -> None:
    p.grad = torch.ones(3, 5).t()


def drop(p: torch.Tensor) -> None:
    p.grad = None


@pytest.mark.parametrize("change", [move, other_order, drop])
def test_a_change_makes_a_new_plan(change: Callable[[torch.Tensor], None]):
    with recording() as backend:
        weights = parameters()
        optimizer = piste.optim.SGD(weights, momentum=0.5)
        optimizer.step()
        plan = plan_of(optimizer)
        change(weights[0])
        optimizer.step()
        assert plan_of(optimizer) is not plan
        if change is not other_order:  # which the kernel can't take
            assert backend.device.gradients() == addresses(weights)


def test_parameters_without_a_gradient_stay_out_until_they_have_one():
    with recording() as backend:
        weights = parameters()
        weights[1].grad = None
        optimizer = piste.optim.SGD(weights)
        optimizer.step()
        assert backend.device.gradients() == addresses(weights) and len(addresses(weights)) == 2
        weights[1].grad = torch.ones_like(weights[1])
        optimizer.step()
        assert backend.device.gradients() == addresses(weights) and len(addresses(weights)) == 3


def test_a_launch_goes_to_the_stream_that_is_current_at_its_step():
    with recording() as backend:
        weights = parameters()
        optimizer = piste.optim.SGD(weights)
        for stream in (0, 7, 0):
            backend.device.current_stream = stream
            optimizer.step()
    assert [stream for _, _, stream, _ in backend.device.launches] == [0, 7, 0]


def test_a_capture_with_step_counts_on_the_cpu_is_rejected():
    with recording() as backend:
        optimizer = piste.optim.SGD(parameters())
        optimizer.step()
        backend.device.capturing = True
        with pytest.raises(Unsupported, match=r"Help: pass capturable=True"):
            optimizer.step()
    assert len(backend.device.launches) == 1
