"""An optimizer's steps in numbers: state before, the formula with its values, state after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from ..engine import ParamState, StepSpec, SumSpec, add_terms, parameters, step_eagerly
from ..errors import InvalidValue
from ..formula.evaluate import Evaluator
from ..formula.expression import Expr, topological_order, trace
from ..formula.operations import OPERATIONS
from ..formula.printing import TracedFormula, format_number, named_values, render
from ..losses.value_checks import unravel_index
from ..optim import Optimizer
from ..optim.clipping import total_norm
from ..optim.composition import numbers_of, step_spec
from ..optim.group_sums import numbers_after
from ..optim.options import as_float
from ..optim.state import param_state
from .text import FEW, MOST, format_tensor, spell_formula

__all__ = ["NamedValue", "TracedRule", "explain_steps"]

MOST_STEPS = 100


def explain_steps(
    optimizer: type[Optimizer], param: Tensor, grad: Tensor, steps: int, options: Mapping[str, Any]
) -> tuple[str, Tensor]:
    """Work steps of an optimizer through on one parameter, with the same gradient at every step.

    Args:
        optimizer: The class of the optimizer.
        param: The parameter, of any shape and a real dtype.
        grad: The gradient, of the shape of `param`.
        steps: The number of steps, from 1 to 100.
        options: The options of the optimizer.

    Returns:
        The text, and the parameter after the steps, in float64.

    Raises:
        InvalidValue: The shapes differ, or `steps` or an option is out of its range.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= MOST_STEPS:
        raise InvalidValue(f"`steps` must be a whole number in [1, {MOST_STEPS}]; received steps={steps!r}.")
    if param.shape != grad.shape:
        raise InvalidValue(
            f"`grad` must have the shape of `param`; received {tuple(grad.shape)} and {tuple(param.shape)}. "
            "Help: leave `param` out for ones."
        )
    if param.is_complex() or grad.is_complex():
        raise InvalidValue("`param` and `grad` must be real; received complex numbers.")
    has_lines = any(buffer.shape != "all" for buffer in optimizer.buffers.values())
    if not (optimizer.elementwise or optimizer.group_state) or optimizer.matrix is not None or has_lines:
        raise InvalidValue(
            f"explain works steps of single elements in numbers; received {optimizer.__name__}, whose step is of whole "
            f"tensors. Help: help({optimizer.__name__}) describes it."
        )
    p = param.detach().double().clone().requires_grad_()
    p.grad = grad.detach().double().clone()
    instance = optimizer([p], **options)
    group = instance.param_groups[0]
    if group["state_dtype"] is not None:
        raise InvalidValue(
            f'the steps are worked through in float64; received state_dtype="{group["state_dtype"]}". '
            "Help: leave it out."
        )
    rule = TracedRule(optimizer, cast(StepSpec, step_spec(optimizer, group)))
    numbers = {name: as_float(name, x, "a number") for name, x in numbers_of(optimizer, group).items()}
    if group["max_norm"] is not None:
        numbers["grad_norm"] = total_norm([p.grad]).item()
    shown = ", ".join(f"{name}={value!r}" for name, value in options.items())
    sections = [f"{optimizer.__name__}({shown})", "\n".join(rule.describe(numbers))]
    for step in range(1, steps + 1):
        state = param_state(instance, p, group)
        before = ParamState(p.detach().clone(), state.g, [b.clone() for b in state.buffers], list(state.counters))
        counters = {letter: counter.item() for letter, counter in zip(rule.spec.counters, state.counters, strict=True)}
        known, sums = numbers, dict[str, float]()
        if optimizer.group_state:
            (following,) = numbers_after(instance, [rule.spec], [numbers])
            known = {name: float(value) for name, value in following.items()}
            sums = rule.add(state, known)
        with torch.no_grad():
            step_eagerly(rule.spec, [state], known)
        inputs = known | sums | counters | {"t": counters["t"] + 1}
        lines = [f"  {name} = {format_number(value)}, a sum over all elements" for name, value in sums.items()]
        sections.append("\n".join([f"Step {step}", *lines, *rule.work_through(before, state, inputs)]))
    result = p.detach()
    sections.append(f"Result\n  p = {format_tensor(result)}")
    return "\n\n".join(sections), result


@dataclass(frozen=True)
class NamedValue:
    """An intermediate value of a step, under the name that the text gives it."""

    name: str
    value: Any


