"""The domain of each loss up to its bounds: values, shapes and denominators."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from piste import losses
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
    Domain("general_robust", "alpha", (0.5, 1.0), (-4.0, 0, 2, 3.5), (INF, -INF, NAN), always=True),
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


@dataclass(frozen=True)
class Shapes:
    """Shapes of operands that match, and shapes that do not: "43 4" is (4, 3) and (4,), "." is ()."""

    name: str
    right: str
    wrong: str
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.name}{self.options or ''}"


SHAPES = [
    Shapes("l1", "43 43; . .; 0 0", "41 4; 43 3; 1 .; 4 41"),
    Shapes("mse", "43 43", "43 42", {"weight": torch.ones(3)}),
    Shapes("mse", "43 43; 243 243", "3 3; 34 34", {"weight": torch.ones(4, 1)}),
    Shapes("gaussian_nll", "43 43 43; 43 43 41; 43 43 4; 43 43 13", "43 43 3; 43 43 11; 43 43 42; 43 43 431; 43 43 ."),
    Shapes("distillation", "43 43; 3 3; 42 42; 243 243; 03 03", "43 4; 41 41; . .; 1 1; 43 42"),
    Shapes("cross_entropy", "43 4; 3 .; 432 42; 43 43; 3 3; 03 0", "43 3; 43 41; 432 43; . .; 41 4; 41 41; 3 2"),
    Shapes("cross_entropy", "423 42; 43 4; 3 .", "432 42", {"class_dim": -1}),
    Shapes("cross_entropy", "34 4; 3 .", "43 4; . .", {"class_dim": 0}),
    Shapes("cross_entropy", "423 42", "43 4; 3 .", {"class_dim": 2}),
    Shapes("cross_entropy", "324 24", "43 4; 3 .", {"class_dim": -3}),
    Shapes("cross_entropy", "43 4; 43 43", "42 4; 34 3", {"weight": torch.ones(3)}),
    Shapes("cross_entropy", "41 4; 41 41; 1 .", "", {"check": "off"}),
    Shapes("nll", "43 4; 3 .; 432 42", "43 43; 43 3"),
    Shapes("nll2d", "2345 245", "234 24; 23 2; 2345 24"),
    Shapes("multi_margin", "43 4; 3 .", "432 42; . ."),
    Shapes("multilabel_margin", "43 43; 3 3; 03 03", ". .; 43 4"),
    Shapes("multilabel_soft_margin", "43 43; 3 3; 243 243", ". .; 43 4"),
    Shapes("cosine_embedding", "43 43 4; 3 3 .", "243 243 24; 43 43 .; . . .; 43 33 4"),
    Shapes("triplet_margin", "43 43 43; 3 3 3; 243 243 243", ". . .; 43 43 13; 43 13 43"),
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
            if domain.argument.endswith(("weight", "quantiles", "alpha")) and domain.name != "general_robust"
            else value
        )
    columns = [values if o is None else [o] * len(values) for o in domain.operands]
    return [_tensor(c if len(values) > 1 else c[0], domain.dtype) for c in columns], options


def _tensor(values: Any, dtype: torch.dtype) -> torch.Tensor:
    tensor = torch.tensor(values)
    return torch.tensor(values, dtype=dtype) if tensor.is_floating_point() else tensor


def find_shape_mismatch(function: Function, shapes: Shapes) -> str | None:
    """Return the first shapes that are wrongly accepted or rejected, or None."""
    loss = function(shapes.name)
    right, wrong = (text.split("; ") if text else [] for text in (shapes.right, shapes.wrong))
    for text in (*right, *wrong):
        is_right = text in right
        sizes = [tuple(map(int, size.replace(".", ""))) for size in text.split()]
        operands = [torch.full(size, -0.5) for size in sizes]
        last = operands[-1].shape
        if shapes.name in ("nll", "nll2d", "multi_margin") or (shapes.name == "cross_entropy" and sizes[0] != sizes[1]):
            operands[-1] = torch.zeros(last, dtype=torch.int64)
        elif shapes.name in ("multilabel_margin", "cosine_embedding"):
            operands[-1] = torch.full(last, -1)  # no label, or a pair that differs
        elif shapes.name != "triplet_margin":
            operands[-1] = torch.full(last, 1 / max(last[min(1, len(last) - 1)], 1) if last else 1.0)
        for reduction, device in (("none", "cpu"), ("sum", "cpu"), ("none", "meta")):
            moved = [o.to(device) for o in operands]
            options = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in shapes.options.items()}
            try:
                loss(*moved, **options, reduction=reduction)
            except PisteError as refusal:
                if is_right:
                    return f"{shapes} refuses {text}: {refusal}"
            else:
                if not is_right:
                    return f"{shapes} takes {text}"
    return None


def find_mean_mismatch(function: Function) -> str | None:
    """Return the first mean that is not the sum over its denominator, computed here by hand, or None."""
    x = torch.tensor([[0.5, -1.0, 2.0], [0.25, 0.75, 3.0]]).double()
    y = torch.tensor([[0.0, 1.0, 0.5], [1.0, 0.0, 0.25]]).double()
    w, logs = torch.tensor([0.5, 2.0, 1.0]).double(), -x.abs()
    k, lists, signs = torch.tensor([2, 1]), torch.tensor([[0, -1, 1], [2, 1, -1]]), torch.tensor([1, -1])
    soft_rows = x.softmax(1)
    deep = torch.stack([x, x + 1, x - 1, x * 2], -1)  # (2, 3, 4)
    places = torch.tensor([[0, 1, 2, 1], [2, 2, 0, -100]])
    soft = deep.softmax(1)
    rows = (soft.sum((0, 2)) * w).sum()
    cases = [  # the loss, its operands and options; what torch divides by, the sum of the weights, the count
        ("mse", (x, y), {"weight": w}, 7, 7, 6),
        ("l1", (x, y), {"weight": w.expand(2, 3)}, 7, 7, 6),
        ("l1", (x, y), {}, 6, 6, 6),
        ("huber", (x, y), {"weight": w}, 6, 7, 6),
        ("bce", (y, y), {"weight": torch.tensor([[0.5], [0.25]]).double()}, 6, 2.25, 6),
        ("bce_with_logits", (x, y), {"weight": w, "pos_weight": w}, 6, 7, 6),
        ("kl_div", (logs, soft_rows), {}, 6, 6, 6),
        ("nll", (logs, k), {"weight": w}, 3, 3, 2),
        ("cross_entropy", (x, k), {"ignore_index": 1}, 1, 1, 1),
        ("cross_entropy", (x, k), {"label_smoothing": 0.5, "weight": w}, 3, 3, 2),
        ("cross_entropy", (deep, places), {}, 7, 7, 7),
        ("cross_entropy", (deep, places), {"weight": w}, 0.5 * 2 + 2 * 2 + 1 * 3, 8, 7),
        ("cross_entropy", (deep, places.clamp_min(1)), {"weight": w, "ignore_index": 2}, 10, 10, 5),
        ("cross_entropy", (deep, soft), {}, 8, 8, 8),
        ("cross_entropy", (deep, soft), {"weight": w}, 8, rows, 8),
        ("dice", (deep.sigmoid(), deep.softmax(2)), {}, 6, 6, 6),
        ("dice", (deep.sigmoid(), deep.softmax(2)), {"batch": True}, 3, 3, 3),
        ("jaccard", (deep.sigmoid(), torch.tensor([[0, 2, 2, 0], [2, 2, 2, 2]])), {"absent": "skip"}, 3, 3, 3),
        ("cosface", (y, k), {"ignore_index": 1}, 1, 1, 1),
        ("coral", (x, k), {}, 2, 2, 2),
        ("corn", (x, torch.tensor([0, 3])), {}, 4, 4, 2),
        ("distillation", (deep, deep + 1), {}, 6, 6, 6),
        ("sigmoid_focal", (x, y), {"weight": w, "alpha": w / 4}, 7, 7, 6),
        ("asymmetric", (x, y), {"weight": w}, 7, 7, 6),
        ("focal", (x, k), {"weight": w}, 2, 3, 2),
        ("focal", (deep, places), {"weight": w, "ignore_index": -100}, 7, 8, 7),
        ("focal", (deep, soft), {"weight": w}, 8, rows, 8),
        ("multi_margin", (x, k), {"weight": w}, 2, 3, 2),
        ("multi_margin", (x[0], k[0]), {}, 1, 1, 1),
        ("multilabel_margin", (x, lists), {}, 2, 2, 2),
        ("multilabel_margin", (deep, torch.tensor([2, 0, -1, 1]).expand(2, 3, 4)), {}, 6, 6, 6),
        ("multilabel_soft_margin", (deep, deep.sigmoid()), {}, 6, 6, 6),
        ("multilabel_soft_margin", (x[0], y[0]), {"weight": w}, 1, 1, 1),
        ("cosine_embedding", (x, y, signs), {}, 2, 2, 2),
        ("triplet_margin", (deep, deep + 2, deep - 1), {}, 6, 6, 6),
        ("triplet_margin", (x[:, :0], x[:, :0], x[:, :0]), {}, 2, 2, 2),
    ]
    for name, operands, options, usual, weights, count in cases:
        loss = function(name)
        total = loss(*operands, **options, reduction="none").sum().item()
        found = loss(*operands, **options, reduction="sum").item()
        if not math.isclose(found, total, rel_tol=1e-14):
            return f"{name}{options}: the sum is {found!r}, expected {total!r}"
        for normalizer, divisor in (
            (None, usual),
            ("weights", weights),
            ("count", count),
            (5, 5),
            (0.5, 0.5),
            (torch.tensor(3.0), 3),
        ):
            for settings in ({}, {"empty": "zero"}, {"empty": "raise"}, {"check": "nan"}):
                found = loss(*operands, **options, normalizer=normalizer, **settings).item()
                if not math.isclose(found, total / float(divisor), rel_tol=1e-14):
                    return f"{name}{options} with {normalizer}, {settings}: {found!r}, expected {total / divisor!r}"
    if function("cross_entropy")(x.float(), y.softmax(1)).dtype != torch.float64:
        return "cross_entropy of float32 logits and float64 probabilities is not float64"
    return _find_batchmean_mismatch(function("kl_div"), logs, soft_rows) or _find_empty_mismatch(function)


def _find_batchmean_mismatch(loss: Callable[..., torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> str | None:
    for operands, batch in (((x, y), 2), ((x[0], y[0]), 3), ((x[0, 0], y[0, 1]), 1), ((x[:0], y[:0]), 0)):
        total = loss(*operands, reduction="sum").item()
        found = loss(*operands, reduction="batchmean", empty="nan" if batch else "zero").item()
        if found != total / max(batch, 1):
            return f"kl_div with batchmean: {found!r}, expected {total!r} / {batch}"
    return None


def _find_empty_mismatch(function: Function) -> str | None:
    x, ignored = torch.ones(2, 3).double(), torch.full((2,), -100)
    for name, operands, options in [
        ("mse", (x[:0], x[:0]), {}),
        ("mse", (x, x), {"weight": torch.zeros(3)}),
        ("bce", (x, x), {"weight": torch.zeros(3), "normalizer": "weights"}),
        ("cross_entropy", (x, ignored), {}),
        ("cross_entropy", (x, ignored), {"normalizer": "count"}),
        ("cross_entropy", (x[:0], x[:0]), {}),
        ("nll", (-x, ignored), {"weight": torch.ones(3).double()}),
        ("multi_margin", (x[:0], ignored[:0]), {}),
        ("multilabel_margin", (x[:0], ignored[:0, None].expand(0, 3)), {}),
        ("multilabel_soft_margin", (x[:0], x[:0]), {}),
        ("cosine_embedding", (x[:0], x[:0], ignored[:0]), {}),
        ("triplet_margin", (x[:0], x[:0], x[:0]), {}),
        ("kl_div", (x[:0], x[:0]), {"reduction": "batchmean"}),
    ]:
        loss = function(name)
        found = [loss(*operands, **options).item(), loss(*operands, **options, empty="zero").item()]
        try:
            found.append(loss(*operands, **options, empty="raise").item())
        except PisteError as refusal:
            said = f"{losses.named(name).__name__}: there is nothing to take the mean of"
            if said in str(refusal) and math.isnan(found[0]) and found[1] == 0:
                continue
        return f"{name} of nothing, {options}: {found}"
    return None
