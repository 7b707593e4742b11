"""The base of every loss: module and function form from one declaration, and the path of a call."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from ..engine import decline, explain, narrowed, raise_reported, values
from ..errors import InvalidType, InvalidValue, PisteError, Unsupported, did_you_mean
from ..options import Function, Option, document, make_signature
from .reduction import LEGACY, SETTINGS, Reduction, make_reduction, reduction_of_flags, reduction_option
from .value_checks import shape_of

if TYPE_CHECKING:
    from torch.nn.modules.loss import _Loss as TorchLoss
    from torch.nn.modules.loss import _WeightedLoss as TorchWeightedLoss
else:  # tools look for torch's losses by these bases
    TorchLoss = torch.nn.MSELoss.__bases__[0]
    TorchWeightedLoss = torch.nn.NLLLoss.__bases__[0]

__all__ = ["LOSSES", "Loss", "PreparedCall", "TorchWeightedLoss", "ValidatedSettings", "get_loss", "make_function"]


@dataclass(slots=True)
class PreparedCall:
    """The operands of a valid call, as the formula takes them, and the denominators of its mean."""

    formula: Callable[..., Any]
    operands: tuple[Any, ...]
    options: dict[str, Any]
    dtype: torch.dtype  # of the result
    count: Callable[[], Any]  # the number of elements (rows) that are not ignored
    weights: Callable[[], Any]  # the sum of their weights
    denominator: str  # "count" or "weights": PyTorch's denominator of a mean
    batch: int = 1  # the number of samples, for the reduction "batchmean"
    derivatives: Callable[..., Any] | None = None
    weight: Tensor | None = None  # of each element
    keep: Tensor | None = None  # False where a row is ignored
    inspect: Callable[[], None] | None = None  # raises for values outside their range, if that is still to be done


class ValidatedSettings:
    """Valid settings and options other than tensors, and the kernels that served calls with them."""

    __slots__ = ("check", "kernels", "last_hit", "options", "reduction", "waits")

    def __init__(self, reduction: Reduction, check: str, options: dict[str, Any]) -> None:
        self.reduction, self.options = reduction, options
        self.waits = check == "sync"  # for the checks of a GPU
        self.check = "raise" if self.waits else check
        # Maps the signature of the operands to a dispatcher and its launch arguments, or to () if no kernel applies.
        self.kernels: dict[Any, tuple[Any, ...]] = {}
        self.last_hit: tuple[Any, ...] | None = None  # an entry of `kernels`, where no option is a tensor


_is_compiling = torch.compiler.is_compiling
_ROLES = {
    **dict.fromkeys(("pred", "preds", "prediction", "predictions", "output", "outputs", "ypred", "yhat"), "input"),
    **dict.fromkeys(("label", "labels", "truth", "ytrue", "y", "targets"), "target"),
}
"""What other libraries call the operands."""
MAX_CACHED_SETTINGS = 1000
_cached_settings: dict[tuple[Any, ...], ValidatedSettings] = {}

LOSSES: dict[str, type[Loss]] = {}
"""Every loss by the name of its class. A class that declares a `name` is added when it is defined."""


def get_loss(name: str) -> type[Loss]:
    """Return the loss of a name.

    Args:
        name: Its short name ("l1"), an alias ("mae"), or the name of its class or function ("nn.L1Loss", "F.l1_loss").
            Case, underscores, hyphens and spaces do not matter.

    Raises:
        InvalidValue: No loss has this name; the message suggests the nearest.

    Example:
        >>> import piste.losses
        >>> piste.losses.get_loss("smooth_l1")
        <class 'piste.losses.regression.SmoothL1Loss'>
    """
    wanted = _fold(name)
    for loss in LOSSES.values():
        if wanted in map(_fold, (loss.name, loss.__name__, loss.functional_name or "", *loss.aliases)):
            return loss
    short = [loss.name for loss in LOSSES.values()]
    raise InvalidValue(f"there is no loss named {name!r}. {did_you_mean(str(name).rpartition('.')[2], short)}")


def _fold(name: str) -> str:
    """A name without its module, case and separators."""
    return re.sub(r"[\W_]", "", str(name).rpartition(".")[2].lower())


class Loss(TorchLoss):
    """The base of every loss: a module like those of torch.nn, with the settings of `piste.losses.reduction`.

    A loss declares its options and the order of torch's arguments in class attributes. The constructor, its
    signature, the function form, the validation of options, `extra_repr` and the type stubs are derived from them.
    """

    name: ClassVar[str]
    functional_name: ClassVar[str | None] = None
    aliases: ClassVar[tuple[str, ...]] = ()  # other short names
    arguments: ClassVar[tuple[str, ...]] = ("input", "target")
    options: ClassVar[Mapping[str, Option]] = {}
    signature: ClassVar[str] = "size_average, reduce, reduction"  # the constructor's arguments; "*" as in Python
    function_signature: ClassVar[str] = ""  # those of the function form after its operands, if they differ
    reductions: ClassVar[tuple[str, ...]] = ("mean", "sum", "none")
    expects: ClassVar[str] = "two tensors of the same shape, of floating-point numbers"
    example: ClassVar[str] = "torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0, 3.0]])"
    symbols: ClassVar[dict[str, str]] = {}  # the meaning of the formula's symbols, where they are not the arguments
    branches: ClassVar[tuple[str, str] | None] = None  # the names of the two sides of the formula's `where`
    _defaults: ClassVar[dict[str, Any]]
    _module_options: ClassVar[tuple[str, ...]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        torch.nn.Module.__init__(self)
        cls = type(self)
        if any(isinstance(x, Tensor) or hasattr(x, "__array__") for x in cls._flags_of(args, kwargs)):
            raise InvalidType(
                f"{cls.__name__} was given tensors where its options belong. "
                f"Help: build the loss first, then call it: {cls.line_that_works()}"
            )
        given = cls._bind(cls.__name__, cls._signature, args, kwargs)
        flags = given.pop("size_average", None), given.pop("reduce", None)
        if isinstance(flags[0], str):
            raise InvalidType(
                f"{cls.__name__}: the reduction is given by name; received {flags[0]!r} for torch's old "
                f'`size_average`. Help: {cls.__name__}(reduction="sum"), or "mean", or "none".'
            )
        if flags != (None, None):
            given["reduction"] = reduction_of_flags(*flags, stacklevel=3)
        values = cls._defaults | given
        cls._validate_all(values)
        for name in ("reduction", *SETTINGS):
            setattr(self, name, values[name])
        for name in cls._module_options:
            if isinstance(values[name], Tensor) or name.endswith("weight"):
                self.register_buffer(name, values[name])
            else:
                setattr(self, name, values[name])
        self._options = cls._module_options

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in ("formula", "soft_formula", "derivatives"):
            if inspect.isfunction(vars(cls).get(name)):
                setattr(cls, name, staticmethod(vars(cls)[name]))
        cls._signature = cls._make_signature((), cls.signature)
        cls._function_signature = cls._make_signature(cls.arguments, cls.function_signature or cls.signature)
        named = cls._named_options()
        cls._defaults = {n: o.default for n, o in named.items() if n not in LEGACY}
        cls._module_options = tuple(n for n in cls.options if n in cls._signature.parameters)
        if "__init__" not in vars(cls):
            cls.__signature__ = cls._signature
        elif "__signature__" not in vars(cls):
            init = inspect.signature(cls.__init__)
            cls.__signature__ = init.replace(parameters=list(init.parameters.values())[1:])
        if "name" in vars(cls):
            LOSSES.setdefault(cls.__name__, cls)
            if "Args:" not in (cls.__doc__ or ""):
                cls.__doc__ = _with_arguments(cls.__doc__ or "", cls.options)

    __signature__: ClassVar[inspect.Signature]
    _signature: ClassVar[inspect.Signature]
    _function_signature: ClassVar[inspect.Signature]

    @classmethod
    def _named_options(cls) -> dict[str, Option]:
        """Every option of the loss: its own, the reduction, the settings of all losses, and torch's old flags."""
        return {**cls.options, "reduction": reduction_option(cls.reductions), **SETTINGS, **LEGACY}

    @classmethod
    def _make_signature(cls, leading: tuple[str, ...], order: str) -> inspect.Signature:
        """The signature of a list such as "size_average, reduce, reduction, *, class_dim"."""
        named = cls._named_options()
        positional, _, keywords = order.partition("*")
        split = [[word.strip() for word in part.split(",") if word.strip()] for part in (positional, keywords)]
        by_position, by_keyword = ({word: named[word] for word in words} for words in split)
        return make_signature(leading, by_position, {**by_keyword, **SETTINGS})

    @classmethod
    def _flags_of(cls, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterable[Any]:
        """What a constructor call gives for the flags and the reduction, where tensors end up by mistake."""
        names = cls._signature.parameters
        given = dict(zip(names, args, strict=False)) | dict(kwargs)
        return [given.get(name) for name in ("size_average", "reduce", "reduction")]

    @classmethod
    def _bind(
        cls, called: str, signature: inspect.Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The arguments of a call by name; raise for all that are unknown or missing at once."""
        unknown = [name for name in kwargs if name not in signature.parameters]
        if unknown:
            raise InvalidType(
                " ".join(f"{called}() has no argument `{name}`. {cls._hint(name, signature)}" for name in unknown)
            )
        try:
            return dict(signature.bind(*args, **kwargs).arguments)
        except TypeError as misfit:
            raise cls._misuse(f"{called}()", misfit) from None

    @classmethod
    def _hint(cls, name: str, signature: inspect.Signature) -> str:
        """The argument that an unknown one stands for."""
        role = _ROLES.get(_fold(name))
        if name == "from_logits":
            return (
                "CrossEntropyLoss and BCEWithLogitsLoss take logits, NLLLoss log-probabilities, BCELoss probabilities."
            )
        if role is not None and role in signature.parameters:
            return f"Write `{role}`."
        return did_you_mean(name, sorted(signature.parameters))

    @classmethod
    def _validate_all(cls, values: Mapping[str, Any]) -> Reduction:
        """Validate the settings and options of a call, by name; raise for the first that is out of range."""
        reduction = make_reduction(
            cls.__name__,
            cls.reductions,
            *(values[name] for name in ("reduction", "check", "normalizer", "empty")),
        )
        cls.validate(**{name: value for name, value in values.items() if name in cls.options})
        return reduction

    @classmethod
    def validate(cls, **options: Any) -> None:
        """Raise for an option outside its declared range."""
        try:
            for name, value in options.items():
                option = cls.options[name]
                if isinstance(value, Tensor) and option.annotation in ("float", "int", "int | None"):
                    raise InvalidType(f"`{name}` must be {option.range}; received a tensor. Help: {name}.item().")
                option.check(name, value)
        except PisteError as error:
            raise type(error)(f"{cls.__name__}: {error}") from None

    @classmethod
    def notes(cls, **options: Any) -> list[str]:
        """Sentences that `explain` adds about this loss and its neighbours."""
        return []

    @classmethod
    def prepare(cls, operands: tuple[Any, ...], check: str, **options: Any) -> PreparedCall:
        """Validate the operands of a call and convert them to the form of the formula."""
        raise NotImplementedError

    @classmethod
    def compute(cls, operands: tuple[Any, ...], reduction: Reduction, check: str, **options: Any) -> Tensor:
        """The loss of operands whose options are valid."""
        call = cls.prepare(operands, check, **options)
        tries_kernel = check != "nan" and not _is_compiling()  # torch.compile traces the formula instead
        if not tries_kernel:
            decline('check="nan" inspects every value' if check == "nan" else "torch.compile traces the formula")
        result = cls.by_kernel(call, reduction, check) if tries_kernel else None
        if result is not None:
            return narrowed(result, call.dtype)
        if call.inspect is not None:
            call.inspect()
            if tries_kernel and check == "raise":  # every value was in range
                result = cls.by_kernel(call, reduction, "off")
            if result is not None:
                return narrowed(result, call.dtype)
        result = values(call.formula, call.derivatives, call.operands, call.options)
        if call.keep is not None:
            result = torch.where(call.keep, result, 0)
        if call.weight is not None:
            result = result * call.weight
        result = reduction.of(cls.__name__, result, call)
        return narrowed(result, call.dtype)

    @classmethod
    def by_kernel(cls, call: PreparedCall, reduction: Reduction, check: str) -> Tensor | None:
        """The loss of a call by a kernel, or None where no kernel applies."""
        return None

    @classmethod
    def run(cls, operands: tuple[Any, ...], given: dict[str, Any]) -> Tensor:
        """The function form: the loss of operands with options by name."""
        if "size_average" in given or "reduce" in given:
            flags = given.pop("size_average", None), given.pop("reduce", None)
            if flags != (None, None):
                given["reduction"] = reduction_of_flags(*flags, stacklevel=4)
        return cls._finished(operands, *cls._validated(given))

    @classmethod
    def _finished(cls, operands: tuple[Any, ...], settings: ValidatedSettings, tensors: dict[str, Tensor]) -> Tensor:
        """Return the loss; with check="sync", after its value checks are done."""
        result = cls.call(operands, settings, tensors)
        if settings.waits:
            raise_reported(wait=True, is_last=True)
        return result

    @classmethod
    def call(cls, operands: tuple[Any, ...], settings: ValidatedSettings, tensors: dict[str, Tensor]) -> Tensor:
        """The loss of operands, with the options that are tensors."""
        if not isinstance(operands[0], Tensor) and torch.overrides.has_torch_function(operands):
            return cls._override(operands, settings, tensors)
        return cls.compute(operands, settings.reduction, settings.check, **settings.options, **tensors)

    @classmethod
    def _override(cls, operands: tuple[Any, ...], settings: ValidatedSettings, tensors: dict[str, Tensor]) -> Any:
        """Hand the call to operands that record it, such as the proxies of torch.fx.symbolic_trace."""
        reduction = settings.reduction
        options = {
            **settings.options, "reduction": reduction.mode, "check": "sync" if settings.waits else settings.check,
            "normalizer": reduction.normalizer, "empty": reduction.empty, **tensors,
        }  # fmt: skip
        changed = {n: v for n, v in options.items() if isinstance(v, Tensor) or v != cls._defaults[n]}
        function = functional_form(cls)
        functions = {n: changed.pop(n) for n in [*changed] if isinstance(cls.options.get(n), Function)}
        if functions:  # torch.fx records no function as an argument
            function = functools.wraps(function)(functools.partial(function, **functions))
        return torch.overrides.handle_torch_function(function, operands, *operands, **changed)

    @classmethod
    def _validated(cls, given: dict[str, Any]) -> tuple[ValidatedSettings, dict[str, Tensor]]:
        """Validate the settings and options of a call; those that were valid before are found in a cache."""
        tensors: dict[str, Tensor] = {}
        key: tuple[Any, ...] = (cls, *given.items(), *map(type, given.values()))  # as True == 1
        is_hashable = True
        try:
            settings = _cached_settings.get(key)
            if settings is None:
                tensors = {n: v for n, v in given.items() if n in cls.options and isinstance(v, Tensor)}
            if tensors:  # the cache holds only their shape
                shapes = ((n, type(v), v.shape if isinstance(v, Tensor) else v) for n, v in given.items())
                key = (cls, *shapes)
                settings = _cached_settings.get(key)
        except TypeError:  # a value without a hash, which is rarely valid
            settings, is_hashable = None, False
            tensors = {n: v for n, v in given.items() if n in cls.options and isinstance(v, Tensor)}
        if settings is None:
            values = cls._defaults | given
            reduction = cls._validate_all(values)
            options = {n: values[n] for n in cls.options if n not in tensors}
            settings = ValidatedSettings(reduction, values["check"], options)
            if is_hashable and not isinstance(values["normalizer"], Tensor) and not _is_compiling():
                if len(_cached_settings) >= MAX_CACHED_SETTINGS:  # a normalizer may be another number in every step
                    _cached_settings.clear()
                _cached_settings[key] = settings
        return settings, tensors

    def _reduction(self) -> Reduction:
        return make_reduction(
            type(self).__name__, self.reductions, self.reduction, self.check, self.normalizer, self.empty
        )

    def forward(self, *operands: Any, **named_operands: Any) -> Tensor:
        """The loss of the operands, by position or by name."""
        cached = self.__dict__.get("_validated_settings")
        if cached is not None and operands and not named_operands:
            hit = cached[0].last_hit
            if hit is not None:
                result = hit[0].loss(operands, hit[1])
                if result is not None:
                    return result
        if named_operands or len(operands) != len(self.arguments):
            operands = self._bind_operands(operands, named_operands)
        if cached is not None:
            settings, names = cached
            return self._finished(operands, settings, {name: getattr(self, name) for name in names} if names else {})
        settings, tensors = self._validated(
            {name: getattr(self, name) for name in (*self._options, "reduction", *SETTINGS)}
        )
        if not _is_compiling():
            self.__dict__["_validated_settings"] = settings, tuple(tensors)
        return self._finished(operands, settings, tensors)

    def __setattr__(self, name: str, value: Any) -> None:
        self.__dict__.pop("_validated_settings", None)
        super().__setattr__(name, value)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_validated_settings"}

    def __prepare_scriptable__(self) -> Any:
        raise Unsupported(
            f"torch.jit.script can't compile {type(self).__name__}, whose formula is traced, not parsed. "
            "Help: torch.compile, torch.export and torch.jit.trace work with it; or script the model without its loss."
        )

    def explain_backend(self, *operands: Any, **named_operands: Any) -> str:
        """Return which backend computes the loss of operands like these, and the reason where it is the eager one.

        Args:
            operands: the operands of a call, by position or by name; without any, those of the example in the
                documentation of the loss, in float32 on the CPU.

        Raises:
            InvalidValue: as the call does.

        Example:
            >>> import torch, piste
            >>> x, y = torch.zeros(3), torch.ones(3)
            >>> piste.losses.MSELoss(check="nan").explain_backend(x, y)
            'MSELoss: by the eager backend: check="nan" inspects every value'
        """
        if not operands and not named_operands:
            operands = eval(f"({self.example},)", {"torch": torch})
        operands = self._bind_operands(operands, named_operands)
        values = {**self._defaults, **{name: getattr(self, name) for name in (*self._options, "reduction", *SETTINGS)}}
        settings, tensors = self._validated(values)
        options = {**settings.options, **tensors}
        how = explain(lambda: self.compute(operands, settings.reduction, settings.check, **options))
        return f"{type(self).__name__}: {how}"

    def _bind_operands(self, operands: tuple[Any, ...], named_operands: dict[str, Any]) -> tuple[Any, ...]:
        """The operands in order; raise for one that is missing or unknown."""
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
        """The options and settings that differ from their defaults."""
        shown = []
        for name in dict.fromkeys((*self._options, "reduction", *SETTINGS)):
            value = getattr(self, name)
            if isinstance(value, Tensor):
                shown.append(f"{name}=tensor of shape {shape_of(value)}")
            elif value != self._defaults[name]:
                shown.append(f"{name}={value!r}")
        return ", ".join(shown)


def make_function(cls: type[Loss]) -> Callable[..., Tensor]:
    """The function form of a loss, under its name in torch.nn.functional and with torch's signature."""
    n, signature = len(cls.arguments), cls._function_signature
    kinds = signature.parameters
    by_position = [name for name, p in kinds.items() if p.kind is p.POSITIONAL_OR_KEYWORD][n:]
    names, most = kinds.keys() - set(cls.arguments), n + len(by_position)
    called = cls.functional_name or cls.name

    def function(*args: Any, **kwargs: Any) -> Tensor:
        given = dict(zip(by_position, args[n:], strict=False))
        is_plain = n <= len(args) <= most
        for name, value in kwargs.items():
            is_plain = is_plain and name in names and name not in given
            given[name] = value
        if is_plain:
            return cls.run(args[:n], given)
        given = cls._bind(called, signature, args, kwargs)
        return cls.run(tuple(given.pop(name) for name in cls.arguments), given)

    function.__name__ = function.__qualname__ = called
    function.__module__ = f"{__package__}.functional"
    function.__doc__ = f"The function form of `{cls.__name__}`, which documents the arguments."
    function.__signature__ = signature  # type: ignore[attr-defined]
    function.loss = cls  # type: ignore[attr-defined]  # so that `explain` takes the function
    cls._function_form = function  # type: ignore[attr-defined]
    return function


def functional_form(cls: type[Loss]) -> Callable[..., Tensor]:
    """The function form that was made of this class, or a new one."""
    return vars(cls).get("_function_form") or make_function(cls)


def _with_arguments(text: str, options: Mapping[str, Option]) -> str:
    """A docstring with its Args section, in front of the other sections."""
    head, *sections = re.split(r"\n(?=Shape:|Raises:|Example:)", inspect.cleandoc(text), maxsplit=1)
    common = "    reduction, check, normalizer, empty: the settings of every loss, see `piste.losses.reduction`."
    return "\n".join([head.rstrip(), "", "Args:", *document(options), common, "", *sections])
