"""The base of every loss: module and function form from one declaration, and the path of a call."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from ..engine import cast_result, decline, explain, raise_reported, values
from ..errors import InvalidType, PisteError, Unsupported
from ..options import Function, Option
from ..translation import translate
from .arguments import (
    bind_constructor,
    check_declaration,
    document_arguments,
    misuse,
    name_operands,
    named_options,
    signature_of,
)
from .call import PreparedCall, ValidatedSettings, validate_settings, why_not_operator
from .function_form import functional_form
from .reduction import LEGACY, SETTINGS, Reduction, make_reduction, reduction_of_flags
from .registry import LOSSES
from .value_checks import shape_of

if TYPE_CHECKING:
    from torch.nn.modules.loss import _Loss as TorchLoss
    from torch.nn.modules.loss import _WeightedLoss as TorchWeightedLoss
else:  # tools look for torch's losses by these bases
    TorchLoss = torch.nn.MSELoss.__bases__[0]
    TorchWeightedLoss = torch.nn.NLLLoss.__bases__[0]

__all__ = ["Loss", "TorchWeightedLoss"]

_is_compiling = torch.compiler.is_compiling


class Loss(TorchLoss):
    """The base of every loss: a module like those of torch.nn, with the settings of `piste.losses.reduction`.

    A loss declares its options and the order of torch's arguments in class attributes. The constructor, its
    signature, the function form, the validation of options, `extra_repr` and the type stubs are derived from them.

    Example:
        >>> import piste
        >>> issubclass(piste.losses.MSELoss, piste.losses.Loss)
        True
    """

    name: ClassVar[str]
    functional_name: ClassVar[str | None] = None
    aliases: ClassVar[tuple[str, ...]] = ()  # other short names
    arguments: ClassVar[tuple[str, ...]] = ("input", "target")
    argument_types: ClassVar[Mapping[str, str]] = {}  # annotations of those that may be something else than a tensor
    options: ClassVar[Mapping[str, Option]] = {}
    signature: ClassVar[str] = "size_average, reduce, reduction"  # the constructor's arguments; "*" as in Python
    function_signature: ClassVar[str] = ""  # those of the function form after its operands, if they differ
    reductions: ClassVar[tuple[str, ...]] = ("mean", "sum", "none")
    expects: ClassVar[str] = "two tensors of the same shape, of floating-point numbers"
    example: ClassVar[str] = "torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0, 3.0]])"
    symbols: ClassVar[dict[str, str]] = {}  # the meaning of the formula's symbols, where they are not the arguments
    elsewhere: ClassVar[Mapping[str, str]] = {}  # arguments of other libraries without an equal, with what to do
    branches: ClassVar[tuple[str, str] | None] = None  # the names of the two sides of the formula's `where`

    # Derived from the declaration:
    __signature__: ClassVar[inspect.Signature]
    module_signature: ClassVar[inspect.Signature]
    functional_signature: ClassVar[inspect.Signature]
    defaults: ClassVar[dict[str, Any]]  # of the options and settings
    module_options: ClassVar[tuple[str, ...]]  # those that the constructor takes

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        torch.nn.Module.__init__(self)
        cls = type(self)
        values = cls.defaults | bind_constructor(cls, args, kwargs)
        cls.validate_all(values)
        for name in ("reduction", *SETTINGS):
            setattr(self, name, values[name])
        for name in cls.module_options:
            is_buffer = isinstance(values[name], Tensor) and not isinstance(values[name], torch.nn.Parameter)
            keep = self.register_buffer if is_buffer or name.endswith("weight") else self.__setattr__
            keep(name, values[name])
        self._options = cls.module_options

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in ("formula", "soft_formula", "derivatives"):
            if inspect.isfunction(vars(cls).get(name)):
                setattr(cls, name, staticmethod(vars(cls)[name]))
        if "formula" in vars(cls):
            check_declaration(cls)
        cls.module_signature = signature_of(cls, (), cls.signature)
        cls.functional_signature = signature_of(cls, cls.arguments, cls.function_signature or cls.signature)
        cls.defaults = {n: o.default for n, o in named_options(cls).items() if n not in LEGACY}
        cls.module_options = tuple(n for n in cls.options if n in cls.module_signature.parameters)
        if "__init__" not in vars(cls):
            cls.__signature__ = cls.module_signature
        elif "__signature__" not in vars(cls):
            init = inspect.signature(cls.__init__)
            cls.__signature__ = init.replace(parameters=list(init.parameters.values())[1:])
        forward = cls.forward
        is_named = hasattr(forward, "__wrapped__") and not {"arguments", "forward"} & vars(cls).keys()
        if not is_named and inspect.isfunction(forward) and forward.__code__.co_flags & inspect.CO_VARARGS:
            cls.forward = name_operands(forward, cls.arguments, cls.argument_types)  # type: ignore[method-assign]
        if "name" in vars(cls):
            LOSSES.setdefault(cls.__name__, cls)
            if "Args:" not in (cls.__doc__ or ""):
                cls.__doc__ = document_arguments(cls.__doc__ or "", cls.options)

    @classmethod
    def validate_all(cls, values: Mapping[str, Any]) -> Reduction:
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
                    wanted = f"a number in {option.range}" if option.annotation == "float" else option.range
                    if value.numel() != 1:
                        help = getattr(option, "help", None)
                        words = (help and help(value)) or "it is one number for the whole loss"
                        raise InvalidType(
                            f"`{name}` must be {wanted}; received a tensor of shape {shape_of(value)}. Help: {words}."
                        )
                    raise InvalidType(f"`{name}` must be {wanted}; received a tensor. Help: {name}.item().")
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
        raise NotImplementedError(
            f"{cls.__name__} states neither `prepare` nor `compute`. Help: derive a loss from ElementwiseLoss or "
            "RowwiseLoss, which need its formula alone."
        )

    @classmethod
    def compute(cls, operands: tuple[Any, ...], reduction: Reduction, check: str, **options: Any) -> Tensor:
        """Return the loss of operands whose options are valid."""
        call = cls.prepare(operands, check, **options)
        tries_kernel = cls.tries_kernel(check)
        result = cls.by_kernel(call, reduction, check) if tries_kernel else None
        if result is None and call.inspect is not None:
            call.inspect()
            if tries_kernel and check == "raise":  # every value was in range
                result = cls.by_kernel(call, reduction, "off")
        return cls.eager_value(call, reduction) if result is None else cast_result(result, call.dtype)

    @classmethod
    def tries_kernel(cls, check: str) -> bool:
        """Return whether a call may go to a kernel."""
        if check != "nan" and not _is_compiling():
            return True
        decline('check="nan" inspects every value' if check == "nan" else "torch.compile traces the formula")
        return False

    @classmethod
    def eager_value(cls, call: PreparedCall, reduction: Reduction) -> Tensor:
        """Return the loss of a call by the eager backend."""
        result = values(call.formula, call.derivatives, call.operands, call.options)
        if call.keep is not None:
            result = torch.where(call.keep, result, 0)
        if call.weight is not None:
            result = result * call.weight
        return cast_result(reduction.of(cls.__name__, result, call), call.dtype)

    @classmethod
    def by_kernel(cls, call: PreparedCall, reduction: Reduction, check: str) -> Tensor | None:
        """Return the loss of a call by a kernel, or None where no kernel applies."""
        return None

    @classmethod
    def run(cls, operands: tuple[Any, ...], given: dict[str, Any]) -> Tensor:
        """Return the function form: the loss of operands with options by name."""
        if "size_average" in given or "reduce" in given:
            flags = given.pop("size_average", None), given.pop("reduce", None)
            if flags != (None, None):
                given["reduction"] = reduction_of_flags(*flags, stacklevel=4)
        return cls.finished(operands, *validate_settings(cls, given))

    @classmethod
    def finished(cls, operands: tuple[Any, ...], settings: ValidatedSettings, tensors: dict[str, Tensor]) -> Tensor:
        """Return the loss; with check="sync", after its value checks are done."""
        if _is_compiling() and cls._why_traced(operands, settings, tensors) is None:
            from .operators import call_operator  # which imports torch._dynamo

            result = call_operator(cls, (*operands, *tensors.values()), settings, tuple(tensors))
            if result is not None:
                return result
        result = cls.call(operands, settings, tensors)
        if settings.waits:
            raise_reported(wait=True, is_last=True)
        return result

    @classmethod
    def _why_traced(
        cls, operands: tuple[Any, ...], settings: ValidatedSettings, tensors: dict[str, Tensor]
    ) -> str | None:
        """Return why torch.compile traces a call instead of calling the operator; None where it calls it."""
        return why_not_operator((*operands, *tensors.values()), settings) or cls.why_no_operator(
            operands, settings.check, **settings.options, **tensors
        )

    @classmethod
    def why_no_operator(cls, operands: tuple[Any, ...], check: str, **options: Any) -> str | None:
        """Return why torch.compile traces this loss instead of calling an operator, or None.

        The operands of a call that becomes an operator are validated here, where torch.compile shows the error.
        """
        return "its formula is fused with the operations next to it"

    @classmethod
    def call(cls, operands: tuple[Any, ...], settings: ValidatedSettings, tensors: dict[str, Tensor]) -> Tensor:
        """Return the loss of operands, with the options that are tensors."""
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
        changed = {n: v for n, v in options.items() if isinstance(v, Tensor) or v != cls.defaults[n]}
        function = functional_form(cls)
        functions = {n: changed.pop(n) for n in [*changed] if isinstance(cls.options.get(n), Function)}
        if functions:  # torch.fx records no function as an argument
            function = functools.wraps(function)(functools.partial(function, **functions))
        return torch.overrides.handle_torch_function(function, operands, *operands, **changed)

    def current_reduction(self) -> Reduction:
        """Return the reduction of this module, validated."""
        return make_reduction(
            type(self).__name__, self.reductions, self.reduction, self.check, self.normalizer, self.empty
        )

    def forward(self, *operands: Any, **named_operands: Any) -> Tensor:
        """Return the loss of the operands, by position or by name."""
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
            return self.finished(operands, settings, {name: getattr(self, name) for name in names} if names else {})
        settings, tensors = validate_settings(
            type(self), {name: getattr(self, name) for name in (*self._options, "reduction", *SETTINGS)}
        )
        if not _is_compiling():
            self.__dict__["_validated_settings"] = settings, tuple(tensors)
        return self.finished(operands, settings, tensors)

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

        It also states whether torch.compile calls the loss as an operator, or traces its formula and why.

        Args:
            *operands: The operands of a call; without any, those of the example in the documentation of the loss, in
                float32 on the CPU.
            **named_operands: Operands by name.

        Raises:
            InvalidValue: As the call does.

        Example:
            >>> import torch, piste
            >>> x, y = torch.zeros(3), torch.ones(3)
            >>> said = piste.losses.MSELoss(check="nan").explain_backend(x, y)
            >>> for sentence in said.split(". "):
            ...     print(sentence)
            MSELoss: by the eager backend: check="nan" inspects every value
            Under torch.compile it is traced: its formula is fused with the operations next to it
        """
        if not operands and not named_operands:
            operands = eval(f"({self.example},)", {"torch": torch})
        operands = self._bind_operands(operands, named_operands)
        values = {**self.defaults, **{name: getattr(self, name) for name in (*self._options, "reduction", *SETTINGS)}}
        settings, tensors = validate_settings(type(self), values)
        options = {**settings.options, **tensors}
        if options.get("inplace"):
            operands = tuple(x.clone() if isinstance(x, Tensor) else x for x in operands)
        how = explain(lambda: self.compute(operands, settings.reduction, settings.check, **options))
        reason = self._why_traced(operands, settings, tensors)
        name = type(self).__name__
        if reason is None:
            return translate(f"{name}: {how}. Under torch.compile it is the operator piste::loss")
        return translate(f"{name}: {how}. Under torch.compile it is traced: {reason}")

    def _bind_operands(self, operands: tuple[Any, ...], named_operands: dict[str, Any]) -> tuple[Any, ...]:
        """Return the operands in order; raise for one that is missing or unknown."""
        missing = self.arguments[len(operands) :]
        is_complete = len(operands) + len(named_operands) == len(self.arguments)
        if is_complete and all([name in named_operands for name in missing]):
            return (*operands, *[named_operands[name] for name in missing])
        parameters = [inspect.Parameter(a, inspect.Parameter.POSITIONAL_OR_KEYWORD) for a in self.arguments]
        try:
            return inspect.Signature(parameters).bind(*operands, **named_operands).args
        except TypeError as error:
            raise misuse(type(self), f"{type(self).__name__}()", error) from None

    @classmethod
    def line_that_works(cls) -> str:
        """Return a call to copy (after `import torch, piste`)."""
        place = "piste.losses." * cls.__module__.startswith("piste.")
        return f"{place}{cls.__name__}()({cls.example})"

    def extra_repr(self) -> str:
        """Return the options and settings that differ from their defaults."""
        shown = []
        for name in dict.fromkeys((*self._options, "reduction", *SETTINGS)):
            value = getattr(self, name)
            if isinstance(value, Tensor):
                shown.append(f"{name}=tensor of shape {shape_of(value)}")
            elif value != self.defaults[name]:
                shown.append(f"{name}={value!r}")
        return ", ".join(shown)
