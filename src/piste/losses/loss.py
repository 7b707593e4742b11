"""What losses share that is not a formula: the module, the function form, and the way through a call."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..engine.eager import loss as eager_loss
from ..errors import InvalidType, InvalidValue, did_you_mean
from .reduction import Reduction, Settings, legacy, settings
from .value_checks import number, refuse_untensored, shape_of

__all__ = ["Call", "Chosen", "Loss", "explained", "named"]


@dataclass(slots=True)
class Call:
    """A call that was found right: what its formula takes, and what the reduction needs."""

    formula: Callable[..., Any]
    letters: tuple[Any, ...]
    options: dict[str, Any]
    dtype: torch.dtype  # of the result
    count: Callable[[], Any]  # the elements (rows) that are not ignored
    weights: Callable[[], Any]  # the sum of their weights
    mean_by: str  # which of the two torch divides a mean by
    batch: int = 1  # the samples, for the reduction "batchmean"
    derivatives: Callable[..., Any] | None = None
    weight: Tensor | None = None  # of each element
    keep: Tensor | None = None  # False where a row is ignored
    inspect: Callable[[], None] | None = None  # refuses values that are not allowed, where it was not done before


class Chosen:
    """Settings and options that were found right, but for tensors; and how calls with them go to a kernel at once."""

    __slots__ = ("at_once", "check", "last", "options", "reduction")

    def __init__(self, reduction: Reduction, check: str, options: dict[str, Any]) -> None:
        self.reduction, self.check, self.options = reduction, check, options
        # By the kind of the operands: a kernel, and what it has to be told besides; empty where none serves.
        self.at_once: dict[Any, tuple[Any, ...]] = {}
        self.last: tuple[Any, ...] | None = None  # of these, where no option is a tensor


_is_compiling = torch.compiler.is_compiling
MOST_KNOWN = 1000
_known: dict[tuple[Any, ...], Chosen] = {}
_registry: dict[str, type[Loss]] = {}


def named(name: str) -> type[Loss]:
    """The loss of that name: its short name ("l1"), or that of its class or function.

    >>> import piste.losses
    >>> piste.losses.named("smooth_l1")
    <class 'piste.losses.regression.SmoothL1Loss'>
    """
    if name not in _registry:
        short = [n for n, loss in _registry.items() if n == loss.name]
        raise InvalidValue(f"there is no loss named {name!r}. {did_you_mean(str(name), short)}")
    return _registry[name]


class Loss(torch.nn.Module):
    """What all losses share: a module like torch.nn's, with the settings of `piste.losses.reduction`."""

    name: ClassVar[str]
    function: ClassVar[str]
    arguments: ClassVar[tuple[str, ...]] = ("input", "target")
    expects: ClassVar[str] = "two tensors of the same shape, of floating-point numbers"
    reductions: ClassVar[tuple[str, ...]] = ("mean", "sum", "none")
    ranges: ClassVar[dict[str, str]] = {}  # of the options that are numbers, or "bool"
    letters: ClassVar[dict[str, str]] = {}  # what the letters of the formula stand for, if not the arguments
    branches: ClassVar[tuple[str, str] | None] = None  # what the two sides of the formula's choice are called
    example: ClassVar[str] = "torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0, 3.0]])"

    def __init__(
        self,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        *,
        check: str = "raise",
        normalizer: float | Tensor | str | None = None,
        empty: str = "nan",
        **options: Any,
    ) -> None:
        super().__init__()
        if any(isinstance(x, Tensor) or hasattr(x, "__array__") for x in (size_average, reduce, reduction)):
            raise InvalidType(
                f"{type(self).__name__} was given tensors where its options belong. "
                f"Help: build the loss first, then call it: {self.line_that_works()}"
            )
        if isinstance(size_average, str):
            raise InvalidType(
                f"{type(self).__name__}: the reduction is given by name; received {size_average!r} for torch's old "
                f'`size_average`. Help: {type(self).__name__}(reduction="sum"), or "mean", or "none".'
            )
        self.reduction = legacy(size_average, reduce, reduction)
        self.check, self.normalizer, self.empty = check, normalizer, empty
        for option, value in options.items():
            if option.endswith("weight"):
                refuse_untensored(type(self).__name__, option, value)
                self.register_buffer(option, value)
            else:
                setattr(self, option, value)
        self._options = tuple(options)
        self._reduction()
        self.validate(**options)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" in vars(cls):
            cls.__init__ = explained(cls)(cls.__init__)  # type: ignore[method-assign]
            for name in (cls.name, cls.__name__, cls.function):
                _registry.setdefault(name, cls)

    @classmethod
    def validate(cls, **options: Any) -> None:
        """Refuse options outside their range."""
        for option, interval in cls.ranges.items():
            if option in options:
                number(cls.__name__, option, options[option], interval)

    @classmethod
    def remarks(cls, **options: Any) -> list[str]:
        """What `explain` adds about this loss and its neighbours."""
        return []

    @classmethod
    def prepare(cls, operands: tuple[Any, ...], check: str, **options: Any) -> Call:
        """Check the operands of a call and bring them into the form its formula wants."""
        raise NotImplementedError

    @classmethod
    def compute(cls, operands: tuple[Any, ...], reduction: Reduction, check: str, **options: Any) -> Tensor:
        """The loss of operands whose options are known to be right."""
        call = cls.prepare(operands, check, **options)
        compiling = _is_compiling()  # torch.compile traces the formula; a kernel would only break its graph
        served = cls.by_kernel(call, reduction, check) if check != "nan" and not compiling else None
        if served is not None:
            return eager_loss.narrowed(served, call.dtype)
        if call.inspect is not None:
            call.inspect()
            served = (
                cls.by_kernel(call, reduction, "off") if check == "raise" and not compiling else None
            )  # all was right after all
            if served is not None:
                return eager_loss.narrowed(served, call.dtype)
        values = eager_loss.values(call.formula, call.derivatives, call.letters, call.options)
        if call.keep is not None:
            values = torch.where(call.keep, values, 0)
        if call.weight is not None:
            values = values * call.weight
        result = reduction.of(cls.__name__, values, call)
        return eager_loss.narrowed(result, call.dtype)

    @classmethod
    def by_kernel(cls, call: Call, reduction: Reduction, check: str) -> Tensor | None:
        """The loss of a call by a kernel, or None where none serves."""
        return None

    @classmethod
    def run(
        cls,
        *operands: Any,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        check: str = "raise",
        normalizer: float | Tensor | str | None = None,
        empty: str = "nan",
        **options: Any,
    ) -> Tensor:
        """The function form: every option by name."""
        if size_average is not None or reduce is not None:
            reduction = legacy(size_average, reduce, reduction)
        return cls.call(operands, *cls._choose(reduction, check, normalizer, empty, options))

    @classmethod
    def call(cls, operands: tuple[Any, ...], chosen: Chosen, tensors: dict[str, Tensor]) -> Tensor:
        """The loss of operands, with the options that are tensors."""
        return cls.compute(operands, chosen.reduction, chosen.check, **chosen.options, **tensors)

    @classmethod
    def _choose(
        cls, reduction: Any, check: Any, normalizer: Any, empty: Any, options: dict[str, Any]
    ) -> tuple[Chosen, dict[str, Tensor]]:
        """All settings and options, refused where they are wrong; what was found right is not looked at again."""
        tensors: dict[str, Tensor] = {}
        values = (normalizer, *options.values())
        key: tuple[Any, ...] = (cls, reduction, check, empty, *values, *map(type, values))  # as True == 1
        is_known = True
        try:
            chosen = _known.get(key)
            if chosen is None:
                tensors = {name: value for name, value in options.items() if isinstance(value, Tensor)}
            if tensors:  # of which only the shape is remembered
                marks = [(type(v), v.shape if isinstance(v, Tensor) else v) for v in values]
                key = (cls, reduction, check, empty, *marks)
                chosen = _known.get(key)
        except TypeError:  # what can't be hashed is looked at, and mostly refused
            chosen, is_known = None, False
            tensors = {name: value for name, value in options.items() if isinstance(value, Tensor)}
        if chosen is None:
            how = settings(cls.__name__, cls.reductions, reduction, check, normalizer, empty)
            cls.validate(**options)
            for option, value in options.items():
                if option.endswith("weight"):
                    refuse_untensored(cls.__name__, option, value)
            chosen = Chosen(how, check, {k: v for k, v in options.items() if k not in tensors})
            if is_known and not isinstance(normalizer, Tensor) and not _is_compiling():
                if len(_known) >= MOST_KNOWN:  # a normalizer may be another number in every step
                    _known.clear()
                _known[key] = chosen
        return chosen, tensors

    def _reduction(self) -> Reduction:
        return settings(type(self).__name__, self.reductions, self.reduction, self.check, self.normalizer, self.empty)

    def forward(self, *operands: Any, **named_operands: Any) -> Tensor:
        """The loss of `input` against `target`."""
        known = self.__dict__.get("_chosen")
        if known is not None and operands and not named_operands:
            last = known[0].last
            if last is not None:
                result = last[0].loss(operands, last[1])
                if result is not None:
                    return result
        if named_operands or len(operands) != len(self.arguments):
            operands = self._bind(operands, named_operands)
        if known is not None:
            chosen, names = known
            return self.call(operands, chosen, {name: getattr(self, name) for name in names} if names else {})
        options = {name: getattr(self, name) for name in self._options}
        chosen, tensors = self._choose(self.reduction, self.check, self.normalizer, self.empty, options)
        if not _is_compiling():
            self.__dict__["_chosen"] = chosen, tuple(tensors)
        return self.call(operands, chosen, tensors)

    def __setattr__(self, name: str, value: Any) -> None:
        self.__dict__.pop("_chosen", None)
        super().__setattr__(name, value)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_chosen"}

    def _bind(self, operands: tuple[Any, ...], named_operands: dict[str, Any]) -> tuple[Any, ...]:
        """Operands given by name, in order; one that is missing or unknown is explained."""
        parameters = [inspect.Parameter(a, inspect.Parameter.POSITIONAL_OR_KEYWORD) for a in self.arguments]
        try:
            return inspect.Signature(parameters).bind(*operands, **named_operands).args
        except TypeError as error:
            raise self._misuse(f"{type(self).__name__}()", error) from None

    @classmethod
    def _misuse(cls, called: str, reason: object) -> InvalidType:
        wants = " and ".join(f"`{a}`" for a in cls.arguments)
        return InvalidType(f"{called}: {reason}. {wants} are {cls.expects}. A line that works: {cls.line_that_works()}")

    @classmethod
    def line_that_works(cls) -> str:
        """A call to copy (after `import torch, piste`)."""
        return f"piste.losses.{cls.__name__}()({cls.example})"

    def extra_repr(self) -> str:
        """The settings that differ from their defaults."""
        known = {**inspect.signature(Loss.__init__).parameters, **inspect.signature(type(self)).parameters}
        shown = []
        for name in dict.fromkeys((*self._options, "reduction", "check", "normalizer", "empty")):
            value = getattr(self, name)
            default = known[name].default if name in known else None
            if isinstance(value, Tensor):
                shown.append(f"{name}=tensor of shape {shape_of(value)}")
            elif value != default:
                shown.append(f"{name}={value!r}")
        return ", ".join(shown)


def explained(cls: type[Loss]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a function of `cls` say what it takes where Python would only say that the call does not fit."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(function)
        known = {p for p in signature.parameters if p not in ("self", "settings")} | set(Settings.__annotations__)
        shown = cls.__name__ if function.__name__ == "__init__" else function.__name__

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            for name in kwargs:
                if name not in known:
                    raise InvalidType(f"{shown}() has no argument `{name}`. {did_you_mean(name, sorted(known))}")
            try:
                return function(*args, **kwargs)
            except TypeError as error:
                if isinstance(error, InvalidType):
                    raise
                try:
                    signature.bind(*args, **kwargs)
                except TypeError as misfit:
                    raise cls._misuse(f"{shown}()", misfit) from None
                raise

        call.loss = cls  # type: ignore[attr-defined]  # so that a function can be explained by what it computes
        return call

    return decorate
