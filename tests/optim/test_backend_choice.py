"""The backend that steps each parameter, and its explanation."""

from __future__ import annotations

import pytest
import torch

from piste.engine.cpu import backend
from piste.errors import PisteError
from piste.optim import OPTIMIZERS

from .reference import model, train

pytestmark = pytest.mark.usefixtures("double_scalars")  # a kernel is made for each dtype of the counters


class Marked(torch.Tensor):
    """A tensor subclass, whose operations may be redefined."""


def test_the_kernel_steps_by_default():
    net = model()
    optimizer = OPTIMIZERS["Adam"](net.parameters())
    train(net, optimizer, [0])
    text = optimizer.explain()
    assert text.startswith("Adam, group 0: 4 of 4 parameters by the fused CPU kernel"), text


WHY = [
    ({"fused": False}, torch.float32, "fused=False asks for it"),
    ({"differentiable": True}, torch.float32, "differentiable=True lets autograd record the step"),
    ({"capturable": True}, torch.float32, "capturable=True keeps the step count on the device"),
    ({}, torch.float8_e4m3fn, "its dtype is torch.float8_e4m3fn"),
]


@pytest.mark.parametrize(("options", "dtype", "why"), WHY, ids=str)
def test_explain_names_the_option_or_dtype_that_excludes_the_kernel(options, dtype, why):
    p = torch.ones(3).to(dtype).requires_grad_()
    p.grad = torch.ones(3).to(dtype)
    assert (
        OPTIMIZERS["Adam"]([p], **options).explain() == f"Adam, group 0: 1 of 1 parameters by the eager backend: {why}"
    )


def test_tensor_subclasses_and_other_devices_are_stepped_eagerly():
    p = torch.ones(3).as_subclass(Marked).requires_grad_()
    p.grad = torch.ones(3)
    optimizer = OPTIMIZERS["SGD"]([p], lr=0.5)
    assert "it is a Marked, a tensor subclass" in optimizer.explain()
    optimizer.step()
    assert p.tolist() == [0.5] * 3
    q = torch.ones(3, device="meta", requires_grad=True)
    q.grad = torch.ones(3, device="meta")
    optimizer = OPTIMIZERS["Adam"]([q])
    assert "it is on meta" in optimizer.explain()
    optimizer.step()


def test_each_backend_steps_some_of_the_parameters():
    p, q = torch.ones(3, requires_grad=True), torch.ones(3).as_subclass(Marked).requires_grad_()
    optimizer = OPTIMIZERS["SGD"]([p, q], lr=0.5)
    for _ in range(2):
        p.grad = torch.ones(3)
        q.grad = torch.ones(3)
        optimizer.step()
    assert p.tolist() == q.tolist() == [0.0] * 3
    assert "1 of 2 parameters by the fused CPU kernel" in optimizer.explain()
    assert "1 of 2 parameters by the eager backend" in optimizer.explain()


def test_fused_true_rejects_a_parameter_that_the_kernel_cannot_step():
    p = torch.ones(3).as_subclass(Marked).requires_grad_()
    p.grad = torch.ones(3)
    optimizer = OPTIMIZERS["Adam"]([p], fused=True)
    with pytest.raises(PisteError) as caught:
        optimizer.step()
    text = str(caught.value)
    assert "fused=True requires the kernel, which can't step parameter 0 of shape (3,): it is a Marked" in text
    assert "Help: fused=None falls back to the eager backend." in text
    assert p.tolist() == [1.0] * 3


def test_without_numba_training_continues_on_the_eager_backend(monkeypatch):
    monkeypatch.setattr(backend.importlib.util, "find_spec", lambda name, *rest: None)
    net, other = model(), model()
    optimizer = OPTIMIZERS["Adam"](net.parameters())
    train(net, optimizer, range(2))
    assert "by the eager backend: Numba is not installed" in optimizer.explain()
    train(other, OPTIMIZERS["Adam"](other.parameters(), fused=False), range(2))
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))
