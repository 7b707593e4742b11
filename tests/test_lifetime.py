"""Optimizers, losses and their tensors are freed with the last reference, without the garbage collector."""

from __future__ import annotations

import copy
import gc
import importlib
import pickle
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import piste
from piste.engine.native import gradients
from tests.losses.cases import CASES, Case, seeded
from tests.optim.cases import OPTIONS, fullest


@pytest.fixture(autouse=True)
def collector_off() -> Iterator[None]:
    importlib.import_module("torch._dynamo")  # a caught exception of the import holds the frames that began it

    gc.collect()
    gc.disable()
    yield
    gc.enable()


def assert_freed(use: Callable[..., list[Any]], *args: Any) -> None:
    """Call `use`, which returns every object it made, and expect all of them to die with the list."""
    watched = [(type(x).__name__, weakref.ref(x)) for x in use(*args)]
    alive = [name for name, ref in watched if ref() is not None]
    assert watched and not alive


def test_an_object_in_a_cycle_is_found():
    class Node:
        pass

    def use() -> list[Any]:
        node = Node()
        node.itself = node
        return [node]

    with pytest.raises(AssertionError, match="Node"):
        assert_freed(use)


# --- optimizers -----------------------------------------------------------------------------------------------


def parameters(*shapes: tuple[int, ...]) -> list[nn.Parameter]:
    params = [nn.Parameter(torch.ones(shape)) for shape in shapes]
    for p in params:
        p.grad = torch.full_like(p, 0.5)
    return params


def everything(optimizer: torch.optim.Optimizer, *more: Any) -> list[Any]:
    """An optimizer, its parameters, their gradients and its state."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    state = [x for kept in optimizer.state.values() for x in kept.values() if isinstance(x, torch.Tensor)]
    return [optimizer, *params, *(p.grad for p in params if p.grad is not None), *state, *more]


@pytest.mark.parametrize("way", ["kernel, called by machine code", "kernel, called by Python", "eager"])
@pytest.mark.parametrize("name", OPTIONS)
def test_an_optimizer_is_freed_after_steps(name, way, monkeypatch):
    if way == "kernel, called by Python":
        monkeypatch.setattr(gradients, "native_guard", lambda: None)

    def use() -> list[Any]:
        options = {"fused": False} if way == "eager" else {}
        optimizer = getattr(piste.optim, name)(parameters((3, 2), (2,), ()), **fullest(name), **options)
        for _ in range(3):
            optimizer.step()
        return everything(optimizer)

    assert_freed(use)


def with_a_closure(optimizer: Any) -> None:
    optimizer.step(lambda: torch.zeros(()))


def with_hooks(optimizer: Any) -> None:
    optimizer.register_step_pre_hook(lambda *_: None)
    optimizer.register_step_post_hook(lambda *_: None)
    optimizer.step()


def with_a_scheduler(optimizer: Any) -> None:
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    for _ in range(2):
        optimizer.step()
        scheduler.step()


def with_another_group(optimizer: Any) -> None:
    optimizer.step()
    optimizer.add_param_group({"params": parameters((4,)), "lr": 0.5})
    optimizer.step()


def with_gradients_that_take_turns(optimizer: Any) -> None:
    first, second, *_ = optimizer.param_groups[0]["params"]
    for p, q in 3 * [(first, second), (second, first)]:
        p.grad, q.grad = None, torch.ones_like(q)
        optimizer.step()


def with_a_sparse_gradient(optimizer: Any) -> None:
    optimizer.param_groups[0]["params"][0].grad = torch.eye(3).to_sparse()
    for _ in range(2):
        optimizer.step()


def with_a_refused_gradient(optimizer: Any) -> None:
    optimizer.step()
    optimizer.param_groups[0]["params"][0].grad = torch.eye(3).to_sparse()
    optimizer.param_groups[0]["weight_decay"] = 0.1
    try:
        optimizer.step()
    except piste.errors.Unsupported:
        return
    raise AssertionError("weight decay with a sparse gradient is refused")


def with_a_checkpoint(optimizer: Any) -> None:
    optimizer.step()
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    optimizer.step()


def with_copies(optimizer: Any) -> None:
    optimizer.step()
    for again in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        for p in again.param_groups[0]["params"]:
            p.grad = torch.ones_like(p)
        again.step()


def with_an_explanation(optimizer: Any) -> None:
    optimizer.explain()
    optimizer.step()
    repr(optimizer)
    optimizer.explain()


def with_a_profiler(optimizer: Any) -> None:
    with torch.profiler.profile():
        optimizer.step()
        optimizer.zero_grad()


USES = [value for name, value in list(globals().items()) if name.startswith("with_")]


@pytest.mark.parametrize("use", USES, ids=lambda use: use.__name__)
@pytest.mark.parametrize("fused", [None, False])
def test_an_optimizer_is_freed_after_any_use(use, fused):
    def used() -> list[Any]:
        optimizer = piste.optim.SGD(parameters((3, 3), (3,)), lr=0.1, momentum=0.0, fused=fused)
        use(optimizer)
        return everything(optimizer)

    assert_freed(used)


def test_an_optimizer_is_freed_with_a_differentiable_step():
    def use() -> list[Any]:
        params = [nn.Parameter(torch.ones(3))]
        moved = params[0].clone()
        moved.retain_grad()
        moved.grad = params[0] * 2
        optimizer = piste.optim.Adam([moved], differentiable=True)
        optimizer.step()
        moved.sum().backward()
        return everything(optimizer, *params)

    assert_freed(use)


# --- losses ---------------------------------------------------------------------------------------------------


@pytest.mark.sample(1, per="case.name", of=8)
@pytest.mark.parametrize("engine", ["kernel", "eager"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_loss_is_freed_after_backward(case: Case, engine):
    def use() -> list[Any]:
        first, *others = seeded(case)
        leaf = first.clone().requires_grad_()
        check = "nan" if engine == "eager" else "raise"  # check="nan" has no kernel
        made: list[Any] = [leaf, *others]
        if case.function_only:
            loss: Any = partial(case.function, **case.options, check=check)
        else:
            loss = case.loss(**case.options, check=check)
            made.append(loss)
        for _ in range(2):
            value = loss(leaf, *others)
            value.backward(retain_graph=True)
            value.backward()
            made += [value, leaf.grad]
        (slope,) = torch.autograd.grad(loss(leaf, *others), leaf, create_graph=True)
        made.append(slope)
        return made

    assert_freed(use)


def test_a_loss_is_freed_after_refusing_its_target():
    def use() -> list[Any]:
        loss, x, y = piste.losses.CrossEntropyLoss(), torch.zeros(2, 3, requires_grad=True), torch.tensor([0, 3])
        try:
            loss(x, y)
        except piste.errors.InvalidValue:
            return [loss, x, y]
        raise AssertionError("class 3 of 3 is refused")

    assert_freed(use)
