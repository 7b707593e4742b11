"""Custom optimizers: kernel, checks and checkpoints, and messages for formulas that can't be compiled."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable

import numpy
import pytest
import torch
from torch import Tensor

from piste.engine import step_dispatch
from piste.errors import InvalidType, InvalidValue, Unsupported
from piste.formula.expression import FormulaError
from piste.formula.words import maximum, sign, sqrt, where
from piste.optim import Buffer, Optimizer
from piste.optim.options import Flag, decay, eps, rate, weight_decay

from .reference import KERNEL, ones, parameter


class Yogi(Optimizer):
    """Adaptive methods for nonconvex optimization (Zaheer et al. 2018)."""

    options = {"lr": rate(1e-2), "beta": decay(0.9, "beta", "how long v remembers"), "eps": eps(1e-3)}
    buffers = {"square_avg": "v"}

    def update(g, v, *, beta, eps):
        v = v - (1 - beta) * sign(v - g * g) * g * g
        return g / (sqrt(v) + eps), v


def yogi(p: Tensor, grads: list[Tensor], lr: float = 1e-2, beta: float = 0.9, eps: float = 1e-3) -> Tensor:
    """Return the result of the paper's formula, stated independently."""
    v = torch.zeros_like(p)
    for g in grads:
        v = v - (1 - beta) * torch.sign(v - g**2) * g**2
        p = p - lr * g / (v.sqrt() + eps)
    return p


def test_a_custom_rule_has_a_kernel_and_checkpoints():
    make = torch.Generator().manual_seed(0)
    grads = [torch.randn(7, generator=make, dtype=torch.float64) for _ in range(6)]
    start = torch.linspace(-1, 1, 7, dtype=torch.float64)
    p = parameter(start.clone())
    optimizer = Yogi([p])
    for g in grads[:3]:
        p.grad = g
        optimizer.step()
    assert optimizer.explain() == f"Yogi, group 0: 1 of 1 parameters {KERNEL}, all in one pass"
    saved = optimizer.state_dict()
    assert saved["state"][0].keys() == {"step", "square_avg"}
    q = parameter(p.detach().clone())
    again = Yogi([q], lr=0.5)
    again.load_state_dict(saved)
    for g in grads[3:]:
        q.grad = g
        again.step()
    torch.testing.assert_close(q, yogi(start, grads), rtol=1e-12, atol=1e-13)


def test_a_custom_rule_validates_options_and_checkpoints():
    params = [parameter(ones())]
    with pytest.raises(InvalidValue, match=r"`beta` must be in \[0, 1\); received beta=1\.5"):
        Yogi(params, beta=1.5)
    with pytest.raises(InvalidType, match=r"Yogi has no option `learning_rate`; PyTorch calls it `lr`"):
        Yogi(params, learning_rate=0.1)
    with pytest.raises(InvalidValue, match=r"Unknown option `bta` in param group 0; did you mean `beta`"):
        Yogi([{"params": params, "bta": 0.5}])
    with pytest.raises(InvalidValue, match=r"Yogi\.load_state_dict takes the result of optimizer\.state_dict\(\)"):
        Yogi(params).load_state_dict(3)
    assert "beta (default 0.9, [0, 1)): how long v remembers." in Yogi.__doc__


class Signed(Optimizer):
    """A step of size lr, or half of it with `half`; the first step never goes up."""

    options = {"lr": rate(0.5), "weight_decay": weight_decay(), "half": Flag(False, "go half as far")}

    def update(g, *, t, half):
        d = where(t > 1, sign(g), maximum(sign(g), 0.0))
        return d / 2 if half else d


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(
    ("options", "first", "second"),
    [
        ({}, [0.5, 1.0], [0.0, 1.5]),
        ({"maximize": True}, [1.0, 0.5], [1.5, 0.0]),
        ({"half": True}, [0.75, 1.0], [0.5, 1.25]),
        ({"weight_decay": 2.0}, [0.5, 1.0], [0.0, 1.0]),  # the second: -2 + 2 * 1 is no gradient
    ],
    ids=str,
)
def test_a_custom_rule_has_the_shared_options(fused, options, first, second):
    p = parameter(torch.tensor([1.0, 1.0]), torch.tensor([2.0, -2.0]))
    optimizer = Signed([p], fused=fused, **options)
    for wanted in (first, second):
        optimizer.step()
        torch.testing.assert_close(p.detach(), torch.tensor(wanted), rtol=0, atol=0)


class Own(Optimizer):
    options = {"lr": rate(0.1)}


class Tanh(Own):
    def update(g):
        return torch.tanh(g)


