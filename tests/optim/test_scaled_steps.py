"""Steps that divide gradients and leave bad steps out on the device, as for a GradScaler on a GPU."""

from __future__ import annotations

import copy
import math
import warnings

import pytest
import torch
from torch._subclasses import FakeTensorMode

import piste
from piste.errors import InvalidValue
from piste.optim import OPTIMIZERS as ALL
from piste.optim import clipping
from piste.optim import optimizer as optimizer_module
from piste.optim.state import state_of as state_tensors

NAMES = ["SGD", "Adam", "NAdam", "ASGD"]  # without and with state, and with counters that the rule restates


@pytest.fixture
def as_on_gpu(monkeypatch):
    """Let optimizers on the CPU step as those of which everything is on a GPU, with torch operations."""
    for module in (clipping, optimizer_module):
        monkeypatch.setattr(module, "steps_on_gpu", lambda optimizer: True)


def make(name, **options):
    weights = [torch.linspace(-1, 1, 6).requires_grad_(), torch.ones(2, 2, dtype=torch.float64).requires_grad_()]
    if name == "SGD":
        options["momentum"] = 0.9
    return weights, getattr(piste.optim, name)(weights, **{"capturable": True, "fused": False, **options})


def scaled_training(name, bad=(), **options):
    """The weights, the optimizer and the gradients after four steps with a GradScaler."""
    weights, optimizer = make(name, **options)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=100)
    for t in range(4):
        optimizer.zero_grad()
        scaler.scale(sum((w * (w + t)).sum() for w in weights)).backward()
        if t in bad:
            weights[1].grad[0, 0] = math.inf
        scaler.step(optimizer)
        scaler.update()
    return weights, optimizer


def state_of(optimizer):
    return copy.deepcopy(optimizer.state_dict()["state"])


@pytest.mark.parametrize("bad", [(), (2,)], ids=["good", "bad"])
@pytest.mark.parametrize("name", NAMES)
def test_a_gradient_scaler_leaves_division_and_bad_steps_to_the_step(name, bad, request):
    reference = scaled_training(name, bad, capturable=False)
    request.getfixturevalue("as_on_gpu")
    weights, optimizer = scaled_training(name, bad)
    assert not hasattr(optimizer, "found_inf")
    for p, q in zip(weights, reference[0], strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-6)
        for key, value in reference[1].state[q].items():
            torch.testing.assert_close(optimizer.state[p][key], value, rtol=1e-6, atol=1e-6)
    if not bad:
        assert weights[0].grad.abs().max() > 4 * reference[0][0].grad.abs().max()  # only the step divides them


@pytest.mark.parametrize("name", NAMES)
def test_a_bad_step_on_the_device_changes_no_bit_and_is_counted(name, as_on_gpu):
    weights, optimizer = make(name, nonfinite="skip")
    for t in range(4):
        for w in weights:
            w.grad = torch.cos(w.detach() * t)
        if t == 2:
            weights[0].grad[1] = math.nan
        before = [w.detach().clone() for w in weights], state_of(optimizer)
        optimizer.step()
        after = [w.detach().clone() for w in weights], state_of(optimizer)
        has_changed = not all(map(torch.equal, before[0], after[0]))
        assert has_changed is (t != 2)
        if t == 2:
            for index, entries in before[1].items():
                assert all(torch.equal(value, after[1][index][key]) for key, value in entries.items())
    assert optimizer.skipped == 1


def test_finite_gradients_with_an_infinite_norm_are_no_bad_step(as_on_gpu):
    weights, optimizer = make("SGD", nonfinite="skip", lr=1e-39)
    weights[0].grad = torch.full_like(weights[0], 3e38)
    before = weights[0].detach().clone()
    optimizer.step()
    assert optimizer.grad_norm.isinf()
    assert optimizer.skipped == 0 and not torch.equal(weights[0], before)


def test_gradients_are_clipped_by_the_norm_of_the_divided_ones(as_on_gpu):
    weights, optimizer = scaled_training("SGD", max_norm=0.5, lr=0.0)
    gradients = torch.cat([(2 * w + 3).detach().flatten().double() for w in weights])
    assert optimizer.grad_norm.item() == pytest.approx(gradients.norm().item(), rel=1e-6)
    plain, _ = scaled_training("SGD", lr=0.1, max_norm=0.5)
    expected, _ = make("SGD")
    reference = torch.optim.SGD(expected, lr=0.1, momentum=0.9)
    for t in range(4):
        reference.zero_grad()
        sum((w * (w + t)).sum() for w in expected).backward()
        torch.nn.utils.clip_grad_norm_(expected, 0.5)
        reference.step()
    for p, q in zip(plain, expected, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-6)


LEFT_OUT = {
    "LBFGS": "its line search reads the loss",
    "SOAP": "the host counts the steps from one renewal of the eigenbases to the next",
    "SparseAdam": "fake tensors are dense",
}


@pytest.mark.parametrize("options", [{}, {"max_norm": 1.0, "nonfinite": "skip"}], ids=["plain", "clipped"])
@pytest.mark.parametrize("name", sorted(ALL.keys() - LEFT_OUT))
def test_a_scaled_step_waits_for_no_number_of_the_device(name, options, monkeypatch):
    """Fake tensors have no values: a step that reads one raises DataDependentOutputException."""
    # The method needs a torch with CUDA, its operator does not.
    monkeypatch.setattr(torch.Tensor, "copy_", lambda self, other: torch.ops.aten.copy_(self, other))
    with warnings.catch_warnings(), FakeTensorMode():
        warnings.simplefilter("ignore")  # of addresses that fake tensors lack
        weights = [torch.ones(6, 5, device="cuda").requires_grad_() for _ in range(2)]
        optimizer = getattr(piste.optim, name)(weights, fused=False, **options)
        assert optimizer._step_supports_amp_scaling
        for _ in range(2):
            for p in weights:
                p.grad = torch.ones_like(p)
            optimizer.grad_scale, optimizer.found_inf = (torch.ones((), device="cuda") for _ in range(2))
            optimizer.step()
        assert {x.device.type for state in optimizer.state.values() for x in state.values()} <= {"cuda"}


@pytest.mark.parametrize("name", NAMES)
def test_without_capturable_a_scaled_step_is_that_of_capturable(name, as_on_gpu):
    ours, optimizer = scaled_training(name, [2], capturable=False, max_norm=0.5)
    theirs, reference = scaled_training(name, [2], capturable=True, max_norm=0.5)
    for p, q in zip(ours, theirs, strict=True):
        assert torch.equal(p, q)
        for key, value in reference.state[q].items():
            assert torch.equal(optimizer.state[p][key], value)


def test_step_counts_of_the_host_move_to_the_device_that_decides():
    p = torch.ones(3, device="meta", requires_grad=True)  # a device without numbers
    p.grad = torch.ones_like(p)
    optimizer = piste.optim.NAdam([p])
    group = optimizer.param_groups[0]
    _, counters, _ = state_tensors(optimizer, p, group)
    assert [c.device.type for c in counters] == ["cpu", "cpu"]
    _, counters, _ = state_tensors(optimizer, p, {**group, "capturable": True})
    assert [c.device.type for c in counters] == ["meta", "meta"]
    assert optimizer.state[p]["step"] is counters[0]


def test_a_parameter_on_the_cpu_lets_the_scaler_wait():
    _, optimizer = make("SGD")
    assert optimizer._step_supports_amp_scaling is False


def test_raising_for_a_bad_gradient_needs_the_host():
    with pytest.raises(InvalidValue, match='nonfinite="raise" reads the gradients on the host'):
        make("Adam", nonfinite="raise")
