"""Machine code reads gradients from the memory of tensors, and asks libtorch where the memory is another one."""

from __future__ import annotations

import ctypes
import sys
from array import array
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from piste.engine.native import gradients, tensor_memory
from piste.engine.native.native_guard import native_guard
from piste.engine.native.tables import LaunchRecord
from piste.engine.specs import ParamState

pytestmark = pytest.mark.skipif(native_guard() is None, reason="machine code can't ask libtorch about tensors here")


def leaf(*shape: int) -> Tensor:
    p = torch.zeros(shape, requires_grad=True)
    p.grad = torch.ones(shape)
    return p


def finder(params: list[Tensor]) -> tuple[Callable[[list[Tensor]], bool], array[int]]:
    """Return a function that finds the gradients, and the column of their addresses."""
    column = array("q", bytes(8 * len(params)))
    records = (LaunchRecord * 1)()
    records[0].gradients = column.buffer_info()[0]
    states = {i: ParamState(p, p.grad, [], []) for i, p in enumerate(params)}
    return gradients.native_step(params, states, records, [list(range(len(params)))]), column


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/self/mem is part of Linux")
def test_the_words_of_a_tensor_are_those_that_pytorch_states():
    words = tensor_memory.fact_words()
    x = torch.zeros(7, 9)[1:, 2:].requires_grad_()
    x.grad = torch.ones(6, 7)
    memory = (ctypes.c_int64 * (words.first + len(words.masks))).from_address(x._cdata)
    assert list(memory)[words.first : words.first + 3] == [2, 6, 7]
    assert list(memory)[words.first + 6 : words.first + 8] == [9, 1]
    assert memory[words.object] == id(x)
    assert memory[words.storage] == x.untyped_storage()._cdata
    storage = (ctypes.c_int64 * (1 + words.data)).from_address(memory[words.storage])
    assert storage[words.data] == x.untyped_storage().data_ptr()
    autograd = (ctypes.c_int64 * (1 + words.gradient)).from_address(memory[words.autograd])
    assert autograd[words.gradient] == x.grad._cdata


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/self/mem is part of Linux")
@pytest.mark.parametrize("set_default", [torch.set_default_dtype, torch.set_default_device])
def test_the_words_are_found_whatever_the_defaults_of_the_process_are(set_default):
    before = {torch.set_default_dtype: torch.get_default_dtype(), torch.set_default_device: None}[set_default]
    set_default(torch.float64 if set_default is torch.set_default_dtype else "meta")
    try:
        found = tensor_memory.fact_words.__wrapped__()
    finally:
        set_default(before)
    assert found.first == tensor_memory.fact_words().first > 0


def other_memory(p: Tensor) -> Tensor:
    return torch.full_like(p, 2.0)


def part_of_a_buffer(p: Tensor) -> Tensor:
    return torch.ones(p.numel() + 3)[3:].view(p.shape)


@pytest.mark.parametrize("make", [other_memory, part_of_a_buffer])
def test_gradients_that_fit_are_found_wherever_they_lie(make: Callable[[Tensor], Tensor]):
    params = [leaf(2, 3), leaf(1, 2, 3, 4, 5, 6), leaf(), leaf(0, 4)]
    find, column = finder(params)
    for _ in range(3):
        for p in params:
            p.grad = make(p)
        assert find(params)
        assert [a for a, p in zip(column, params, strict=True) if p.numel()] == [
            p.grad.data_ptr() for p in params if p.grad is not None and p.numel()
        ]


def negated(p: Tensor) -> None:
    p.grad = torch._neg_view(torch.ones_like(p))


def transposed(p: Tensor) -> None:
    p.grad = torch.ones(3, 2).t()


def sparse(p: Tensor) -> None:
    p.grad = torch.ones(2, 3).to_sparse()


def missing(p: Tensor) -> None:
    p.grad = None


def moved(p: Tensor) -> None:
    p.data = p.data.clone()


def reshaped(p: Tensor) -> None:
    p.data, p.grad = p.data.view(3, 2), None
    p.grad = torch.ones(3, 2)


def exchanged(p: Tensor) -> None:
    torch.utils.swap_tensors(p, leaf(2, 3))


def copied_on_write(p: Tensor) -> None:
    exchanged.kept = torch._lazy_clone(p.detach())  # type: ignore[attr-defined]


@pytest.mark.parametrize("change", [negated, transposed, sparse, missing, moved, reshaped, exchanged, copied_on_write])
def test_a_change_is_noticed(change: Callable[[Tensor], None]):
    params = [leaf(2, 3), leaf(2, 3)]
    find, _ = finder(params)
    assert find(params)
    change(params[1])
    versions = [p._version for p in params]
    assert not find(params)
    assert [p._version for p in params] == versions


def test_a_gradient_that_appears_is_noticed():
    params = [leaf(2, 3), leaf(2, 3)]
    params[1].grad = None
    column = array("q", bytes(8))
    records = (LaunchRecord * 1)()
    records[0].gradients = column.buffer_info()[0]
    find = gradients.native_step(params, {0: ParamState(params[0], params[0].grad, [], [])}, records, [[0]])
    assert find(params)
    params[1].grad = torch.ones(2, 3)
    assert not find(params)
