"""Custom losses: formulas without class weights, loops in them, messages, and formulas without a kernel."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator

import pytest
import torch

from piste.engine import backend
from piste.errors import InvalidType
from piste.explain import explain
from piste.formula import FormulaError, exp, log1p, where
from piste.formula.row_functions import log_softmax, pick
from piste.losses import LOSSES
from piste.losses.class_loss import CLASS_WEIGHT, ClassLoss
from piste.losses.elementwise import ElementwiseLoss
from piste.options import Integer, Number


@pytest.fixture(scope="module", autouse=True)
def losses() -> Iterator[dict[str, type]]:
    """The losses of this file, which are no longer listed after its tests."""
    before = dict(LOSSES)

    class TaylorLoss(ClassLoss):
        """The first terms of -log p in 1 - p (Feng et al. 2020)."""

        name, functional_name = "taylor", "taylor_loss"
        options = {"order": Integer(3, "the number of terms", low=1)}
        signature = "order, reduction"

        def formula(x, k, *, order):
            miss = 1 - exp(pick(log_softmax(x), k))
            loss, power = 0, 1
            for i in range(order):
                power = power * miss
                loss = loss + power / (i + 1)
            return loss

    class WingLoss(ElementwiseLoss):
        """A logarithm near 0, and a difference far from it (Feng et al. 2018)."""

        name, functional_name = "wing", "wing_loss"
        options = {"width": Number(1.0, "the end of the logarithm", above=True)}
        signature = "width, reduction"

        def formula(x, y, *, width):
            d = abs(x - y)
            return where(d < width, width * log1p(d), d - width + width * math.log(1 + width))

    yield {"taylor": TaylorLoss, "wing": WingLoss}
    LOSSES.clear()
    LOSSES.update(before)


@pytest.mark.parametrize("fused", [True, False])
def test_a_loss_of_rows_needs_no_class_weights(losses, fused, monkeypatch):
    if not fused:
        monkeypatch.setenv("PISTE_BACKEND", "eager")
    x = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    k = torch.tensor([0, 1, 2, 3, -100, 1])
    keep = k != -100
    miss = 1 - x.softmax(1)[torch.arange(6), k.clamp(min=0)][keep]
    for order in (1, 4):
        expected = sum(miss**i / i for i in range(1, order + 1))
        loss = losses["taylor"](order=order)
        assert fused == ("fused" in loss.explain_backend(x, k))
        torch.testing.assert_close(loss(x, k), expected.mean(), rtol=1e-12, atol=1e-14)
        none = losses["taylor"](order=order, reduction="none")(x, k)
        torch.testing.assert_close(none[keep], expected, rtol=1e-12, atol=1e-14)
        grads = [torch.autograd.grad(value, x, retain_graph=True)[0] for value in (loss(x, k), expected.mean())]
        torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-13)
        torch.testing.assert_close(loss(x.T[None], k[None]), expected.mean(), rtol=1e-12, atol=1e-14)


def test_a_loop_of_a_formula_is_explained(losses):
    text = str(explain(losses["taylor"](order=2), [[0.0, 0.0]], [1]))
    assert text.count("0.625") > 0  # 1/2 + 1/8


def test_a_message_has_a_line_that_works(losses):
    with pytest.raises(InvalidType) as error:
        losses["taylor"]()(torch.randn(3, 4), torch.randn(3, 4))
    line = str(error.value).rpartition("A line that works: ")[2]
    assert line == "TaylorLoss()(torch.randn(3, 5), torch.tensor([1, 0, 4]))"
    assert eval(line, {"torch": torch, "TaylorLoss": losses["taylor"]}).isfinite()


def test_a_formula_without_a_kernel_warns_once_with_the_unsupported_operation(losses, monkeypatch):
    monkeypatch.setattr(backend, "_warned", set())
    x = torch.tensor([0.0, 0.5, 3.0])
    loss = losses["wing"](width=2.0)
    with pytest.warns(RuntimeWarning) as messages:
        value = loss(x, torch.zeros(3))
    torch.testing.assert_close(value, torch.tensor((2 * math.log(1.5) + 1 + 2 * math.log(3)) / 3))
    text = str(messages[0].message)
    assert text.startswith("Piste falls back to the eager backend, several times slower: no kernel can be made of ")
    assert "WingLoss.formula" in text and "`math`" in text and "math.log(1 + width)" in text
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss(x.double(), torch.zeros(3).double())


def test_an_option_needs_no_place_in_the_signature():
    before = dict(LOSSES)
    scaled = type(
        "ScaledLoss",
        (ElementwiseLoss,),
        {"name": "scaled", "options": {"factor": Number(2.0, "the factor")}, "formula": _scaled},
    )
    assert scaled(factor=3.0)(torch.ones(2), torch.zeros(2)) == 3
    assert scaled()(torch.ones(2), torch.zeros(2)) == 2
    assert repr(scaled(factor=3.0)) == "ScaledLoss(factor=3.0)"
    LOSSES.clear()
    LOSSES.update(before)


def _scaled(x, y, *, factor):
    return factor * abs(x - y)


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        (_scaled, "Mine.formula asks for `factor`, which is no option. Help: options = "),
        (lambda self, x, y: x - y, r"Mine.formula is a function of its operands \(input, target\) without `self`"),
    ],
)
def test_a_mistake_in_a_formula_is_named(formula, message):
    with pytest.raises(FormulaError, match=message):
        type("Mine", (ElementwiseLoss,), {"formula": formula})


def test_a_formula_without_class_weights_does_not_take_the_option_for_them():
    with pytest.raises(FormulaError, match="Mine has the option `weight`, and its formula takes no class"):
        type("Mine", (ClassLoss,), {"options": {"weight": CLASS_WEIGHT}, "formula": lambda x, k: -pick(x, k)})


def test_a_number_of_a_formula_with_a_default_needs_no_option():
    mine = type("Mine", (ElementwiseLoss,), {"formula": lambda x, y, *, factor=2.0: factor * abs(x - y)})
    assert mine()(torch.ones(2), torch.zeros(2)) == 2


def test_forward_may_be_any_callable():
    assert type("Mine", (ElementwiseLoss,), {"formula": _scaled_by_two, "forward": _Forward()})().forward(3) == 6


def _scaled_by_two(x, y):
    return 2 * abs(x - y)


class _Forward:
    def __call__(self, x: int) -> int:
        return 2 * x
