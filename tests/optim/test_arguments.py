"""What an optimizer refuses, in which words, and that nothing has changed by then."""

from __future__ import annotations

import copy
import inspect
import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from piste.errors import InvalidType, InvalidValue
from piste.optim import OPTIMIZERS

from .reference import PAIRS, model

every = pytest.mark.parametrize("name", OPTIMIZERS)
SHARED = {"maximize", "foreach", "capturable", "differentiable", "fused"}


def weights(count=1):
    return [torch.ones(2, requires_grad=True) for _ in range(count)]


def refused(kind, call, *words):
    """The call raises this kind of error, in these words, on one line of whole sentences."""
    with pytest.raises(kind) as caught:
        call()
    text = str(caught.value)
    for word in words:
        assert word in text, text
    assert "\n" not in text and text[-1] in ".?)", text
    return text


# --- the constructor is torch's -------------------------------------------------------------------


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


# --- ranges ---------------------------------------------------------------------------------------

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
    "momentum": INSIDE,
    "alpha": INSIDE,
    "rho": INSIDE,
    "dampening": "[0, 1]",
}
OUTSIDE = {POSITIVE: [-1e-9, -1.0, math.inf], INSIDE: [-0.1, 1.0, 1.5, 2, math.inf], "[0, 1]": [-0.1, 1.1]}


def bad_numbers():
    for name, cls in OPTIMIZERS.items():
        for key in (key for key in cls.options if key in RANGES):
            wanted = POSITIVE if (name, key) == ("ASGD", "alpha") else RANGES[key]
            for value in [*OUTSIDE[wanted], math.nan, -math.inf]:
                yield pytest.param(name, key, value, wanted, id=f"{name}-{key}={value}")


@pytest.mark.parametrize(("name", "key", "value", "wanted"), list(bad_numbers()))
def test_a_number_outside_its_range_is_rejected(name, key, value, wanted):
    """In the constructor, in a group of the constructor's, in a group added later: the same sentence."""
    make = OPTIMIZERS[name]
    sentence = f"`{key}` must be in {wanted}; received {key}={float(value)!r}."
    assert refused(InvalidValue, lambda: make(weights(), **{key: value})) == sentence
    refused(InvalidValue, lambda: make([{"params": weights()}, {"params": weights(), key: value}]), sentence, "group 1")
    optimizer = make(weights())
    refused(InvalidValue, lambda: optimizer.add_param_group({"params": weights(), key: value}), sentence, "group 1")
    assert len(optimizer.param_groups) == 1


@every
def test_the_table_of_ranges_covers_every_number(name):
    pairs = {"betas", "etas", "step_sizes"}
    flags = {key for key, option in OPTIMIZERS[name].options.items() if isinstance(option.default, bool)}
    assert OPTIMIZERS[name].options.keys() <= RANGES.keys() | pairs | flags


@every
@pytest.mark.parametrize("value", ["1e-3", None, True, [0.1], (0.1,), 1j, object, {"lr": 0.1}], ids=repr)
def test_a_rate_that_is_not_a_number_is_rejected(name, value):
    text = refused(InvalidType, lambda: OPTIMIZERS[name](weights(), lr=value), "`lr` must be a number in [0, inf)")
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
    refused(InvalidValue, lambda: OPTIMIZERS[name](weights(), lr=torch.tensor([0.1, 0.2])), "shape (2,)", "1-element")


BETAS = [n for n, cls in OPTIMIZERS.items() if "betas" in cls.options]


@pytest.mark.parametrize("name", BETAS)
@pytest.mark.parametrize("value", [(0.9,), 0.9, (0.9, 0.99, 0.999), "0.9, 0.999", None, {0.9, 0.999}], ids=repr)
def test_betas_that_are_not_a_pair_are_rejected(name, value):
    refused(
        InvalidType,
        lambda: OPTIMIZERS[name](weights(), betas=value),
        f"`betas` must be two numbers in [0, 1); received betas={value!r}. Write betas=(0.9, ",
    )


