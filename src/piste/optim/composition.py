"""The step of a group: the formula of the rule, composed with the sign, weight decay and the last subtraction."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any

from ..engine import (
    MatrixSpec,
    ParamState,
    StepSpec,
    SumSpec,
    describe_backends,
    describe_matrix_backends,
    is_sharded,
    parameters,
)
from ..formula.expression import FormulaError
from ..formula.words import maximum, minimum
from .convention import Convention
from .options import SHARED, Flag
from .precision import with_storage
from .shared_formulas import DECAYS, RATED, cautious_step, clip_factor, decay_kind, largest_rate
from .state import least_size

NORM_LIMIT = ("max_norm", "grad_norm")
"""The numbers of the clipping by the norm."""


def step_spec(cls: Any, group: Mapping[str, Any]) -> StepSpec | MatrixSpec:
    """Return the specification of the step of a group, cached by its flags and buffers."""
    flags = {name: bool(group[name]) for name, option in cls.options.items() if isinstance(option, Flag)}
    kept = tuple(b.letter for b in cls.buffers.values() if b.when is None or group[b.when])
    rules = cls.conventions.get(group["convention"])
    is_decoupled = group.get("decoupled_weight_decay") or (rules is not None and rules.decoupled)
    decay = decay_kind(cls, group, is_decoupled)
    clips = (*NORM_LIMIT * (group["max_norm"] is not None), *("max_value",) * (group["max_value"] is not None))
    storage = (group["precision"], group["state_dtype"] == "int8" and bool(kept))
    cautious = bool(group["cautious"])
    least = least_size(group)
    key = (kept, decay, clips, bool(group["maximize"]), group["convention"], storage, cautious, least, *flags.values())
    spec = cls._specs.get(key)
    if spec is None:
        of_dims = [tuple(b.letter for b in cls.buffers.values() if b.exists(matrix, group)) for matrix in (True, False)]
        spec, vectors = (
            compose(cls, x, decay, bool(group["maximize"]), flags, clips, rules, cautious) for x in of_dims
        )
        if isinstance(spec, StepSpec):
            if isinstance(vectors, StepSpec) and of_dims[0] != of_dims[1]:
                spec = replace(spec, of_vectors=vectors, least_size=least)
            spec = with_storage(spec, *storage)
        else:
            before, after = with_storage(spec.before, "plain", storage[1]), with_storage(spec.after, storage[0], False)
            spec = replace(spec, before=before, after=after)
        cls._specs[key] = spec
    return spec


def numbers_of(cls: Any, group: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numeric options by their names in the formula, and the options of the matrix stage by theirs."""
    options = {**cls.options, **{name: SHARED[name] for name in ("max_norm", "max_value")}}
    of_matrices = [name for name in parameters(cls.matrix)[1:] if name in group] if cls.matrix is not None else ()
    return {
        **{letter: value for name, option in options.items() for letter, value in option.letters(name, group[name])},
        **{name: group[name] for name in of_matrices},
        **({"lr_max": largest_rate(group)} if group["decoupled_decay"] in RATED and group["weight_decay"] else {}),
    }


def describe_group(cls: Any, group: Mapping[str, Any], states: Sequence[ParamState]) -> list[str]:
    """Return a line for each backend that steps parameters of a group."""
    spec = step_spec(cls, group)
    if isinstance(spec, MatrixSpec):
        return describe_matrix_backends(spec, states, group)
    if spec.sums is not None and any(map(is_sharded, group["params"])):
        lines = describe_backends(replace(spec, sums=None), states, group)
        return [f"{line}; the sums over all parameters by torch operations, which communicate" for line in lines]
    return describe_backends(spec, states, group)


