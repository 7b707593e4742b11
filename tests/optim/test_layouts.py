"""Parameters and gradients of every layout: strided, sliced, complex and sparse."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from piste.optim import OPTIMIZERS

from .cases import ELEMENTWISE
from .reference import (
    PAIRS,
    assert_same,
    assert_same_state,
)

pytestmark = pytest.mark.usefixtures("double_scalars")


paired = pytest.mark.parametrize("name", PAIRS)


def strided(kind):
    """Return a parameter and a gradient in the layouts of `kind`."""
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


@pytest.mark.sample(3, per="name", of=8)
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


@pytest.mark.sample(1, per="name", of=8)
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


@pytest.mark.parametrize("name", [n for n in ELEMENTWISE if n not in ("SGD", "Adagrad")])
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
