"""Each type of option accepts its range and rejects other values with the same form of message."""

from __future__ import annotations

import math

import pytest
import torch

from piste.errors import InvalidType, InvalidValue
from piste.options import Choice, Flag, Function, Integer, Number, Numbers, TensorOption, make_signature

ACCEPTED = [
    (Number(1.0), [0, 0.5, 1e300, torch.tensor(2.0)]),
    (Number(1.0, low=-math.inf), [-1e300, 0.0]),
    (Number(1.0, above=True, closed=True), [1e-300, math.inf]),
    (Number(1.0, high=1.0, closed=True), [0, 1]),
    (Integer(-100), [-100, 0, torch.tensor(3)]),
    (Integer(optional=True), [None, 0, -1]),
    (Integer(low=1, high=3), [1, 2, 3]),
    (Numbers((Number(0.9, high=1.0), Number(0.99, high=1.0))), [(0, 0.5), [0.1, 0.2]]),
    (Flag(), [True, False]),
    (Flag(None), [True, False, None]),
    (Choice("mean", ("mean", "sum")), ["mean", "sum"]),
    (Choice(1, (1, 2)), [1, 2]),
    (TensorOption(), [None, torch.ones(2)]),
    (Function(), [None, torch.dist]),
]
REJECTED = [
    (Number(1.0), -1, InvalidValue, "`x` must be in [0, inf); received x=-1.0."),
    (Number(1.0), math.inf, InvalidValue, "`x` must be in [0, inf); received x=inf."),
    (Number(1.0, low=-math.inf), -math.inf, InvalidValue, "`x` must be in (-inf, inf); received x=-inf."),
    (Number(1.0, above=True, closed=True), 0, InvalidValue, "`x` must be in (0, inf]; received x=0.0."),
    (Number(1.0), math.nan, InvalidValue, "received x=nan."),
    (Number(1.0), "1", InvalidType, "`x` must be a number in [0, inf); received the string '1'."),
    (Number(1.0), None, InvalidType, "`x` must be a number in [0, inf); received x=None of type NoneType."),
    (Number(1.0), True, InvalidType, "received x=True of type bool."),
    (Integer(-100), 1.5, InvalidType, "`x` must be an int; received 1.5."),
    (Integer(-100), None, InvalidType, "`x` must be an int; received None."),
    (Integer(low=1), 0, InvalidValue, "`x` must be a whole number, at least 1; received 0."),
    (Integer(low=1), None, InvalidType, "`x` must be a whole number, at least 1; received None."),
    (Integer(low=1, optional=True), 0, InvalidValue, "`x` must be a whole number, at least 1, or None; received 0."),
    (Integer(low=1, high=3), 4, InvalidValue, "`x` must be a whole number from 1 to 3; received 4."),
    (Integer(), True, InvalidType, "`x` must be an int; received True."),
    (Flag(), 1, InvalidType, "`x` must be True or False; received x=1."),
    (Choice("mean", ("mean", "sum")), "means", InvalidValue, "received 'means'. Did you mean `mean`?"),
    (Choice("mean", ("mean", "sum")), 3, InvalidValue, '`x` must be one of "mean", "sum"; received 3.'),
    (Choice(1, (1, 2)), 3, InvalidValue, "`x` must be 1 or 2; received x=3."),
    (
        TensorOption(),
        [1.0],
        InvalidType,
        "`x` must be a torch.Tensor or None; received list. Help: torch.tensor([1.0]).",
    ),
    (Function(), 3, InvalidType, "`x` must be a function of two tensors, or None; received 3."),
]


@pytest.mark.parametrize(("option", "values"), ACCEPTED, ids=lambda o: type(o).__name__)
def test_values_in_range_are_accepted(option, values) -> None:
    for value in values:
        option.check("x", value)


@pytest.mark.parametrize(("option", "value", "kind", "words"), REJECTED, ids=str)
def test_other_values_are_rejected_with_name_range_and_value(option, value, kind, words: str) -> None:
    with pytest.raises(kind) as refusal:
        option.check("x", value)
    assert words in str(refusal.value)


def test_a_signature_has_the_defaults_in_order() -> None:
    found = make_signature(["input"], {"beta": Number(1.0), "full": Flag()}, {"dim": Integer()})
    assert str(found) == "(input, beta=1.0, full=False, *, dim=None)"
