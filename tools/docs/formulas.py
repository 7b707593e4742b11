"""The formulas of the reference, in LaTeX: traced from the functions that run."""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from piste.engine import MatrixSpec
from piste.errors import PisteError
from piste.explain.evaluation import Evaluation
from piste.explain.steps import TracedRule
from piste.formula import Expr, FormulaError, trace
from piste.formula.differentiate import differentiate
from piste.formula.latex import LatexPrinter
from piste.formula.printing import read
from piste.losses import Loss
from piste.optim import Optimizer
from piste.optim.composition import step_spec
from piste.optim.options import Flag

__all__ = [
    "code_of_stage",
    "loss_formula",
    "loss_variants",
    "optimizer_formula",
    "optimizer_variants",
    "worked_example",
]


_EULER = {"e": "E"}  # e stands for the base of the natural logarithm
_STEP = "step"


def optimizer_formula(optimizer: type[Optimizer], shape: Sequence[int] | None = None, **options: Any) -> list[str]:
    """Return the equations of a step in LaTeX, with the index t of the step as papers write it.

    Args:
        optimizer: The rule; that of a matrix has the matrix stage as a function of its input.
        shape: The shape of the parameter; by default a matrix where the rule is of matrices, or reduces over their rows
            and columns.
        **options: The options.
    """
    takes_matrices = optimizer.matrix is not None or _reduces_lines(optimizer)
    p = torch.zeros(*(shape or ((2, 2) if takes_matrices else (1,))), requires_grad=True)
    group = optimizer([p], **options).param_groups[0]
    optimizer = optimizer.rule_of(group)
    spec = step_spec(optimizer, group)
    if isinstance(spec, MatrixSpec):
        return _matrix_formula(spec)
    spec = spec.of(p)
    rule = TracedRule(optimizer, spec)
    printer = _printer((*spec.buffers, *spec.counters[1:]))
    lines = [(x.name, x.value) for x in (*rule.scalars, *rule.lines, rule.moved)]
    for i, (name, value) in enumerate(lines):
        if name in [earlier for earlier, _ in lines[:i]]:  # the rule has a value of the same name as the step
            lines[i] = (_STEP, value)
    sums = [rf"{printer.name(x.name)} = \sum {printer(x.value)}" for x in rule.terms]
    return sums + _equations(lines, printer)


def _reduces_lines(optimizer: type[Optimizer]) -> bool:
    return any(b.shape in ("rows", "columns") for b in optimizer.buffers.values())


def _printer(kept: Sequence[str]) -> LatexPrinter:
    """Return a printer that writes the parameter, its gradient and its state with the index of the step."""
    plain = LatexPrinter()
    names = {"p": r"\theta_{t-1}", "p'": r"\theta_{t}", "g": "g_{t}", "g'": "g'_{t}"}
    bare = {k: f"{{{plain.name(k)}}}" if "_" in plain.name(k) else plain.name(k) for k in kept}
    names |= {k: f"{name}_{{t-1}}" for k, name in bare.items()} | {f"{k}'": f"{name}_{{t}}" for k, name in bare.items()}
    return LatexPrinter(names=names | {_STEP: r"\Delta"})


def _matrix_formula(spec: MatrixSpec) -> list[str]:
    """Return the equations before the matrix stage, that of the stage, and those after it."""
    *kept, last = spec.before.buffers
    symbols = {name: Expr("input", name) for name in (*spec.before.numbers, *spec.before.counters)}
    p, g, *buffers = (Expr("input", name) for name in ("p", "g", *kept, last))
    _, values = trace(spec.before.element, p, g, buffers, symbols)
    moved, _ = trace(spec.after.element, p, g, [Expr("input", "o")], symbols)
    printer = _printer(kept)
    lines = zip([*(f"{letter}'" for letter in kept), "u"], values, strict=True)
    stage = r"o = \operatorname{matrix}\left(u\right)"
    return [*_equations(lines, printer), stage, *_equations([("p'", moved)], printer)]


def optimizer_variants(optimizer: type[Optimizer]) -> dict[str, list[str]]:
    """Return the equations at the defaults, and with each option that changes them, by the option."""
    found = {"": optimizer_formula(optimizer)}
    if _reduces_lines(optimizer):
        found["Of a parameter with fewer than two dimensions"] = optimizer_formula(optimizer, (1,))
    buffers = [b.when for b in optimizer.buffers.values() if b.when is not None]
    switches: dict[str, Any] = {name: True if isinstance(optimizer.options[name], Flag) else 0.9 for name in buffers}
    switches |= {name: not option.default for name, option in optimizer.options.items() if isinstance(option, Flag)}
    switches |= {"weight_decay": 0.1} if "weight_decay" in optimizer.options else {}
    for name, value in switches.items():
        for others in ({}, {k: 0.9 for k in buffers if k != name and switches[k] == 0.9}, {"weight_decay": 0.1}):
            try:
                lines = optimizer_formula(optimizer, **{name: value}, **others)
            except (PisteError, TypeError):  # an option that needs another one
                continue
            if lines not in found.values():
                chosen = {name: value, **others}
                parts = (f"`{k}={v}`" if isinstance(v, bool) else f"`{k}` above 0" for k, v in chosen.items())
                spelled = " and ".join(parts)
                found[f"With {spelled}"] = lines
                break
    return found


def code_of_stage(optimizer: type[Optimizer]) -> list[str]:
    """Return the code of a matrix stage, or of the direction of L-BFGS, with the functions of Piste that it calls."""
    if hasattr(optimizer, "update"):
        return []
    module = sys.modules[optimizer.__module__]
    is_stage = optimizer.matrix is not None
    first = vars(optimizer)["matrix"] if is_stage else module._direction
    called = [getattr(module, name, None) for name in first.__code__.co_names]
    functions = [first, *(f for f in called if inspect.isfunction(f) and f.__module__.startswith("piste.optim."))]
    code = "\n\n\n".join(textwrap.dedent(inspect.getsource(f)).strip() for f in functions)
    code = re.sub(r" *# (type: ignore|fmt: skip).*", "", code)
    code = re.sub(r'^ +""".*?"""\n', "", code, flags=re.MULTILINE | re.DOTALL)  # docstrings
    title = "The matrix stage, as it runs" if is_stage else "The direction, as it runs"
    return [f'??? note "{title}"', "", *(f"    {x}".rstrip() for x in ("``` python", *code.split("\n"), "```")), ""]


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
