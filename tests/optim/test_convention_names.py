"""The conventions of other libraries: the names and defaults of their arguments, and what is rejected."""

from __future__ import annotations

import ast
from functools import partial

import pytest
import torch

from piste.errors import InvalidType, InvalidValue
from piste.optim import OPTIMIZERS, Adam
from piste.optim.convention import TITLES
from piste.optim.conventions import CONVENTIONS
from piste.optim.declaration import all_options
from tools.docs.libraries import read_libraries

from .rejections import assert_rejected, weights

TUTORIAL = [
    ("RMSprop", {"lr": 0.001, "rho": 0.9, "epsilon": 1e-06}, {"lr": 0.001, "alpha": 0.9, "eps": 1e-6}),
    ("Adagrad", {"lr": 0.01, "epsilon": 1e-06}, {"lr": 0.01, "eps": 1e-6, "initial_accumulator_value": 0.1}),
    ("Adadelta", {"lr": 1.0, "rho": 0.95, "epsilon": 1e-06}, {"lr": 1.0, "rho": 0.95, "eps": 1e-6}),
    (
        "Adam",
        {"lr": 0.001, "beta_1": 0.9, "beta_2": 0.99, "epsilon": 1e-08},
        {"lr": 0.001, "betas": (0.9, 0.99), "eps": 1e-8},
    ),
    ("Adamax", {"lr": 0.002, "beta_1": 0.9, "beta_2": 0.99}, {"lr": 0.002, "betas": (0.9, 0.99), "eps": 1e-7}),
]


@pytest.mark.parametrize(("name", "options", "expected"), TUTORIAL)
def test_calls_of_keras_tutorials_run_with_the_convention(name, options, expected):
    group = OPTIMIZERS[name](weights(), **options, convention="keras").param_groups[0]
    assert group.items() >= expected.items()


@pytest.mark.parametrize(("name", "options", "expected"), TUTORIAL)
def test_without_the_convention_such_calls_name_the_call_to_write(name, options, expected):
    if name == "Adadelta":
        options = {**options, "learning_rate": options["lr"]}
        del options["lr"]
    call = ", ".join(["model.parameters()", *(f"{k}={v!r}" for k, v in options.items())])
    assert_rejected(
        InvalidType,
        lambda: OPTIMIZERS[name](weights(), **options),
        f'{name}({call}, convention="keras") has the names, defaults and formula of Keras.',
    )


OF_LIBRARIES = [
    ("RMSprop", "keras", {}, {"alpha": 0.9}),
    ("AdamW", "optax", {"learning_rate": 0.1}, {"lr": 0.1, "weight_decay": 1e-4, "convention": "optax"}),
    ("LAMB", "timm", {}, {"weight_decay": 0.01, "max_norm": 1.0, "always_adapt": False, "trust_clip": False}),
    ("LAMB", "timm", {"max_grad_norm": None}, {"max_norm": None}),
    ("LAMB", "pytorch_optimizer", {}, {"lr": 1e-3, "eps": 1e-6, "weight_decay": 0.0, "max_norm": None}),
    ("Adafactor", "keras", {"weight_decay": None}, {"lr": 1e-3, "eps": (1e-30, 1e-3), "weight_decay": 0.0}),
    (
        "Adafactor",
        "optax",
        {"learning_rate": 0.1, "momentum": None, "weight_decay_rate": None, "clipping_threshold": None},
        {"eps": (1e-30, 1e-3), "beta2_decay": -0.8, "beta1": 0.0, "weight_decay": 0.0, "d": None}
        | {"relative_step": False, "min_dim_size_to_factor": 128},
    ),
    ("Adafactor", "optax", {"learning_rate": 0.1, "decay_rate": 0.5, "eps": 1e-8}, {"beta2_decay": -0.5}),
    ("Adafactor", "transformers", {"lr": None, "beta1": None}, {"lr": 1e-2, "beta1": 0.0, "eps": (1e-30, 1e-3)}),
]
"""Calls in the names of a library, and options of the param group."""


@pytest.mark.parametrize(("name", "convention", "given", "expected"), OF_LIBRARIES)
def test_defaults_and_names_are_those_of_the_library(name, convention, given, expected):
    assert OPTIMIZERS[name](weights(), **given, convention=convention).param_groups[0].items() >= expected.items()


ONLY = [
    ("LAMB", "timm", {"grad_averaging": True, "caution": False, "corrected_weight_decay": False}),
    ("RMSprop", "optax", {"initial_scale": 0.0, "eps_in_sqrt": True, "nesterov": False, "bias_correction": False}),
    ("NAdam", "optax", {"eps_root": 0.0, "nesterov": True}),
    ("AdaBelief", "optax", {"eps_root": 1e-16, "nesterov": False}),
    ("LARS", "optax", {"eps": 0.0, "trust_ratio_mask": True}),
    (
        "LAMB",
        "pytorch_optimizer",
        {"weight_decouple": True, "fixed_decay": False, "rectify": False, "grad_averaging": True, "adam": False}
        | {"pre_norm": False, "adam_debias": False},
    ),
    ("Adafactor", "keras", {"relative_step": True}),
    ("Adafactor", "optax", {"factored": True, "decay_offset": 0}),
]
"""Arguments of a library that are accepted with one value."""


