"""A change of state, parameters or options between two steps takes effect, as in PyTorch."""

from __future__ import annotations

import copy
import pickle
from collections import defaultdict

import pytest
import torch
from torch import nn

import piste
from piste.engine.native import compiler

from .reference import AgainstTorch, spread, weights

pytestmark = pytest.mark.usefixtures("fast_path_on_and_off")


def replace_state(optimizer, params):
    key = "exp_avg" if "exp_avg" in optimizer.state[params[0]] else "momentum_buffer"
    optimizer.state[params[0]][key] = torch.full_like(params[0], 0.5)


def state_in_another_layout(optimizer, params):
    for p in params:
        state = optimizer.state[p]
        state["exp_avg"] = spread(state["exp_avg"])


def state_points_elsewhere(optimizer, params):
    for state in optimizer.state.values():
        for value in state.values():
            value.data = value.data.clone()


def state_in_shared_memory(optimizer, params):
    for state in optimizer.state.values():
        for value in state.values():
            value.share_memory_()


def state_sent_through_a_queue(optimizer, params):
    queue = torch.multiprocessing.SimpleQueue()
    queue.put(optimizer.state_dict())
    queue.get()


def new_state(optimizer, params):
    optimizer.state = defaultdict(dict)


def clear_state(optimizer, params):
    optimizer.state.clear()


def forget_one(optimizer, params):
    del optimizer.state[params[1]]


def restart_the_count(optimizer, params):
    optimizer.state[params[0]]["step"] = torch.tensor(0.0)


def count_in_place(optimizer, params):
    optimizer.state[params[0]]["step"].zero_()


def other_data(optimizer, params):
    for p in params:
        p.data = p.data.clone() * 2


def shared_parameters(optimizer, params):
    for p in params:
        p.share_memory_()


def swapped(optimizer, params):
    torch.utils.swap_tensors(params[0], nn.Parameter(params[0].detach() + 1))


def other_parameter(optimizer, params):
    params[0] = optimizer.param_groups[0]["params"][0] = nn.Parameter(params[0].detach() + 1)


def another_order(optimizer, params):
    optimizer.param_groups[0]["params"].reverse()


def drop_one(optimizer, params):
    optimizer.param_groups[0]["params"] = optimizer.param_groups[0]["params"][1:]


def add_a_group(optimizer, params):
    params.append(nn.Parameter(torch.arange(4.0, dtype=torch.float64)))
    optimizer.add_param_group({"params": params[-1:], "lr": 0.01})


def drop_the_group_again(optimizer, params):
    add_a_group(optimizer, params)
    optimizer.param_groups[:] = optimizer.param_groups[1:]


def other_rate(optimizer, params):
    optimizer.param_groups[0]["lr"] = 0.003


def turn_on_decay(optimizer, params):
    optimizer.param_groups[0]["weight_decay"] = 0.2


def climb(optimizer, params):
    optimizer.param_groups[0]["maximize"] = True


def save_and_load(optimizer, params):
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def strided_data(optimizer, params):
    for p in params:
        p.data = spread(p.data)


