"""The arguments of optimizers: names, order and defaults of PyTorch, and the range of every option."""

from __future__ import annotations

import inspect
import math

import numpy as np
import pytest
import torch

from piste.errors import InvalidType, InvalidValue
from piste.optim import OPTIMIZERS
from piste.optim.options import REDUCED

from .cases import ELEMENTWISE
from .reference import PAIRS
from .rejections import assert_rejected, weights

every = pytest.mark.parametrize("name", ELEMENTWISE)


SHARED = {"maximize", "foreach", "capturable", "differentiable", "fused", *REDUCED}


@pytest.mark.parametrize("name", PAIRS)
def test_arguments_and_defaults_are_those_of_torch(name):
    ours, theirs = (inspect.signature(cls).parameters for cls in PAIRS[name])
    assert {k: p.default for k, p in theirs.items()}.items() <= {k: p.default for k, p in ours.items()}.items()
    assert set(ours) - set(theirs) <= SHARED


@pytest.mark.parametrize("name", PAIRS)
def test_positional_arguments_have_the_order_of_torch(name):
    ours, theirs = (inspect.signature(cls).parameters for cls in PAIRS[name])
    positional = [k for k, p in theirs.items() if p.kind is p.POSITIONAL_OR_KEYWORD and k not in SHARED]
    assert [k for k, p in ours.items() if p.kind is p.POSITIONAL_OR_KEYWORD][: len(positional)] == positional
    values = [weights(), *(theirs[k].default for k in positional[1:])]
    values[1] = 0.123
    group = PAIRS[name][0](*values).param_groups[0]
    assert group["lr"] == 0.123
    assert all(group[k] == v for k, v in zip(positional[2:], values[2:], strict=True))


def test_the_defaults_of_lion_are_those_of_its_paper():
    group = OPTIMIZERS["Lion"](weights()).param_groups[0]
    assert (group["lr"], group["betas"], group["weight_decay"]) == (1e-4, (0.9, 0.99), 0)


@every
def test_the_docstring_lists_every_argument_with_its_default(name):
    text = inspect.getdoc(OPTIMIZERS[name])
    for key, parameter in inspect.signature(OPTIMIZERS[name]).parameters.items():
        assert f"{key}:" in text or f"{key} (default {parameter.default!r}" in text, key


INSIDE = "[0, 1)"


POSITIVE = "[0, inf)"


RANGES = {
    "lr": POSITIVE,
    "eps": POSITIVE,
    "weight_decay": POSITIVE,
    "lr_decay": POSITIVE,
    "initial_accumulator_value": POSITIVE,
    "momentum_decay": POSITIVE,
    "lambd": POSITIVE,
    "t0": POSITIVE,
    "trust_coefficient": POSITIVE,
    "momentum": INSIDE,
    "alpha": INSIDE,
    "rho": INSIDE,
    "dampening": "[0, 1]",
    "warmup": POSITIVE,
    "warmup_steps": POSITIVE,
    "r": POSITIVE,
    "weight_lr_power": POSITIVE,
}


OUTSIDE = {POSITIVE: [-1e-9, -1.0, math.inf], INSIDE: [-0.1, 1.0, 1.5, 2, math.inf], "[0, 1]": [-0.1, 1.1]}


def bad_numbers():
    for name, cls in ELEMENTWISE.items():
        for key in (key for key in cls.options if key in RANGES):
            wanted = POSITIVE if key == "alpha" and name in ("ASGD", "AdEMAMix") else RANGES[key]
            for value in [*OUTSIDE[wanted], math.nan, -math.inf]:
                yield pytest.param(name, key, value, wanted, id=f"{name}-{key}={value}")


@pytest.mark.parametrize(("name", "key", "value", "wanted"), list(bad_numbers()))
def test_a_number_outside_its_range_is_rejected(name, key, value, wanted):
    """The constructor, its groups and `add_param_group` reject it in the same words."""
    make = OPTIMIZERS[name]
    sentence = f"`{key}` must be in {wanted}; received {key}={float(value)!r}."
    assert assert_rejected(InvalidValue, lambda: make(weights(), **{key: value})) == sentence
    assert_rejected(
        InvalidValue, lambda: make([{"params": weights()}, {"params": weights(), key: value}]), sentence, "group 1"
    )
    optimizer = make(weights())
    assert_rejected(
        InvalidValue, lambda: optimizer.add_param_group({"params": weights(), key: value}), sentence, "group 1"
    )
    assert len(optimizer.param_groups) == 1


@every
def test_the_table_of_ranges_covers_every_number(name):
    pairs = {"betas", "etas", "step_sizes"}
    flags = {key for key, option in ELEMENTWISE[name].options.items() if isinstance(option.default, bool)}
    assert OPTIMIZERS[name].options.keys() <= RANGES.keys() | pairs | flags


@every
@pytest.mark.parametrize("value", ["1e-3", None, True, [0.1], (0.1,), 1j, object, {"lr": 0.1}], ids=repr)
def test_a_rate_that_is_not_a_number_is_rejected(name, value):
    text = assert_rejected(
        InvalidType, lambda: OPTIMIZERS[name](weights(), lr=value), "`lr` must be a number in [0, inf)"
    )
    if isinstance(value, str):
        assert "received the string '1e-3'" in text
        assert "YAML reads 1e-3 as a string: write 1.0e-3" in text and 'float("1e-3")' in text
    else:
        assert f"received lr={value!r} of type {type(value).__name__}" in text


@every
@pytest.mark.parametrize("value", [0, 1, 0.5, np.float64(0.5), np.float32(0.5), torch.tensor(0.5), torch.tensor([0.5])])
def test_a_rate_of_any_numeric_type_is_accepted(name, value):
    OPTIMIZERS[name](weights(), lr=value)


