"""An optimizer inside a training loop: schedulers, closures, hooks, scalers, groups and gradients of every kind."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as schedulers
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from piste.optim import OPTIMIZERS

from ..engine.process import python
from .reference import PAIRS, assert_same, assert_same_state, backward, batch, copies, model, train

pytestmark = pytest.mark.usefixtures("double_scalars")
every = pytest.mark.parametrize("name", OPTIMIZERS)
paired = pytest.mark.parametrize("name", PAIRS)


def paired_with_torch(name, net=None, **options):
    """Two equal models, ours under Piste's optimizer and theirs under PyTorch's."""
    ours, theirs = copies(net or model())
    piste, torchs = PAIRS[name]
    return ours, piste(ours.parameters(), **options), theirs, torchs(theirs.parameters(), **options)


def assert_agree(ours, a, theirs, b):
    assert_same(ours.parameters(), theirs.parameters())
    assert_same_state(a, b)


# --- schedulers ------------------------------------------------------------------------------------

SCHEDULERS = {
    "LambdaLR": lambda o: schedulers.LambdaLR(o, lambda e: 0.9**e),
    "MultiplicativeLR": lambda o: schedulers.MultiplicativeLR(o, lambda e: 0.9),
    "StepLR": lambda o: schedulers.StepLR(o, step_size=2, gamma=0.3),
    "MultiStepLR": lambda o: schedulers.MultiStepLR(o, [2, 4], gamma=0.3),
    "ConstantLR": lambda o: schedulers.ConstantLR(o, factor=0.3, total_iters=3),
    "LinearLR": lambda o: schedulers.LinearLR(o, total_iters=4),
    "ExponentialLR": lambda o: schedulers.ExponentialLR(o, gamma=0.7),
    "PolynomialLR": lambda o: schedulers.PolynomialLR(o, total_iters=5, power=2.0),
    "CosineAnnealingLR": lambda o: schedulers.CosineAnnealingLR(o, T_max=4),
    "CosineAnnealingWarmRestarts": lambda o: schedulers.CosineAnnealingWarmRestarts(o, T_0=3),
    "SequentialLR": lambda o: schedulers.SequentialLR(
        o, [schedulers.LinearLR(o, total_iters=3), schedulers.ExponentialLR(o, gamma=0.5)], milestones=[3]
    ),
    "ChainedScheduler": lambda o: schedulers.ChainedScheduler(
        [schedulers.ConstantLR(o, factor=0.1, total_iters=2), schedulers.ExponentialLR(o, gamma=0.9)]
    ),
    "CyclicLR": lambda o: schedulers.CyclicLR(o, 0.001, 0.1, step_size_up=2, cycle_momentum=cycles(o)),
    "OneCycleLR": lambda o: schedulers.OneCycleLR(o, 0.1, total_steps=8, cycle_momentum=cycles(o)),
    "SWALR": lambda o: torch.optim.swa_utils.SWALR(o, swa_lr=0.05, anneal_epochs=4),
    "ReduceLROnPlateau": lambda o: schedulers.ReduceLROnPlateau(o, patience=0, factor=0.5, threshold=0.5),
}


def cycles(optimizer):
    return any(key in optimizer.defaults for key in ("momentum", "betas"))


@pytest.mark.parametrize("kind", SCHEDULERS)
@paired
def test_every_scheduler_has_the_effect_that_it_has_in_torch(name, kind):
    options = {"momentum": 0.9} if "momentum" in OPTIMIZERS[name]([torch.ones(1, requires_grad=True)]).defaults else {}
    ours, a, theirs, b = paired_with_torch(name, **options)
    runs = [(ours, a, SCHEDULERS[kind](a)), (theirs, b, SCHEDULERS[kind](b))]
    for t in range(7):
        for net, optimizer, scheduler in runs:
            loss = backward(net, t)
            optimizer.step()
            scheduler.step(*([loss.detach()] if kind == "ReduceLROnPlateau" else []))
    assert a.param_groups[0]["lr"] == b.param_groups[0]["lr"]
    assert_agree(ours, a, theirs, b)


def test_every_scheduler_of_torch_is_tried():
    known = {
        name
        for name, cls in vars(schedulers).items()
        if isinstance(cls, type) and issubclass(cls, schedulers.LRScheduler) and not name.startswith("_")
    }
    assert known - {"LRScheduler"} <= SCHEDULERS.keys()


@paired
def test_a_schedule_continues_after_a_checkpoint(name):
    ours, a, theirs, b = paired_with_torch(name)
    for net, optimizer in ((ours, a), (theirs, b)):
        scheduler = schedulers.OneCycleLR(optimizer, 0.1, total_steps=8, cycle_momentum=cycles(optimizer))
        for t in range(3):
            train(net, optimizer, [t])
            scheduler.step()
        saved = optimizer.state_dict(), scheduler.state_dict()
        optimizer = type(optimizer)(net.parameters())
        scheduler = schedulers.OneCycleLR(optimizer, 0.2, total_steps=9, cycle_momentum=cycles(optimizer))
        optimizer.load_state_dict(saved[0])
        scheduler.load_state_dict(saved[1])
        for t in range(3, 7):
            train(net, optimizer, [t])
            scheduler.step()
    assert_same(ours.parameters(), theirs.parameters())


# --- closures, hooks, scalers ------------------------------------------------------------------------------------


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


@paired
def test_clipped_gradients_are_stepped(name):
    ours, a, theirs, b = paired_with_torch(name)
    for net, optimizer in ((ours, a), (theirs, b)):
        for t in range(3):
            backward(net, t)
            nn.utils.clip_grad_norm_(net.parameters(), 0.1)
            optimizer.step()
    assert_agree(ours, a, theirs, b)


# --- groups and parameters ------------------------------------------------------------------------------------


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


@every
def test_zero_grad_fills_with_zeros_or_sets_none(name):
    net = model()
    optimizer = OPTIMIZERS[name](net.parameters())
    train(net, optimizer, [0])
    optimizer.zero_grad(set_to_none=False)
    assert all(p.grad.abs().max() == 0 for p in net.parameters())
    optimizer.zero_grad()
    assert all(p.grad is None for p in net.parameters())


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


@every
def test_the_parameter_stays_the_same_tensor_and_its_version_counts_up(name):
    net = model()
    optimizer = OPTIMIZERS[name](net.parameters())
    weight, address, version = net[0].weight, net[0].weight.data_ptr(), net[0].weight._version
    train(net, optimizer, [0])
    assert net[0].weight is weight and weight.data_ptr() == address
    assert weight._version > version
    assert weight.requires_grad and weight.grad_fn is None


# --- layouts, shapes, dtypes ------------------------------------------------------------------------------------


def strided(kind):
    """A parameter of this layout, and a gradient that is laid out in another way."""
    make = torch.Generator().manual_seed(3)
    p = torch.randn(2, 3, 4, 5, generator=make)
    g = torch.randn(2, 3, 4, 5, generator=make)
    if kind == "channels_last":
        return p.to(memory_format=torch.channels_last), g
    if kind == "gradient channels_last":
        return p, g.to(memory_format=torch.channels_last)
    if kind == "transposed":
        return p.transpose(0, 3), g.transpose(0, 3).contiguous()
    if kind == "sliced":
        return p[:, ::2, 1:, ::3], g[:, ::2, 1:, ::3]
    if kind == "expanded gradient":
        return p, g[:1, :1].expand(2, 3, 4, 5)
    if kind == "flipped":
        return p, g.flip(0, 2)
    if kind == "zero-dimensional":
        return p[0, 0, 0, 0].clone(), g[0, 0, 0, 0].clone()
    if kind == "empty":
        return p[:0], g[:0]
    assert kind == "one"
    return p[:1, :1, :1, :1].clone(), g[:1, :1, :1, :1].clone()


LAYOUTS = [
    "channels_last",
    "gradient channels_last",
    "transposed",
    "sliced",
    "expanded gradient",
    "flipped",
    "zero-dimensional",
    "empty",
    "one",
]


@pytest.mark.sample(3, per="name")
@pytest.mark.parametrize("kind", LAYOUTS)
@paired
def test_every_layout_is_stepped_as_in_torch(name, kind):
    start, g = strided(kind)
    runs = []
    kernel = {} if name in ("SGD", "Adam", "ASGD") else {"fused": False}  # one is made for each layout
    for cls, engine in zip(PAIRS[name], (kernel, {}), strict=True):
        p = copy.deepcopy(start).requires_grad_()
        optimizer = cls([p], lr=0.1, **engine)
        for t in range(3):
            p.grad = g * (t - 1.5) if kind != "expanded gradient" else g
            optimizer.step()
        assert p.stride() == start.stride()
        runs.append((p, optimizer))
    (a, ours), (b, theirs) = runs
    assert_same([a], [b])
    assert_same_state(ours, theirs)
    layout = torch.empty_like(start).stride()  # also where torch takes the gradient's, in Rprop
    assert all(value.stride() == layout for value in ours.state[a].values() if value.dim() == start.dim())


def test_a_slice_is_stepped_without_touching_its_neighbours():
    whole = torch.arange(24.0).reshape(4, 6)
    for name in ("SGD", "Adam", "ASGD"):
        base = whole.clone()
        p = base[1:3, ::2].detach().requires_grad_()
        p.grad = torch.ones_like(p)
        OPTIMIZERS[name]([p], lr=0.1).step()
        outside = torch.ones_like(base, dtype=torch.bool)
        outside[1:3, ::2] = False
        assert torch.equal(base[outside], whole[outside])
        assert (base[1:3, ::2] != whole[1:3, ::2]).all()


@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1, "maximize": True}], ids=str)
@paired
def test_complex_parameters_are_pairs_of_reals(name, options):
    if name == "Rprop":
        options.pop("weight_decay", None)
    make = torch.Generator().manual_seed(3)
    start = torch.randn(3, 2, generator=make, dtype=torch.complex128)
    grads = torch.randn(4, 3, 2, generator=make, dtype=torch.complex128)
    runs = []
    for cls in PAIRS[name]:
        p = start.clone().requires_grad_()
        optimizer = cls([p], lr=0.1, **options)
        for g in grads:
            p.grad = g.clone()
            optimizer.step()
        runs.append((p, optimizer))
    (a, ours), (b, theirs) = runs
    assert_same([a], [b])
    assert_same_state(ours, theirs)


def embedding(cls, options):
    torch.manual_seed(1)
    net = nn.Embedding(7, 3, sparse=True)
    return net, cls(net.parameters(), **options)


SPARSE = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "maximize": True}),
    ("SGD", {"lr": 0.1, "momentum": 0.9}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3}),
    ("Adagrad", {"lr": 0.1}),
    ("Adagrad", {"lr": 0.1, "lr_decay": 0.1, "initial_accumulator_value": 0.5, "maximize": True}),
]


@pytest.mark.parametrize(("name", "options"), SPARSE, ids=str)
def test_sparse_gradients_are_stepped_as_in_torch(name, options):
    runs = []
    for cls in PAIRS[name]:
        net, optimizer = embedding(cls, options)
        for indices in ([1, 2, 2], [2, 5], [0, 1, 6, 6, 6]):
            optimizer.zero_grad()
            (net(torch.tensor(indices)) * torch.arange(3.0)).square().sum().backward()
            assert net.weight.grad.is_sparse
            optimizer.step()
        runs.append(net.weight)
    assert_same(*[[w] for w in runs])


@pytest.mark.parametrize("name", [n for n in OPTIMIZERS if n not in ("SGD", "Adagrad")])
def test_sparse_gradients_are_rejected_where_torch_rejects_them(name):
    net, optimizer = embedding(OPTIMIZERS[name], {})
    before = net.weight.detach().clone()
    net(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(RuntimeError, match=f"{name} does not support sparse gradients"):
        optimizer.step()
    assert torch.equal(net.weight, before)
    assert not optimizer.state_dict()["state"]


@pytest.mark.parametrize("name", ["SGD", "Adagrad"])
def test_weight_decay_with_a_sparse_gradient_is_rejected(name):
    net, optimizer = embedding(OPTIMIZERS[name], {"weight_decay": 0.1})
    net(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(RuntimeError, match="weight_decay option is not compatible with sparse gradients"):
        optimizer.step()


# --- autograd and the compiler ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in OPTIMIZERS])
def test_a_step_can_be_differentiated(name):
    """gradcheck of the parameter after three steps, with respect to the parameter and to the first gradient."""
    discontinuous = name in ("Rprop", "Lion")
    options = {} if name == "Rprop" else {"weight_decay": 0.1}
    make = torch.Generator().manual_seed(5)
    p0 = torch.rand(4, generator=make, requires_grad=True)
    g0 = (torch.rand(4, generator=make) + 0.1).requires_grad_()

    def after(p0, g0):
        p = p0.clone()
        optimizer = OPTIMIZERS[name]([p], lr=0.1, differentiable=True, **options)
        for t in range(3):
            p.grad = g0 * (t + 1)
            optimizer.step()
        return p

    assert torch.autograd.gradcheck(after, (p0, g0))
    grads = torch.autograd.grad(after(p0, g0).sum(), (p0, g0), materialize_grads=True)
    assert grads[0].abs().min() > 0
    assert (grads[1].abs().min() > 0) is not discontinuous


@pytest.mark.sample(4)
@every
def test_a_step_can_be_compiled(name):
    ours, theirs = copies(model())
    a, b = OPTIMIZERS[name](ours.parameters(), lr=0.05), OPTIMIZERS[name](theirs.parameters(), lr=0.05)
    step = torch.compile(lambda: a.step(), backend="eager")
    for t in range(3):
        backward(ours, t)
        step()
        train(theirs, b, [t])
    assert_same(ours.parameters(), theirs.parameters())


COMPILE = """
import warnings
import torch, piste
warnings.simplefilter("error")
net = torch.nn.Linear(4, 3)
optimizer = piste.optim.{name}(net.parameters(), lr=0.05)
twin = torch.nn.Linear(4, 3)
twin.load_state_dict(net.state_dict())
other = piste.optim.{name}(twin.parameters(), lr=0.05)
step = torch.compile(optimizer.step, backend="aot_eager")
for t in range(3):
    for model in (net, twin):
        for p in model.parameters():
            p.grad = torch.full_like(p, t + 1.0)
    step()
    other.step()
for p, q in zip(net.parameters(), twin.parameters(), strict=True):
    torch.testing.assert_close(p, q)
print("same")
"""


@pytest.mark.parametrize("name", ["Adam", "SGD"])
def test_a_bound_step_compiles_without_a_warning(name):
    assert python(COMPILE.format(name=name)) == "same"


# --- what is said once ------------------------------------------------------------------------------------


@every
def test_a_step_without_any_gradient_warns_once(name):
    net = model()
    optimizer = OPTIMIZERS[name](net.parameters())
    with pytest.warns(UserWarning, match=rf"{name}.step\(\) changed no parameter: no parameter has a gradient"):
        optimizer.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()
    assert not optimizer.state_dict()["state"] or name == "Adagrad"
