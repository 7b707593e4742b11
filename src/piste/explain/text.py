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
from .evaluation import Worked

__all__ = ["FEW", "MOST", "format_explanation", "format_tensor", "spell_formula"]

FEW = 12  # elements (or rows) that are all worked through; of more, those that contribute most
MOST = 5
WIDE = 6  # classes of a row that are all written


def format_explanation(module: Loss, call: PreparedCall, operands: list[Tensor], value: Tensor) -> str:
    """Write a call of a loss that gave `value`, section by section."""
    if isinstance(module, CTCLoss):
        return _by_sample(module, call, value)
    work = Worked(call)
    sections = [
        [repr(module)],
        _formula(module, work),
        _units(module, work),
        _counts(module, work),
        _reduction(module, work, value),
        ["Result", f"  {format_tensor(value)}"],
        _gradient(module, work, operands),
        module.notes(**call.options),
    ]
    return "\n\n".join("\n".join(section) for section in sections if section)


def _by_sample(module: Loss, call: PreparedCall, value: Tensor) -> str:
    """A loss that torch computes: what each sample contributes."""
    values = call.formula(*call.operands, **call.options).reshape(-1)
    lengths = call.operands[3].reshape(-1).tolist()
    order = range(len(lengths)) if len(lengths) <= FEW else values.topk(MOST).indices.tolist()
    lines = [f"  sample {i}:  {format_number(values[i].item())} for {lengths[i]} labels" for i in order]
    lines.append(f"  not finite: {int((~values.isfinite()).sum())} of {len(lengths)}")
    head = (
        f"{module!r}\n\nComputed by torch.nn.functional.{module.functional_name}; -log of the probability of the labels"
    )
    mean = "\n\nReduction: mean, each divided by its number of labels first" if module.reduction == "mean" else ""
    return "\n".join([head, "", "Samples", *lines]) + f"{mean}\n\nResult\n  {format_tensor(value)}"


def _formula(module: Loss, work: Worked) -> list[str]:
    lines = spell_formula(work.reading)
    names = module.symbols or dict(zip(work.letters, (*module.arguments, *getattr(module, "extras", ())), strict=False))
    meaning = [f"{letter} = {names[letter]}" for letter in work.letters]
    meaning += [
        f"{k} = {format_number(v)}"
        for k, v in work.call.options.items()
        if is_number(v) and any(k in line for line in lines)
    ]
    return ["Formula", *(f"  {line}" for line in lines), f"with {', '.join(meaning)}"]


def _units(module: Loss, work: Worked) -> list[str]:
    if work.count <= FEW:
        shown, head = list(range(work.count)), f"{work.noun}s".capitalize()
    else:
        shown, head = work.largest(MOST), f"The {MOST} of {work.count} {work.noun}s that contribute most"
    return [head, *(f"  {_unit(module, work, i)}" for i in shown)] if shown else []


def _unit(module: Loss, work: Worked, i: int) -> str:
    place = unravel_index(i, work.shape)
    label = f"{place}  " if len(place) > 1 else f"{work.noun} {i}:  " if place else ""
    if work.keep is not None and not bool(work.keep[i]):
        return f"{label}ignored: 0"
    numbers = {id(leaf): _written(work.at(leaf, i)) for leaf in work.leaves()}

    def taken(condition: Expr) -> bool | None:
        if not work.is_row_valued(condition):
            return bool(work.flat(condition)[i])
        holds = set(work.at(condition, i))
        return holds.pop() if len(holds) == 1 else None

    def worked(node: Expr, value: str) -> str:
        while node.op == "where" and taken(node.args[0]) is None:
            node = node.args[2]  # a choice made class by class can't be written as one branch: its rule is the other
        spelt = render(node, numbers, taken)
        return spelt if spelt == value else f"{spelt} = {value}"

    parts = []
    for name, step in work.reading.steps:
        value = _written(work.at(step, i))
        text = worked(step, value)
        numbers[id(step)] = value
        if text != value or not work.is_row_valued(step):
            parts.append(f"{name} = {text}")
    value = format_number(work.values[i].item())
    parts.append(worked(work.loss, value))
    if work.weight is not None:
        weight = format_number(work.weight[i].item())
        parts.append(f"weight {weight}: {weight} * {value} = {format_number(work.weighted[i].item())}")
    notes = []
    if module.branches and work.loss.op == "where":
        is_first = bool(taken(work.loss.args[0]))
        condition = render(work.loss.args[0], numbers, taken)
        notes.append(f"{module.branches[not is_first]}, as {condition} is {'true' if is_first else 'false'}")
    for node, bound in work.clamps():
        if work.flat(node)[i] < bound:
            before, spelt = format_number(work.at(node, i)), render(node, numbers, taken)
            notes.append(f"{spelt if spelt == before else f'{spelt} = {before}'} is clamped to {format_number(bound)}")
    return label + ";  ".join([*parts, *([f"({'; '.join(notes)})"] if notes else [])])