class TracedRule:
    """The formula of a step, traced on symbols: primed names are new values.

    Attributes:
        scalars: The numbers of the step, in order.
        terms: What is added over all elements, by the names of the sums.
        lines: The intermediate values of an element and its new buffers, in order.
        moved: The new parameter.
        reduced: The values that are reduced over the tensor, or over its rows or columns, in order.
    """

    def __init__(self, optimizer: type[Optimizer], spec: StepSpec) -> None:
        self.spec = spec
        self._keys = {buffer.letter: key for key, buffer in {**optimizer.buffers, **optimizer.counters}.items()}
        symbols: dict[str, Any] = {name: Expr("input", name) for name in (*spec.numbers, *spec.counters)}
        self.scalars: list[NamedValue] = []
        for name, formula in spec.per_step.items():
            value = trace(formula, **{asked: symbols[asked] for asked in parameters(formula)})
            new = f"{name}'" if name in symbols else name
            self.scalars.append(NamedValue(new, value))
            symbols[name] = Expr("input", new)
        p, g, *buffers = (Expr("input", name) for name in ("p", "g", *spec.buffers))
        self.terms: list[NamedValue] = []
        if spec.sums is not None:
            _, terms = trace(spec.sums.element, p, g, buffers, symbols)
            asked = parameters(cast(Any, optimizer.finish))
            self.terms = [NamedValue(name, term) for name, term in zip(asked, terms, strict=False)]
            symbols |= {term.name: Expr("input", term.name) for term in self.terms}
            with named_values(cast(Any, optimizer.finish)) as names:
                after = trace(cast(Any, optimizer.finish), **{name: symbols[name] for name in asked})
            named = {value: name for value, name in names.items() if value.op != "input"}
            named |= {value: f"new_{name}" for name, value in zip(optimizer.group_state, after, strict=True)}
            self.scalars += [NamedValue(named[x], x) for x in topological_order(*after) if x in named]
        with named_values(optimizer.update) as names:
            new_p, new_buffers = trace(spec.element, p, g, buffers, symbols)
        self.moved = NamedValue("p'", new_p)
        self.lines = self._name_values(names, dict(zip(spec.buffers, new_buffers, strict=True)), new_p)
        values = [x.value for x in (*self.scalars, *self.terms, *self.lines, self.moved)]
        nodes = topological_order(*values)
        self._inputs = {node.args[0]: node for node in nodes if node.op == "input"}
        self.reduced = [x for x in nodes if x.op in OPERATIONS and OPERATIONS[x.op].kind in ("reduction", "line")]

    def _name_values(self, names: Mapping[Expr, str], buffers: Mapping[str, Any], new_p: Expr) -> list[NamedValue]:
        """Name the intermediate values in the order of computation, the new buffers and the step `d` among them."""
        taken = {"p", "g", *self.spec.buffers, *self.spec.numbers, *self.spec.counters}
        named = {value: f"{name}'" if name in taken else name for value, name in names.items()}
        scaled = new_p.args[1]  # lr * d, of p - lr * d
        if isinstance(scaled, Expr) and scaled.op == "*" and isinstance(scaled.args[1], Expr):
            named.setdefault(scaled.args[1], "step" if "d" in {*taken, *named.values()} else "d")
        named = {value: name for value, name in named.items() if value.op != "input"}
        for letter, value in buffers.items():
            if isinstance(value, Expr) and value.op != "input":
                named.setdefault(value, f"{letter}'")
        order = topological_order(new_p, *buffers.values())
        lines = [NamedValue(named[value], value) for value in order if value in named and value is not new_p]
        stated = {line.name for line in lines}
        return lines + [NamedValue(f"{k}'", value) for k, value in buffers.items() if f"{k}'" not in stated]

    def describe(self, numbers: Mapping[str, float]) -> list[str]:
        """Write the formula and the meaning of its symbols."""
        lines, known = [], dict[int, str]()
        for scalar in self.scalars:
            lines.append(f"{scalar.name} = {render(scalar.value, known)}")
            known[id(scalar.value)] = scalar.name
        lines += [f"{term.name} = the sum over all elements of {render(term.value, {})}" for term in self.terms]
        steps = tuple((line.name, line.value) for line in self.lines)
        lines += spell_formula(TracedFormula((self.moved.value,), steps), self.moved.name)
        text = "\n".join(lines)
        meaning = ["p = the parameter", "g = its gradient"]
        meaning += ["t = the step"] if _mentions(text, "t") else []
        kept = (*self.spec.buffers, *self.spec.counters[1:])
        meaning += [f"{k} = {self._keys[k]}" for k in kept if self._keys[k] != k]
        meaning += [f"{k} = {format_number(v)}" for k, v in numbers.items() if _mentions(text, k)]
        return ["Formula", *(f"  {line}" for line in lines), f"with {', '.join(meaning)}"]

    def add(self, state: ParamState, numbers: Mapping[str, float]) -> dict[str, float]:
        """Return the sums over all elements by their names."""
        sums = add_terms(cast(SumSpec, self.spec.sums), [state], numbers)[0].tolist()
        return {term.name: value for term, value in zip(self.terms, sums, strict=True)}

    def work_through(self, before: ParamState, after: ParamState, inputs: Mapping[str, float]) -> list[str]:
        """Write one step: its scalars, and for each element the values put in, the step and the new state."""
        lines, scalars, known = [], dict(inputs), dict[int, str]()
        for scalar in self.scalars:
            texts = self._texts(scalars) | known
            scalars[scalar.name] = value = Evaluator(scalars)(scalar.value)
            lines.append(f"{scalar.name} = {_work(scalar.value, value, texts, scalars)}")
            known[id(scalar.value)] = format_number(value)
        reduced = self._reduce(before, scalars)
        named = [line for line in self.lines if isinstance(line.value, Expr) and line.value.op != "input"]
        names = {id(line.value): line.name for line in named}
        first, count = before.p, before.p.numel()
        for node, value in reduced.items():
            if OPERATIONS[node.op].kind == "reduction" and count:
                text = render(node, {key: name for key, name in names.items() if key != id(node)})
                lines.append(f"{text} = {format_number(value.reshape(-1)[0].item())}, over all elements")
        shown = range(count) if count <= FEW else _largest(after.p.detach() - before.p)
        if count > FEW:
            lines.append(f"the {MOST} of {count} elements that move most:")
        for i in shown:
            place = unravel_index(i, first.shape)
            indent = "  " if place else ""
            lines += [f"element {place if len(place) > 1 else place[0]}"] if place else []
            at = {node: value.reshape(-1)[i].item() for node, value in reduced.items()}
            lines += [indent + line for line in self._work_element(i, before, after, scalars, at)]
        return [f"  {line}" for line in lines]

    def _reduce(self, before: ParamState, scalars: Mapping[str, float]) -> dict[Expr, Tensor]:
        """Return the values that are reduced, for each element the one that it reads."""
        tensors = zip(("p", "g", *self.spec.buffers), (before.p, before.g, *before.buffers), strict=True)
        evaluate = Evaluator({**scalars, **dict(tensors)})
        values = {node: evaluate(node) for node in self.reduced}
        return {node: torch.as_tensor(x, dtype=torch.float64).expand(before.p.shape) for node, x in values.items()}

    def _work_element(
        self,
        i: int,
        before: ParamState,
        after: ParamState,
        scalars: Mapping[str, float],
        reduced: Mapping[Expr, float],
    ) -> list[str]:
        letters = ("p", "g", *self.spec.buffers)
        tensors = (before.p, before.g, *before.buffers)
        inputs = {**scalars, **{k: x.reshape(-1)[i].item() for k, x in zip(letters, tensors, strict=True)}}
        evaluate, texts = Evaluator(inputs, known=reduced), self._texts(inputs)
        texts |= {id(node): format_number(value) for node, value in reduced.items()}
        lines = [f"before: {', '.join(f'{k} = {format_number(inputs[k])}' for k in letters)}"]
        for line in (*self.lines, self.moved):
            value = evaluate(line.value)
            text = _work(line.value, value, texts, inputs, reduced)
            if isinstance(line.value, Expr):
                texts[id(line.value)] = format_number(value)
            lines.append(f"{line.name} = {text}")
        new = zip(("p", *self.spec.buffers), (after.p.detach(), *after.buffers), strict=True)
        values = ", ".join(f"{letter} = {format_number(x.reshape(-1)[i].item())}" for letter, x in new)
        return [*lines, f"after: {values}"]

    def _texts(self, values: Mapping[str, float]) -> dict[int, str]:
        """Write the value of each input that is known, by the `id` of its node."""
        return {id(node): format_number(values[name]) for name, node in self._inputs.items() if name in values}


def _work(
    node: Any,
    value: float,
    texts: Mapping[int, str],
    inputs: Mapping[str, float],
    reduced: Mapping[Expr, float] | None = None,
) -> str:
    """Write an expression with the values put in, and the result."""
    evaluate = Evaluator(inputs, known=reduced)
    text = render(node, texts, lambda condition: bool(evaluate(condition)))
    result = str(value).lower() if isinstance(value, bool) else format_number(value)
    return text if text == result else f"{text} = {result}"


def _mentions(text: str, name: str) -> bool:
    """Return whether a text has a name in it; a primed name is another one."""
    return name in "".join(c if c.isalnum() or c in "_'" else " " for c in text).split()


def _largest(moves: Tensor) -> list[int]:
    size = moves.abs().nan_to_num(torch.inf).reshape(-1)
    return [int(i) for i in size.topk(min(MOST, len(size))).indices]
