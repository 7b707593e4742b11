"""The step of a group: the formula of the rule, composed with the sign, weight decay and the last subtraction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..engine import StepSpec, parameters
from ..formula.expression import FormulaError
from ..formula.words import maximum, minimum
from .conventions import Convention
from .options import SHARED, Flag
from .precision import with_precision


def step_spec(cls: Any, group: Mapping[str, Any]) -> StepSpec:
    """Return the specification of the step of a group, cached by its flags and buffers."""
    flags = {name: bool(group[name]) for name, option in cls.options.items() if isinstance(option, Flag)}
    kept = tuple(b.letter for b in cls.buffers.values() if b.when is None or group[b.when])
    rules = cls.conventions.get(group["convention"])
    is_decoupled = group.get("decoupled_weight_decay") or (rules is not None and rules.decoupled)
    decay = ("decoupled" if is_decoupled else "l2") if group.get("weight_decay") else ""
    clips = ("clip",) * (group["max_norm"] is not None) + ("max_value",) * (group["max_value"] is not None)
    key = (kept, decay, clips, bool(group["maximize"]), group["convention"], group["precision"], *flags.values())
    spec = cls._specs.get(key)
    if spec is None:
        plain = compose(cls, kept, decay, bool(group["maximize"]), flags, clips, rules)
        spec = cls._specs[key] = with_precision(plain, group["precision"])
    return spec


def numbers_of(cls: Any, group: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numeric options by their names in the formula."""
    options = {**cls.options, "max_value": SHARED["max_value"]}
    return {letter: value for name, option in options.items() for letter, value in option.letters(name, group[name])}


def compose(
    cls: Any,
    kept: tuple[str, ...],
    decay: str,
    maximize: bool,
    flags: Mapping[str, bool],
    clips: tuple[str, ...] = (),
    rules: Convention | None = None,
) -> StepSpec:
    """Compose the step of one element.

    Args:
        cls: The optimizer, whose `update` is the rule.
        kept: The letters of the buffers that exist.
        decay: "l2" adds `weight_decay * p` to the gradient, "decoupled" shrinks `p` by `1 - lr * weight_decay`, and
            "" does neither.
        maximize: Whether the step ascends.
        flags: The options of the rule that are True or False.
        clips: The numbers that clip the gradient: "clip" (the factor of the norm), "max_value", or both.
        rules: The convention of another framework, whose formula takes the place of the rule.

    Returns:
        The specification, whose formula is traced when a backend first runs it.

    Raises:
        FormulaError: Tracing the formula raises it if `update` returns another number of buffers than declared.
    """
    update = cls.update if rules is None or rules.update is None else rules.update
    has_rate = rules is not None and rules.has_rate
    asked = parameters(update)
    letters = [b.letter for b in cls.buffers.values()]
    reads_p = asked[0] == "p"
    decays = [name for name in (cls.decay_option, "weight_decay" if decay == "decoupled" else "") if name]
    by_name = asked[reads_p + 1 + len(letters) :]

    def element(p: Any, g: Any, buffers: list[Any], scalars: Mapping[str, Any]) -> tuple[Any, list[Any]]:
        lr = scalars["lr"]
        if "clip" in clips:
            g = g * scalars["clip"]
        if "max_value" in clips:
            g = maximum(minimum(g, scalars["max_value"]), -scalars["max_value"])
        if maximize:
            g = -g
        if decay == "l2":
            g = g + scalars["weight_decay"] * p
        for name in decays:
            p = p * (1 - lr * scalars[name])
        state = dict(zip(kept, buffers, strict=True))
        result = update(
            *([p] * reads_p),
            g,
            *(state.get(x) for x in letters),
            **{n: flags[n] if n in flags else scalars[n] for n in by_name},
        )
        d, *after = result if isinstance(result, tuple) else (result,)
        if len(after) != len(letters):
            raise FormulaError(
                f"{cls.__name__}.update must return the step and {len(letters)} buffers "
                f"({', '.join(letters) or 'none'}); it returned {len(after)}."
            )
        return p - (d if has_rate else lr * d), [new for x, new in zip(letters, after, strict=True) if x in kept]

    element.__qualname__ = f"{cls.__name__}.update"  # shown in error messages
    numbers = tuple(
        letter for n, o in cls.options.items() for letter, _ in o.letters(n, o.default if o.default is not None else 0)
    )
    counters = ("t", *(c.letter for c in cls.counters.values()))
    return StepSpec(cls.__name__, element, (*numbers, *clips), kept, counters, cls.per_step)