class Numpy(Own):
    def update(g):
        return torch.as_tensor(numpy.tanh(g))


class Method(Own):
    def update(g):
        return g.abs()


class Power(Own):
    def update(g):
        return torch.Tensor.pow(g, 3)


class Branch(Own):
    def update(g):
        return g if g > 0 else -g


class Largest(Own):
    def update(g):
        return max(g, 0.0)


class Both(Own):
    def update(g):
        return where(g > 0 and g < 1, g, 0.0)


class Math(Own):
    def update(g):
        return math.sqrt(g)


class Floated(Own):
    def update(g):
        return g * float(g)


class Index(Own):
    def update(g):
        return g[0]


class Loop(Own):
    def update(g):
        return sum(g)


class Unpack(Own):
    def update(g):
        a, b = g
        return a + b


UNSUPPORTED = {
    Tanh: ("`torch.tanh` was called on a value", torch.tanh),
    Numpy: ("numpy", torch.tanh),
    Method: ("`.abs` was called on a value, which has no methods", torch.abs),
    Power: ("pow", lambda g: g**3),
    Branch: ("`if`", None),
    Largest: ("`max`", None),
    Both: ("`and`", None),
    Math: ("`math`", None),
    Floated: ("float()", None),
    Index: ("can't be indexed", None),
    Loop: ("looped over", None),
    Unpack: ("unpacked", None),
}


@pytest.fixture
def failures_forgotten(monkeypatch):
    monkeypatch.setattr(step_dispatch, "_failed", weakref.WeakKeyDictionary())


@pytest.mark.parametrize("rule", UNSUPPORTED, ids=lambda rule: rule.__name__)
def test_a_formula_without_a_kernel_warns_with_the_unsupported_operation(rule, failures_forgotten):
    word, meant = UNSUPPORTED[rule]
    p = parameter(torch.tensor([0.25, -0.5, 1.0]), torch.tensor([0.5, 1.5, 2.0]))
    before, line = p.detach().clone(), (rule.update.__code__.co_firstlineno + 1)
    optimizer = rule([p])
    with pytest.warns(RuntimeWarning) as messages:
        if meant is None:  # what no formula may do fails in the eager backend too, or does not mean one element
            try:
                optimizer.step()
            except (RuntimeError, ValueError, TypeError):
                assert torch.equal(p, before)
        else:
            optimizer.step()
            torch.testing.assert_close(p.detach(), before - 0.1 * meant(p.grad))
    text = str(messages[0].message)
    assert text.startswith(
        f"{rule.__name__} falls back to the eager backend, several times slower: no kernel can be made of "
    )
    assert word in text
    assert f"(line {line})" in text
    assert text.endswith("Help: fused=False silences this warning; fused=True makes it an error.")
    assert word in optimizer.explain()

    p = parameter(before.clone(), p.grad)
    with pytest.raises(PISTE_ERRORS) as refused:
        rule([p], fused=True).step()
    assert word in str(refused.value)
    assert torch.equal(p, before)


PISTE_ERRORS = (FormulaError, Unsupported)


def test_the_message_names_the_rule(failures_forgotten):
    with pytest.raises(FormulaError, match=r"^no kernel can be made of `Tanh\.update`: "):
        Tanh([parameter(ones())], fused=True).step()


def test_a_rule_that_returns_too_few_or_too_many_values_is_rejected(failures_forgotten):
    class Forgetful(Own):
        buffers = {"average": "m"}

        def update(g, m):
            return 0.9 * m + g

    class Generous(Own):
        def update(g):
            return g, g

    for rule, words in (
        (Forgetful, r"Forgetful.update must return the step and 1 buffer \(m\); it returned 0"),
        (Generous, r"Generous.update must return the step and 0 buffers \(none\); it returned 1"),
    ):
        with pytest.raises(FormulaError, match=words):
            rule([parameter(ones())], fused=True).step()
        with pytest.raises(FormulaError, match=words):
            rule([parameter(ones())], fused=False).step()


class Delayed(Optimizer):
    """Steps by the gradient of two steps ago, and keeps the parameter before the step."""

    options = {"lr": rate(0.5)}
    buffers = {"before": "b", "first": "q1", "second": "q2"}

    def update(p, g, b, q1, q2):
        return q2, p, g, q1


def step_delayed(step: Callable[[Delayed], Callable[[], object]], dtype: torch.dtype, **options: object) -> None:
    p = parameter(torch.tensor([1.0, 2.0, 3.0], dtype=dtype))
    optimizer = Delayed([p], **options)
    take = step(optimizer)
    for t in range(1, 5):
        before = p.detach().clone()
        p.grad = torch.full_like(p, t)
        take()
        state = optimizer.state[p]
        assert torch.equal(p.detach(), before - 0.5 * max(t - 2, 0))
        assert torch.equal(state["before"], before)
        assert [state[key].tolist() for key in ("first", "second")] == [[t] * 3, [t - 1] * 3]