def _counts(module: Loss, work: Worked) -> list[str]:
    """How many elements are in each branch, clamped, ignored or not finite; and which classes contribute most."""
    names = {id(symbol): name for name, symbol in work.reading.steps}
    lines = []
    if module.branches and work.loss.op == "where" and work.count:
        inside = int(work.flat(work.loss.args[0]).sum())
        first, second = module.branches
        condition = render(work.loss.args[0], names)
        lines.append(f"{first}, {condition}: {inside} of {work.count};  {second}: {work.count - inside}")
    if work.count > FEW:
        lines += _choices(module, work, names)
    for node, bound in work.clamps():
        if clamped := int((work.flat(node) < bound).sum()):
            lines.append(f"{render(node, names)} clamped to {format_number(bound)}: {clamped} of {work.count}")
    if work.keep is not None and not bool(work.keep.all()):
        lines.append(f"ignored: {int((~work.keep).sum())} of {work.count}")
    if infinite := int((~work.values.isfinite()).sum()):
        lines.append(f"not finite: {infinite} of {work.count}")
    if work.count > FEW and "k" in work.letters and work.keep is not None:
        lines += _classes(work, work.keep)
    elif work.count > FEW and (parts := work.parts()) is not None:
        sums, total = parts.reshape(-1, parts.shape[-1]).sum(0), format_number(work.values.sum().item())
        lines += [f"class {c}: {format_number(sums[c].item())} of {total}" for c in _top(sums)]
    return ["Counts", *(f"  {line}" for line in lines)] if lines else []


def _choices(module: Loss, work: Worked, names: dict[int, str]) -> list[str]:
    """Of every further choice that the formula makes: for how many of those that come to it its condition holds."""
    lines = []
    for node, holds, reached in work.choices():
        if int(holds.sum()) and not (module.branches and node is work.loss):
            unit = " entries" if work.is_row_valued(node.args[0]) else ""
            lines.append(f"where {render(node.args[0], names)}: {int(holds.sum())} of {int(reached.sum())}{unit}")
    return list(dict.fromkeys(lines))


def _classes(work: Worked, keep: Tensor) -> list[str]:
    k, values = work.letters["k"].reshape(-1)[keep], work.values[keep]
    classes, total = work.letters["x"].shape[-1], format_number(values.sum().item())
    sums = torch.zeros(classes, dtype=torch.float64).index_add_(0, k, values)
    rows = torch.bincount(k, minlength=classes).tolist()
    return [f"class {c}: {rows[c]} rows, {format_number(sums[c].item())} of {total}" for c in _top(sums) if rows[c]]


def _top(sums: Tensor) -> list[int]:
    return sums.topk(min(MOST, len(sums))).indices.tolist()


def _divisor(module: Loss, work: Worked) -> float:
    return float(module.current_reduction().denominator(work.call))


def _reduction(module: Loss, work: Worked, value: Tensor) -> list[str]:
    how = module.current_reduction()
    if how.mode == "none":
        return ["Reduction: none", "  every value is kept"]
    total = format_number(work.weighted.sum().item())
    terms = [format_number(v) for v in work.weighted.tolist()] if 0 < work.count <= FEW else []
    lines = [f"Reduction: {how.mode}", f"  {_summed(terms) or f'the sum of {work.count} {work.noun}s'} = {total}"]
    if how.mode != "sum":
        divisor = format_number(_divisor(module, work))
        by = "batch" if how.mode == "batchmean" else work.call.denominator if how.normalizer is None else how.normalizer
        lines.append(f"  {total} / {divisor} = {format_tensor(value)}   (divided by {_divided_by(by, module, work)})")
    return lines


def _divided_by(by: Any, module: Loss, work: Worked) -> str:
    if not isinstance(by, str):
        return "the normalizer"
    if by == "batch":
        return "the number of samples"
    is_part = getattr(module, "supports_ignore_index", False) and work.keep is not None
    units = f"{work.noun}s that are not ignored" if is_part else f"{work.noun}s"
    has_weights = work.weight is not None or "w" in work.letters
    return f"the sum of the weights of the {units}" if by == "weights" and has_weights else f"the number of {units}"


def _gradient(module: Loss, work: Worked, operands: list[Tensor]) -> list[str]:
    x = operands[0].detach().clone().requires_grad_()
    (slope,) = torch.autograd.grad(module(x, *operands[1:]).sum(), x)
    lines = []
    if work.call.derivatives is not None:
        letters = list(work.letters)
        reading = read(work.call.derivatives, *letters, **work.call.options)
        whole = reading.results[0]
        steps = tuple(step for step in reading.steps if _is_part(step[1], whole))
        lines = spell_formula(TracedFormula((whole,), steps), f"d loss / d {letters[0]}")
        if "mean" in module.reduction:
            divided = f"each divided by {format_number(_divisor(module, work))}"
            lines = [*lines, divided] if whole.op == "where" else [*lines[:-1], f"{lines[-1]}, {divided}"]
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
        if symbol.op == "where" and id(symbol) not in known:
            condition, a, b = symbol.args
            first = f"{name} = {render(a, known)}"
            second = f"{' ' * len(name)}   {render(b, known)}"
            width = max(len(first), len(second))
            lines += [f"{first:<{width}}   where {render(condition, known)}", f"{second:<{width}}   elsewhere"]
        else:
            lines.append(f"{name} = {render(symbol, known)}")
        known[id(symbol)] = name
    return lines


def _summed(terms: list[str]) -> str:
    """Terms of a sum; a negative one is taken away."""
    rest = (f" - {term[1:]}" if term.startswith("-") else f" + {term}" for term in terms[1:])
    return "".join([*terms[:1], *rest])


def _written(value: Any) -> str:
    if not isinstance(value, list):
        return format_number(value)
    texts = list(map(format_number, value)) if len(value) <= WIDE else [*map(format_number, value[:3]), "..."]
    return f"[{', '.join(texts)}]"


def format_tensor(value: Tensor) -> str:
    if value.numel() > 4 * FEW:
        return f"a tensor of shape {tuple(value.shape)}"
    return _format_nested(value.tolist())


def _format_nested(values: Any) -> str:
    return f"[{', '.join(map(_format_nested, values))}]" if isinstance(values, list) else format_number(values)