@pytest.mark.parametrize(("name", "convention", "only"), ONLY)
def test_arguments_of_a_library_with_one_value_are_accepted_with_that_value(name, convention, only):
    rate = {"lr": 0.1}
    OPTIMIZERS[name](weights(), **rate, **only, convention=convention)
    for argument, value in only.items():
        other = not value
        words = (
            f'`{argument}` of {name} must be {value!r} with convention="{convention}"; received {argument}={other!r}. '
            f"Help: {TITLES[convention]}'s other formula has no equal here."
        )
        call = partial(OPTIMIZERS[name], weights(), **rate, **{argument: other}, convention=convention)
        assert_rejected(InvalidValue, call, words)


@pytest.mark.parametrize("convention", ["keras", "optax"])
def test_the_defaults_of_every_argument_of_a_library_are_accepted_and_change_nothing(convention):
    """The signatures are those that tools.docs.libraries reads off Keras and optax."""
    for name, entry in read_libraries()[convention]["optimizers"].items():
        if convention not in OPTIMIZERS[name].conventions:
            continue
        plain = OPTIMIZERS[name](weights(), lr=0.1, convention=convention).param_groups[0]
        for argument, text in entry["arguments"].items():
            if argument == "learning_rate":
                continue
            value = text if text == "float32" else ast.literal_eval(text)  # a dtype of JAX
            given = OPTIMIZERS[name](weights(), lr=0.1, **{argument: value}, convention=convention).param_groups[0]
            assert {**given, "params": 0} == {**plain, "params": 0}, (name, argument)


def test_keras_clips_by_its_own_names():
    group = OPTIMIZERS["Adam"](weights(), global_clipnorm=1.0, clipvalue=0.5, convention="keras").param_groups[0]
    assert (group["max_norm"], group["max_value"]) == (1.0, 0.5)


@pytest.mark.parametrize(
    ("name", "convention", "argument", "help"),
    [
        ("SGD", "keras", {"clipnorm": 1.0}, 'must be None with convention="keras"; received clipnorm=1.0. Help: torch'),
        ("Adam", "keras", {"use_ema": True}, "Help: torch.optim.swa_utils.AveragedModel averages the weights."),
        ("Adam", "optax", {"mu_dtype": "bfloat16"}, "Help: `state_dtype` sets the dtype of the state, state_dtype="),
        ("Adafactor", "optax", {"weight_decay_mask": True}, "Help: param groups have a weight_decay each"),
    ],
)
def test_arguments_with_an_equal_elsewhere_are_answered_with_it(name, convention, argument, help):
    call = partial(OPTIMIZERS[name], weights(), lr=0.1, **argument, convention=convention)
    assert_rejected(InvalidValue, call, help)


@pytest.mark.parametrize("name", ["SGD", "Lion"])
def test_an_option_that_the_rule_lacks_is_rejected_with_a_convention(name):
    call = partial(OPTIMIZERS[name], weights(), epsilon=0.1, convention="keras")
    assert_rejected(InvalidType, call, f"{name} has no option `epsilon`; ")


def test_every_name_of_a_library_stands_for_an_option():
    for name, conventions in CONVENTIONS.items():
        for rules in conventions.values():
            ours = {text.partition("[")[0].lstrip("-") for text in rules.names.values()}
            assert ours <= all_options(OPTIMIZERS[name]).keys()


@pytest.mark.parametrize(
    ("name", "convention", "argument", "help"),
    [
        ("Adam", "optax", "beta_1", "Adam has no option `beta_1`; optax calls it `b1`."),
        ("Adam", "keras", "b2", "Adam has no option `b2`; Keras calls it `beta_2`."),
        ("LAMB", "timm", "beta1", "PyTorch takes both as one pair"),
        ("Rprop", "optax", "eta", "Rprop has no option `eta`; optax calls it `learning_rate`."),
        ("Adam", "keras", "learning_ratee", "did you mean `learning_rate`?"),
        ("RMSprop", "optax", "momentums", "did you mean `momentum`?"),
        (
            "Adafactor",
            "optax",
            "zzz",
            "known: `learning_rate`, `decay_rate`, `eps`, `clipping_threshold`",
        ),
        ("Adam", "torch", "learning_ratee", "PyTorch calls it `lr`."),
        ("Adam", "torch", "use_emas", "known: `lr`, `betas`"),
    ],
)
def test_the_help_for_a_wrong_name_has_the_names_of_the_library(name, convention, argument, help):
    lr = {} if argument in ("eta", "learning_ratee") and convention == "torch" else {"lr": 0.1}
    call = partial(OPTIMIZERS[name], weights(), **lr, **{argument: 0.5}, convention=convention)
    assert_rejected(InvalidType, call, help)