@pytest.mark.parametrize("name", BETAS)
@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("value", [1.0, -0.1, 2.0, math.nan])
def test_a_beta_outside_its_range_is_rejected(name, index, value):
    betas = (value, 0.9) if index == 0 else (0.9, value)
    sentence = f"`betas[{index}]` must be in [0, 1); received betas[{index}]={value!r}."
    refused(InvalidValue, lambda: OPTIMIZERS[name](weights(), betas=betas), sentence)
    optimizer = OPTIMIZERS[name](weights())
    refused(InvalidValue, lambda: optimizer.add_param_group({"params": weights(), "betas": betas}), sentence)


@pytest.mark.parametrize("name", BETAS)
def test_betas_of_zero_and_betas_in_a_list_are_accepted(name):
    OPTIMIZERS[name](weights(), betas=(0, 0))
    OPTIMIZERS[name](weights(), betas=[0.5, 0.9])


def test_a_beta_that_is_a_string_is_rejected():
    refused(InvalidType, lambda: OPTIMIZERS["Adam"](weights(), betas=("0.9", 0.999)), "`betas[0]`", "the string '0.9'")


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
    refused((InvalidValue, InvalidType), lambda: OPTIMIZERS["Rprop"](weights(), **options), words)


DECAYED = [n for n, cls in OPTIMIZERS.items() if "weight_decay" in cls.options]


