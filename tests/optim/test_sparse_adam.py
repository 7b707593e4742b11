"""SparseAdam: the values, state and checkpoints of torch.optim.SparseAdam."""

from __future__ import annotations

import copy
import inspect

import pytest
import torch
from torch import nn

from piste import optim
from piste.errors import InvalidType, InvalidValue, Unsupported
from piste.optim.options import REDUCED

from .reference import assert_same, assert_same_state
from .rejections import assert_rejected

OPTIONS = [
    {},
    {"lr": 0.1, "betas": (0.5, 0.75), "eps": 0.125},
    {"lr": 0.1, "maximize": True},
    {"betas": (0.0, 0.0)},
]


def pair(dtype=torch.float64, **options):
    """Return Piste's and PyTorch's optimizer on equal embeddings, and the embeddings."""
    torch.manual_seed(0)
    ours = nn.ModuleList([nn.Embedding(6, 2, sparse=True), nn.Embedding(4, 3, sparse=True)]).to(dtype)
    theirs = copy.deepcopy(ours)
    return (
        optim.SparseAdam(ours.parameters(), **options),
        torch.optim.SparseAdam(list(theirs.parameters()), **options),
        ours,
        theirs,
    )


def step(t, *runs):
    """Step optimizers on a few rows, some of them twice, which leave a row of each embedding without a gradient."""
    for optimizer, net in runs:
        optimizer.zero_grad()
        make = torch.Generator().manual_seed(t)
        loss = 0.0
        for embedding in net:
            rows = torch.randint(0, embedding.num_embeddings - 1, (3,), generator=make)
            loss = loss + (embedding(torch.cat([rows, rows[:1]])) ** 3).sum()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: ",".join(options) or "defaults")
def test_ten_steps_have_the_values_and_the_state_of_torch(options):
    a, b, ours, theirs = pair(**options)
    start = [p.detach().clone() for p in ours.parameters()]
    for t in range(10):
        step(t, (a, ours), (b, theirs))
    assert_same(ours.parameters(), theirs.parameters())
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert a.state[p].keys() == b.state[q].keys() and a.state[p]["step"] == b.state[q]["step"] == 10
        for key in ("exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(a.state[p][key], b.state[q][key], rtol=1e-12, atol=1e-14)
    for p, before in zip(ours.parameters(), start, strict=True):
        assert torch.equal(p[-1], before[-1]) and not torch.equal(p, before)


def test_arguments_and_defaults_are_those_of_torch_in_order():
    ours, theirs = (inspect.signature(cls).parameters for cls in (optim.SparseAdam, torch.optim.SparseAdam))
    assert {k: p.default for k, p in theirs.items()}.items() <= {k: p.default for k, p in ours.items()}.items()
    assert list(ours)[:5] == [*list(theirs)[:4], "maximize"]
    assert set(REDUCED) < set(ours)


def test_checkpoints_load_in_both_directions():
    """The step count is a number in both, because PyTorch takes powers with it as it is: of a tensor in float32."""
    a, b, ours, theirs = pair(lr=0.1)
    step(0, (a, ours), (b, theirs))
    c, d, third, fourth = pair(lr=0.1)
    third.load_state_dict(ours.state_dict())
    fourth.load_state_dict(ours.state_dict())
    c.load_state_dict(copy.deepcopy(b.state_dict()))
    d.load_state_dict(copy.deepcopy(a.state_dict()))
    for t in (1, 2):
        step(t, (a, ours), (b, theirs), (c, third), (d, fourth))
    assert_same(third.parameters(), theirs.parameters())
    assert_same(fourth.parameters(), ours.parameters())
    assert_same_state(a, c)
    steps = [entry["step"] for entry in a.state_dict()["state"].values()]
    assert steps == [3, 3] and not any(isinstance(step, torch.Tensor) for step in steps)


def test_gradients_without_entries_move_nothing_and_count_the_step():
    a, b, ours, theirs = pair()
    for optimizer, net in ((a, ours), (b, theirs)):
        for p in net.parameters():
            p.grad = torch.zeros_like(p).to_sparse(1)
        optimizer.step()
    for t in range(2):
        step(t, (a, ours), (b, theirs))
    assert_same(ours.parameters(), theirs.parameters())


def test_gradients_are_clipped_to_the_norm_of_their_entries():
    a, b, ours, theirs = pair(lr=0.1)
    a.param_groups[0]["max_norm"] = 0.5
    step(0, (a, ours))
    for p, q in zip(theirs.parameters(), ours.parameters(), strict=True):
        p.grad = q.grad * min(1.0, 0.5 / (a.grad_norm.item() + 1e-6))
    b.step()
    values = torch.cat([q.grad.coalesce().values().flatten() for q in ours.parameters()])
    torch.testing.assert_close(a.grad_norm, values.norm())
    assert_same(ours.parameters(), theirs.parameters())


def test_dense_gradients_and_other_parameters_are_refused():
    p = torch.zeros(3, 2, requires_grad=True)
    p.grad = torch.ones(3, 2)
    before = p.detach().clone()
    assert_rejected(
        Unsupported,
        optim.SparseAdam([p]).step,
        "SparseAdam does not support dense gradients; received one of shape (3, 2). Help: use Adam, or make the layer "
        "sparse (nn.Embedding(..., sparse=True)).",
    )
    assert torch.equal(p, before)
    assert_rejected(
        InvalidValue,
        lambda: optim.SparseAdam([torch.zeros(2, dtype=torch.complex64, requires_grad=True)]),
        "SparseAdam requires dense parameter tensors of real numbers, with sparse gradients; received parameter 0 of "
        "param group 0 with layout torch.strided and dtype torch.complex64.",
    )
    assert_rejected(
        InvalidValue, lambda: optim.SparseAdam([torch.ones(2).to_sparse().requires_grad_()]), "layout torch.sparse_coo"
    )
    assert_rejected(
        InvalidValue,
        lambda: optim.SparseAdam([p], differentiable=True),
        "`differentiable` must be False for SparseAdam, because autograd does not record changes of single rows; "
        "received differentiable=True.",
    )
    assert_rejected(InvalidType, lambda: optim.SparseAdam([p], weight_decay=0.1), "has no option `weight_decay`")
