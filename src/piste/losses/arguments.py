"""The arguments of a loss, derived from its declaration: signatures, binding, and help for calls that do not fit."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from ..errors import InvalidType, did_you_mean
from ..formula.expression import FormulaError
from ..options import Option, document, make_signature, names_here
from .reduction import LEGACY, SETTINGS, reduction_of_flags, reduction_option
from .registry import fold_name

__all__ = [
    "COUNTED",
    "bind",
    "bind_constructor",
    "check_declaration",
    "document_arguments",
    "misuse",
    "name_operands",
    "named_options",
    "signature_of",
]

COUNTED = dict.fromkeys(("num_classes", "n_classes"), "The classes are counted from the shape of `input`.")
"""The help for the number of classes, which no loss takes."""

_FOREIGN_NAMES = {
    "input": (
        "pred",
        "preds",
        "prediction",
        "predictions",
        "output",
        "outputs",
        "y_pred",
        "y_hat",
        "per_token_logps",
        "logits",
    ),
    "target": (
        "label",
        "labels",
        "truth",
        "y_true",
        "y",
        "targets",
    ),
    "student": ("student_logits",),
    "teacher": ("teacher_logits",),
    "key": ("positive_key",),
    "image": ("image_features",),
    "text": ("text_features",),
    "chosen": (
        "policy_chosen_logps",
        "chosen_logps",
    ),
    "rejected": (
        "policy_rejected_logps",
        "rejected_logps",
    ),
    "reference_chosen": (
        "ref_chosen_logps",
        "reference_chosen_logps",
    ),
    "reference_rejected": (
        "ref_rejected_logps",
        "reference_rejected_logps",
    ),
    "old": ("old_per_token_logps",),
    "reference": ("ref_per_token_logps",),
    "weight": ("completion_mask",),
    "negatives": ("negative_keys",),
    "z_loss": (
        "lse_square_scale",
        "z_loss_multiplier",
        "z_loss_weight",
        "z_loss_coef",
    ),
    "softcap": (
        "logit_softcapping",
        "final_logit_softcapping",
        "soft_cap",
        "logit_cap",
    ),
    "label_smoothing": ("smoothing",),
    "inplace": ("inplace_backward",),
    "ignore_index": (
        "ignore",
        "ignore_label",
    ),
    "class_dim": (
        "axis",
        "dim",
    ),
    "normalizer": (
        "num_items_in_batch",
        "avg_factor",
    ),
    "temperature": (
        "tau",
        "temp",
        "t",
    ),
    "quantile": (
        "tau",
        "alpha",
        "q",
    ),
    "expectile": (
        "tau",
        "quantile",
        "alpha",
    ),
    "margin": (
        "m",
        "clip",
    ),
    "scale": (
        "s",
        "c",
    ),
    "gamma_negative": ("gamma_neg",),
    "gamma_positive": ("gamma_pos",),
    "clip_low": (
        "epsilon",
        "epsilon_low",
    ),
    "clip_high": (
        "epsilon",
        "epsilon_high",
    ),
    "eps": ("epsilon",),
    "smooth": (
        "smooth_nr",
        "smooth_dr",
    ),
    "squared": ("squared_pred",),
    "activation": (
        "sigmoid",
        "softmax",
    ),
    "variant": ("loss_type",),
    "classes": ("only_present",),
    "kind": (
        "loss_type",
        "gan_mode",
    ),
}
"""The operands and options with their names in other libraries: Keras, Liger, MONAI, optax, timm, TRL and others."""

_BY_FOREIGN_NAME: dict[str, tuple[str, ...]] = {}
for _own, _foreign in _FOREIGN_NAMES.items():
    for _name in map(fold_name, _foreign):
        _BY_FOREIGN_NAME[_name] = (*_BY_FOREIGN_NAME.get(_name, ()), _own)


def named_options(loss: Any) -> dict[str, Option]:
    """Return every option of a loss: its own, the reduction, the settings of all losses, and torch's old flags."""
    return {**loss.options, "reduction": reduction_option(loss.reductions), **SETTINGS, **LEGACY}


def check_declaration(loss: Any) -> None:
    """Raise for a formula that asks for what its loss does not declare.

    Raises:
        FormulaError: The formula takes `self`, or names a number that is no option and has no default.
    """
    formula = inspect.unwrap(loss.formula)
    asked = list(inspect.signature(formula).parameters.values())
    if asked and asked[0].name == "self":
        raise FormulaError(
            f"{loss.__name__}.formula is a function of its operands ({', '.join(loss.arguments)}) without `self`."
        )
    given = {*loss.options, *(x.name for x in asked if x.default is not x.empty)}
    unknown = [x.name for x in asked if x.kind is x.KEYWORD_ONLY and x.name not in given]
    if unknown:
        raise FormulaError(
            f"{loss.__name__}.formula asks for `{unknown[0]}`, which is no option. Help: "
            f'options = {{"{unknown[0]}": Number(1.0, "its meaning")}}, of piste.options.'
        )


def signature_of(loss: Any, leading: tuple[str, ...], order: str) -> inspect.Signature:
    """Return the signature of a list such as "size_average, reduce, reduction, *, class_dim", with the settings.

    Options that the list of no form of the loss has follow by keyword.
    """
    named = named_options(loss)
    listed = re.findall(r"\w+", f"{loss.signature}, {loss.function_signature}")
    others = {name: option for name, option in loss.options.items() if name not in listed}
    positional, _, keywords = order.partition("*")
    split = [[word.strip() for word in part.split(",") if word.strip()] for part in (positional, keywords)]
    by_position, by_keyword = ({word: named[word] for word in words} for words in split)
    return make_signature(leading, by_position, {**by_keyword, **others, **SETTINGS})


