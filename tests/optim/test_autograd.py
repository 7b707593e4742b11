"""Steps under autograd and torch.compile."""

from __future__ import annotations

import pytest
import torch

from piste.optim import OPTIMIZERS

from ..engine.process import python
from .cases import ELEMENTWISE
from .reference import (
    assert_same,
    backward,
    copies,
    model,
    train,
)

pytestmark = pytest.mark.usefixtures("double_scalars")


every = pytest.mark.parametrize("name", ELEMENTWISE)


@pytest.mark.sample(1, per="name", of=8)
@pytest.mark.parametrize("name", [n for n in ELEMENTWISE])
def test_a_step_can_be_differentiated(name):
    """gradcheck holds for the parameter after three steps, with respect to the parameter and the first gradient."""
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


@pytest.mark.sample(1, per="name", of=3)
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
for cls in (piste.optim.Adam, piste.optim.SGD):
    torch._dynamo.reset()
    net, twin = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)
    twin.load_state_dict(net.state_dict())
    optimizer, other = cls(net.parameters(), lr=0.05), cls(twin.parameters(), lr=0.05)
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


def test_bound_steps_compile_without_a_warning():
    assert python(COMPILE) == "same"
