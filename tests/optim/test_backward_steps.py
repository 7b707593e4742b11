"""Steps within the backward pass: the same values as steps after it, and one gradient at a time."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn

import piste
from piste.errors import Unsupported
from piste.optim import OPTIMIZERS
from piste.torch_internals import record_allocations

from .reference import batch, model


def loss_of(net, t):
    x, y = batch(t)
    return ((net(x) - y) ** 2).mean()


def pair(name="Adam", **options):
    net = model()
    nets = [net, copy.deepcopy(net)]
    return nets, [OPTIMIZERS[name](n.parameters(), **options) for n in nets]


def assert_equal(nets):
    for p, q in zip(*(net.parameters() for net in nets), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("name", ["SGD", "Adam", "NAdam", "Rprop"])
def test_parameters_and_state_are_those_of_steps_after_the_pass(name, fused):
    nets, optimizers = pair(name, fused=fused, max_value=0.5)
    for t in range(4):
        optimizers[0].zero_grad()
        loss_of(nets[0], t).backward()
        optimizers[0].step()
        with optimizers[1].step_in_backward():
            loss_of(nets[1], t).backward()
        assert all(p.grad is None for p in nets[1].parameters())
        optimizers[1].param_groups[0]["lr"] = optimizers[0].param_groups[0]["lr"] = 0.1 / (t + 1)
    assert_equal(nets)
    states = [optimizer.state_dict()["state"] for optimizer in optimizers]
    assert states[0].keys() == states[1].keys()
    for index, state in states[0].items():
        assert all(torch.equal(value, states[1][index][key]) for key, value in state.items())


def test_gradients_that_were_accumulated_before_are_part_of_the_step():
    nets, optimizers = pair()
    for t in range(3):
        loss_of(nets[0], t).backward()
    optimizers[0].step()
    for t in range(2):
        loss_of(nets[1], t).backward()
    with optimizers[1].step_in_backward():
        loss_of(nets[1], 2).backward()
    assert_equal(nets)


def test_a_parameter_that_is_used_twice_is_stepped_once_with_the_sum():
    w = torch.ones(3, requires_grad=True)
    optimizer = piste.optim.SGD([w], lr=0.5)
    with optimizer.step_in_backward():
        (w * 2 + w * 3).sum().backward()
    assert w.tolist() == [-1.5] * 3


def test_a_second_gradient_in_one_context_is_refused():
    w = torch.ones(3, requires_grad=True)
    optimizer = piste.optim.SGD([w], lr=0.5)
    second = r"a parameter of shape \(3,\) received a second gradient .* Help: run one"
    with pytest.raises(Unsupported, match=second), optimizer.step_in_backward():
        w.sum().backward()
        w.sum().backward()
    w.grad = None
    w.sum().backward()  # the hooks are gone
    assert w.grad is not None and w.tolist() == [0.5] * 3


def chain():
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(256, 256, bias=False) for _ in range(12)))


def test_one_gradient_at_a_time_takes_memory():
    def peak(in_backward):
        net = chain()
        optimizer = piste.optim.SGD(net.parameters(), lr=1e-3)
        x = torch.ones(1, 256)

        def run():
            if in_backward:
                with optimizer.step_in_backward():
                    net(x).sum().backward()
            else:
                net(x).sum().backward()
                optimizer.step()
                optimizer.zero_grad()

        run()
        taken = most = 0
        for size in record_allocations(run):
            taken += size
            most = max(most, taken)
        return most / (4 * 256 * 256)

    assert peak(False) >= 12
    assert peak(True) < 2


def test_frozen_and_unused_parameters_are_left_alone():
    net = model()
    net[0].bias.requires_grad_(False)
    unused = torch.ones(2, requires_grad=True)
    before = copy.deepcopy(net[0].bias)
    optimizer = piste.optim.Adam([*net.parameters(), unused])
    with optimizer.step_in_backward():
        loss_of(net, 0).backward()
    assert torch.equal(net[0].bias, before) and unused.tolist() == [1.0, 1.0]
    assert len(optimizer.state) == 3


def test_groups_keep_their_options():
    a, b = (torch.ones(1, requires_grad=True) for _ in range(2))
    optimizer = piste.optim.SGD([{"params": [a]}, {"params": [b], "lr": 0.25}], lr=0.5)
    with optimizer.step_in_backward():
        (a + b).sum().backward()
    assert (a.item(), b.item()) == (0.5, 0.75)


def test_schedulers_know_of_the_step():
    w = torch.ones(1, requires_grad=True)
    optimizer = piste.optim.SGD([w], lr=0.5)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with optimizer.step_in_backward():
            w.sum().backward()
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.05


def test_a_pass_without_gradients_warns():
    w = torch.ones(1, requires_grad=True)
    optimizer = piste.optim.SGD([w], lr=0.5)
    with (
        pytest.warns(UserWarning, match=r"SGD\.step_in_backward\(\) changed no parameter: no parameter has a gradient"),
        optimizer.step_in_backward(),
    ):
        pass
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it warns once
        with optimizer.step_in_backward():
            pass


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"max_norm": 1.0},
            r"max_norm is the norm of all gradients\. Help: max_value .*; received max_norm=1\.0 in",
        ),
        ({"nonfinite": "skip"}, r"nonfinite asks for all gradients before any .*; received nonfinite='skip'"),
        ({"differentiable": True}, r"differentiable keeps gradients .*; received differentiable=True"),
    ],
)
def test_options_that_need_all_gradients_are_refused(options, words):
    optimizer = piste.optim.SGD([torch.ones(1, requires_grad=True)], lr=0.5, **options)
    with pytest.raises(Unsupported, match=words), optimizer.step_in_backward():
        raise AssertionError("the context must not begin")


def test_hooks_of_steps_are_refused():
    optimizer = piste.optim.SGD([torch.ones(1, requires_grad=True)], lr=0.5)
    optimizer.register_step_post_hook(lambda *args: None)
    words = r"hooks of steps could run; received an optimizer with such hooks\. Help"
    with pytest.raises(Unsupported, match=words), optimizer.step_in_backward():
        pass


def test_state_that_was_replaced_takes_effect():
    w = torch.ones(2, requires_grad=True)
    optimizer = piste.optim.SGD([w], lr=1.0, momentum=0.5)
    for start in (None, torch.full((2,), 8.0)):
        if start is not None:
            optimizer.state[w]["momentum_buffer"] = start
        with optimizer.step_in_backward():
            w.sum().backward()
    assert w.tolist() == [1 - 1 - 5.0] * 2