def compose(
    cls: Any,
    kept: tuple[str, ...],
    decay: str,
    maximize: bool,
    flags: Mapping[str, bool],
    clips: tuple[str, ...] = (),
    rules: Convention | None = None,
    cautious: bool = False,
) -> StepSpec | MatrixSpec:
    """Compose the step of one element, or of matrices.

    Args:
        cls: The optimizer, whose `update` is the rule; or its `before`, `matrix` and `after`.
        kept: The letters of the buffers that exist.
        decay: "l2" adds `weight_decay * p` to the gradient, a key of `DECAYS` shrinks `p` by that share, and "" does
            neither.
        maximize: Whether the step ascends.
        flags: The options of the rule that are True or False.
        clips: The numbers that clip the gradient: "max_norm" and "grad_norm" (the norm of all gradients), "max_value",
            or all of them.
        rules: The convention of another framework, whose formula takes the place of the rule.
        cautious: Whether only elements step whose step has the sign of the gradient.

    Returns:
        The specification, whose formula is traced when a backend first runs it.

    Raises:
        FormulaError: The matrix stage takes buffers other than the last ones declared. Tracing the formula raises it
            if `update` returns another number of buffers than declared.
    """
    has_rate = cls.has_rate or (rules is not None and rules.has_rate)
    letters = [b.letter for b in cls.buffers.values()]
    shares: list[tuple[Callable[..., Any], tuple[str, ...]]] = []
    if cls.decay_option:
        shares.append((DECAYS["lr"], ("lr", cls.decay_option)))
    if decay in DECAYS:
        shares.append((DECAYS[decay], parameters(DECAYS[decay])))
    numbers = tuple(
        letter for n, o in cls.options.items() for letter, _ in o.letters(n, o.default if o.default is not None else 0)
    )
    if "epsilon" in chain.from_iterable(map(parameters, cls.per_step.values())):
        numbers += ("epsilon",)
    if decay in RATED:
        numbers += ("lr_max",)
    kinds = {"rows": "row", "columns": "column"}
    following = tuple(f"new_{name}" for name in cls.group_state)
    numbers += (*cls.group_state, *following)
    counters = ("t", *(c.letter for c in cls.counters.values()))
    per_step = {name: _with_flags(formula, flags) for name, formula in cls.per_step.items()}
    known = _check_per_step(cls.__name__, per_step, {*numbers, *clips, *counters, *flags})

    def descent(p: Any, g: Any, scalars: Mapping[str, Any]) -> Any:
        if "grad_norm" in clips:
            g = g * clip_factor(*(scalars[name] for name in NORM_LIMIT))
        if "max_value" in clips:
            g = maximum(minimum(g, scalars["max_value"]), -scalars["max_value"])
        if maximize:
            g = -g
        return g + scalars["weight_decay"] * p if decay == "l2" else g

    def shrink(p: Any, scalars: Mapping[str, Any]) -> Any:
        for share, names in shares:
            p = p * (1 - share(*(scalars[name] for name in names)))
        return p

    def spec(
        formula: str, element: Any, kept: tuple[str, ...], counters: tuple[str, ...], per_step: Mapping[str, Any]
    ) -> StepSpec:
        element.__qualname__ = f"{cls.__name__}.{formula}"  # shown in error messages
        lines = {b.letter: kinds[b.shape] for b in cls.buffers.values() if b.shape in kinds and b.letter in kept}
        return StepSpec(cls.__name__, element, (*numbers, *clips), kept, counters, per_step, lines=lines)

    if cls.matrix is not None:
        own = tuple(x for x in parameters(cls.matrix) if x in letters)  # the state of the matrix stage
        if own != tuple(letters[len(letters) - len(own) :]):
            raise FormulaError(
                f"{cls.__name__}.matrix must take the last of the buffers declared ({', '.join(letters)}), in their "
                f"order; it takes {', '.join(own)}."
            )
        letters, kept = [x for x in letters if x not in own], tuple(x for x in kept if x not in own)
        _check_formula(f"{cls.__name__}.before", cls.before, letters, known)
        before = _rule(f"{cls.__name__}.before", cls.before, letters, flags)
        _check_formula(f"{cls.__name__}.after", cls.after, [], known, first="u")
        after = _rule(f"{cls.__name__}.after", cls.after, [], flags)

        def first(p: Any, g: Any, buffers: list[Any], scalars: Mapping[str, Any]) -> tuple[Any, list[Any]]:
            state = {name: buffers[k] for k, name in enumerate(kept)}  # torch.compile of 2.9 takes no zip of both
            u, new = before(p, descent(p, g, scalars), state, scalars)
            return p, [*(new[x] for x in kept), u]

        def last(p: Any, g: Any, buffers: list[Any], scalars: Mapping[str, Any]) -> tuple[Any, list[Any]]:
            p = shrink(p, scalars)
            d, _ = after(p, buffers[0], {}, scalars)
            d = cautious_step(d, descent(p, g, scalars)) if cautious else d
            return p - scalars["lr"] * d, buffers

        start = spec("before", first, (*kept, "u"), counters, per_step)
        return MatrixSpec(start, cls.matrix, spec("after", last, ("u",), ("t",), {}), own, cls.any_shape)

    if not hasattr(cls, "update"):
        raise FormulaError(f"{cls.__name__} must state its step in `update`, or in `before` and `matrix`; it has none.")
    formula = cls.update if rules is None or rules.update is None else rules.update
    _check_formula(f"{cls.__name__}.update", formula, letters, known)
    update = _rule(f"{cls.__name__}.update", formula, letters, flags)

    def element(p: Any, g: Any, buffers: list[Any], scalars: Mapping[str, Any]) -> tuple[Any, list[Any]]:
        g, p = descent(p, g, scalars), shrink(p, scalars)
        known = {**scalars, "weight_decay": 0} if decay and cls.own_decay else scalars
        d, after = update(p, g, dict(zip(kept, buffers, strict=True)), known)
        d = cautious_step(d, g) if cautious else d
        return p - (d if has_rate else scalars["lr"] * d), [after[x] for x in kept]

    step = spec("update", element, kept, counters, per_step)
    if cls.reduce is None:
        return step
    _check_formula(f"{cls.__name__}.reduce", cls.reduce, letters, known)
    reduce = _formula(cls.reduce, letters, flags)

    def terms(p: Any, g: Any, buffers: list[Any], scalars: Mapping[str, Any]) -> tuple[Any, list[Any]]:
        found = reduce(p, descent(p, g, scalars), dict(zip(kept, buffers, strict=True)), scalars)
        if not isinstance(found, tuple):
            raise FormulaError(f"{cls.__name__}.reduce must return a tuple of terms, such as (g * g,).")
        return p, list(found)

    terms.__qualname__ = f"{cls.__name__}.reduce"
    of_sums = tuple(name for name in (*numbers, *clips) if name not in following)
    return replace(step, sums=SumSpec(cls.__name__, terms, of_sums, kept, (), per_step))


