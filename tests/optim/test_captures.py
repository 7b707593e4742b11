"""A CUDA graph captures a step only where each replay is another step; the capture is simulated."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from piste import optim
from piste.engine import is_captured, step_dispatch
from piste.errors import InvalidValue, Unsupported
from piste.optim import clipping, lost_updates, state, step_plans, stepping

from .rejections import assert_rejected

FIRST = (
    "must run once before a CUDA graph captures it, because every replay would make its state and its tables again. "
    "Help: step before the capture, on another stream, with gradients of the same parameters, dtypes and strides."
)


@pytest.fixture
def capture(monkeypatch) -> list[bool]:
    """Whether a graph captures the work of now."""
    now = [False]

    def is_captured(tensors: Sequence[Any]) -> bool:
        return now[0] and bool(tensors)

    for module in (clipping, lost_updates, state, step_plans, step_dispatch, stepping):
        monkeypatch.setattr(module, "is_captured", is_captured)
    return now


def weights() -> list[torch.Tensor]:
    params = [torch.linspace(-1, 1, 6).reshape(2, 3).requires_grad_(), torch.ones(3, 1, requires_grad=True)]
    for p in params:
        p.grad = torch.full_like(p, 0.5)
    return params


@pytest.mark.parametrize("name", ["SGD", "AdamW", "Muon", "Prodigy", "Adafactor"])
def test_the_first_step_can_not_be_captured(name, capture):
    params, others = weights(), weights()
    ours, other = (getattr(optim, name)(given, capturable=True) for given in (params, others))
    capture[0] = True
    message = assert_rejected(Unsupported, ours.step)
    assert message == f"{name}.step() {FIRST}"
    assert not ours.state
    torch.testing.assert_close(params, weights())
    capture[0] = False
    for _ in range(2):
        ours.step()
        other.step()
        capture[0] = True  # the second step is another replay
    torch.testing.assert_close(params, others)


def test_gradients_of_other_parameters_need_a_step_before_the_capture(capture):
    params = weights()
    optimizer = optim.Adam(params, capturable=True)
    optimizer.step()
    params[1].grad = None
    capture[0] = True
    assert_rejected(Unsupported, optimizer.step, FIRST)
    capture[0] = False
    optimizer.step()
    capture[0] = True
    optimizer.step()
    assert [optimizer.state[p]["step"].item() for p in params] == [3, 1]


def test_a_capture_without_gradients_steps_nothing(capture):
    capture[0] = True
    optim.Adam([torch.ones(2, requires_grad=True)], capturable=True).step()


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("SOAP", "the host counts the steps from one renewal of the eigenbases to the next"),
        ("LBFGS", "it reads the loss on the host, to decide how often it evaluates"),
    ],
)
def test_optimizers_that_the_host_decides_about_refuse_a_capture(name, why, capture):
    params = weights()
    optimizer = getattr(optim, name)(params)
    calls = []
    capture[0] = True
    message = assert_rejected(Unsupported, lambda: optimizer.step(lambda: calls.append(None)))
    assert message == (
        f"{name}.step() can't be captured in a CUDA graph, because {why}. Help: capture the forward and the backward "
        "pass alone, and call `step` outside of the CUDA graph."
    )
    assert not optimizer.state and len(calls) == (name == "SOAP")  # a closure comes before the step
    torch.testing.assert_close(params, weights())


def test_the_eager_backend_refuses_a_capture_that_would_repeat_a_step_count(capture):
    params = weights()
    optimizer = optim.Adam(params, fused=False)
    optimizer.step()
    before = [p.detach().clone() for p in params]
    capture[0] = True
    message = assert_rejected(Unsupported, optimizer.step)
    assert message == (
        "Adam.step() can't be captured in a CUDA graph while its step counts are on the CPU: every replay would repeat "
        "the same count. Help: pass capturable=True."
    )
    torch.testing.assert_close([p.detach() for p in params], before)
    assert optimizer.state[params[0]]["step"].item() == 1


def test_work_on_cuda_devices_alone_is_captured(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert not is_captured([torch.ones(1)])
    on_gpu: Any = SimpleNamespace(is_cuda=True)
    if not torch.cuda.is_initialized():
        assert not is_captured([on_gpu])  # a tensor without memory
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    assert is_captured([torch.ones(1), on_gpu])
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    assert not is_captured([on_gpu])


@pytest.mark.parametrize("name", ["SOAP", "LBFGS"])
def test_a_rule_that_no_graph_can_capture_says_what_to_do(name):
    message = assert_rejected(InvalidValue, lambda: getattr(optim, name)(weights(), capturable=True))
    assert message.endswith(
        "received capturable=True. Help: capture the forward and the backward pass alone, and call `step` outside of "
        "the CUDA graph."
    )


def test_no_graph_counts_lost_updates(capture, monkeypatch):
    p = torch.ones(3, dtype=torch.bfloat16, requires_grad=True)
    p.grad = torch.full_like(p, 0.5)
    optimizer = optim.SGD([p], lr=0.5)
    counted = []
    monkeypatch.setattr(lost_updates, "_counted", lambda sample: counted.append(capture[0]) or [])
    for capture[0] in (False, True, False, False):  # the second step and the fourth one count
        optimizer.step()
    assert p.tolist() == [0.0] * 3 and counted == [False]


def test_a_capture_asks_for_no_lost_updates_of_earlier_steps(monkeypatch):
    class Event:
        def query(self) -> bool:
            raise AssertionError("the driver forbids it")

    for answer in ("is_initialized", "is_current_stream_capturing"):
        monkeypatch.setattr(torch.cuda, answer, lambda: True)
    watch = lost_updates.LostUpdates()
    watch._counts = [lost_updates._Counts(torch.tensor([4, 4]), Event(), {"bfloat16"})]
    watch.after("SGD")
    assert len(watch._counts) == 1


def test_a_graph_counts_skipped_steps_where_a_step_outside_has_counted(capture, monkeypatch):
    """A count that a graph makes would begin at 0 in each replay."""
    monkeypatch.setattr(clipping, "steps_on_gpu", lambda optimizer: True)
    (p, q) = weights()
    optimizer = optim.SGD([p, q], lr=0.5, capturable=True)
    optimizer.step()
    optimizer.param_groups[0]["nonfinite"] = "skip"
    before = p.tolist()
    capture[0] = True
    assert assert_rejected(Unsupported, optimizer.step) == f"SGD.step() {FIRST}"
    assert p.tolist() == before
    capture[0] = False
    p.grad.fill_(float("nan"))
    for _ in range(2):
        optimizer.step()
        capture[0] = True
    assert p.tolist() == before and optimizer.skipped == 2