@every
def test_a_rate_of_two_elements_is_rejected(name):
    assert_rejected(
        InvalidValue, lambda: OPTIMIZERS[name](weights(), lr=torch.tensor([0.1, 0.2])), "shape (2,)", "1-element"
    )


BETAS = [n for n, cls in ELEMENTWISE.items() if "betas" in cls.options]


@pytest.mark.parametrize("name", BETAS)
@pytest.mark.parametrize("value", [(0.9,), 0.9, (0.9, 0.99, 0.999, 0.9), "0.9, 0.999", None, {0.9, 0.999}], ids=repr)
def test_betas_of_another_number_or_type_are_rejected(name, value):
    default = OPTIMIZERS[name].options["betas"].default
    assert_rejected(
        InvalidType,
        lambda: OPTIMIZERS[name](weights(), betas=value),
        f"`betas` must be {'two' if len(default) == 2 else 'three'} numbers in [0, 1); received betas={value!r}. "
        f"Write betas=({', '.join(f'{x:g}' for x in default)}).",
    )


@pytest.mark.parametrize("name", BETAS)
@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("value", [1.0, -0.1, 2.0, math.nan])
def test_a_beta_outside_its_range_is_rejected(name, index, value):
    betas = [0.9] * len(OPTIMIZERS[name].options["betas"].default)
    betas[index] = value
    sentence = f"`betas[{index}]` must be in [0, 1); received betas[{index}]={value!r}."
    assert_rejected(InvalidValue, lambda: OPTIMIZERS[name](weights(), betas=betas), sentence)
    optimizer = OPTIMIZERS[name](weights())
    assert_rejected(InvalidValue, lambda: optimizer.add_param_group({"params": weights(), "betas": betas}), sentence)


@pytest.mark.parametrize("name", BETAS)
def test_betas_of_zero_and_betas_in_a_list_are_accepted(name):
    count = len(OPTIMIZERS[name].options["betas"].default)
    OPTIMIZERS[name](weights(), betas=(0,) * count)
    OPTIMIZERS[name](weights(), betas=[0.5, 0.9, 0.7][:count])


def test_a_beta_that_is_a_string_is_rejected():
    assert_rejected(
        InvalidType, lambda: OPTIMIZERS["Adam"](weights(), betas=("0.9", 0.999)), "`betas[0]`", "the string '0.9'"
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"etas": (1.0, 1.2)}, "`etas[0]` must be in (0, 1); received etas[0]=1.0."),
        ({"etas": (0.0, 1.2)}, "`etas[0]` must be in (0, 1); received etas[0]=0.0."),
        ({"etas": (0.5, 1.0)}, "`etas[1]` must be in (1, inf); received etas[1]=1.0."),
        (
            {"etas": 0.5},
            "`etas` must be two numbers, in (0, 1) and (1, inf); received etas=0.5. Write etas=(0.5, 1.2).",
        ),
        (
            {"step_sizes": (2.0, 1.0)},
            "`step_sizes[0]` must not exceed `step_sizes[1]`; received step_sizes=(2.0, 1.0).",
        ),
        ({"step_sizes": (-1.0, 1.0)}, "`step_sizes[0]` must be in [0, inf); received step_sizes[0]=-1.0."),
    ],
    ids=str,
)
def test_pairs_of_rprop_outside_their_ranges_are_rejected(options, words):
    assert_rejected((InvalidValue, InvalidType), lambda: OPTIMIZERS["Rprop"](weights(), **options), words)


DECAYED = [n for n, cls in ELEMENTWISE.items() if "weight_decay" in cls.options]


@pytest.mark.parametrize("name", DECAYED)
def test_a_weight_decay_that_overshoots_is_rejected(name):
    assert_rejected(
        InvalidValue,
        lambda: OPTIMIZERS[name](weights(), lr=0.1, weight_decay=5000),
        "lr * weight_decay must be in [0, 1], or the decay overshoots 0; received 0.1 * 5000 = 500.",
        "Help: usual values of `weight_decay` are in [0, 0.1].",
    )
    OPTIMIZERS[name](weights(), lr=0.1, weight_decay=10)


@every
@pytest.mark.parametrize("flag", ["maximize", "differentiable", "capturable", "foreach", "fused"])
@pytest.mark.parametrize("value", [1, "True", 0.0], ids=repr)
def test_a_flag_that_is_not_a_bool_is_rejected(name, flag, value):
    allowed = "True, False or None" if flag in ("foreach", "fused") else "True or False"
    words = f"`{flag}` must be {allowed}; received {flag}={value!r}."
    assert_rejected(InvalidType, lambda: OPTIMIZERS[name](weights(), **{flag: value}), words)


@every
def test_fused_and_foreach_together_are_rejected(name):
    assert_rejected(
        InvalidValue,
        lambda: OPTIMIZERS[name](weights(), fused=True, foreach=True),
        "`fused` and `foreach` cannot be `True` together",
    )


def test_nesterov_needs_a_momentum_and_no_dampening():
    words = "Nesterov momentum requires a momentum and zero dampening; received momentum="
    assert_rejected(InvalidValue, lambda: OPTIMIZERS["SGD"](weights(), nesterov=True), words + "0.0, dampening=0.0.")
    both = {"momentum": 0.9, "dampening": 0.1, "nesterov": True}
    assert_rejected(InvalidValue, lambda: OPTIMIZERS["SGD"](weights(), **both), words + "0.9, dampening=0.1.")
    optimizer = OPTIMIZERS["SGD"](weights())
    assert_rejected(
        InvalidValue, lambda: optimizer.add_param_group({"params": weights(), "nesterov": True}), words, "group 1"
    )
