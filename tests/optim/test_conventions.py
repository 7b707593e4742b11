"""The conventions of other libraries: recorded trajectories, their names and defaults, and what is rejected."""

from __future__ import annotations

import ast
import json
import re
from functools import partial
from pathlib import Path

import pytest
import torch

from piste.errors import InvalidType, InvalidValue
from piste.optim import OPTIMIZERS, Adam, Optimizer, RMSprop
from piste.optim.convention import TITLES
from piste.optim.conventions import CONVENTIONS
from piste.optim.declaration import all_options
from piste.optim.options import rate
from tools.docs.libraries import read_libraries

from .rejections import assert_rejected, weights

FOLDER = Path(__file__).parent / "trajectories"
RECORDED = {framework: json.loads((FOLDER / f"{framework}.json").read_text()) for framework in TITLES}
RUNS = [(framework, run) for framework, recorded in RECORDED.items() for run in recorded["runs"]]


def run_label(value):
    if isinstance(value, str):
        return value
    kind = "matrix" if "start" in value else "vector"
    return f"{value['name']}-{value['options']}-{'falling' if value['falls'] else 'constant'}-{value['scale']}-{kind}"


def path_of(framework, run, fused, optimizers=OPTIMIZERS):
    """The parameters after every step, by Piste, in the framework's own names."""
    recorded = RECORDED[framework]
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # the dtype of counters, such as the product of NAdam's momenta
    try:
        return steps_of(framework, run, fused, optimizers, recorded)
    finally:
        torch.set_default_dtype(before)


def steps_of(framework, run, fused, optimizers, recorded):
    p = torch.tensor(run.get("start", recorded["start"]), dtype=torch.float64, requires_grad=True)
    rate = {"learning_rate" if framework in ("keras", "optax") else "lr": run["lr"]}
    optimizer = optimizers[run["name"]](
        [p], **rate, **run["options"], convention=framework, fused=fused if p.dim() == 1 else None
    )
    path = []
    for t, g in enumerate(run["gradients"]):
        if run["lr"] is not None:
            optimizer.param_groups[0]["lr"] = run["lr"] / 10 if run["falls"] and t >= recorded["fall"] else run["lr"]
        p.grad = torch.tensor(g, dtype=torch.float64)
        optimizer.step()
        path.append(p.detach().clone())
    return torch.stack(path)


@pytest.mark.sample(20)
@pytest.mark.parametrize("fused", [True, False], ids=["kernel", "eager"])
@pytest.mark.parametrize(("framework", "run"), RUNS, ids=run_label)
def test_steps_are_those_of_the_framework(framework, run, fused):
    expected = torch.tensor(run["path"], dtype=torch.float64)
    tolerance = tolerance_of(framework, run)
    torch.testing.assert_close(path_of(framework, run, fused), expected, rtol=tolerance, atol=tolerance)


def tolerance_of(framework, run):
    """How far the steps of a run may be from those recorded."""
    if framework in ("keras", "optax") and run["name"] == "Adafactor":
        return 1e-6  # its step count (optax) and its options (Keras) are float32
    if framework == "timm" and "max_grad_norm" not in run["options"]:
        return 1e-6  # clip_grad_norm_ adds 1e-6 to the norm
    return 1e-12


def test_every_convention_is_recorded_with_its_version():
    for framework, recorded in RECORDED.items():
        assert re.fullmatch(r"\d+\.\d+\.\d+", recorded["versions"][framework])
        names = {name for name, rules in CONVENTIONS.items() if framework in rules}
        assert names == {run["name"] for run in recorded["runs"]}


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


def test_a_lamb_that_adapts_decayed_weights_alone_needs_the_decay_of_the_update():
    assert_rejected(
        InvalidValue,
        lambda: OPTIMIZERS["LAMB"](weights(), convention="timm", decoupled_decay="lr"),
        "always_adapt=False asks for the weight decay of the update, which decoupled_decay replaces; received "
        'decoupled_decay="lr". Help: set always_adapt=True, and give parameters that are not to be adapted to AdamW.',
    )


LEARNING_RATES = {
    "SGD": 0.01, "RMSprop": 0.001, "Adagrad": 0.001, "Adadelta": 0.001, "Adam": 0.001, "AdamW": 0.001, "Adamax": 0.001,
    "NAdam": 0.001, "Lion": 0.001, "LAMB": 0.001,
}  # fmt: skip
"""The defaults of `learning_rate` in the signatures of Keras 3."""


@pytest.mark.parametrize(("name", "rate"), LEARNING_RATES.items())
def test_learning_rates_default_to_those_of_keras(name, rate):
    assert OPTIMIZERS[name](weights(), convention="keras").param_groups[0]["lr"] == rate


def zero_gradient_step(adagrad):
    """The parameter after a gradient of 0, by optax's Adagrad without epsilon and accumulator."""
    p = torch.tensor([2.0], requires_grad=True)
    p.grad = torch.zeros(1)
    adagrad([p], lr=0.1, initial_accumulator_value=0.0, eps=0.0, convention="optax", fused=False).step()
    return p.item()


