"""The domain of each loss up to its bounds."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from piste.errors import PisteError

INF, NAN = math.inf, math.nan
Function = Callable[[str], Callable[..., torch.Tensor]]  # of the name of a loss, its function


@dataclass(frozen=True)
class Domain:
    """Valid and invalid values of one argument of a loss, with the other operands."""

    name: str
    argument: str
    operands: tuple[Any, ...]  # with None in the place of that argument
    right: tuple[Any, ...]
    wrong: tuple[Any, ...]
    options: dict[str, Any] = field(default_factory=dict)
    dtype: torch.dtype = torch.float64
    always: bool = False  # rejected with check="off" too
    said: str = ""  # a part of every message

    def __str__(self) -> str:
        return f"{self.name}-{self.argument}{self.options or ''}"


SOFT = {"right": (-0.01, 1.01, 0.0, 1.0, NAN), "wrong": (-0.0101, 1.0101, 2.0, -INF)}
SIGN = {"right": (1.0, -1.0, NAN), "wrong": (0.0, 0.5, 2.0, -2.0, INF)}
LOG = {"right": (0.05, 0.0, -1.0, -INF, NAN), "wrong": (0.0501, 1.0, INF)}
POSITIVE = {"right": (0.0, 2.5, NAN), "wrong": (-1e-9, -1.0)}
ROW, LOGS = [0.5, -1.0, 2.0], [-0.5, -1.0, -2.0]
HALVES = [0.25, 0.5, 0.25]
CLASS_WEIGHTS = {
    "right": ([0.5, 1.5, 2.0], [0.0, 1.0, 2.0]),
    "wrong": ([0.5, NAN, 2.0], [0.5, -1e-9, 2.0], [0.5, INF, 2.0], [0.5, -INF, 2.0]),
}

DOMAINS = [
    Domain("bce", "input", (None, 0.5), (0.0, 1.0, 0.5, NAN), (-1e-9, 1 + 1e-9, INF)),
    Domain("bce", "target", (0.5, None), **SOFT),
    Domain("bce_with_logits", "target", (0.5, None), **SOFT),
    Domain("bce_with_logits", "input", (None, 0.5), (INF, -INF, 2.0, NAN), ()),
    Domain("bce_with_logits", "target", (0.5, None), options={"pos_weight": torch.tensor(2.0)}, **SOFT),
    Domain("bce_with_logits", "pos_weight", (0.5, 1.0), (0.0, 2.5, 3e38), (-1e-9, -1.0, INF, NAN)),
    Domain("kl_div", "input", (None, 1 / 3), **LOG),
    Domain("kl_div", "target", (-0.5, None), (0.0, 1.0, 1.01, NAN), (-1e-9, 1.0101, INF)),
    Domain("kl_div", "input", (None, math.log(1 / 3)), options={"log_target": True}, **LOG),
    Domain("kl_div", "target", (-0.5, None), (-INF, 0.0, 0.0198, NAN), (0.0501, 1.0, INF), {"log_target": True}),
    Domain("poisson_nll", "target", (0.5, None), **POSITIVE),
    Domain("poisson_nll", "input", (None, 0.5), (-1.0, 1.0), ()),
    Domain("poisson_nll", "target", (0.5, None), options={"log_input": False}, **POSITIVE),
    Domain("poisson_nll", "input", (None, 0.5), options={"log_input": False}, **POSITIVE),
    Domain("gaussian_nll", "var", (0.5, 0.25, None), **POSITIVE),
    Domain("hinge_embedding", "target", (0.5, None), **SIGN),
    Domain("soft_margin", "target", (0.5, None), **SIGN),
    Domain("margin_ranking", "target", (0.5, 0.25, None), **SIGN),
    Domain("nll", "input", (None, 1), ([0.9, 0.05, -2.0], [0.9, NAN, -2.0]), ([-1.0, 0.0501, -1.0],)),
    Domain("nll", "input", (None, 1), ([0.9, 3.0, 3.0],), (), {"ignore_index": 1}),
    Domain("nll", "target", (LOGS, None), (0, 2, -100), (3, -1, 9)),
    Domain("cross_entropy", "target", (ROW, None), (0, 2, -100), (3, -1, 9)),
    Domain(
        "cross_entropy",
        "target",
        (ROW, None),
        (0, 2, -1),
        (3, -2, -100),
        {"ignore_index": -1},
        said="or ignore_index=-1",
    ),
    Domain("cross_entropy", "target", (ROW, None), (0, 2, 7), (3, -1), {"ignore_index": 7}),
    Domain("cross_entropy", "input", (None, 1), ([0.5, NAN, 2.0], [1.0, 2.0, INF]), ()),
    Domain("cross_entropy", "ignore_index", (ROW, HALVES), (-1, -100), (0, 1), always=True),
    Domain("cross_entropy", "label_smoothing", (ROW, 1), (0, 1, 0.5), (-1e-9, 1 + 1e-9, NAN), always=True),
    Domain("cross_entropy", "z_loss", (ROW, 1), (0, 1e-4, 2), (-1e-9, INF, NAN), always=True),
    Domain("cross_entropy", "softcap", (ROW, 1), (0, 30.0), (-1e-9, INF, NAN), always=True),
    Domain("smooth_l1", "beta", (0.5, 1.0), (0, 1e-300, 1e300), (-1e-300, INF, NAN, "1"), always=True),
    Domain("huber", "delta", (0.5, 1.0), (1e-300, 1e300), (0, -1.0, INF, NAN, None), always=True),
    Domain("triplet_margin", "p", (ROW, LOGS, ROW), (0.5, INF), (0, -1.0, NAN), always=True),
    Domain("triplet_margin", "eps", (ROW, LOGS, ROW), (0, 0.5), (-1e-9, INF, NAN, True), always=True),
    Domain("cosine_embedding", "margin", (ROW, LOGS, 1), (-1, 1, 0.5), (-1.0001, 1.0001, NAN), always=True),
    Domain(
        "cross_entropy",
        "target",
        (ROW, None),
        (HALVES, [NAN, 0.5, 0.5], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.5, 0.5009, 0.0], [0.5, 0.4991, 0.0]),
        ([0.5, 0.5011, 0.0], [0.5, 0.4989, 0.0], [0.5, 0.5 + 1e-9, -1e-9], [1.0, 1.0, 0.0], [1e-6, 0.0, 0.0]),
    ),
    Domain(
        "cross_entropy",
        "target",
        (ROW, None),
        ([0.5, 0.515625, 0.0], [0.5, 0.484375, 0.0]),
        ([0.5, 0.546875, 0.0], [0.5, 0.453125, 0.0]),
        dtype=torch.bfloat16,
    ),
    Domain("quantile", "quantile", (0.5, 1.0), (0, 1, 0.5), (-1e-9, 1 + 1e-9, NAN), always=True),
    Domain("quantile", "quantiles", (0.5, 1.0), (0.0, 1.0, 0.5), (-1e-9, 1 + 1e-9, INF, NAN)),
    Domain("expectile", "expectile", (0.5, 1.0), (0, 1, 0.5), (-1e-9, 1 + 1e-9, NAN), always=True),
    Domain("charbonnier", "eps", (0.5, 1.0), (1e-9, 2), (0, -1e-9, INF, NAN), always=True),
    Domain("general_robust", "alpha", (0.5, 1.0), (-4.0, 0, 2, 3.5, INF, -INF), (NAN,), always=True),
    Domain("general_robust", "scale", (0.5, 1.0), (1e-9, 2), (0, -1e-9, INF, NAN), always=True),
    Domain("sigmoid_focal", "target", (0.5, None), **SOFT),
    Domain("sigmoid_focal", "alpha", (0.5, 1.0), (0.0, 1.0, 0.5), (-1e-9, 1 + 1e-9, INF, NAN)),
    Domain("sigmoid_focal", "gamma", (0.5, 1.0), (0, 2.5), (-1e-9, INF, NAN), always=True),
    Domain("asymmetric", "target", (0.5, None), **SOFT),
    Domain("asymmetric", "margin", (0.5, 1.0), (0, 0.5), (-1e-9, 1, NAN), always=True),
    Domain("asymmetric", "gamma_negative", (0.5, 1.0), (0, 2.5), (-1e-9, INF, NAN), always=True),
    Domain("focal", "target", (ROW, None), (0, 2, -100), (3, -1)),
    Domain("focal", "target", (ROW, None), (HALVES, [0.0, 0.0, 0.0]), ([0.5, 0.5011, 0.0], [0.5, 0.5 + 1e-9, -1e-9])),
    Domain("focal", "gamma", (ROW, 1), (0, 2.5), (-1e-9, INF, NAN), always=True),
    Domain("focal", "weight", (ROW, 1), **CLASS_WEIGHTS),
    Domain("discriminator", "kind", (0.5, 1.0), ("logistic", "hinge"), ("minimax", 1), always=True),
    Domain("generator", "kind", (0.5,), ("minimax", "hinge"), ("logistic", None), always=True),
    *(
        Domain("dpo", name, (-1.0,) * i + (None,) + (-1.0,) * (3 - i), (0.05, -2.5, -INF, NAN), (0.0501, 1.0))
        for i, name in enumerate(("chosen", "rejected", "reference_chosen", "reference_rejected"))
    ),
    Domain("dpo", "beta", (-1.0,) * 4, (1e-9, 2), (0, -1.0, INF, NAN), always=True),
    Domain("dpo", "label_smoothing", (-1.0,) * 4, (0, 0.25), (-1e-9, 0.5, NAN), always=True),
    *(
        Domain("dpo", "label_smoothing", (-1.0,) * 4, (0,), (0.25,), {"variant": v}, always=True, said=f'"{v}"')
        for v in ("hinge", "ipo")
    ),
    Domain("dpo", "variant", (-1.0,) * 4, ("robust", "ipo"), ("slic", None), always=True),
    Domain("grpo", "input", (None, -1.0, 0.5), **LOG),
    Domain("grpo", "old", (-1.0, None, 0.5), (0.05, -2.5, 0.0, NAN), (0.0501, 1.0, INF)),
    Domain("grpo", "advantage", (-1.0, -1.0, None), (3.0, -1.0, INF, NAN), ()),
    Domain("grpo", "reference", (-1.0, -1.0, 0.5), (0.05, -2.5, -INF, NAN), (0.0501, 1.0, INF), {"beta": 0.5}),
    Domain("grpo", "clip_low", (-1.0, -1.0, 0.5), (0, 1), (-1e-9, 1 + 1e-9, NAN), always=True),
    Domain("grpo", "clip_high", (-1.0, -1.0, 0.5), (0, 5.0), (-1e-9, INF, NAN), always=True),
    Domain(
        "grpo", "beta", (-1.0, -1.0, 0.5), (1e-9, 2), (0, -1e-9, INF, NAN), {"reference": -torch.ones(())}, always=True
    ),
    Domain("distillation", "temperature", (ROW, LOGS), (1e-3, 4), (0, -1.0, INF, NAN), always=True),
    Domain("distillation", "divergence", (ROW, LOGS), ("reverse", "jsd"), ("kl", None), always=True),
    Domain("distillation", "beta", (ROW, LOGS), (0.25, 0.75), (0, 1, NAN), always=True),
    Domain(
        "arcface", "input", (None, 1), ([5.0, 1.01, 0.0], [0.0, -1.01, 9.0]), ([0.0, 1.0101, 0.0], [0.0, -1.0101, 0.0])
    ),
    Domain("arcface", "input", (None, -100), ([0.0, 9.0, 0.0], [7.0, 0.0, -9.0]), ()),
    Domain("arcface", "margin", (HALVES, 1), (0, 1.5), (-1e-9, 1.6, NAN), always=True),
    Domain("arcface", "target", (HALVES, None), (0, 2, -100), (3, -1)),
    Domain(
        "cosface", "input", (None, 1), ([5.0, 1.01, 0.0], [0.0, NAN, 9.0]), ([0.0, 1.0101, 0.0], [0.0, -1.0101, 0.0])
    ),
    Domain("cosface", "scale", (HALVES, 1), (1e-9, 64), (0, INF, NAN), always=True),
    Domain("coral", "target", (ROW, None), (0, 3), (4, -1)),
    Domain("corn", "target", (ROW, None), (0, 3), (4, -1)),
    Domain("multi_margin", "target", (ROW, None), (0, 2), (3, -1, -100)),
    Domain("multi_margin", "p", (ROW, 1), (1, 2), (0, 3), always=True),
    Domain("multi_margin", "input", (None, 1), ([0.5, NAN, 2.0],), ()),
    Domain("triplet_margin", "positive", (ROW, None, LOGS), ([0.5, NAN, 2.0],), ()),
    Domain("cross_entropy", "weight", (ROW, 1), **CLASS_WEIGHTS),
    Domain("cross_entropy", "weight", (ROW, HALVES), **CLASS_WEIGHTS),
    Domain("nll", "weight", (LOGS, 1), **CLASS_WEIGHTS),
    Domain("multi_margin", "weight", (ROW, 1), **CLASS_WEIGHTS),
    Domain("multilabel_soft_margin", "weight", (ROW, HALVES), **CLASS_WEIGHTS),
    Domain("bce", "weight", (0.5, 0.25), (1.0, NAN, -1.0), ()),
    Domain("multilabel_margin", "input", (None, [0, -1, 1]), ([0.5, NAN, 2.0],), ()),
    Domain("multilabel_soft_margin", "input", (None, HALVES), ([0.5, NAN, 2.0],), ()),
    Domain("cosine_embedding", "input2", (ROW, None, 1), ([0.5, NAN, 2.0],), ()),
    Domain("multilabel_margin", "target", (ROW, None), ([0, 2, -1], [-1, -1, -1]), ([3, -1, -1], [0, -1, -2])),
    Domain(
        "multilabel_soft_margin",
        "target",
        (ROW, None),
        tuple([v, 0.5, 1.0] for v in SOFT["right"]),
        tuple([0.5, v, 1.0] for v in SOFT["wrong"]),
    ),
    Domain("cosine_embedding", "target", (ROW, LOGS, None), (1, -1), (0, 2, -2)),
]


def find_domain_mismatch(function: Function, domain: Domain, reduction: str = "none") -> str | None:
    """Return the first value that is wrongly accepted or rejected, alone or as the second of three, or None."""
    loss = function(domain.name)
    for value in (*domain.right, *domain.wrong):
        is_right = any(value is r for r in domain.right)
        for values in ([value], [domain.right[0], value, domain.right[0]]):
            operands, options = _placed(domain, values)
            try:
                result = loss(*operands, **options, reduction=reduction)
            except PisteError as refusal:
                said = str(refusal)
                if is_right:
                    return f"{domain} refuses {value}: {said}"
                if f"`{domain.argument}`" not in said or domain.said not in said:
                    return f"{domain} of {value} names another argument: {said}"
                if len(values) > 1 and None in domain.operands and not re.search(r" at \(1,| row 1 sums", said):
                    return f"{domain} of {value} names another place: {said}"
            else:
                if not is_right:
                    return f"{domain} takes {value}"
                if result.dim() != (reduction == "none" and len(values) > 1):
                    return f"{domain} of {value} has the shape {tuple(result.shape)}"
        fault = _find_check_mismatch(loss, domain, value, is_right)
        if fault:
            return f"{domain} of {value}: {fault}"
    return None


def find_guard_mismatch(function: Function, domain: Domain) -> str | None:
    """Return the first range guard that accepts an invalid value at its bound, or rejects a valid one, or None."""
    loss: Any = getattr(function(domain.name), "loss", None)
    rules = [rule for rule in getattr(loss, "value_checks", ()) if rule.applies(domain.options)]
    for rule in rules:
        if rule.argument != domain.argument or rule.guard is None or None not in domain.operands:
            continue
        for value, is_right in _edges(*rule.guard):
            operands = [torch.tensor(value if o is None else o, dtype=torch.float64) for o in domain.operands]
            if bool(rule.fails(*operands)) == is_right:
                return f"{domain}: {rule.guard} is not what the check is about"
    return None


def _edges(kind: str, number: float) -> list[tuple[float, bool]]:
    """Return numbers at the bound of a range guard, and whether they are valid."""
    beyond = math.nextafter(number, INF), number == INF
    match kind:
        case "from 0 to":
            return [(0.0, True), (number, True), beyond]
        case "up to":
            return [(-INF, True), (number, True), beyond]
        case "of size":
            return [(number, True), (-number, True), beyond, (0.0, False)]
    raise AssertionError(kind)


def _find_check_mismatch(loss: Callable[..., torch.Tensor], domain: Domain, value: Any, is_right: bool) -> str | None:
    """Return the mismatch with check="off", which accepts the value, or "nan", which rejects NaN; or None."""
    operands, options = _placed(domain, [value])
    for check in ("off", "nan"):
        is_nan = NAN in (value if isinstance(value, list) else [value])
        is_taken = is_right and not is_nan if check == "nan" else is_right or not domain.always
        try:
            loss(*operands, **options, check=check)
        except PisteError as refusal:
            if is_taken or f"`{domain.argument}`" not in str(refusal):
                return f"check={check!r} refuses it: {refusal}"
        except (IndexError, RuntimeError):
            pass  # torch's own, of a class that isn't there
        else:
            if not is_taken:
                return f"check={check!r} takes it"
    return None


def _placed(domain: Domain, values: list[Any]) -> tuple[list[torch.Tensor], dict[str, Any]]:
    """Return operands and options with the values of the argument: one element or row for each."""
    options = dict(domain.options)
    if None not in domain.operands:
        value = values[len(values) // 2]
        options[domain.argument] = (
            _tensor(value, domain.dtype)
            if domain.argument.endswith(("weight", "quantiles", "alpha", "reference"))
            and domain.name != "general_robust"
            else value
        )
    columns = [values if o is None else [o] * len(values) for o in domain.operands]
    return [_tensor(c if len(values) > 1 else c[0], domain.dtype) for c in columns], options


def _tensor(values: Any, dtype: torch.dtype) -> torch.Tensor:
    tensor = torch.tensor(values)
    return torch.tensor(values, dtype=dtype) if tensor.is_floating_point() else tensor