@pytest.mark.parametrize("name", DECAYED)
def test_a_weight_decay_that_overshoots_is_rejected(name):
    refused(
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
    refused(InvalidType, lambda: OPTIMIZERS[name](weights(), **{flag: value}), words)


@every
def test_fused_and_foreach_together_are_rejected(name):
    refused(
        InvalidValue,
        lambda: OPTIMIZERS[name](weights(), fused=True, foreach=True),
        "`fused` and `foreach` cannot be `True` together",
    )


def test_nesterov_needs_a_momentum_and_no_dampening():
    words = "Nesterov momentum requires a momentum and zero dampening; received momentum="
    refused(InvalidValue, lambda: OPTIMIZERS["SGD"](weights(), nesterov=True), words + "0.0, dampening=0.0.")
    both = {"momentum": 0.9, "dampening": 0.1, "nesterov": True}
    refused(InvalidValue, lambda: OPTIMIZERS["SGD"](weights(), **both), words + "0.9, dampening=0.1.")
    optimizer = OPTIMIZERS["SGD"](weights())
    refused(InvalidValue, lambda: optimizer.add_param_group({"params": weights(), "nesterov": True}), words, "group 1")


# --- names ----------------------------------------------------------------------------------------

WORDS = [
    ("Adam", "learning_rate", "Adam has no option `learning_rate`; PyTorch calls it `lr`."),
    ("SGD", "learning_rate", "SGD has no option `learning_rate`; PyTorch calls it `lr`."),
    ("Adam", "beta_1", "PyTorch takes both as one pair: betas=(beta_1, beta_2)."),
    ("Adam", "beta1", "PyTorch takes both as one pair"),
    ("Adamax", "beta_2", "PyTorch takes both as one pair"),
    ("Lion", "b2", "PyTorch takes both as one pair"),
    ("Adam", "epsilon", "PyTorch calls it `eps`."),
    ("RMSprop", "rho", "RMSprop has no option `rho`; PyTorch calls it `alpha`."),
    ("Adadelta", "alpha", "Adadelta has no option `alpha`; PyTorch calls it `rho`."),
    ("Adam", "decay", "a schedule: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1 / (1 + decay * t))"),
    ("SGD", "lr_decay", "LambdaLR(optimizer, lambda t: 1 / (1 + lr_decay * t)). `weight_decay` decays the"),
    ("RMSprop", "decay", "The decay rate of the average of squares (as in optax) is `alpha`."),
    ("Adagrad", "decay", "Adagrad has no option `decay`; PyTorch calls it `lr_decay`."),
    ("RMSprop", "epsilon", "PyTorch calls it `eps`, and adds it after the square root; Keras adds it under the root."),
    ("Adam", "wd", "PyTorch calls it `weight_decay`."),
    ("Adam", "clipnorm", "call torch.nn.utils.clip_grad_norm_ or clip_grad_value_ before the step."),
    ("Adam", "momentum", "its momentum is `betas[0]`."),
    ("Adam", "nesterov", "NAdam is Adam with Nesterov momentum."),
    ("Adam", "weight_deacy", "did you mean `weight_decay`"),
    ("Adam", "amsgrads", "did you mean `amsgrad`?"),
    ("SGD", "zzz", "known: `lr`, `momentum`"),
]


@pytest.mark.parametrize(("name", "key", "words"), WORDS, ids=str)
def test_the_message_for_an_unknown_option_names_the_right_one(name, key, words):
    refused(InvalidType, lambda: OPTIMIZERS[name](weights(), **{key: 0.5}), f"{name} has no option `{key}`; ", words)


def test_too_many_arguments_or_one_given_twice_are_rejected():
    refused(
        InvalidType,
        lambda: OPTIMIZERS["Adadelta"](weights(), 1.0, 0.9, 1e-6, 0.0, True),
        "Adadelta takes at most 4 arguments after `params` by position (lr, rho, eps, weight_decay); received 5.",
    )
    refused(InvalidType, lambda: OPTIMIZERS["Adam"](weights(), 0.1, lr=0.2), "`lr` twice: by position and by name")


# --- groups ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["weight_deacy", "learning_rate", "beta_1", "epsilon", "Lr", "momentums"])
def test_an_unknown_option_in_a_group_is_rejected(key):
    make = OPTIMIZERS["SGD"] if key == "momentums" else OPTIMIZERS["Adam"]
    words = f"Unknown option `{key}` in param group 1; "
    wrong = {"params": weights(), key: 0.5}
    refused(InvalidValue, lambda: make([{"params": weights()}, dict(wrong)]), words)
    optimizer = make(weights())
    refused(InvalidValue, lambda: optimizer.add_param_group(dict(wrong)), words)
    assert len(optimizer.param_groups) == 1


def test_a_misspelled_option_in_a_group_gets_the_nearest_name():
    groups = [{"params": weights(), "weight_deacy": 0}]
    refused(
        InvalidValue,
        lambda: OPTIMIZERS["Adam"](groups),
        "Unknown option `weight_deacy` in param group 0; did you mean `weight_decay`",
    )


def test_entries_of_schedulers_and_users_in_a_group_are_kept():
    group = {"params": weights(), "initial_lr": 0.1, "max_lr": 0.3, "min_lr": 0.0, "name": "encoder", "depth": 3}
    kept = OPTIMIZERS["Adam"]([group]).param_groups[0]
    assert (kept["name"], kept["depth"], kept["initial_lr"]) == ("encoder", 3, 0.1)


def test_a_group_is_checked_together_with_the_defaults():
    """lr from the constructor and weight_decay from the group, which only together overshoot."""
    make = OPTIMIZERS["AdamW"]
    refused(InvalidValue, lambda: make([{"params": weights(), "weight_decay": 20.0}], lr=0.1), "overshoots 0")


@every
def test_a_rejected_group_changes_nothing(name):
    net = model()
    optimizer = OPTIMIZERS[name](net[0].parameters())
    before = copy.deepcopy(optimizer.state_dict())
    wrong = {"params": list(net[2].parameters()), "lr": -1.0}
    refused(InvalidValue, lambda: optimizer.add_param_group(wrong), "`lr` must be in [0, inf); received lr=-1.0.")
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"] and after["state"].keys() == before["state"].keys()
    wrong["lr"] = 0.1
    optimizer.add_param_group(wrong)


@pytest.mark.parametrize("group", [None, 3, [1], "params"], ids=repr)
def test_a_group_that_is_not_a_dict_is_rejected(group):
    optimizer = OPTIMIZERS["Adam"](weights())
    refused(InvalidType, lambda: optimizer.add_param_group(group), "param_group must be a dict", f"received {group!r}.")


def test_a_group_without_parameters_is_rejected():
    optimizer = OPTIMIZERS["Adam"](weights())
    refused(InvalidValue, lambda: optimizer.add_param_group({"lr": 0.1}), "param group 1 has no `params`", "'lr'")


# --- parameters -----------------------------------------------------------------------------------


@every
def test_a_module_instead_of_its_parameters_is_rejected(name):
    refused(
        InvalidType,
        lambda: OPTIMIZERS[name](nn.Linear(2, 2)),
        f"{name} takes parameters, not a module; received Linear. Write {name}(model.parameters(), ...).",
    )


@every
def test_the_parameters_method_instead_of_its_result_is_rejected(name):
    refused(InvalidType, lambda: OPTIMIZERS[name](nn.Linear(2, 2).parameters), f"{name} takes", "received method")


def test_a_dict_of_tensors_is_rejected():
    make = OPTIMIZERS["Adam"]
    refused(
        InvalidType,
        lambda: make({"w": weights()[0], "b": weights()[0]}),
        "received a dict of 2 entries",
        "Write Adam(parameters.values(), ...), or .items() to keep the names.",
    )
    refused(InvalidType, lambda: make({"params": weights()}), "received one group. Write Adam([group], ...).")


def test_a_tensor_a_set_or_an_empty_list_is_rejected():
    make = OPTIMIZERS["Adam"]
    refused(
        InvalidType,
        lambda: make(weights()[0]),
        "params argument given to the optimizer should be an iterable of Tensors or dicts",
        "Write Adam([tensor], ...).",
    )
    refused(
        InvalidType,
        lambda: make(set(weights())),
        "a fixed order, because checkpoints number them; received a set. Pass a list.",
    )
    refused(InvalidType, lambda: make(3), "Adam takes an iterable of parameters", "received int.")
    refused(InvalidValue, lambda: make([]), "optimizer got an empty parameter list", "at least one parameter")
    read = nn.Linear(2, 2).parameters()
    list(read)
    refused(InvalidValue, lambda: make(read), "A generator such as model.parameters() is empty after it has been read")


def test_an_object_that_is_not_a_parameter_is_rejected():
    make = OPTIMIZERS["Adam"]
    refused(InvalidType, lambda: make([0.5]), "can only optimize Tensors, but one of the params is float", "0.5")
    refused(InvalidType, lambda: make([*weights(), np.ones(2)]), "parameter 1 of param group 0")
    refused(InvalidType, lambda: make([torch.ones(2, dtype=torch.int64)]), "floating-point or complex", "torch.int64")
    refused(
        InvalidValue,
        lambda: make([weights()[0] * 2]),
        "can't optimize a non-leaf Tensor: parameter 0 of param group 0 was computed from other tensors",
        "p.detach().requires_grad_()",
    )


@every
def test_a_parameter_given_twice_is_rejected(name):
    p, q = weights(2)
    make = OPTIMIZERS[name]
    words = "parameter 2 of param group 0 is the same tensor as parameter 0, and would be stepped twice. "
    refused(InvalidValue, lambda: make([p, q, p]), words + "List each parameter once.")
    words = "parameter 0 of param group 1 is already in param group 0. List each parameter once."
    refused(InvalidValue, lambda: make([{"params": [q, p]}, {"params": [p]}]), words)
    optimizer = make([p])
    refused(InvalidValue, lambda: optimizer.add_param_group({"params": p}), "is already in param group 0")
    refused(InvalidValue, lambda: make([("a", p), ("b", p)]), "is the same tensor as parameter 0")


@every
def test_frozen_parameters_are_accepted_and_the_first_step_warns(name):
    net = model().requires_grad_(False)
    optimizer = OPTIMIZERS[name](net.parameters())
    words = (
        rf"{name}.step\(\) changed no parameter: all of its 4 parameters are frozen \(requires_grad=False\). "
        r"Help: unfreeze some with p.requires_grad_\(\)."
    )
    with pytest.warns(UserWarning, match=words):
        optimizer.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()
    net[2].requires_grad_(True)
    before = net[2].weight.detach().clone()
    net(torch.ones(2, 4, dtype=torch.float64)).square().sum().backward()
    optimizer.step()
    assert not torch.equal(net[2].weight, before)


# --- options that change between steps ----------------------------------------------------------------


@pytest.mark.parametrize("fused", [None, False], ids=["kernel", "eager"])
@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (-0.1, InvalidValue, "set lr=-0.1 in param group 1 of Adam: `lr` must be in [0, inf); received lr=-0.1."),
        (float("nan"), InvalidValue, "set lr=nan in param group 1 of Adam"),
        (1e-3 + 1j, InvalidType, "set lr=(0.001+1j) in param group 1 of Adam: `lr` must be a number in [0, inf)"),
        ("1e-3", InvalidType, "set lr='1e-3' in param group 1 of Adam"),
    ],
    ids=str,
)
def test_an_invalid_rate_set_by_a_schedule_is_rejected_before_any_parameter_changes(value, error, words, fused):
    p, q = weights(2)
    optimizer = OPTIMIZERS["Adam"]([{"params": [p]}, {"params": [q]}], fused=fused)
    p.grad, q.grad = torch.ones_like(p), torch.ones_like(q)
    optimizer.step()
    optimizer.param_groups[1]["lr"] = value
    before = [p.detach().clone(), q.detach().clone()]
    steps = [state["step"].item() for state in optimizer.state.values()]
    for _ in range(2):  # a refused value is refused again
        refused(error, optimizer.step, words, "No parameter has changed in this step.")
    assert torch.equal(p, before[0]) and torch.equal(q, before[1])
    assert [state["step"].item() for state in optimizer.state.values()] == steps
    optimizer.param_groups[1]["lr"] = 0.1
    optimizer.step()
    assert not torch.equal(p, before[0]) and not torch.equal(q, before[1])


