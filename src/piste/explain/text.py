"""A call of a loss as text: formula, elements, counts, reduction, result, gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..formula.expression import Expr, is_number
from ..formula.printing import TracedFormula, format_number, read, render
from ..losses.call import PreparedCall
from ..losses.ctc import CTCLoss
from ..losses.loss import Loss
from ..losses.value_checks import unravel_index
from ..wording import plural
from .evaluation import Evaluation

__all__ = ["FEW", "MOST", "format_explanation", "format_tensor", "spell_formula"]

FEW = 12  # up to this number of elements (or rows) are all shown; of more, the MOST with the largest contributions
MOST = 5
WIDE = 6  # up to this number of classes of a row are all written


def format_explanation(module: Loss, call: PreparedCall, operands: list[Tensor], value: Tensor) -> str:
    """Write a call of a loss that gave `value`, section by section."""
    if isinstance(module, CTCLoss):
        return _by_sample(module, call, value)
    evaluation = Evaluation(call)
    sections = [
        [repr(module)],
        _formula(module, evaluation),
        _units(module, evaluation),
        _counts(module, evaluation),
        _reduction(module, evaluation, value),
        ["Result", f"  {format_tensor(value)}"],
        _gradient(module, evaluation, operands),
        module.notes(**call.options),
    ]
    return "\n\n".join("\n".join(section) for section in sections if section)


def _by_sample(module: Loss, call: PreparedCall, value: Tensor) -> str:
    """Return the contribution of each sample to a loss that torch computes."""
    values = call.formula(*call.operands, **call.options).reshape(-1)
    lengths = call.operands[3].reshape(-1).tolist()
    order = range(len(lengths)) if len(lengths) <= FEW else values.topk(MOST).indices.tolist()
    lines = [f"  sample {i}:  {format_number(values[i].item())} for {plural(lengths[i], 'label')}" for i in order]
    lines.append(f"  not finite: {int((~values.isfinite()).sum())} of {len(lengths)}")
    head = (
        f"{module!r}\n\nComputed by torch.nn.functional.{module.functional_name}; -log of the probability of the labels"
    )
    mean = "\n\nReduction: mean, each divided by its number of labels first" if module.reduction == "mean" else ""
    return "\n".join([head, "", "Samples", *lines]) + f"{mean}\n\nResult\n  {format_tensor(value)}"


def _formula(module: Loss, evaluation: Evaluation) -> list[str]:
    lines = spell_formula(evaluation.traced)
    names = module.symbols or dict(
        zip(evaluation.operands, (*module.arguments, *getattr(module, "extras", ())), strict=False)
    )
    meaning = [f"{letter} = {names[letter]}" for letter in evaluation.operands]
    meaning += [
        f"{k} = {format_number(v)}"
        for k, v in evaluation.call.options.items()
        if is_number(v) and any(k in line for line in lines)
    ]
    return ["Formula", *(f"  {line}" for line in lines), f"with {', '.join(meaning)}"]


def _units(module: Loss, evaluation: Evaluation) -> list[str]:
    if evaluation.count <= FEW:
        shown, head = list(range(evaluation.count)), f"{evaluation.noun}s".capitalize()
    else:
        shown, head = (
            evaluation.largest(MOST),
            f"The {MOST} of {evaluation.count} {evaluation.noun}s that contribute most",
        )
    return [head, *(f"  {_unit(module, evaluation, i)}" for i in shown)] if shown else []


def _unit(module: Loss, evaluation: Evaluation, i: int) -> str:
    place = unravel_index(i, evaluation.shape)
    label = f"{place}  " if len(place) > 1 else ""
    if len(place) == 1:
        label = f"row {i}:  " if evaluation.is_row else f"element {i}:  "
    if evaluation.keep is not None and not bool(evaluation.keep[i]):
        return f"{label}ignored: 0"
    numbers = {id(leaf): _format_value(evaluation.value_at(leaf, i)) for leaf in evaluation.leaves()}

    def taken(condition: Expr) -> bool | None:
        if not evaluation.is_row_valued(condition):
            return bool(evaluation.values_of(condition)[i])
        holds = set(evaluation.value_at(condition, i))
        return holds.pop() if len(holds) == 1 else None

    def write_out(node: Expr, value: str) -> str:
        while node.op == "where" and taken(node.args[0]) is None:
            node = node.args[2]  # the classes take different branches: write the second one
        spelt = render(node, numbers, taken)
        return spelt if spelt == value else f"{spelt} = {value}"

    parts = []
    for name, step in evaluation.traced.steps:
        value = _format_value(evaluation.value_at(step, i))
        text = write_out(step, value)
        numbers[id(step)] = value
        if text != value or not evaluation.is_row_valued(step):
            parts.append(f"{name} = {text}")
    value = format_number(evaluation.values[i].item())
    parts.append(write_out(evaluation.loss, value))
    if evaluation.weight is not None:
        weight = format_number(evaluation.weight[i].item())
        parts.append(f"weight {weight}: {weight} * {value} = {format_number(evaluation.weighted[i].item())}")
    notes = []
    if module.branches and evaluation.loss.op == "where":
        is_first = bool(taken(evaluation.loss.args[0]))
        condition = render(evaluation.loss.args[0], numbers, taken)
        notes.append(f"{module.branches[not is_first]}, as {condition} is {'true' if is_first else 'false'}")
    for node, bound in evaluation.clamps():
        if evaluation.values_of(node)[i] < bound:
            before, spelt = format_number(evaluation.value_at(node, i)), render(node, numbers, taken)
            notes.append(f"{spelt if spelt == before else f'{spelt} = {before}'} is clamped to {format_number(bound)}")
    return label + ";  ".join([*parts, *([f"({'; '.join(notes)})"] if notes else [])])


def _counts(module: Loss, evaluation: Evaluation) -> list[str]:
    """Write the numbers of elements in each branch, clamped, ignored or not finite, and the largest classes."""
    names = {id(symbol): name for name, symbol in evaluation.traced.steps}
    lines = []
    if module.branches and evaluation.loss.op == "where" and evaluation.count:
        inside = int(evaluation.values_of(evaluation.loss.args[0]).sum())
        first, second = module.branches
        condition = render(evaluation.loss.args[0], names)
        lines.append(f"{first}, {condition}: {inside} of {evaluation.count};  {second}: {evaluation.count - inside}")
    if evaluation.count > FEW:
        lines += _conditions(module, evaluation, names)
    for node, bound in evaluation.clamps():
        if clamped := int((evaluation.values_of(node) < bound).sum()):
            lines.append(f"{render(node, names)} clamped to {format_number(bound)}: {clamped} of {evaluation.count}")
    if evaluation.keep is not None and not bool(evaluation.keep.all()):
        lines.append(f"ignored: {int((~evaluation.keep).sum())} of {evaluation.count}")
    if infinite := int((~evaluation.values.isfinite()).sum()):
        lines.append(f"not finite: {infinite} of {evaluation.count}")
    if evaluation.count > FEW and "k" in evaluation.operands and evaluation.keep is not None:
        lines += _classes(evaluation, evaluation.keep)
    elif evaluation.count > FEW and (parts := evaluation.class_contributions()) is not None:
        sums, total = parts.reshape(-1, parts.shape[-1]).sum(0), format_number(evaluation.values.sum().item())
        lines += [f"class {c}: {format_number(sums[c].item())} of {total}" for c in _top(sums)]
    return ["Counts", *(f"  {line}" for line in lines)] if lines else []


def _conditions(module: Loss, evaluation: Evaluation, names: dict[int, str]) -> list[str]:
    """Write the number of elements for which each further condition of the formula holds."""
    lines = []
    for node, holds, reached in evaluation.conditions():
        if int(holds.sum()) and not (module.branches and node is evaluation.loss):
            unit = " entries" if evaluation.is_row_valued(node.args[0]) else ""
            lines.append(f"where {render(node.args[0], names)}: {int(holds.sum())} of {int(reached.sum())}{unit}")
    return list(dict.fromkeys(lines))


def _classes(evaluation: Evaluation, keep: Tensor) -> list[str]:
    k, values = evaluation.operands["k"].reshape(-1)[keep], evaluation.values[keep]
    classes, total = evaluation.operands["x"].shape[-1], format_number(values.sum().item())
    sums = torch.zeros(classes, dtype=torch.float64).index_add_(0, k, values)
    rows = torch.bincount(k, minlength=classes).tolist()
    return [f"class {c}: {rows[c]} rows, {format_number(sums[c].item())} of {total}" for c in _top(sums) if rows[c]]


def _top(sums: Tensor) -> list[int]:
    return sums.topk(min(MOST, len(sums))).indices.tolist()


def _divisor(module: Loss, evaluation: Evaluation) -> float:
    return float(module.current_reduction().denominator(evaluation.call))


def _reduction(module: Loss, evaluation: Evaluation, value: Tensor) -> list[str]:
    how = module.current_reduction()
    if how.mode == "none":
        return ["Reduction: none", "  every value is kept"]
    total = format_number(evaluation.weighted.sum().item())
    terms = [format_number(v) for v in evaluation.weighted.tolist()] if 0 < evaluation.count <= FEW else []
    lines = [
        f"Reduction: {how.mode}",
        f"  {_format_sum(terms)} = {total}"
        if terms
        else f"  the sum of {evaluation.count} {evaluation.noun}s = {total}",
    ]
    if how.mode != "sum":
        divisor = format_number(_divisor(module, evaluation))
        by = (
            "batch"
            if how.mode == "batchmean"
            else evaluation.call.denominator
            if how.normalizer is None
            else how.normalizer
        )
        lines.append(
            f"  {total} / {divisor} = {format_tensor(value)}   (divided by {_divided_by(by, module, evaluation)})"
        )
    return lines


def _divided_by(by: Any, module: Loss, evaluation: Evaluation) -> str:
    if not isinstance(by, str):
        return "the normalizer"
    if by == "batch":
        return "the number of samples"
    is_part = getattr(module, "supports_ignore_index", False) and evaluation.keep is not None
    units = f"{evaluation.noun}s that are not ignored" if is_part else f"{evaluation.noun}s"
    has_weights = evaluation.weight is not None or "w" in evaluation.operands
    return f"the sum of the weights of the {units}" if by == "weights" and has_weights else f"the number of {units}"


def _gradient(module: Loss, evaluation: Evaluation, operands: list[Tensor]) -> list[str]:
    x = operands[0].detach().clone().requires_grad_()
    (slope,) = torch.autograd.grad(module(x, *operands[1:]).sum(), x)
    lines = []
    if evaluation.call.derivatives is not None:
        letters = list(evaluation.operands)
        reading = read(evaluation.call.derivatives, *letters, **evaluation.call.options)
        whole = reading.results[0]
        steps = tuple(step for step in reading.steps if _is_part(step[1], whole))
        lines = spell_formula(TracedFormula((whole,), steps), f"d loss / d {letters[0]}")
        if "mean" in module.reduction:
            divisor = format_number(_divisor(module, evaluation))
            if isinstance(whole, Expr) and whole.op == "where":
                lines.append(f"each divided by {divisor}")
            else:
                lines[-1] = f"{lines[-1]}, each divided by {divisor}"
        if slope.shape != evaluation.shape:  # the formula is of scores of the operands
            lines.append(f"d loss / d {module.arguments[0]}")
    if slope.numel() <= 4 * FEW:
        lines.append(_format_nested(slope.tolist()))
    else:
        at = int(torch.where(slope.isnan(), torch.inf, slope.abs()).argmax())
        largest = format_number(slope.reshape(-1)[at].item())
        infinite = int((~slope.isfinite()).sum())
        lines.append(
            f"largest: {largest} at {unravel_index(at, slope.shape)};  not finite: {infinite} of {slope.numel()}"
        )
    return ["Gradient", *(f"  {line}" for line in lines)]


def _is_part(step: Expr, whole: Any) -> bool:
    if not isinstance(whole, Expr):
        return False
    return step is whole or (whole.op != "input" and any(_is_part(step, operand) for operand in whole.args))


def spell_formula(reading: TracedFormula, result: str = "loss") -> list[str]:
    """Write a formula, one intermediate value on each line; a `where` takes two lines."""
    lines: list[str] = []
    known: dict[int, str] = {}
    for name, symbol in [*reading.steps, (result, reading.results[0])]:
        if isinstance(symbol, Expr) and symbol.op == "where" and id(symbol) not in known:
            condition, a, b = symbol.args
            first = f"{name} = {render(a, known)}"
            second = f"{' ' * len(name)}   {render(b, known)}"
            width = max(len(first), len(second))
            lines += [f"{first:<{width}}   where {render(condition, known)}", f"{second:<{width}}   elsewhere"]
        else:
            lines.append(f"{name} = {render(symbol, known)}")
        known[id(symbol)] = name
    return lines


def _format_sum(terms: list[str]) -> str:
    """Write the terms of a sum; negative ones are subtracted."""
    rest = (f" - {term[1:]}" if term.startswith("-") else f" + {term}" for term in terms[1:])
    return "".join([*terms[:1], *rest])


def _format_value(value: Any) -> str:
    if not isinstance(value, list):
        return format_number(value)
    texts = list(map(format_number, value)) if len(value) <= WIDE else [*map(format_number, value[:3]), "..."]
    return f"[{', '.join(texts)}]"


def format_tensor(value: Tensor) -> str:
    """Write a tensor as nested lists, or its shape if it is large."""
    if value.numel() > 4 * FEW:
        return f"a tensor of shape {tuple(value.shape)}"
    return _format_nested(value.tolist())


def _format_nested(values: Any) -> str:
    return f"[{', '.join(map(_format_nested, values))}]" if isinstance(values, list) else format_number(values)
