"""Changes between two steps have the same effect on the kernel and on the eager backend."""

from __future__ import annotations

import copy

import pytest
import torch

from .backends import BackendPair
from .cases import ELEMENTWISE, label

pytestmark = pytest.mark.usefixtures("double_scalars")  # a kernel is made for each dtype of the counters


def replaced_state(net, optimizer):
    for state in optimizer.state.values():
        for key in state:
            state[key] = state[key].clone()


def zeroed_state(net, optimizer):
    for state in optimizer.state.values():
        for value in state.values():
            if value.dim():
                value.zero_()


def cleared_state(net, optimizer):
    optimizer.state.clear()


def one_state_deleted(net, optimizer):
    optimizer.state.pop(net[0].weight, None)


def rewound(net, optimizer):
    for state in optimizer.state.values():
        if "step" in state:
            state["step"].fill_(1.0)


def counted_by_a_number(net, optimizer):
    for state in optimizer.state.values():
        if "step" in state:
            state["step"] = 5.0


def turned_state(net, optimizer):
    """The same values with other strides, as in a checkpoint."""
    for state in optimizer.state.values():
        for key, value in state.items():
            if value.dim() == 2:
                state[key] = value.T.contiguous().T


def reloaded(net, optimizer):
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def moved_parameters(net, optimizer):
    for p in net.parameters():
        p.data = p.data.clone()


def turned_parameters(net, optimizer):
    net[0].weight.data = net[0].weight.data.T.contiguous().T


def dropped_parameter(net, optimizer):
    optimizer.state.pop(optimizer.param_groups[0]["params"].pop(1))


def changed_options(net, optimizer):
    optimizer.param_groups[0].update(lr=0.03, maximize=True)
    if "weight_decay" in optimizer.param_groups[0]:
        optimizer.param_groups[0]["weight_decay"] = 0.1


def changed_numbers(net, optimizer):
    group = optimizer.param_groups[0]
    group["lr"] = torch.tensor(0.02)
    betas = (0.7, 0.8, 0.75)[: len(group.get("betas", ()))]
    for key, value in {"betas": betas, "eps": 1e-4, "momentum": 0.5, "alpha": 0.6, "rho": 0.6}.items():
        if group.get(key):
            group[key] = value


def frozen_part(net, optimizer):
    net[0].requires_grad_(False)
    net[0].weight.grad = net[0].bias.grad = None


def another_thread_count(net, optimizer):
    torch.set_num_threads(1)


EVENTS = [
    replaced_state,
    zeroed_state,
    cleared_state,
    one_state_deleted,
    rewound,
    counted_by_a_number,
    turned_state,
    reloaded,
    moved_parameters,
    turned_parameters,
    dropped_parameter,
    changed_options,
    changed_numbers,
    frozen_part,
    another_thread_count,
]


NEW_LAYOUTS = (turned_state, turned_parameters)  # a new layout compiles a kernel, so two rules stand for all


HAPPENINGS = [(n, e) for n in ELEMENTWISE for e in EVENTS if e not in NEW_LAYOUTS or n in ("SGD", "Adam")]


@pytest.mark.sample(4, per="name", of=8)
@pytest.mark.parametrize(("name", "event"), HAPPENINGS, ids=label)
def test_a_change_between_steps_has_the_same_effect_on_both_backends(name, event):
    both = BackendPair(name, **({"momentum": 0.9} if name in ("SGD", "RMSprop") else {}))
    both.train(range(3))
    threads = torch.get_num_threads()
    try:
        for net, optimizer in both:
            event(net, optimizer)
        both.train(range(3, 6))
    finally:
        torch.set_num_threads(threads)