def test_invalid_betas_set_by_a_schedule_are_rejected():
    (p,) = weights(1)
    optimizer = OPTIMIZERS["Adam"]([p])
    p.grad = torch.ones_like(p)
    optimizer.step()
    optimizer.param_groups[0]["betas"] = (1.0, 0.999)
    refused(InvalidValue, optimizer.step, "set betas=(1.0, 0.999) in param group 0 of Adam: `betas[0]` must be in")


def test_one_message_lists_every_mistake_and_the_corrected_call():
    for call in (
        lambda: OPTIMIZERS["RMSprop"](lr=0.001, rho=0.9, epsilon=1e-6),
        lambda: OPTIMIZERS["RMSprop"](weights(), lr=0.001, rho=0.9, epsilon=1e-6),
    ):
        text = refused(InvalidType, call, "has no option `rho`; PyTorch calls it `alpha`.")
        assert "no option `epsilon`" in text
        assert text.endswith("Write RMSprop(model.parameters(), lr=0.001, alpha=0.9, eps=1e-06).")
    text = refused(InvalidType, lambda: OPTIMIZERS["Adam"](learning_rate=0.1, beta_1=0.8, beta_2=0.9), "needs `params`")
    assert text.endswith("Write Adam(model.parameters(), lr=0.1, betas=(0.8, 0.9)).")
    refused(InvalidType, lambda: OPTIMIZERS["SGD"](), "SGD needs `params`, the parameters to train, first.")
