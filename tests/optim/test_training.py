"""Optimizers in a training loop: closures, hooks, gradient scalers, param groups and frozen parameters."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from piste.optim import OPTIMIZERS

from .cases import ELEMENTWISE
from .reference import (
    PAIRS,
    assert_agree,
    assert_same,
    backward,
    batch,
    copies,
    model,
    paired_with_torch,
    train,
)

pytestmark = pytest.mark.usefixtures("double_scalars")


every = pytest.mark.parametrize("name", ELEMENTWISE)


paired = pytest.mark.parametrize("name", PAIRS)


@pytest.mark.sample(1, per="name", of=8)
@every
def test_a_closure_is_called_once_with_gradients_on_and_its_loss_returned(name):
    net, calls = model(), []
    optimizer = OPTIMIZERS[name](net.parameters())

    def closure():
        calls.append(torch.is_grad_enabled())
        return backward(net, 0)

    other = copy.deepcopy(net)
    with torch.no_grad():
        loss = optimizer.step(closure)
    assert calls == [True]
    assert loss.item() == backward(other, 0).item()
    plain = OPTIMIZERS[name](other.parameters())
    plain.step()
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))


def test_step_hooks_run_around_the_step_and_may_replace_its_arguments():
    net, seen = model(), []
    optimizer = OPTIMIZERS["Adam"](net.parameters())
    optimizer.register_step_pre_hook(lambda o, args, kwargs: seen.append("before") or ((o, lambda: 5.0), {}))
    optimizer.register_step_post_hook(lambda o, args, kwargs: seen.append("after"))
    backward(net, 0)
    assert optimizer.step() == 5.0
    assert seen == ["before", "after"]


def test_global_hooks_run_for_the_optimizers_of_piste():
    net, seen = model(), []
    optimizer = OPTIMIZERS["Adam"](net.parameters())
    handles = [
        register_optimizer_step_pre_hook(lambda o, *_: seen.append(("before", o))),
        register_optimizer_step_post_hook(lambda o, *_: seen.append(("after", o))),
    ]
    try:
        train(net, optimizer, [0])
    finally:
        for handle in handles:
            handle.remove()
    assert seen == [("before", optimizer), ("after", optimizer)]


def test_state_dict_hooks_run():
    net, seen = model(), []
    optimizer = OPTIMIZERS["Adam"](net.parameters())
    train(net, optimizer, [0])
    optimizer.register_state_dict_pre_hook(lambda o: seen.append("saving"))
    optimizer.register_state_dict_post_hook(lambda o, saved: saved.update(mine=1))
    optimizer.register_load_state_dict_pre_hook(lambda o, saved: seen.append(("loading", saved.pop("mine"))))
    optimizer.register_load_state_dict_post_hook(lambda o: seen.append("loaded"))
    optimizer.load_state_dict(optimizer.state_dict())
    assert seen == ["saving", ("loading", 1), "loaded"]


@pytest.mark.sample(1, per="name", of=8)
@paired
def test_a_gradient_scaler_unscales_gradients_and_skips_a_step_after_overflow(name):
    ours, a, theirs, b = paired_with_torch(name)
    for net, optimizer in ((ours, a), (theirs, b)):
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
        for t in range(5):
            net.zero_grad()
            x, y = batch(t)
            scaler.scale(((net(x) - y) ** 2).mean()).backward()
            if t == 2:
                next(net.parameters()).grad[0, 0] = torch.inf
            before = [p.detach().clone() for p in net.parameters()]
            scaler.step(optimizer)
            scaler.update()
            if t == 2:
                assert all(torch.equal(p, q) for p, q in zip(net.parameters(), before, strict=True))
        assert scaler.get_scale() == 1024.0 * 2 / 2 * 2
    assert_agree(ours, a, theirs, b)


@pytest.mark.sample(1, per="name", of=8)
@paired
def test_clipped_gradients_are_stepped(name):
    ours, a, theirs, b = paired_with_torch(name)
    for net, optimizer in ((ours, a), (theirs, b)):
        for t in range(3):
            backward(net, t)
            nn.utils.clip_grad_norm_(net.parameters(), 0.1)
            optimizer.step()
    assert_agree(ours, a, theirs, b)


@pytest.mark.sample(1, per="name", of=8)
@paired
def test_groups_have_their_own_options_and_can_be_added_during_a_run(name):
    ours, theirs = copies(model())
    runs = []
    for net, cls in ((ours, PAIRS[name][0]), (theirs, PAIRS[name][1])):
        optimizer = cls([{"params": net[0].weight, "lr": 0.3}, {"params": [net[0].bias], "maximize": True}], lr=0.1)
        train(net, optimizer, range(3))
        optimizer.add_param_group({"params": net[2].parameters(), "lr": 0.05})
        if cls is torch.optim.Adagrad:  # before torch 2.12 it makes state in its constructor alone
            for p in net[2].parameters():
                optimizer.state.setdefault(p, {"step": torch.tensor(0.0), "sum": torch.zeros_like(p)})
        train(net, optimizer, range(3, 6))
        runs.append(optimizer)
    assert_agree(ours, runs[0], theirs, runs[1])


@pytest.mark.sample(1, per="name", of=8)
@paired
def test_options_changed_between_steps_take_effect(name):
    ours, a, theirs, b = paired_with_torch(name)
    changes = {"lr": 0.05, "weight_decay": 0.1, "maximize": True, "betas": (0.8, 0.9), "momentum": 0.5, "eps": 1e-3}
    if name == "RMSprop":
        changes.pop("momentum")  # its buffer is made by the first step alone, in PyTorch
    for net, optimizer in ((ours, a), (theirs, b)):
        train(net, optimizer, range(2))
        for key in changes.keys() & optimizer.param_groups[0].keys():
            optimizer.param_groups[0][key] = changes[key]
        train(net, optimizer, range(2, 5))
    assert_agree(ours, a, theirs, b)


@pytest.mark.sample(1, per="name", of=8)
@paired
def test_frozen_parameters_are_stepped_once_they_are_unfrozen(name):
    ours, a, theirs, b = paired_with_torch(name)
    for net, optimizer in ((ours, a), (theirs, b)):
        net[0].requires_grad_(False)
        before = net[0].weight.clone()
        train(net, optimizer, range(2))
        assert torch.equal(net[0].weight, before)
        net[0].requires_grad_(True)
        train(net, optimizer, range(2, 4))
    assert_agree(ours, a, theirs, b)


@pytest.mark.sample(1, per="name", of=8)
@paired
def test_a_missing_gradient_leaves_parameter_and_state_unchanged(name):
    ours, a, theirs, b = paired_with_torch(name)
    for net, optimizer in ((ours, a), (theirs, b)):
        for t in range(4):
            backward(net, t)
            if t % 2:
                net[0].bias.grad = None
            optimizer.step()
    assert_agree(ours, a, theirs, b)


@pytest.mark.sample(1, per="name", of=8)
@paired
def test_tied_weights_are_stepped_once(name):
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    net[2].weight = net[0].weight
    ours, a, theirs, b = paired_with_torch(name, net)
    for net, optimizer in ((ours, a), (theirs, b)):
        assert len(optimizer.param_groups[0]["params"]) == 3
        for t in range(3):
            optimizer.zero_grad()
            net(batch(t)[0]).square().mean().backward()
            optimizer.step()
    assert_agree(ours, a, theirs, b)


@pytest.mark.sample(1, per="name", of=8)
@paired
def test_the_rate_can_be_a_tensor(name):
    ours, theirs = copies(model())
    for net, cls in zip((ours, theirs), PAIRS[name], strict=True):
        rate = torch.tensor(0.05)
        optimizer = cls(net.parameters(), lr=rate)
        train(net, optimizer, range(2))
        rate.fill_(0.02)
        train(net, optimizer, range(2, 4))
        assert optimizer.param_groups[0]["lr"] is rate
    assert_same(ours.parameters(), theirs.parameters())


@pytest.mark.sample(1, per="name", of=8)
@every
def test_zero_grad_fills_with_zeros_or_sets_none(name):
    net = model()
    optimizer = OPTIMIZERS[name](net.parameters())
    train(net, optimizer, [0])
    optimizer.zero_grad(set_to_none=False)
    assert all(p.grad.abs().max() == 0 for p in net.parameters())
    optimizer.zero_grad()
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.sample(1, per="name", of=8)
@every
def test_the_gradient_is_not_changed(name):
    net = model()
    optimizer = OPTIMIZERS[name](net.parameters(), maximize=True)
    for t in range(2):
        backward(net, t)
        before = [p.grad.clone() for p in net.parameters()]
        kept = [p.grad for p in net.parameters()]
        optimizer.step()
        assert all(p.grad is g and torch.equal(g, b) for p, g, b in zip(net.parameters(), kept, before, strict=True))


@pytest.mark.sample(1, per="name", of=8)
@every
def test_the_parameter_stays_the_same_tensor_and_its_version_counts_up(name):
    net = model()
    optimizer = OPTIMIZERS[name](net.parameters())
    weight, address, version = net[0].weight, net[0].weight.data_ptr(), net[0].weight._version
    train(net, optimizer, [0])
    assert net[0].weight is weight and weight.data_ptr() == address
    assert weight._version > version
    assert weight.requires_grad and weight.grad_fn is None


@pytest.mark.sample(1, per="name", of=8)
@every
def test_a_step_without_any_gradient_warns_once(name):
    net = model()
    optimizer = OPTIMIZERS[name](net.parameters())
    with pytest.warns(
        UserWarning, match=rf"{name}.step\(\) changed no parameter: no parameter has a gradient"
    ) as caught:
        optimizer.step()
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()
    assert not optimizer.state_dict()["state"] or name == "Adagrad"
