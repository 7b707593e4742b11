"""The formulas of the reference, in LaTeX: traced from the functions that run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from piste.errors import PisteError
from piste.explain.evaluation import Evaluation
from piste.explain.steps import TracedRule
from piste.formula import Expr, FormulaError
from piste.formula.differentiate import differentiate
from piste.formula.latex import LatexPrinter
from piste.formula.printing import read
from piste.losses import Loss
from piste.optim import Optimizer
from piste.optim.composition import step_spec
from piste.optim.options import Flag

__all__ = ["loss_formula", "loss_variants", "optimizer_formula", "optimizer_variants", "worked_example"]


_EULER = {"e": "E"}  # e stands for the base of the natural logarithm
_STEP = "step"


def optimizer_formula(optimizer: type[Optimizer], **options: Any) -> list[str]:
    """Return the equations of a step in LaTeX, with the index t of the step as papers write it."""
    group = optimizer([torch.zeros(1, requires_grad=True)], **options).param_groups[0]
    spec = step_spec(optimizer, group)
    rule = TracedRule(optimizer, spec)
    kept = (*spec.buffers, *spec.counters[1:])
    plain = LatexPrinter()
    names = {"p": r"\theta_{t-1}", "p'": r"\theta_{t}", "g": "g_{t}", "g'": "g'_{t}"}
    bare = {k: f"{{{plain.name(k)}}}" if "_" in plain.name(k) else plain.name(k) for k in kept}
    names |= {k: f"{name}_{{t-1}}" for k, name in bare.items()} | {f"{k}'": f"{name}_{{t}}" for k, name in bare.items()}
    names[_STEP] = r"\Delta"
    lines = [(x.name, x.value) for x in (*rule.scalars, *rule.lines, rule.moved)]
    for i, (name, value) in enumerate(lines):
        if name in [earlier for earlier, _ in lines[:i]]:  # the rule has a value of the same name as the step
            lines[i] = (_STEP, value)
    printer = LatexPrinter(names=names)
    sums = [rf"{printer.name(x.name)} = \sum {printer(x.value)}" for x in rule.terms]
    return sums + _equations(lines, printer)


def optimizer_variants(optimizer: type[Optimizer]) -> dict[str, list[str]]:
    """Return the equations at the defaults, and with each option that changes them, by the option."""
    found = {"": optimizer_formula(optimizer)}
    buffers = [b.when for b in optimizer.buffers.values() if b.when is not None]
    switches: dict[str, Any] = {name: True if isinstance(optimizer.options[name], Flag) else 0.9 for name in buffers}
    switches |= {name: True for name, option in optimizer.options.items() if isinstance(option, Flag)}
    switches |= {"weight_decay": 0.1} if "weight_decay" in optimizer.options else {}
    for name, value in switches.items():
        for others in ({}, {k: 0.9 for k in buffers if k != name and switches[k] == 0.9}, {"weight_decay": 0.1}):
            try:
                lines = optimizer_formula(optimizer, **{name: value}, **others)
            except (PisteError, TypeError):  # an option that needs another one
                continue
            if lines not in found.values():
                chosen = {name: value, **others}
                spelled = " and ".join(f"`{k}={v}`" if v is True else f"`{k}` above 0" for k, v in chosen.items())
                found[f"With {spelled}"] = lines
                break
    return found


def worked_example(loss: type[Loss], **options: Any) -> Evaluation | None:
    """Return the call of a loss on the operands of its example, or None where torch computes it without a formula."""
    module = loss(**options)
    torch.manual_seed(0)
    operands = eval(f"({loss.example},)", {"torch": torch})
    call = loss.prepare(operands, "off", **{name: getattr(module, name) for name in module._options})
    try:
        return Evaluation(call)
    except PisteError:
        return None


def loss_formula(worked: Evaluation) -> tuple[list[str], list[str]]:
    """Return the equations of a loss, and those of its derivatives by the operands that are real numbers."""
    letters = list(worked.operands)
    width = worked.operands[letters[0]].shape[-1:]
    is_row = {n: worked.is_row and v.is_floating_point() and v.shape[-1:] == width for n, v in worked.operands.items()}
    rows = {n for n, row in is_row.items() if row and worked.operands[n].dim() >= len(worked.shape)}
    printer = LatexPrinter(rows, _EULER)
    formula = _equations([*_apart(worked.traced.steps, letters), (r"loss", worked.loss)], printer, r"\ell")
    if worked.call.derivatives is None:
        return formula, _row_derivatives(worked, sorted(rows), printer)
    derived = []
    reading = read(worked.call.derivatives, *letters, **worked.call.options)
    for letter, value in zip(letters, reading.results, strict=False):
        if value is not None and worked.operands[letter].is_floating_point():
            steps = [(n, v) for n, v in reading.steps if _is_part(v, value)]
            fresh = LatexPrinter(rows, _EULER)
            derived += _equations(
                [*_apart(steps, letters), ("loss", value)],
                fresh,
                rf"\frac{{\partial \ell}}{{\partial {fresh.name(letter)}}}",
            )
    return formula, list(dict.fromkeys(derived))


def _row_derivatives(worked: Evaluation, rows: list[str], printer: LatexPrinter) -> list[str]:
    """Return the gradient by each row, at the class i."""
    by = [Expr("input", name) for name in rows if name not in ("w",)]
    lines = []
    try:
        gradients = differentiate(worked.loss, by, set(rows))
    except FormulaError:  # a function of the user's, whose derivative autograd computes
        return []
    for symbol, gradient in zip(by, gradients, strict=True):
        parts = (
            [] if not isinstance(gradient.dense, Expr) and gradient.dense == 0 else [printer(gradient.dense, "i", 4)]
        )
        for value, index in gradient.at_index:
            sign = {1.0: "", -1.0: "-"}.get(value) if not isinstance(value, Expr) else None
            factor = rf"{printer(value, '', 5)} \, " if sign is None else sign
            parts.append(f"{factor}[i = {printer(index)}]")
        text = " + ".join(parts).replace("+ -", "- ") or "0"
        lines.append(rf"\frac{{\partial \ell}}{{\partial {printer.name(symbol.args[0])}_{{i}}}} = {text}")
    return lines


def loss_variants(loss: type[Loss]) -> dict[str, tuple[list[str], list[str]]]:
    """Return the equations at the defaults, and with each option that is a flag or that switches a branch off."""
    found: dict[str, tuple[list[str], list[str]]] = {}
    choices: list[dict[str, Any]] = [{}]
    for name, option in loss.options.items():
        if isinstance(option, Flag) and option.default is not None:
            choices.append({name: not option.default})
    if "label_smoothing" in loss.options:
        choices.append({"label_smoothing": 0.1})
    for options in choices:
        worked = worked_example(loss, **options)
        if worked is not None and (lines := loss_formula(worked)) not in found.values():
            found[" and ".join(f"With `{k}={v}`" for k, v in options.items())] = lines
    return found


def _apart(steps: Iterable[tuple[str, Expr]], letters: list[str]) -> list[tuple[str, Expr]]:
    """Prime the name of a value that replaces an operand."""
    return [(f"{name}'" if name in letters else name, value) for name, value in steps]


def _equations(lines: Iterable[tuple[str, Any]], printer: LatexPrinter, result: str = "") -> list[str]:
    """Write named values as equations; later ones refer to earlier ones by name."""
    equations = []
    known: set[Expr] = set()
    *_, last = lines = list(lines)
    for line in lines:
        name, value = line
        left = result if result and line is last else printer.name(name)
        equations.append(f"{left} = {printer(value)}")
        if isinstance(value, Expr) and value.op != "input" and value not in known:
            known.add(value)
            printer.define(value, left)
    return equations


def _is_part(step: Expr, whole: Any) -> bool:
    if not isinstance(whole, Expr):
        return False
    return step is whole or (whole.op != "input" and any(_is_part(step, x) for x in whole.args))
