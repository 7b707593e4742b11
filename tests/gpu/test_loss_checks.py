"""Values that a loss rejects on a GPU: NaN and a gradient of 0 at once, and the error of the CPU a call later."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

import piste
from piste.engine.gpu import loss_kernel
from piste.engine.gpu.loss_rows import RowLayout
from piste.errors import InvalidValue
from piste.losses import functional

pytest.importorskip("triton", reason="Triton is not installed: GPU kernels are not tested")
from .interpreter import interpreting


def spoiled(x: torch.Tensor, **values: float) -> torch.Tensor:
    """A copy with other values at some flat positions, such as `_3=1.5`."""
    x = x.clone()
    for place, value in values.items():
        x.view(-1)[int(place[1:])] = value
    return x


def soft(**values: float) -> torch.Tensor:
    return spoiled(torch.full((6, 4), 0.25), **values)


LONG = RowLayout(1, 1, False, 1, True, 4, runs=2)  # a tile of two runs of one class
UNIT, HALF = torch.full((6, 4), 0.5), torch.full((6, 4), 0.25)
CLASSES = torch.tensor([0, 1, 2, 3, 0, 1])
LISTS = torch.tensor([[3, 0, -1, 2]] * 6)
LOGITS = torch.arange(24.0).reshape(6, 4) / 7
LOG = torch.log_softmax(LOGITS, 1)
SIGNS = torch.tensor([1.0, -1, 1, 1, -1, 1])
BAD: list[tuple[str, tuple[torch.Tensor, ...], list[int]]] = [
    ("binary_cross_entropy", (spoiled(UNIT, _9=1.5), HALF), [2]),
    ("binary_cross_entropy", (UNIT, spoiled(HALF, _9=-1.0, _11=7.0, _20=3.0)), [2, 5]),
    ("binary_cross_entropy", (spoiled(UNIT, _23=-0.25), spoiled(HALF, _0=4.0)), [0, 5]),
    ("binary_cross_entropy_with_logits", (LOGITS, spoiled(HALF, _4=255.0)), [1]),
    ("kl_div", (spoiled(LOG, _8=0.5), soft()), [2]),
    ("gaussian_nll_loss", (LOGITS, UNIT, spoiled(UNIT, _8=-0.5)), [2]),
    ("cross_entropy", (LOGITS, spoiled(CLASSES, _3=4)), [3]),
    ("cross_entropy", (LOGITS, spoiled(CLASSES, _3=-1, _5=-(2**60))), [3, 5]),
    ("cross_entropy", (LOGITS, soft(_13=-0.25)), [3]),
    ("cross_entropy", (LOGITS, soft(_13=0.75, _20=5.0)), [3, 5]),
    ("nll_loss", (spoiled(LOG, _10=2.0), CLASSES), [2]),
    ("nll_loss", (LOG, spoiled(CLASSES, _1=17)), [1]),
    ("multi_margin_loss", (LOGITS, spoiled(CLASSES, _1=17)), [1]),
    ("multilabel_margin_loss", (LOGITS, spoiled(LISTS, _6=4)), [1]),
    ("multilabel_margin_loss", (LOGITS, spoiled(LISTS, _9=-2, _23=17)), [2, 5]),
    ("multilabel_soft_margin_loss", (LOGITS, spoiled(UNIT, _4=2.0, _5=-3.0)), [1]),
    ("cosine_embedding_loss", (LOGITS, UNIT, spoiled(SIGNS, _2=0.0, _3=0.5)), [2, 3]),
]


ROWWISE = (
    "cross_entropy",
    "nll_loss",
    "multi_margin_loss",
    "multilabel_margin_loss",
    "multilabel_soft_margin_loss",
    "cosine_embedding_loss",
)


def message(function: Any, operands: Any, **settings: Any) -> str:
    with pytest.raises(InvalidValue) as caught:
        function(*operands, **settings)
    return str(caught.value)


@pytest.mark.parametrize("is_long", [False, True])
@pytest.mark.parametrize(("name", "operands", "rows"), BAD, ids=[f"{k}-{case[0]}" for k, case in enumerate(BAD)])
def test_rejected_values_give_nan_and_the_error_of_the_cpu_later(name, operands, rows, is_long, monkeypatch):
    """With `is_long`, a tile has two of the four classes."""
    if is_long:
        monkeypatch.setattr(loss_kernel, "row_layout", lambda *_: LONG)
    function = getattr(functional, name)
    expected = message(function, operands)
    good = [x for x in range(6) if x not in rows]
    with interpreting() as backend:
        x = operands[0].clone().requires_grad_()
        loss = function(x, *operands[1:])
        loss.backward()
        assert backend.device.launches
        assert loss.isnan()
        if name in ROWWISE:
            assert (x.grad[rows] == 0).all()
        assert x.grad.isfinite().all()
        assert (x.grad[good] != 0).any(1).all()
        with pytest.raises(InvalidValue) as caught:
            functional.mse_loss(UNIT, UNIT)
        text = str(caught.value)
        assert text.startswith(expected)
        assert re.search(r"\(Found on the GPU in call \d+ of \d+ of losses with checks, and raised late", text)
        functional.mse_loss(UNIT, UNIT)  # raised once
        assert message(function, operands, check="sync") == expected
        if operands[-1].is_floating_point():  # indices out of range are always rejected
            function(*operands, check="off")
        piste.check()


def test_only_the_rejected_elements_have_a_gradient_of_0():
    with interpreting():
        x, y = spoiled(UNIT, _9=1.5).requires_grad_(), HALF.clone().requires_grad_()
        functional.binary_cross_entropy(x, y, reduction="sum").backward()
        assert (x.grad.view(-1) == 0).nonzero().tolist() == [[9]]
        assert y.grad.view(-1)[9] == 0
        with pytest.raises(InvalidValue):
            piste.check()


@pytest.mark.parametrize("where", ["check", "step"])
def test_reports_are_raised_by_check_and_by_optimizer_steps(where):
    p = torch.zeros(3, requires_grad=True)
    p.grad = torch.ones(3)
    optimizer = piste.optim.SGD([p], lr=1.0, fused=False)
    with interpreting():
        functional.binary_cross_entropy(spoiled(UNIT, _9=1.5), UNIT)
        with pytest.raises(InvalidValue, match="`input` must be in"):
            piste.check() if where == "check" else optimizer.step()
    assert p.tolist() == [0.0] * 3


def test_every_report_is_raised_in_the_order_of_the_calls():
    with interpreting():
        for k in range(3):  # the interpreter is done at once, so each call raises the report of the one before
            if k:
                with pytest.raises(InvalidValue, match=rf"received {k}\.5"):
                    functional.binary_cross_entropy(UNIT, UNIT)
            functional.binary_cross_entropy(spoiled(UNIT, _9=k + 1.5), UNIT)
        with pytest.raises(InvalidValue, match=r"received 3\.5"):
            piste.check()
        piste.check()


def test_the_first_of_several_rejected_values_in_a_long_row_is_named(monkeypatch):
    monkeypatch.setattr(loss_kernel, "row_layout", lambda *_: LONG)
    labels = spoiled(torch.zeros(1, 12), _3=1.5, _10=2.5)
    expected = message(functional.multilabel_soft_margin_loss, (torch.zeros(1, 12), labels))
    assert "1.5" in expected
    with interpreting():
        functional.multilabel_soft_margin_loss(torch.zeros(1, 12), labels)
        with pytest.raises(InvalidValue) as caught:
            piste.check()
    assert str(caught.value).startswith(expected)


def test_ignored_rows_are_not_checked():
    with interpreting():
        functional.cross_entropy(LOGITS, spoiled(CLASSES, _3=-100))
        x = spoiled(LOG, _10=2.0)
        assert functional.nll_loss(x, spoiled(CLASSES, _2=-100)).isfinite()
        piste.check()


NOTHING = [
    ("cross_entropy", (LOGITS, torch.full((6,), -100)), {}),
    ("cross_entropy", (LOGITS, torch.full((6,), -100)), {"normalizer": "count", "label_smoothing": 0.1}),
    ("cross_entropy", (LOGITS, torch.zeros(6, dtype=torch.long)), {"weight": torch.tensor([0.0, 1.0, 1.0, 1.0])}),
    ("nll_loss", (LOG, torch.full((6,), 2)), {"ignore_index": 2, "check": "off"}),
    ("focal_loss", (LOGITS, torch.full((6,), -100)), {}),
]


@pytest.mark.parametrize("few", [1024, 0])
@pytest.mark.parametrize(("name", "operands", "options"), NOTHING, ids=[f"{k}-{c[0]}" for k, c in enumerate(NOTHING)])
def test_a_mean_of_nothing_gives_the_error_of_the_cpu_later(name, operands, options, few, monkeypatch):
    """With 0 in `few`, a kernel of its own finds the denominator."""
    monkeypatch.setattr(loss_kernel, "FEW_ROWS", few)
    function, settings = getattr(functional, name), {**options, "empty": "raise"}
    expected = message(function, operands, **settings)
    with interpreting() as backend:
        x = operands[0].clone().requires_grad_()
        loss = function(x, operands[1], **settings)
        loss.backward()
        assert ("divisor" in dict(backend.device.launches)) == (not few)
        assert loss.isnan() and (x.grad == 0).all()
        with pytest.raises(InvalidValue) as caught:
            piste.check()
        assert str(caught.value).startswith(expected)
        assert "(Found on the GPU in call" in str(caught.value)
        if settings.get("check") is None:
            assert message(function, operands, **settings, check="sync") == expected
        assert function(operands[0], CLASSES % 2 + 1, **{**settings, "ignore_index": 1}).isfinite()
        piste.check()


def test_a_class_index_out_of_range_is_reported_before_a_mean_of_nothing():
    weight = torch.tensor([0.0, 1.0, 1.0, 1.0])
    bad = spoiled(torch.zeros(6, dtype=torch.long), _4=9)
    with interpreting():
        functional.cross_entropy(LOGITS, bad, weight=weight, empty="raise")
        with pytest.raises(InvalidValue, match=r"received 9 at \(4,\)"):
            piste.check()
        piste.check()
