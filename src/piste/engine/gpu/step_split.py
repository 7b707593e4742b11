"""A step split between the scalars of its tensors, the values of their lines, and the work of each element."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from ...formula.expression import Expr, is_condition
from ..eight_bits import NOISE_SEEDS
from ..emit import Emitter
from ..hoisting import PER_COLUMN, PER_MATRIX, PER_ROW, PER_TENSOR, Hoisted, TracedStep, has_lines, trace_step
from ..line_stages import LinePlan, LineWords, plan_lines
from ..specs import StepSpec, SumSpec
from ..step_levels import Level, Words, early_buffers, given_after, plan_levels
from .dialect import triton

__all__ = ["LETTERS", "Split", "split"]

LETTERS = {PER_TENSOR: "h", PER_MATRIX: "q", PER_ROW: "w", PER_COLUMN: "z"}
"""The variables of the values of each extent: a letter and a place."""


@dataclass(frozen=True)
class Split:
    """A step split between the host or `prepare`, which compute scalars, and the work of each element.

    Scalars are named `h0`, `h1`, ...
    """

    columns: tuple[str, ...]
    counters: tuple[tuple[str, object], ...]  # the next values that the rule states
    scalars: tuple[object, ...]  # that depend on no reduction
    names: tuple[str, ...]  # of these scalars
    later: tuple[tuple[str, ...], ...]  # for each level, the names of the scalars that follow from it
    levels: tuple[Level, ...]
    lines: tuple[str, ...]
    results: tuple[tuple[str, str], ...]  # the columns that the last pass stores, each with its new value
    plan: LinePlan | None = None  # of a step that reduces over rows or columns, in place of levels
    counts: tuple[tuple[int, int], ...] = ()  # for each extent the number of its values, in such a step
    seeds: tuple[str, ...] = ()  # the scalars that seed the noise of state in 8 bits, if the rule rounds at random

    @property
    def width(self) -> int:
        """The number of all scalars of a tensor."""
        return len(self.scalars) + sum(map(len, self.later))


@cache
def split(spec: StepSpec, kinds: tuple[str, ...]) -> Split:
    """Trace a step, and print the work of an element, given the dtypes of the parameter, the gradient and the buffers.

    Sums have one level, whose scalars are the sums.
    """
    compute = "float64" if kinds[0] == "float64" else "float32"
    traced = trace_step(spec)
    hoisted = traced.hoisted()
    if has_lines(spec):
        return _with_lines(traced, hoisted, compute)
    exact = [name for name, kind in zip(traced.columns, kinds, strict=True) if kind == compute]
    early = {} if isinstance(spec, SumSpec) else early_buffers(traced, hoisted, exact)
    emitter = Emitter(triton(compute), "x", given_after(early, hoisted))
    seeds = tuple(str(hoisted.given(Expr("input", name))) for name in NOISE_SEEDS if "rounding_key" in spec.counters)
    counters = tuple(traced.counters.items())
    if isinstance(spec, SumSpec):
        terms = [emitter.name(value) for value in traced.results[1:]]
        stores = [f"tl.store(found_row + {k}, r{k})" for k in range(len(terms))]
        level = Level([False for _ in terms], emitter.lines, terms, stores)
        sums = tuple(f"sum{k}" for k in range(len(terms)))
        return Split(traced.columns, (), tuple(hoisted.scalars), _names(hoisted, 0), (sums,), (level,), (), ())
    words = Words(triton(compute), triton("float64"), lambda place: f"h{place}", _stored_scalar)
    new = zip((traced.columns[0], *traced.columns[2:]), traced.results, strict=True)
    results = tuple((name, emitter.name(value)) for name, value in new if name not in early.values())
    levels = tuple(plan_levels(traced, hoisted, words, early))
    later = tuple(_names(hoisted, 1 + k) for k in range(len(levels)))
    scalars = tuple(x for x in hoisted.scalars if not hoisted.level(x))
    names = _names(hoisted, 0)
    return Split(traced.columns, counters, scalars, names, later, levels, tuple(emitter.lines), results, seeds=seeds)


def _names(hoisted: Hoisted, level: int) -> tuple[str, ...]:
    return tuple(f"h{k}" for k, value in enumerate(hoisted.scalars) if hoisted.level(value) == level)


def _with_lines(traced: TracedStep, hoisted: Hoisted, compute: str) -> Split:
    """Split a step that reduces over rows or columns."""
    words = LineWords(triton(compute), triton("float64"), _variable, _assigned, _kept)
    plan = plan_lines(traced, hoisted, words)
    is_first = [hoisted.stage(value) == (0, 0) for value in hoisted.scalars]
    names = tuple(f"h{k}" for k, first in enumerate(is_first) if first)
    later = tuple(f"h{k}" for k, first in enumerate(is_first) if not first)
    scalars = tuple(value for value, first in zip(hoisted.scalars, is_first, strict=True) if first)
    counts = tuple((extent, len(values)) for extent, values in hoisted.values.items())
    counters = tuple(traced.counters.items())
    return Split(traced.columns, counters, scalars, names, (later,), (), tuple(plan.body), (), plan, counts)


def _stored_scalar(place: int, value: Expr, name: str) -> str:
    return f"tl.store(found_row + {place}, {_number(value, name)})"


def _number(value: Expr, name: str) -> str:
    return f"tl.where({name}, 1.0, 0.0).to(tl.float64)" if is_condition(value) else name


def _variable(extent: int, place: int) -> str:
    return f"{LETTERS[extent]}{place}"


def _assigned(extent: int, place: int, value: Expr, name: str) -> str:
    return f"{_variable(extent, place)} = {_number(value, name)}"


def _kept(letter: str, extent: int, name: str) -> str:
    return f"new_{letter} = {name}"