@pytest.mark.parametrize(
    ("convention", "given", "corrected"),
    [
        (
            "keras",
            {"beta_1": 0.8, "b2": 0.5, "epsilonn": 0.1},
            "beta_1=0.8, beta_2=0.5, epsilon=0.1, convention='keras')",
        ),
        ("optax", {"lr": 0.1, "beta1": 0.8, "epsilonn": 0.1}, "lr=0.1, b1=0.8, eps=0.1, convention='optax')"),
        ("torch", {"learning_ratee": 0.1, "beta_22": 0.5}, "lr=0.1, betas=(0.9, 0.5), convention='torch')"),
    ],
)
def test_the_corrected_call_runs_in_the_convention(convention, given, corrected):
    call = partial(OPTIMIZERS["Adam"], weights(), **given, convention=convention)
    assert_rejected(InvalidType, call, f"Write Adam(model.parameters(), {corrected}.")
    eval(f"Adam(weights(), {corrected}", {"Adam": Adam, "weights": weights})


def test_a_rate_of_the_wrong_type_is_rejected_by_its_name_in_the_library():
    assert_rejected(
        InvalidType,
        lambda: OPTIMIZERS["Adafactor"](weights(), learning_rate=0.1, decay_rate="0.8", convention="optax"),
        "`decay_rate` must be a number; received the string '0.8'.",
    )


def test_calls_of_transformers_and_timm_name_the_convention():
    assert_rejected(
        InvalidType,
        lambda: OPTIMIZERS["Adafactor"](weights(), clip_threshold=1.0, decay_rate=-0.8, lr=None),
        "Adafactor(model.parameters(), clip_threshold=1.0, decay_rate=-0.8, lr=None, "
        'convention="transformers") has the names, defaults and formula of transformers.',
    )
    assert_rejected(
        InvalidType,
        lambda: OPTIMIZERS["LAMB"](weights(), max_grad_norm=1.0),
        'LAMB(model.parameters(), max_grad_norm=1.0, convention="timm") has the names, defaults and formula of timm.',
    )


def test_optax_demands_a_learning_rate():
    for name, rules in CONVENTIONS.items():
        if "optax" in rules:
            origin = "PyTorch" if hasattr(torch.optim, name) else "Piste"
            words = f'{name} needs `lr` with convention="optax", which has no default for it. Help: {origin}\'s is lr='
            assert_rejected(InvalidType, lambda name=name: OPTIMIZERS[name](weights(), convention="optax"), words)


def test_an_argument_given_twice_is_rejected():
    for options in ({"lr": 0.1, "learning_rate": 0.1}, {"betas": (0.9, 0.9), "beta_1": 0.9}):
        assert_rejected(
            InvalidType, lambda options=options: Adam(weights(), **options, convention="keras"), "twice, as `"
        )


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("SGD", {"momentum": 0.9, "dampening": 0.5, "convention": "keras"}),
        ("Adagrad", {"lr_decay": 0.1, "convention": "keras"}),
        ("Adam", {"decoupled_weight_decay": True, "convention": "keras"}),
        ("Adam", {"lr": 0.1, "weight_decay": 0.1, "convention": "optax"}),
        ("AdamW", {"lr": 0.1, "amsgrad": True, "convention": "optax"}),
        ("LAMB", {"bias_correction": False, "convention": "keras"}),
        ("LAMB", {"lr": 0.1, "bias_correction": False, "convention": "optax"}),
        ("LAMB", {"trust_clip": True, "convention": "pytorch_optimizer"}),
        ("Adafactor", {"beta1": 0.9, "convention": "keras"}),
        ("Adafactor", {"lr": 0.1, "warmup_init": True, "convention": "optax"}),
        ("Adafactor", {"lr": 0.1, "relative_step": True, "convention": "optax"}),
        ("LARS", {"lr": 0.1, "adapt": False, "convention": "optax"}),
        ("RAdam", {"lr": 0.1, "weight_decay": 0.1, "convention": "optax"}),
        ("AdaBelief", {"lr": 0.1, "weight_decay": 0.1, "convention": "optax"}),
    ],
)
def test_options_that_the_framework_lacks_are_rejected(name, options):
    assert_rejected(InvalidValue, lambda: OPTIMIZERS[name](weights(), **options), "` does not exist in ", "leave `")


def test_optimizers_without_a_convention_say_so():
    assert_rejected(
        InvalidValue,
        lambda: OPTIMIZERS["ASGD"](weights(), convention="keras"),
        '`convention` of ASGD must be one of "torch"; received "keras".',
    )
    assert_rejected(InvalidValue, lambda: Adam(weights(), convention="kears"), "Did you mean `keras`?")
