"""The names of options: help for names of other libraries and for misspelled ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import InvalidType, InvalidValue, did_you_mean, english, nearest
from ..options import names_here
from .convention import TITLES, Convention
from .declaration import all_options

FOREIGN_NAMES = {
    "learning_rate": ("lr",),
    "eta": ("lr",),
    "epsilon": ("eps",),
    "beta_1": ("betas",),
    "beta_2": ("betas",),
    "beta1": ("betas",),
    "beta2": ("betas",),
    "b1": ("betas",),
    "b2": ("betas",),
    "rho": ("alpha", "rho"),
    "alpha": ("alpha", "rho"),
    "decay": ("alpha", "lr_decay"),
    "lr_decay": ("lr_decay",),
    "wd": ("weight_decay",),
}
"""Maps the names of Keras and optax for an option to the names of PyTorch."""


_OF_AUTHORS = {
    ("AdEMAMix", "t_alpha_beta3"): "`warmup` has the steps over which alpha and beta3 rise.",
    ("AdEMAMix", "alpha_warmup"): "`warmup` has the steps over which alpha and beta3 rise.",
    ("AdEMAMix", "beta3_warmup"): "`warmup` has the steps over which alpha and beta3 rise.",
    ("Adan", "no_prox"): "the weights decay as with no_prox=True, by lr * weight_decay before the step.",
    ("ADOPT", "decouple"): "`decoupled_weight_decay` decouples the decay.",
    ("AdaBelief", "weight_decouple"): "the weights decay as with weight_decouple=True, by lr * weight_decay.",
    ("AdaBelief", "rectify"): "the step is that of rectify=False.",
}
"""Explains options that the authors of a rule have in their implementation, by rule and option."""

_CLIPPING = {"clipnorm", "clipvalue", "global_clipnorm"}


def misuse(
    cls: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], unknown: list[str], has_params: bool
) -> InvalidType | InvalidValue:
    """Return an error that lists every mistake in a call, and the corrected call."""
    mistakes = [] if has_params else [f"{cls.__name__} needs `params`, the parameters to train, first."]
    convention = kwargs.get("convention", "torch")
    mistakes += [f"{cls.__name__} has no option `{name}`; {help_with_name(cls, name, convention)}" for name in unknown]
    kind: type[InvalidType | InvalidValue] = InvalidType if mistakes else InvalidValue
    pair = list(cls.options["betas"].default) if "betas" in cls.options else []
    by_position = dict(zip(cls.options, args, strict=False))
    renamed: dict[str, Any] = {}
    for name, value in kwargs.items():
        word = _spelled(cls, name, convention)
        words, theirs = names_here(word, FOREIGN_NAMES, cls.options), _names_in(cls, word, convention)
        if name not in unknown:
            renamed[name] = value
        elif theirs:
            renamed[theirs[0]] = value
        elif words == ["betas"]:
            pair[word.endswith("2")] = value
            renamed["betas"] = tuple(pair)
        elif words and word not in {"decay", "lr_decay"}:
            renamed[words[0]] = value
        elif _explanation(cls, word, convention) is None:
            near = nearest(name, _suggested(cls, convention), 1)
            renamed.update({option: value for option in near if option not in kwargs})
    refused = refused_values(cls, by_position | renamed)
    mistakes += [english(error) for error in refused.values()]
    first = [f"{name}={value!r}" for name, value in by_position.items() if name not in refused]
    if not by_position.keys() & refused.keys():
        first = [repr(value) for value in args]
    given = ["model.parameters()", *first, *(f"{k}={value!r}" for k, value in renamed.items() if k not in refused)]
    return kind(f"{' '.join(mistakes)}{offer_convention(cls, args, kwargs)} Write {cls.__name__}({', '.join(given)}).")


def refused_values(cls: Any, values: Mapping[str, Any]) -> dict[str, InvalidType | InvalidValue]:
    """Return the errors of options whose own values are refused, by name; the options of a convention are not read."""
    found: dict[str, InvalidType | InvalidValue] = {}
    if values.get("convention", "torch") != "torch":
        return found
    options = all_options(cls)
    for name, value in values.items():
        try:
            if name in options:
                options[name].check(name, value)
        except (InvalidType, InvalidValue) as error:
            found[name] = error
    return found


def offer_convention(cls: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """Return a sentence with the call in the convention of a framework that has the unknown names, or ""."""
    unknown = {name for name in kwargs if name not in all_options(cls)}
    if not unknown or "convention" in kwargs:
        return ""
    call = ", ".join(["model.parameters()", *map(repr, args), *(f"{k}={v!r}" for k, v in kwargs.items())])
    return "".join(
        f' {cls.__name__}({call}, convention="{convention}") has the names, defaults and formula of '
        f"{TITLES[convention]}."
        for convention, rules in cls.conventions.items()
        if unknown & rules.names.keys() and all(_takes(rules, name, kwargs[name]) for name in unknown)
    )


def _takes(rules: Convention, name: str, value: Any) -> bool:
    """Return whether a convention has an argument, with this value where it has only one."""
    return name in rules.names or (name in rules.fixed and rules.fixed[name] == value)


def help_with_name(cls: Any, name: str, convention: str = "torch") -> str:
    """Return the help for an unknown option, as the second half of a sentence, in the names of a convention."""
    near = did_you_mean(name, _suggested(cls, convention)).replace("Did", "did").replace("Known", "known")
    return _explanation(cls, _spelled(cls, name, convention), convention) or near


def _spelled(cls: Any, name: str, convention: str) -> str:
    """Return the name of another library that a misspelled one is like, unless it is more like an option."""
    if name in FOREIGN_NAMES or nearest(name, _suggested(cls, convention), cutoff=0.8):
        return name
    return next(iter(nearest(name, FOREIGN_NAMES, 1, 0.8)), name)


def _names_in(cls: Any, name: str, convention: str) -> list[str]:
    """Return the names that a library has for what a name of another one stands for; none where they are PyTorch's."""
    rules = cls.conventions.get(convention)
    if rules is None:
        return []
    theirs = [own for word in names_here(name, FOREIGN_NAMES, cls.options) for own in rules.names_of(word)]
    numbered = [own for own in theirs if own[-1:] == name[-1:] and name[-1:].isdigit()]
    return [] if theirs == ["betas"] else numbered or theirs