def bind_constructor(loss: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a constructor by name, with the reduction that torch's old flags stand for.

    Raises:
        InvalidType: Operands were given to the constructor, or the arguments do not fit its signature.
    """
    name = loss.__name__
    flags = dict(zip(loss.module_signature.parameters, args, strict=False)) | dict(kwargs)
    where_operands_land = [flags.get(flag) for flag in ("size_average", "reduce", "reduction")]
    if any(isinstance(x, Tensor) or hasattr(x, "__array__") for x in where_operands_land):
        raise InvalidType(
            f"{name} was given tensors where its options belong. "
            f"Help: build the loss first, then call it: {loss.line_that_works()}"
        )
    given = bind(loss, name, loss.module_signature, args, kwargs)
    size_average, reduce = given.pop("size_average", None), given.pop("reduce", None)
    if isinstance(size_average, str):
        raise InvalidType(
            f"{name}: the reduction is given by name; received {size_average!r} for torch's old "
            f'`size_average`. Help: {name}(reduction="sum"), or "mean", or "none".'
        )
    if (size_average, reduce) != (None, None):
        given["reduction"] = reduction_of_flags(size_average, reduce, stacklevel=4)
    return given


def bind(
    loss: Any, called: str, signature: inspect.Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments of a call by name; raise for all that are unknown or missing at once."""
    unknown = [name for name in kwargs if name not in signature.parameters]
    if unknown:
        raise InvalidType(
            " ".join(f"{called}() has no argument `{name}`. {_hint(loss, name, signature)}" for name in unknown)
        )
    try:
        return dict(signature.bind(*args, **kwargs).arguments)
    except TypeError as misfit:
        raise misuse(loss, f"{called}()", misfit) from None


def name_operands(forward: Any, operands: tuple[str, ...], annotations: Mapping[str, str]) -> Callable[..., Any]:
    """Return a copy of a `forward` that takes `*operands`, in which the tools of PyTorch find the operands by name.

    `torch.export` reads the signature, and `torch.fx.symbolic_trace` the code of the function that is wrapped.

    Args:
        forward: The method. Its arguments with a default follow the operands in the signature.
        operands: The names of the operands.
        annotations: The types of those that may be something else than a tensor.
    """
    copy = types.FunctionType(
        forward.__code__, forward.__globals__, forward.__name__, forward.__defaults__, forward.__closure__
    )
    for name in ("__annotations__", "__doc__", "__kwdefaults__", "__module__", "__qualname__"):
        setattr(copy, name, getattr(forward, name))
    declared: Any = copy  # attributes of a function are unknown to its type
    given = inspect.signature(forward, follow_wrapped=False)
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    own = [inspect.Parameter(name, kind, annotation=annotations.get(name, "Tensor")) for name in operands]
    more = [p.replace(kind=kind) for p in given.parameters.values() if p.default is not p.empty]
    declared.__signature__ = given.replace(parameters=[inspect.Parameter("self", kind), *own, *more])
    names, code = ("self", *operands), forward.__code__
    named = (lambda self: None).__code__.replace(
        co_argcount=len(names),
        co_nlocals=len(names),
        co_varnames=names,
        co_filename=code.co_filename,
        co_firstlineno=code.co_firstlineno,
        co_name=code.co_name,
    )
    declared.__wrapped__ = types.FunctionType(named, {})
    return copy


def misuse(loss: Any, called: str, reason: object) -> InvalidType:
    """Return the error for a call that does not fit, with the operands and a line that works."""
    wants = " and ".join(f"`{a}`" for a in loss.arguments)
    return InvalidType(f"{called}: {reason}. {wants} are {loss.expects}. A line that works: {loss.line_that_works()}")


def _hint(loss: Any, name: str, signature: inspect.Signature) -> str:
    """Return the help for an unknown argument."""
    if name == "alpha" and "weight" in signature.parameters and "gamma" in signature.parameters:
        return "A number alpha is a factor of the whole loss; `weight` is a tensor with an alpha for each class."
    if name == "from_logits" and "activation" in signature.parameters:
        return 'Logits are taken with activation="sigmoid" or activation="softmax".'
    if name == "from_logits":
        return "CrossEntropyLoss and BCEWithLogitsLoss take logits, NLLLoss log-probabilities, BCELoss probabilities."
    if name in loss.elsewhere:
        return str(loss.elsewhere[name])
    folded = fold_name(name)
    words = names_here(folded, _BY_FOREIGN_NAME, signature.parameters)
    if words == ["activation"]:
        return f'Write activation="{folded}".'
    if len(words) == 2:
        return f"Write `{words[0]}` and `{words[1]}`."
    if words:
        return f"Write `{words[0]}`."
    if "logit_scale" in loss.arguments and "temperature" in (folded, *_BY_FOREIGN_NAME.get(folded, ())):
        return "Its operand `logit_scale` is 1 / temperature."
    return did_you_mean(name, sorted(signature.parameters))


def document_arguments(text: str, options: Mapping[str, Option]) -> str:
    """Return a docstring with its Args section, in front of the other sections."""
    head, *sections = re.split(r"\n(?=Shape:|Raises:|Example:)", inspect.cleandoc(text), maxsplit=1)
    common = "    reduction, check, normalizer, empty: the settings of every loss, see `piste.losses.reduction`."
    return "\n".join([head.rstrip(), "", "Args:", *document(options), common, "", *sections])
