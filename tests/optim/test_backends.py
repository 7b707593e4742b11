"""The kernel agrees with the eager backend: every optimizer, option and dtype, and every kind of gradient."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn

from piste.errors import PisteError
from piste.optim import OPTIMIZERS

from .backends import BackendPair, assert_close, states
from .cases import ELEMENTWISE, fullest, kernels, label
from .reference import backward, batch

pytestmark = pytest.mark.usefixtures("double_scalars")  # a kernel is made for each dtype of the counters


every = pytest.mark.parametrize("name", ELEMENTWISE)


@pytest.mark.sample(1, per="name")
@pytest.mark.parametrize(("name", "options", "dtype"), kernels(), ids=label)
def test_kernel_and_eager_backend_agree(name, options, dtype):
    """Every step starts from the kernel's parameters and a saved checkpoint; the backends change places once."""
    make = torch.Generator().manual_seed(2)
    shapes = [(3, 5), (7,), ()]
    start = [torch.randn(s, generator=make, dtype=torch.float64).to(dtype) for s in shapes]
    ours, theirs = ([p.clone().requires_grad_() for p in start] for _ in range(2))
    kernel, eager = (OPTIMIZERS[name](ps, **options, fused=f) for ps, f in ((ours, True), (theirs, False)))
    for t in range(6):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn(p.shape, generator=make, dtype=torch.float64).to(dtype)
            q.grad = p.grad.clone()
        kernel.step()
        eager.step()
        assert_close(ours, theirs)
        assert_close(states(kernel), states(eager))
        file = io.BytesIO()
        torch.save(kernel.state_dict(), file)
        file.seek(0)
        saved = torch.load(file, weights_only=True)
        saved["param_groups"][0]["fused"] = t == 3
        with torch.no_grad():
            for p, q in zip(ours, theirs, strict=True):
                q.copy_(p)
        eager.load_state_dict(saved)
        if t == 3:
            (ours, kernel), (theirs, eager) = (theirs, eager), (ours, kernel)
            eager.param_groups[0]["fused"] = False


@pytest.mark.sample(1, per="name", of=8)
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_twenty_steps_of_a_network_match_the_eager_backend(name):
    both = BackendPair(name, **fullest(name))
    for t in range(20):
        for net, optimizer in both:
            net.zero_grad()
            ((net(batch(t)[0]) - batch(t)[1]) ** 2).mean().backward()
            optimizer.step()
    assert_close(both.nets[0].parameters(), both.nets[1].parameters(), ulps=1e4)


def test_flags_changed_during_a_run_take_effect():
    both = BackendPair("Adam")
    both.train(range(2))
    for key, value in {"amsgrad": True, "decoupled_weight_decay": True, "weight_decay": 0.1, "maximize": True}.items():
        for _, optimizer in both:
            optimizer.param_groups[0][key] = value
        both.train(range(2, 4))
    for engine in (None, False, True):
        both.optimizers[0].param_groups[0]["fused"] = engine
        both.train(range(4, 6))


@pytest.mark.sample(1, per="name", of=8)
@every
def test_a_copy_steps_independently(name):
    both = BackendPair(name)
    both.train(range(2))
    copied = copy.deepcopy((both.nets, both.optimizers))
    both.train(range(2, 5))
    both.nets, both.optimizers = copied
    both.train(range(5, 8))


GRADIENTS = {
    "lazily negated": lambda g: torch.complex(g, -g).conj().imag,
    "transposed": lambda g: g.T.contiguous().T,
    "expanded": lambda g: g[:1].expand(g.shape),
    "strided": lambda g: torch.stack([g, g], -1)[..., 0],
    "accumulated": lambda g: g.add_(0.0),
    "a view of a larger buffer": lambda g: torch.cat([g.flatten(), g.flatten()])[g.numel() :].view(g.shape),
    "missing": lambda g: None,
}


@pytest.mark.parametrize("kind", GRADIENTS)
@pytest.mark.parametrize("first", [False, True], ids=["from the second step", "from the first step"])
def test_gradients_that_change_their_kind_are_stepped(kind, first):
    both = BackendPair("Adam")
    both.optimizers[0].param_groups[0]["fused"] = None
    for t in range(6):
        for net, optimizer in both:
            backward(net, t)
            if t % 2 == (0 if first else 1):
                for p in net.parameters():
                    if p.dim() == 2:
                        p.grad = GRADIENTS[kind](p.grad)
            optimizer.step()
        both.assert_agree()


def test_a_lazily_negated_gradient_of_one_element_is_stepped():
    """Only single elements are both lazily negated and contiguous."""
    both = BackendPair("Adam", nn.Linear(1, 1))
    both.optimizers[0].param_groups[0]["fused"] = None
    for t in range(4):
        for net, optimizer in both:
            for p in net.parameters():
                g = torch.full_like(p.detach(), 0.5 + t)
                p.grad = torch.complex(g, -g).conj().imag if t % 2 else g
            optimizer.step()
        both.assert_agree()


def test_complex_gradients_that_are_lazy_conjugates_are_stepped():
    runs = []
    for fused in (None, False):
        p = torch.tensor([1 + 2j, 3 - 1j], dtype=torch.complex128, requires_grad=True)
        optimizer = OPTIMIZERS["Adam"]([p], lr=0.1, fused=fused)
        for t in range(4):
            g = torch.tensor([0.5 - 1j, 2 + 0.3j], dtype=torch.complex128)
            p.grad = torch.conj(g) if t % 2 else g
            optimizer.step()
        runs.append(p)
    assert_close([runs[0]], [runs[1]])


@pytest.mark.parametrize("name", ["SGD", "Adagrad"])
def test_a_gradient_that_is_sparse_in_some_steps_is_stepped(name):
    runs = []
    for fused in (None, False):
        torch.manual_seed(0)
        net = nn.Embedding(5, 3)
        optimizer = OPTIMIZERS[name](net.parameters(), lr=0.1, fused=fused)
        for t in range(5):
            optimizer.zero_grad()
            net.sparse = bool(t % 2)
            net(torch.tensor([1, 2, 2])).square().sum().backward()
            assert net.weight.grad.is_sparse is net.sparse
            optimizer.step()
        runs.append(net.weight)
    assert_close([runs[0]], [runs[1]])


def test_a_parameter_that_shrank_in_place_is_not_stepped_past_its_end():
    """p.data = p.data[:2] keeps the address, but the state has another shape; no backend writes beyond the end."""
    for fused in (None, False):
        whole = torch.ones(4)
        p = nn.Parameter(whole)
        optimizer = OPTIMIZERS["Adam"]([p], lr=0.1, fused=fused)
        p.grad = torch.ones(4)
        optimizer.step()
        rest = whole[2:].clone()
        p.data = p.data[:2]
        p.grad = torch.ones(2)
        with pytest.raises((RuntimeError, PisteError)):
            optimizer.step()
        assert torch.equal(whole[2:], rest)


def test_elements_that_share_memory_are_rejected_as_in_torch():
    p = torch.ones(1, 3).expand(2, 3).detach().requires_grad_()
    p.grad = torch.ones(2, 3)
    for optimizer in (torch.optim.SGD([p], lr=0.1), OPTIMIZERS["SGD"]([p], lr=0.1)):
        with pytest.raises(RuntimeError, match="more than one element of the written-to tensor refers to a single"):
            optimizer.step()