def _suggested(cls: Any, convention: str = "torch") -> list[str]:
    """Return the names of the options that fit the optimizer, those of a library where it has the convention."""
    of_decay = () if "weight_decay" in cls.options else ("decoupled_decay", "lr_max")
    options = [option for option in all_options(cls) if option not in of_decay]
    rules = cls.conventions.get(convention)
    return options if rules is None else [name for option in options for name in rules.names_of(option)]


def _explanation(cls: Any, name: str, convention: str = "torch") -> str | None:
    """Return the help for a name that means something elsewhere; None for other names, which may be misspelled."""
    if own := _OF_AUTHORS.get((cls.__name__, name)):
        return own
    words = names_here(name, FOREIGN_NAMES, cls.options)
    if theirs := _names_in(cls, name, convention):
        called = " and ".join(f"`{own}`" for own in theirs)
        return f"{TITLES[convention]} calls it {called}."
    if words == ["betas"]:
        return "PyTorch takes both as one pair: betas=(beta_1, beta_2)."
    if name in {"decay", "lr_decay"} and "lr_decay" not in words:
        schedule = (
            "in PyTorch the decay of the learning rate (as in Keras) is a schedule: "
            f"torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1 / (1 + {name} * t))."
        )
        average = " The decay rate of the average of squares (as in optax) is `alpha`." if words else ""
        return f"{schedule}{average} `weight_decay` decays the weights towards 0."
    if name == "epsilon" and cls.__name__ in {"RMSprop", "Adagrad"}:
        return "PyTorch calls it `eps`, and adds it after the square root; Keras adds it under the root."
    if words:
        return f"PyTorch calls it `{words[0]}`."
    if name in _CLIPPING:
        return "`max_norm` clips to the norm of all gradients, `max_value` by value."
    if name == "momentum" and "betas" in cls.options:
        return "its momentum is `betas[0]`."
    if name == "nesterov" and "betas" in cls.options:
        return "NAdam is Adam with Nesterov momentum."
    if name == "variant" and cls.conventions:
        versions = ", ".join(f'"{name}"' for name in cls.conventions)
        return f"`convention` takes the versions of other libraries: {versions}."
    return None