CHANGES = [
    replace_state,
    state_in_another_layout,
    state_points_elsewhere,
    state_in_shared_memory,
    state_sent_through_a_queue,
    new_state,
    clear_state,
    forget_one,
    restart_the_count,
    count_in_place,
    other_data,
    strided_data,
    shared_parameters,
    swapped,
    other_parameter,
    another_order,
    drop_one,
    add_a_group,
    drop_the_group_again,
    other_rate,
    turn_on_decay,
    climb,
    save_and_load,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_between_steps_takes_effect(change):
    pair = AgainstTorch("Adam", weights(5, 40_000, 3))
    pair.step(2)
    pair.change_both(change)
    pair.step(3)
    assert "eager" not in pair.optimizer.explain()
    a, b = pair.optimizers
    for p, q in zip(pair.ours, pair.theirs, strict=True):
        for key, value in b.state[q].items():
            torch.testing.assert_close(a.state[p][key], value, rtol=1e-11, atol=1e-12)


def test_a_parameter_transposed_in_place_is_stepped_in_its_new_layout():
    pair = AgainstTorch("Adam", [torch.arange(9.0, dtype=torch.float64).reshape(3, 3).requires_grad_()])
    pair.step(2)
    for p in (*pair.ours, *pair.theirs):
        p.grad = None
        p.data = p.data.t()
    pair.step(2)


def test_options_changed_in_place_take_effect():
    pair = AgainstTorch("Adam", weights(5, 3))
    rates = [torch.tensor(0.1, dtype=torch.float64) for _ in pair.optimizers]
    for optimizer, lr in zip(pair.optimizers, rates, strict=True):
        optimizer.param_groups[0].update(betas=[0.9, 0.99], lr=lr)
    for _ in range(3):
        pair.step(2)
        for optimizer, lr in zip(pair.optimizers, rates, strict=True):
            optimizer.param_groups[0]["betas"][0] -= 0.2
            lr.mul_(0.5)


def test_momentum_can_be_turned_on_and_off():
    pair = AgainstTorch("SGD", weights(5, 3), lr=0.1)
    for momentum in (0.0, 0.9, 0.5, 0.0, 0.9):
        for optimizer in pair.optimizers:
            optimizer.param_groups[0]["momentum"] = momentum
        pair.step(2)


def test_amsgrad_turned_on_during_a_run_creates_its_state():
    (p,) = params = weights(4)
    optimizer = piste.optim.Adam(params, lr=0.1)
    p.grad = torch.ones_like(p)
    optimizer.step()
    optimizer.param_groups[0]["amsgrad"] = True
    optimizer.step()
    state = optimizer.state[p]
    torch.testing.assert_close(state["max_exp_avg_sq"], state["exp_avg_sq"], rtol=0, atol=0)
    p.grad = torch.zeros_like(p)
    optimizer.step()
    assert (state["max_exp_avg_sq"] > state["exp_avg_sq"]).all()


SIZE = "must match the size of tensor|doesn't match the broadcast shape|The expanded size"


def test_a_state_of_another_shape_is_rejected_as_in_torch():
    for wrong in (torch.zeros(3), torch.zeros(0), torch.zeros(2, 8, 2)):
        pair = AgainstTorch("Adam", weights(8, dtype=torch.float32))
        pair.backward()
        for optimizer in pair.optimizers:
            optimizer.step()
        for optimizer, params in zip(pair.optimizers, (pair.ours, pair.theirs), strict=True):
            optimizer.state[params[0]]["exp_avg"] = wrong.clone()
            before = params[0].detach().clone()
            with pytest.raises(RuntimeError, match=SIZE):
                optimizer.step()
            assert torch.equal(params[0], before)


def test_a_parameter_shortened_in_place_is_rejected_as_in_torch():
    pair = AgainstTorch("Adam", weights(8))
    pair.step()
    for optimizer, (p,) in zip(pair.optimizers, (pair.ours, pair.theirs), strict=True):
        p.data = p.data[:2]
        p.grad = None
        p.grad = torch.ones(2, dtype=torch.float64)
        with pytest.raises(RuntimeError, match=SIZE):
            optimizer.step()


def test_a_state_with_overlapping_elements_is_rejected_as_in_torch():
    pair = AgainstTorch("Adam", weights(8))
    pair.step()
    for optimizer, (p,) in zip(pair.optimizers, (pair.ours, pair.theirs), strict=True):
        optimizer.state[p]["exp_avg"] = torch.zeros(1, dtype=torch.float64).expand(8)
        with pytest.raises(RuntimeError, match="more than one element of the written-to tensor"):
            optimizer.step()


def test_an_empty_step_count_is_rejected():
    pair = AgainstTorch("Adam", weights(8))
    pair.step()
    pair.optimizer.state[pair.ours[0]]["step"] = torch.tensor([])
    with pytest.raises(RuntimeError):
        pair.optimizer.step()


@pytest.mark.parametrize(
    "again", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))], ids=["copy", "pickle"]
)
def test_a_copied_optimizer_steps_the_copied_parameters(again):
    pair = AgainstTorch("Adam", weights(5, 40_000))
    pair.step(2)
    params, optimizer = again((pair.ours, pair.optimizer))
    before = [p.detach().clone() for p in pair.ours]
    old, pair.ours, pair.optimizers[0] = pair.ours, params, optimizer
    pair.step(2)
    assert all(map(torch.equal, old, before))  # the copy steps its own parameters
    assert "eager" not in optimizer.explain()


def test_options_that_change_every_step_compile_nothing():
    pair = AgainstTorch("AdamW", weights(5, 7))
    pair.step()
    kernels = set(compiler._loaded)
    for t in range(1, 12):
        for optimizer in pair.optimizers:
            (group,) = optimizer.param_groups
            group.update(lr=1e-3 / t, betas=(0.9 - t / 100, 0.99 + t / 2000), eps=1e-8 * t, weight_decay=0.01 * t)
        pair.step()
    pair.change_both(lambda o, _: o.param_groups[0].update(lr=torch.tensor(0.01, dtype=torch.float64)))
    pair.step()
    assert set(compiler._loaded) == kernels


def test_options_at_the_ends_of_their_ranges_step_as_in_torch():
    pair = AgainstTorch("Adam", weights(5))
    for numbers in ({"lr": 0.0}, {"betas": (0.0, 0.0)}, {"eps": 0.0}, {"weight_decay": 0.1}, {"weight_decay": 0}):
        for optimizer in pair.optimizers:
            optimizer.param_groups[0].update(numbers)
        pair.step(2)


def test_step_counts_keep_the_dtype_of_the_checkpoint():
    pair = AgainstTorch("Adam", weights(5, 7))
    pair.step(2)
    pair.change_both(lambda o, _: [s.update(step=s["step"].double()) for s in o.state.values()])
    pair.step(2)
    assert pair.optimizer.state[pair.ours[0]]["step"].dtype == torch.float64
