"""The conventions of other libraries: recorded trajectories, and what their formulas do where others differ."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from piste.errors import InvalidValue
from piste.optim import OPTIMIZERS, Adam, Optimizer, RMSprop
from piste.optim.convention import TITLES
from piste.optim.conventions import CONVENTIONS
from piste.optim.options import rate

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
