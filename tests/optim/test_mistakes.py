"""Messages for wrong names, groups and parameters, and for invalid changes between steps; nothing changes before."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from piste.errors import InvalidType, InvalidValue
from piste.optim import OPTIMIZERS

from .cases import ELEMENTWISE
from .reference import model
from .rejections import assert_rejected, weights

every = pytest.mark.parametrize("name", ELEMENTWISE)


WORDS = [
    ("Adan", "no_prox", "the weights decay as with no_prox=True, by lr * weight_decay before the step."),
    ("AdEMAMix", "t_alpha_beta3", "`warmup` has the steps over which alpha and beta3 rise."),
    ("ADOPT", "decouple", "`decoupled_weight_decay` decouples the decay."),
    ("AdaBelief", "rectify", "the step is that of rectify=False."),
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
    ("Adam", "clipnorm", "`max_norm` clips to the norm of all gradients, `max_value` by value."),
    ("Adam", "momentum", "its momentum is `betas[0]`."),
    ("LAMB", "variant", 'takes the versions of other libraries: "keras", "optax", "timm", "pytorch_optimizer".'),
    ("Adam", "nesterov", "NAdam is Adam with Nesterov momentum."),
    ("Adam", "weight_deacy", "did you mean `weight_decay`"),
    ("Adam", "amsgrads", "did you mean `amsgrad`?"),
    ("SGD", "zzz", "known: `lr`, `momentum`"),
    ("Rprop", "weight_decay", "known: `lr`, `etas`"),
]


@pytest.mark.parametrize(("name", "key", "words"), WORDS, ids=str)
def test_the_message_for_an_unknown_option_names_the_right_one(name, key, words):
    assert_rejected(
        InvalidType, lambda: OPTIMIZERS[name](weights(), **{key: 0.5}), f"{name} has no option `{key}`; ", words
    )


def test_too_many_arguments_or_one_given_twice_are_rejected():
    assert_rejected(
        InvalidType,
        lambda: OPTIMIZERS["Adadelta"](weights(), 1.0, 0.9, 1e-6, 0.0, True),
        "Adadelta takes at most 4 arguments after `params` by position (lr, rho, eps, weight_decay); received 5.",
    )
    assert_rejected(
        InvalidType, lambda: OPTIMIZERS["Adam"](weights(), 0.1, lr=0.2), "`lr` twice: by position and by name"
    )


@pytest.mark.parametrize("key", ["weight_deacy", "learning_rate", "beta_1", "epsilon", "Lr", "momentums"])
def test_an_unknown_option_in_a_group_is_rejected(key):
    make = OPTIMIZERS["SGD"] if key == "momentums" else OPTIMIZERS["Adam"]
    words = f"Unknown option `{key}` in param group 1; "
    wrong = {"params": weights(), key: 0.5}
    assert_rejected(InvalidValue, lambda: make([{"params": weights()}, dict(wrong)]), words)
    optimizer = make(weights())
    assert_rejected(InvalidValue, lambda: optimizer.add_param_group(dict(wrong)), words)
    assert len(optimizer.param_groups) == 1


def test_a_misspelled_option_in_a_group_gets_the_nearest_name():
    groups = [{"params": weights(), "weight_deacy": 0}]
    assert_rejected(
        InvalidValue,
        lambda: OPTIMIZERS["Adam"](groups),
        "Unknown option `weight_deacy` in param group 0; did you mean `weight_decay`",
    )


def test_entries_of_schedulers_and_users_in_a_group_are_kept():
    group = {"params": weights(), "initial_lr": 0.1, "max_lr": 0.3, "min_lr": 0.0, "name": "encoder", "depth": 3}
    kept = OPTIMIZERS["Adam"]([group]).param_groups[0]
    assert (kept["name"], kept["depth"], kept["initial_lr"]) == ("encoder", 3, 0.1)


def test_a_group_is_checked_together_with_the_defaults():
    """lr of the constructor and weight_decay of the group are invalid only together."""
    make = OPTIMIZERS["AdamW"]
    assert_rejected(InvalidValue, lambda: make([{"params": weights(), "weight_decay": 20.0}], lr=0.1), "overshoots 0")


@every
def test_a_rejected_group_changes_nothing(name):
    net = model()
    optimizer = OPTIMIZERS[name](net[0].parameters())
    before = copy.deepcopy(optimizer.state_dict())
    wrong = {"params": list(net[2].parameters()), "lr": -1.0}
    assert_rejected(
        InvalidValue, lambda: optimizer.add_param_group(wrong), "`lr` must be in [0, inf); received lr=-1.0."
    )
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"] and after["state"].keys() == before["state"].keys()
    wrong["lr"] = 0.1
    optimizer.add_param_group(wrong)


@pytest.mark.parametrize("group", [None, 3, [1], "params"], ids=repr)
def test_a_group_that_is_not_a_dict_is_rejected(group):
    optimizer = OPTIMIZERS["Adam"](weights())
    assert_rejected(
        InvalidType, lambda: optimizer.add_param_group(group), "param_group must be a dict", f"received {group!r}."
    )


def test_a_group_without_parameters_is_rejected():
    optimizer = OPTIMIZERS["Adam"](weights())
    assert_rejected(
        InvalidValue, lambda: optimizer.add_param_group({"lr": 0.1}), "param group 1 has no `params`", "'lr'"
    )


@every
def test_a_module_instead_of_its_parameters_is_rejected(name):
    assert_rejected(
        InvalidType,
        lambda: OPTIMIZERS[name](nn.Linear(2, 2)),
        f"{name} takes parameters, not a module; received Linear. Write {name}(model.parameters(), ...).",
    )


@every
def test_the_parameters_method_instead_of_its_result_is_rejected(name):
    assert_rejected(
        InvalidType, lambda: OPTIMIZERS[name](nn.Linear(2, 2).parameters), f"{name} takes", "received method"
    )


def test_a_dict_of_tensors_is_rejected():
    make = OPTIMIZERS["Adam"]
    assert_rejected(
        InvalidType,
        lambda: make({"w": weights()[0], "b": weights()[0]}),
        "received a dict of 2 entries",
        "Write Adam(parameters.values(), ...), or .items() to keep the names.",
    )
    assert_rejected(InvalidType, lambda: make({"params": weights()}), "received one group. Write Adam([group], ...).")


def test_a_tensor_a_set_or_an_empty_list_is_rejected():
    make = OPTIMIZERS["Adam"]
    assert_rejected(
        InvalidType,
        lambda: make(weights()[0]),
        "params argument given to the optimizer should be an iterable of Tensors or dicts",
        "Write Adam([tensor], ...).",
    )
    assert_rejected(
        InvalidType,
        lambda: make(set(weights())),
        "a fixed order, because checkpoints number them; received a set. Pass a list.",
    )
    assert_rejected(InvalidType, lambda: make(3), "Adam takes an iterable of parameters", "received int.")
    assert_rejected(InvalidValue, lambda: make([]), "optimizer got an empty parameter list", "at least one parameter")
    read = nn.Linear(2, 2).parameters()
    list(read)
    assert_rejected(
        InvalidValue, lambda: make(read), "A generator such as model.parameters() is empty after it has been read"
    )


def test_an_object_that_is_not_a_parameter_is_rejected():
    make = OPTIMIZERS["Adam"]
    assert_rejected(
        InvalidType, lambda: make([0.5]), "can only optimize Tensors, but one of the params is float", "0.5"
    )
    assert_rejected(InvalidType, lambda: make([*weights(), np.ones(2)]), "parameter 1 of param group 0")
    assert_rejected(
        InvalidType, lambda: make([torch.ones(2, dtype=torch.int64)]), "floating-point or complex", "torch.int64"
    )
    assert_rejected(
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
    assert_rejected(InvalidValue, lambda: make([p, q, p]), words + "List each parameter once.")
    words = "parameter 0 of param group 1 is already in param group 0. List each parameter once."
    assert_rejected(InvalidValue, lambda: make([{"params": [q, p]}, {"params": [p]}]), words)
    optimizer = make([p])
    assert_rejected(InvalidValue, lambda: optimizer.add_param_group({"params": p}), "is already in param group 0")
    assert_rejected(InvalidValue, lambda: make([("a", p), ("b", p)]), "is the same tensor as parameter 0")


@pytest.mark.sample(1, per="name", of=8)
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
    for _ in range(2):  # the first step of ADOPT only starts its average
        optimizer.step()
    assert not torch.equal(net[2].weight, before)


def test_a_frozen_parameter_alone_is_named_in_the_singular():
    optimizer = OPTIMIZERS["SGD"]([torch.ones(2)])
    words = r"its only parameter is frozen \(requires_grad=False\). Help: unfreeze it with p.requires_grad_\(\)."
    with pytest.warns(UserWarning, match=words):
        optimizer.step()


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
        assert_rejected(error, optimizer.step, words, "No parameter has changed in this step.")
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
    assert_rejected(
        InvalidValue, optimizer.step, "set betas=(1.0, 0.999) in param group 0 of Adam: `betas[0]` must be in"
    )


def test_one_message_lists_every_mistake_and_the_corrected_call():
    for call in (
        lambda: OPTIMIZERS["RMSprop"](lr=0.001, rho=0.9, epsilon=1e-6),
        lambda: OPTIMIZERS["RMSprop"](weights(), lr=0.001, rho=0.9, epsilon=1e-6),
    ):
        text = assert_rejected(InvalidType, call, "has no option `rho`; PyTorch calls it `alpha`.")
        assert "no option `epsilon`" in text
        assert text.endswith("Write RMSprop(model.parameters(), lr=0.001, alpha=0.9, eps=1e-06).")
    text = assert_rejected(
        InvalidType, lambda: OPTIMIZERS["Adam"](learning_rate=0.1, beta_1=0.8, beta_2=0.9), "needs `params`"
    )
    assert text.endswith("Write Adam(model.parameters(), lr=0.1, betas=(0.8, 0.9)).")
    assert_rejected(InvalidType, lambda: OPTIMIZERS["SGD"](), "SGD needs `params`, the parameters to train, first.")


def test_one_message_lists_refused_values_too_and_leaves_them_out_of_the_call():
    rate = "`lr` must be in [0, inf); received lr=-1.0."
    for call in (
        lambda: OPTIMIZERS["SGD"](lr=-1, mometum=0.9),
        lambda: OPTIMIZERS["SGD"](weights(), lr=-1, mometum=0.9),
        lambda: OPTIMIZERS["SGD"](weights(), -1, mometum=0.9),
    ):
        text = assert_rejected(InvalidType, call, f"has no option `mometum`; did you mean `momentum`? {rate}")
        assert text.endswith("Write SGD(model.parameters(), momentum=0.9).")
    text = assert_rejected(InvalidValue, lambda: OPTIMIZERS["Adam"](weights(), -1, eps=-1, amsgrad=True), rate)
    assert text.endswith("`eps` must be in [0, inf); received eps=-1.0. Write Adam(model.parameters(), amsgrad=True).")
    text = assert_rejected(InvalidType, lambda: OPTIMIZERS["RMSprop"](lr=0.1, rho=1.5), "PyTorch calls it `alpha`.")
    assert "`alpha` must be in [0, 1); received alpha=1.5." in text
    assert text.endswith("Write RMSprop(model.parameters(), lr=0.1).")