@pytest.mark.filterwarnings("ignore:Delayed.step.. rounded")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("fused", [True, False])
def test_a_buffer_takes_the_value_that_another_had_before_the_step(fused, dtype):
    step_delayed(lambda optimizer: optimizer.step, dtype, fused=fused)
    step_delayed(lambda optimizer: torch.compile(optimizer.step, backend="eager"), dtype, fused=fused)


def declared(**names: object) -> type[Optimizer]:
    return type("Mine", (Optimizer,), {"options": {"lr": rate(0.1)}, **names})


MISTAKES = [
    (
        {"update": lambda g, *, gamma: gamma * g},
        "Mine.update asks for `gamma`, which is no number of the step. Known: `lr`, `t`. Help: declare an option of "
        "this letter, or a formula in `per_step`.",
    ),
    (
        {"update": lambda g, *, q: q * g, "per_step": {"q": lambda t, z: t * z}},
        'Mine.per_step["q"] asks for `z`, which is no number of the step. Known: `lr`, `t`.',
    ),
    (
        {"update": lambda g: g, "buffers": {"average": "m"}},
        "Mine.update must take g, m in this order, and `p` in front if it reads the parameter; it takes g.",
    ),
    (
        {"update": lambda p, g, v, m: (g, m, v), "buffers": {"average": "m", "square": "v"}},
        "Mine.update must take g, m, v in this order, and `p` in front if it reads the parameter; it takes p, g, v, m.",
    ),
    (
        {"update": lambda self, g: g},
        "Mine.update must take g in this order, and `p` in front if it reads the parameter; it takes self, g.",
    ),
    ({}, "Mine must state its step in `update`, or in `before` and `matrix`; it has none."),
    (
        {"update": lambda g: g, "options": {"rate": rate(0.1)}},
        'Mine.options must have the learning rate, "lr": rate(1e-3); it has rate.',
    ),
    (
        {"update": lambda g: g, "options": {"lr": rate(0.1), "beta": 0.9}},
        'Mine.options must hold options of piste.optim.options; received beta=0.9. Help: "beta": Number(0.9, "its '
        'meaning").',
    ),
    (
        {"update": lambda g, m: (g, m), "buffers": {"average": Buffer("m", when="momentum")}},
        "Mine.buffers names an option `momentum` for average, which is none. Known: `lr`.",
    ),
    (
        {"update": lambda p, g, *, new_s: g, "group_state": {"s": 0.0}, "reduce": lambda p, g: g * g},
        "Mine.reduce must return a tuple of terms, such as (g * g,).",
    ),
    (
        {
            "update": lambda p, g, *, new_s: g,
            "group_state": {"s": 0.0},
            "reduce": lambda p, g: (g * g,),
            "finish": lambda x, *, s: x,
        },
        "Mine.finish must return a tuple of the next s; it returned no tuple.",
    ),
]


def test_a_buffer_may_exist_by_an_option_of_all_optimizers():
    ascent = declared(update=lambda g, m: (g, m), buffers={"average": Buffer("m", when="maximize")})
    for maximize in (True, False):
        p = parameter(ones())
        optimizer = ascent([p], maximize=maximize)
        optimizer.step()
        assert ("average" in optimizer.state[p]) == maximize


def test_a_base_class_of_rules_may_leave_the_learning_rate_to_them():
    own = {"options": {"mu": decay(0.5, "mu", "")}, "buffers": {"average": Buffer("m", when="on")}}
    base = type("Base", (Optimizer,), own)
    options = {"lr": rate(0.1), **base.options, "on": Flag(True, "")}
    rule = type("Mine", (base,), {"options": options, "update": lambda g, m, *, mu: (mu * g, g)})
    p = parameter(ones())
    rule([p]).step()
    torch.testing.assert_close(p.detach(), ones() - 0.1 * 0.5 * p.grad)


@pytest.mark.parametrize("fused", [None, False])
@pytest.mark.parametrize(("names", "message"), MISTAKES, ids=[message[:40] for _, message in MISTAKES])
@pytest.mark.filterwarnings("ignore:Mine falls back")
def test_a_mistake_in_a_declaration_is_named(names, message, fused, failures_forgotten):
    p = parameter(ones())
    with pytest.raises(FormulaError) as error:
        declared(**names)([p], fused=fused).step()
    assert str(error.value).startswith(message)
    assert torch.equal(p, ones())
