"""Machine code tells whether operands are like those of an earlier call in all but values and addresses."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from piste.engine.native import native_guard, operands
from piste.engine.native.operands import make_operand_check


class Own(Tensor):
    """A tensor with operations of its own, perhaps."""


def made() -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(6, 4, requires_grad=True), torch.randn(4, 6).t(), torch.zeros(6, dtype=torch.int64)


@pytest.fixture
def is_like() -> Callable[[object], bool]:
    assert native_guard.native_guard(), "the self-test of the native guard fails on this machine"
    check = make_operand_check(made(), [True, False, False])
    assert check is not None
    return check


def test_other_values_at_other_addresses_are_alike(is_like):
    kept = [made() for _ in range(5)]
    assert all(map(is_like, kept))
    parameter = torch.nn.Parameter(torch.randn(6, 4))
    assert is_like((parameter, *made()[1:]))


OTHERS: dict[str, Callable[[Tensor, Tensor, Tensor], object]] = {
    "a list": lambda x, y, k: [x, y, k],
    "fewer": lambda x, y, k: (x, y),
    "more": lambda x, y, k: (x, y, k, k),
    "another order": lambda x, y, k: (y, x, k),
    "no tensor": lambda x, y, k: (x, y, 3),
    "a subclass": lambda x, y, k: (x, y.as_subclass(Own), k),
    "no gradient": lambda x, y, k: (x.detach(), y, k),
    "a second gradient": lambda x, y, k: (x, y.requires_grad_(), k),
    "another dtype": lambda x, y, k: (x, y, k.int()),
    "another device": lambda x, y, k: (x, y, k.to("meta")),
    "another layout": lambda x, y, k: (x, y.to_sparse(), k),
    "fewer rows": lambda x, y, k: (x[:5], y[:5], k[:5]),
    "fewer dimensions": lambda x, y, k: (x, y, k[0]),
    "more dimensions": lambda x, y, k: (x[None], y[None], k[None]),
    "other strides": lambda x, y, k: (x, y.contiguous(), k),
    "off the alignment": lambda x, y, k: (x, y, torch.zeros(7, dtype=torch.int64)[1:]),
    "a lazy negative": lambda x, y, k: (x, torch._neg_view(y), k),
}


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS.keys())
def test_an_operand_that_differs_in_one_thing_is_not_alike(is_like, change):
    assert not is_like(change(*made()))
    assert is_like(made())


def test_without_gradients_operands_that_require_some_are_not_alike(is_like):
    with torch.no_grad():
        assert not is_like(made())
        check = make_operand_check(made(), [False] * 3)
        assert check is not None and check(made())
    assert not check(made())


@pytest.mark.parametrize("given", [(torch.randn(2).as_subclass(Own),), None], ids=["a subclass", "no guard"])
def test_without_an_answer_there_is_no_check(given, monkeypatch):
    if given is None:
        monkeypatch.setattr(operands, "native_guard", lambda: None)
    assert make_operand_check(given or made(), [False] * len(given or made())) is None