def _check_per_step(rule: str, per_step: Mapping[str, Callable[..., Any]], known: set[str]) -> set[str]:
    """Return the names that a formula may ask for; raise for a number of the step that asks for another one."""
    for name, formula in per_step.items():
        _check_names(f'{rule}.per_step["{name}"]', parameters(formula), known)
        known = {*known, name}
    return known


def _check_formula(
    name: str, formula: Callable[..., Any], letters: Sequence[str], known: set[str], first: str = "g"
) -> None:
    """Raise unless a formula takes the gradient, each buffer in order, and by name numbers of the step."""
    asked = parameters(formula)
    taken = asked[asked[:1] == ("p",) :][: 1 + len(letters)]
    is_short = len(taken) <= len(letters) or taken[0] == "self"
    if is_short or (set(taken[1:]) == set(letters) and taken[1:] != tuple(letters)):
        raise FormulaError(
            f"{name} must take {', '.join([first, *letters])} in this order, and `p` in front if it reads the "
            f"parameter; it takes {', '.join(asked) or 'nothing'}."
        )
    _check_names(name, asked[len(taken) + (asked[:1] == ("p",)) :], known)


def _check_names(name: str, asked: Sequence[str], known: set[str]) -> None:
    unknown = [x for x in asked if x not in known]
    if unknown:
        raise FormulaError(
            f"{name} asks for `{unknown[0]}`, which is no number of the step. Known: "
            f"{', '.join(f'`{x}`' for x in sorted(known))}. Help: declare an option of this letter, or a formula in "
            "`per_step`."
        )


def _rule(
    name: str, formula: Callable[..., Any], letters: list[str], flags: Mapping[str, bool]
) -> Callable[[Any, Any, Mapping[str, Any], Mapping[str, Any]], tuple[Any, dict[str, Any]]]:
    """Return a formula as a function of p, g, the buffers and the scalars by letter; it returns d and the buffers.

    Raises:
        FormulaError: The function raises it if the formula returns another number of buffers than declared.
    """
    values = _formula(formula, letters, flags)

    def call(p: Any, g: Any, state: Mapping[str, Any], scalars: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        result = values(p, g, state, scalars)
        d, *after = result if isinstance(result, tuple) else (result,)
        if len(after) != len(letters):
            raise FormulaError(
                f"{name} must return the step and {len(letters)} buffer{'s' * (len(letters) != 1)} "
                f"({', '.join(letters) or 'none'}); it returned {len(after)}."
            )
        return d, dict(zip(letters, after, strict=True))

    return call


def _formula(formula: Callable[..., Any], letters: list[str], flags: Mapping[str, bool]) -> Callable[..., Any]:
    """Return a formula of a rule as a function of p, g, the buffers and the scalars by letter."""
    asked = parameters(formula)
    reads_p = asked[0] == "p"
    by_name = asked[reads_p + 1 + len(letters) :]

    def call(p: Any, g: Any, state: Mapping[str, Any], scalars: Mapping[str, Any]) -> Any:
        return formula(
            *([p] * reads_p),
            g,
            *(state.get(x) for x in letters),
            **{n: flags[n] if n in flags else scalars[n] for n in by_name},
        )

    return call


def _with_flags(formula: Callable[..., Any], flags: Mapping[str, bool]) -> Callable[..., Any]:
    """Return a formula of scalars to which the flags that it names are given."""
    given = {name: flags[name] for name in parameters(formula) if name in flags}
    if not given:
        return formula
    bound: Any = partial(formula, **given)
    of_all = inspect.signature(formula)
    bound.__signature__ = of_all.replace(parameters=[x for n, x in of_all.parameters.items() if n not in given])
    return bound  # type: ignore[no-any-return]