def test_a_gradient_of_zero_moves_nothing_in_optax_without_epsilon():
    assert zero_gradient_step(OPTIMIZERS["Adagrad"]) == 2.0


def steps_of_small_norms(make, **options):
    """The steps of two gradients, each from 0; the weight 0.5 after a gradient of 0, and after one of 0.5."""
    p = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = make([p], lr=0.5, fused=False, **options)
    steps = []
    for g in (2.0, -1.0):
        p.data.zero_()
        p.grad = torch.full((1,), g, dtype=torch.float64)
        optimizer.step()
        steps.append(-p.item())
    for g in (0.0, 0.5):
        p = torch.full((1,), 0.5, requires_grad=True)
        p.grad = torch.full((1,), g)
        make([p], lr=0.5, fused=False, **options).step()
        steps.append(p.item())
    return steps


SMALL_NORMS = [
    # (m_2 / (1 - 0.9^2)) / sqrt(v_2 / (1 - 0.999^2)) with m_2 = 0.9 0.2 - 0.1 and v_2 = 0.999 0.004 + 0.001
    ("LAMB", {"convention": "keras"}, [0.5, 0.5 * (0.08 / 0.19) / (0.004996 / 0.001999) ** 0.5, 0.5, 0.25]),
    ("LAMB", {"convention": "optax"}, [0.5, 0.5 * (0.08 / 0.19) / (0.004996 / 0.001999) ** 0.5, 0.5, 0.25]),
    (
        "LAMB",
        {"convention": "pytorch_optimizer"},
        [0.5 * 0.2 / (0.004**0.5 + 1e-6) / 0.1, 0.5 * 0.08 / (0.004996**0.5 + 1e-6) / 0.19, 0.5, 0.5 - 0.25 / 0.1],
    ),
    ("LARS", {"convention": "optax", "momentum": 0.75}, [1.0, 0.75 - 0.5, 0.5, 0.5 - 0.5 * 1e-3 * 0.5]),
]


@pytest.mark.parametrize(("name", "options", "expected"), SMALL_NORMS)
def test_the_ratio_is_that_of_small_norms_and_one_without(name, options, expected):
    assert steps_of_small_norms(OPTIMIZERS[name], **options) == pytest.approx(expected, rel=1e-5)


def step_of_a_large_norm(lamb):
    """The weight 40 after a gradient of 0.5, by the LAMB of pytorch_optimizer, whose norms are at most 10."""
    p = torch.full((1,), 40.0, requires_grad=True)
    p.grad = torch.full((1,), 0.5)
    lamb([p], lr=0.5, convention="pytorch_optimizer", fused=False).step()
    return p.item()


def test_the_lamb_of_pytorch_optimizer_limits_the_norm_of_the_weights():
    assert step_of_a_large_norm(OPTIMIZERS["LAMB"]) == pytest.approx(40 - 0.5 * 10 / 0.1, rel=1e-5)


def late_relative_step(adafactor, **options):
    """The weight 1 after step 40,000 with gradients of 1, by the Adafactor of transformers without a learning rate."""
    p = torch.ones(1, dtype=torch.float64, requires_grad=True)
    optimizer = adafactor([p], convention="transformers", fused=False, **options)
    for step in (0, 39_999):
        p.data.fill_(1)
        p.grad = torch.ones_like(p)
        if step:
            optimizer.state[p]["step"].fill_(step)
        optimizer.step()
    return p.item()


def test_the_relative_step_of_transformers_falls_with_the_root_of_the_step_count():
    adafactor = OPTIMIZERS["Adafactor"]
    assert late_relative_step(adafactor) == pytest.approx(1 - 1 / 200, rel=1e-6)
    assert late_relative_step(adafactor, warmup_init=True) == pytest.approx(1 - 1 / 200, rel=1e-6)


def late_steps(rprop):
    """The weight after a gradient of 1 and two of 0, by optax's Rprop, which takes each step one step later."""
    p = torch.ones(1, requires_grad=True)
    optimizer = rprop([p], lr=0.5, convention="optax", fused=False)
    path = []
    for g in (1.0, 0.0, 0.0):
        p.grad = torch.full((1,), g)
        optimizer.step()
        path.append(p.item())
    return path


def test_the_rprop_of_optax_takes_a_step_later_also_with_a_gradient_of_zero():
    assert late_steps(OPTIMIZERS["Rprop"]) == [1.0, 0.5, 0.5]


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


def test_a_custom_formula_has_no_convention():
    class Custom(RMSprop):
        options = {"lr": rate(0.1)}
        buffers = {}

        def update(g):
            return g

    assert Custom.conventions == {} == Optimizer.conventions


def test_a_checkpoint_keeps_the_convention():
    (p,) = weights(1)
    saved = Adam([p], convention="keras").state_dict()
    other = Adam([p])
    other.load_state_dict(saved)
    assert other.param_groups[0]["convention"] == "keras"
    other.load_state_dict(torch.optim.Adam([p]).state_dict())
    assert other.param_groups[0]["convention"] == "keras"
