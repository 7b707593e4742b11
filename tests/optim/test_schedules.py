"""Schedules of any option as closed forms of the step: values at the first and last steps, resumption, refusals."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from piste import optim
from piste.errors import InvalidType, InvalidValue
from piste.optim.lr_scheduler import (
    InverseSquareRootLR,
    SequentialLR,
    WarmupConstantLR,
    WarmupCosineLR,
    WarmupStableDecayLR,
)
from piste.optim.schedules import Schedule

from .rejections import assert_rejected, weights

CLASSES = {
    WarmupCosineLR: {"total_steps": 10, "warmup_steps": 4, "floor": 0.2},
    WarmupStableDecayLR: {"total_steps": 10, "warmup_steps": 3, "decay_steps": 4, "tail": "1-sqrt", "floor": 0.1},
    WarmupConstantLR: {"warmup_steps": 4},
    InverseSquareRootLR: {"warmup_steps": 3},
}
every = pytest.mark.parametrize("cls", CLASSES)


def rates(schedule, optimizer, steps, option="lr"):
    """Return the values of an option with which each step runs."""
    found = []
    for _ in range(steps):
        found.append([float(group[option]) for group in optimizer.param_groups])
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = torch.ones_like(p)
        optimizer.step()
        schedule.step()
    return found


def run(cls, steps, make=optim.SGD, **arguments):
    optimizer = make([{"params": weights(), "lr": 0.5}, {"params": weights(), "lr": 2.0}], lr=1.0)
    return rates(cls(optimizer, **arguments), optimizer, steps)


@pytest.mark.parametrize("make", [optim.SGD, torch.optim.SGD])
def test_a_cosine_starts_at_a_share_of_the_warmup_and_ends_at_the_floor(make):
    found = run(WarmupCosineLR, 12, make, **CLASSES[WarmupCosineLR])
    factors = [0.25, 0.5, 0.75, 1.0]
    factors += [0.2 + 0.8 * (1 + math.cos(math.pi * k / 6)) / 2 for k in range(1, 7)] + [0.2, 0.2]
    torch.testing.assert_close(found, [[0.5 * f, 2.0 * f] for f in factors], rtol=1e-12, atol=1e-12)
    assert found[9] == [0.5 * 0.2, 2.0 * 0.2]


def test_without_warmup_the_first_step_of_a_cosine_has_the_whole_rate_and_the_last_none():
    found = run(WarmupCosineLR, 5, total_steps=5)
    assert found[0] == [0.5, 2.0] and found[2] == pytest.approx([0.25, 1.0]) and found[4] == pytest.approx([0.0, 0.0])
    assert run(WarmupCosineLR, 1, total_steps=1) == [[0.5, 2.0]]


@pytest.mark.parametrize(
    ("tail", "left"),
    [
        ("linear", [0.75, 0.5, 0.25, 0.0]),
        ("cosine", [(1 + math.cos(math.pi * k / 4)) / 2 for k in (1, 2, 3, 4)]),
        ("1-sqrt", [0.5, 1 - math.sqrt(0.5), 1 - math.sqrt(0.75), 0.0]),
    ],
)
def test_a_tail_falls_from_the_stable_value_to_the_floor_at_the_last_step(tail, left):
    arguments = {"total_steps": 9, "warmup_steps": 2, "decay_steps": 4, "tail": tail, "floor": 0.1}
    found = run(WarmupStableDecayLR, 11, **arguments)
    factors = [0.5, 1.0, 1.0, 1.0, 1.0, *(0.1 + 0.9 * x for x in left), 0.1, 0.1]
    torch.testing.assert_close(found, [[0.5 * f, 2.0 * f] for f in factors], rtol=1e-12, atol=1e-12)


def test_a_constant_follows_the_warmup():
    assert run(WarmupConstantLR, 6, warmup_steps=4) == [[0.5 * f, 2 * f] for f in (0.25, 0.5, 0.75, 1.0, 1.0, 1.0)]
    assert run(WarmupConstantLR, 2, warmup_steps=0) == [[0.5, 2.0]] * 2


def test_an_inverse_square_root_meets_the_warmup_at_its_peak():
    found = run(InverseSquareRootLR, 16, warmup_steps=4)
    factors = [0.25, 0.5, 0.75, *(2 / math.sqrt(n) for n in range(4, 17))]
    torch.testing.assert_close(found, [[0.5 * f, 2.0 * f] for f in factors], rtol=1e-12, atol=1e-12)
    assert found[3] == [0.5, 2.0] and found[15] == [0.25, 1.0]


@pytest.mark.parametrize(
    ("make", "option"), [(optim.AdamW, "weight_decay"), (optim.AdEMAMix, "alpha"), (torch.optim.AdamW, "weight_decay")]
)
def test_another_option_is_scheduled_and_the_learning_rate_stays(make, option):
    optimizer = make(weights(), lr=0.125, **{option: 0.5})
    found = rates(WarmupConstantLR(optimizer, 2, option=option), optimizer, 4, option)
    assert found == [[0.25], [0.5], [0.5], [0.5]]
    assert optimizer.param_groups[0]["lr"] == 0.125


@pytest.mark.parametrize("make", [optim.AdamW, torch.optim.AdamW])
def test_the_last_learning_rates_are_those_of_the_groups_whatever_the_option(make):
    first, second = weights(2)
    optimizer = make([{"params": [first]}, {"params": [second], "lr": 0.25}], lr=0.5, weight_decay=0.5)
    schedule = WarmupConstantLR(optimizer, 2, option="weight_decay")
    assert schedule.get_last_lr() == torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0).get_last_lr() == [0.5, 0.25]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.25, 0.25]


def test_two_schedules_of_two_options_run_side_by_side():
    optimizer = optim.AdamW(weights(), lr=1.0, weight_decay=0.5)
    first, second = WarmupConstantLR(optimizer, 4), WarmupCosineLR(optimizer, 2, option="weight_decay")
    optimizer.param_groups[0]["params"][0].grad = torch.ones(2)
    optimizer.step()
    first.step()
    second.step()
    group = optimizer.param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (0.5, pytest.approx(0.0))
    assert first.get_last_lr() == [0.5]


def test_an_option_in_a_tensor_is_filled():
    rate = torch.tensor(2.0)
    optimizer = optim.SGD(weights(), lr=rate)
    schedule = WarmupConstantLR(optimizer, 2)
    assert optimizer.param_groups[0]["lr"] is rate and rate.item() == 1.0
    optimizer.step()
    schedule.step()
    assert rate.item() == 2.0


@every
def test_a_run_that_is_resumed_has_the_values_of_one_that_went_on(cls):
    optimizer = optim.SGD(weights(), lr=0.5)
    schedule = cls(optimizer, **CLASSES[cls])
    rates(schedule, optimizer, 5)
    saved = copy.deepcopy((optimizer.state_dict(), schedule.state_dict()))
    other = optim.SGD(weights(), lr=0.5)
    resumed = cls(other, **CLASSES[cls])
    resumed.load_state_dict(saved[1])
    assert other.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
    other.load_state_dict(saved[0])
    assert rates(resumed, other, 6) == rates(schedule, optimizer, 6)
    later = cls(other, **CLASSES[cls], last_epoch=4)
    assert other.param_groups[0]["lr"] == 0.5 * later.factor(5)


@every
def test_a_factor_is_a_function_of_the_step_alone(cls):
    optimizer = optim.SGD(weights(), lr=1.0)
    schedule = cls(optimizer, **CLASSES[cls])
    factors = [schedule.factor(t) for t in range(12)]
    assert [rate for (rate,) in rates(schedule, optimizer, 12)] == factors


def test_schedules_join_those_of_torch():
    optimizer = optim.SGD(weights(), lr=1.0)
    schedule = SequentialLR(
        optimizer, [WarmupConstantLR(optimizer, 2), torch.optim.lr_scheduler.ConstantLR(optimizer, 0.5, 100)], [3]
    )
    assert [rate for (rate,) in rates(schedule, optimizer, 5)] == [0.5, 1.0, 1.0, 0.5, 0.5]


def sgd():
    return optim.SGD(weights(), lr=1.0)


@pytest.mark.parametrize(
    ("kind", "call", "words"),
    [
        (InvalidType, lambda: WarmupConstantLR(3, 2), "`optimizer` must be a torch.optim.Optimizer; received int."),
        (
            InvalidValue,
            lambda: WarmupCosineLR(sgd(), 0),
            "`total_steps` must be a whole number, at least 1; received 0.",
        ),
        (
            InvalidValue,
            lambda: WarmupCosineLR(sgd(), 5, 6),
            "`warmup_steps` must not exceed `total_steps`; received warmup_steps=6, total_steps=5.",
        ),
        (
            InvalidValue,
            lambda: WarmupStableDecayLR(sgd(), 5, 3, 3),
            "`warmup_steps` + `decay_steps` must not exceed `total_steps`; received warmup_steps=3, decay_steps=3, "
            "total_steps=5.",
        ),
        (InvalidValue, lambda: WarmupCosineLR(sgd(), 5, floor=1.5), "`floor` must be in [0, 1]; received floor=1.5."),
        (InvalidValue, lambda: WarmupStableDecayLR(sgd(), 5, 1, 2, tail="exp"), '`tail` must be one of "linear", "co'),
        (InvalidValue, lambda: InverseSquareRootLR(sgd(), 0), "`warmup_steps` must be a whole number, at least 1"),
        (
            InvalidValue,
            lambda: WarmupConstantLR(sgd(), 2, option="nesterov"),
            "received 'nesterov', which is False in param group 0 of SGD.",
        ),
        (
            InvalidValue,
            lambda: WarmupConstantLR(sgd(), 2, option="alpha"),
            "`option` must name a numeric option of every param group (lr, momentum, dampening, weight_decay",
        ),
        (
            InvalidValue,
            lambda: WarmupConstantLR(sgd(), 2, option="alpha"),
            "received 'alpha', but param group 0 of SGD has no such option.",
        ),
        (InvalidValue, lambda: WarmupConstantLR(sgd(), 2, option="weight_deacy"), "Did you mean `weight_decay`?"),
        (
            InvalidValue,
            lambda: WarmupConstantLR(sgd(), 2, option="wd"),
            "no such option. PyTorch calls it `weight_decay`",
        ),
        (
            InvalidType,
            lambda: WarmupConstantLR(sgd(), 2, option=["lr"]),
            "`option` must be the name of an option, such as \"weight_decay\"; received ['lr'] of type list.",
        ),
        (
            InvalidValue,
            lambda: WarmupConstantLR(sgd(), 2, last_epoch=3),
            "`last_epoch` above -1 resumes a schedule, whose initial value is in the param group as `initial_lr`; "
            "param group 0 has none. Help: load the optimizer's checkpoint first.",
        ),
    ],
)
def test_wrong_arguments_are_refused_before_the_optimizer_changes(kind, call, words):
    assert_rejected(kind, call, words)


@pytest.mark.parametrize(
    ("make", "constant"),
    [
        (optim.SGD, ["rounding_seed", "lr_max"]),
        (optim.Adagrad, ["initial_accumulator_value"]),
        (optim.Prodigy, ["d0", "d", "d_max", "d_numerator", "k"]),
        (optim.Adafactor, ["min_dim_size_to_factor"]),
        (torch.optim.Adagrad, ["initial_accumulator_value"]),
    ],
)
def test_counts_seeds_first_values_and_numbers_of_the_step_have_no_schedule(make, constant):
    optimizer = make(weights(), lr=0.5)
    torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, 10, cycle_momentum=False)
    for group in optimizer.param_groups:
        group.update({name: 1.0 for name in constant if name not in group or group[name] is None})
    before = {name: copy.copy(value) for name, value in optimizer.param_groups[0].items() if name != "params"}
    for option in (*constant, "initial_lr", "max_lr"):
        message = assert_rejected(
            InvalidValue,
            lambda option=option: WarmupConstantLR(optimizer, 2, option=option),
            f"received {option!r}, which no schedule may change.",
        )
        listed = message.partition("(")[2].partition(")")[0].split(", ")
        assert {"lr", "weight_decay"} <= set(listed) and not {*constant, "initial_lr", "max_lr"} & set(listed)
    assert {name: value for name, value in optimizer.param_groups[0].items() if name != "params"} == before


def test_a_number_that_a_user_puts_into_the_param_groups_has_a_schedule():
    optimizer = optim.SGD([{"params": weights(), "multiplier": 2.0}], lr=0.5)
    assert rates(WarmupConstantLR(optimizer, 2, option="multiplier"), optimizer, 2, "multiplier") == [[1.0], [2.0]]


def test_a_schedule_without_a_factor_cannot_be_made():
    class Nothing(Schedule):
        pass

    with pytest.raises(TypeError, match="factor"):
        Nothing(optim.SGD(weights()))
