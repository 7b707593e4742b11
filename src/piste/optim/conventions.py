"""The conventions of each optimizer: the defaults, formulas and argument names that other libraries have for it.

Where `update` is None, the rule of the optimizer holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .convention import Convention
from .convention_formulas import (
    keras_adafactor,
    keras_adagrad,
    keras_adam,
    keras_adamax,
    keras_lamb,
    keras_sgd,
    optax_adabelief,
    optax_adafactor,
    optax_adagrad,
    optax_adam,
    optax_adan,
    optax_lars,
    optax_nadam,
    optax_radam,
    optax_rprop,
    pytorch_optimizer_lamb,
    rms,
    transformers_adafactor,
)

__all__ = ["CONVENTIONS"]

_KERAS_RATE = {"learning_rate": "lr", "global_clipnorm": "max_norm", "clipvalue": "max_value"}
_KERAS = {**_KERAS_RATE, "epsilon": "eps"}
_KERAS_BETAS = {**_KERAS, "beta_1": "betas[0]", "beta_2": "betas[1]"}
_KERAS_ONLY = {
    "clipnorm": None, "use_ema": False, "ema_momentum": 0.99, "ema_overwrite_frequency": None,
    "loss_scale_factor": None, "gradient_accumulation_steps": None,
}  # fmt: skip
_OPTAX_ONLY = {"eps_root": 0.0, "mu_dtype": None, "nesterov": False}
_OPTAX = {"learning_rate": "lr"}
_OPTAX_BETAS = {**_OPTAX, "b1": "betas[0]", "b2": "betas[1]"}
_LAMB_FLAGS = ("bias_correction", "trust_clip", "always_adapt")


def _keras(
    defaults: Mapping[str, Any], names: Mapping[str, str], update: Callable[..., Any] | None = None,
    fixed: Mapping[str, Any] | None = None, **others: Any,
) -> Convention:  # fmt: skip
    """Return a convention of Keras, with the arguments that all of its optimizers have."""
    none = {"weight_decay": 0.0}
    return Convention(defaults, names, update, none=none, fixed={**_KERAS_ONLY, **(fixed or {})}, **others)


CONVENTIONS: dict[str, dict[str, Convention]] = {
    "SGD": {
        "keras": _keras({"lr": 0.01}, _KERAS_RATE, keras_sgd, has_rate=True, decoupled=True, absent=("dampening",)),
        "optax": Convention(
            {"lr": None},
            _OPTAX,
            absent=("dampening", "weight_decay"),
            none={"momentum": 0.0},
            fixed={"accumulator_dtype": None},
        ),
    },
    "RMSprop": {
        "keras": _keras(
            {"lr": 0.001, "alpha": 0.9, "eps": 1e-7},
            {**_KERAS, "rho": "alpha"},
            rms,
            has_rate=True,
            decoupled=True,
        ),
        "optax": Convention(
            {"lr": None, "alpha": 0.9, "eps": 1e-8},
            {**_OPTAX, "decay": "alpha"},
            rms,
            has_rate=True,
            absent=("weight_decay",),
            none={"momentum": 0.0},
            fixed={"initial_scale": 0.0, "eps_in_sqrt": True, "nesterov": False, "bias_correction": False},
        ),
    },
    "Adagrad": {
        "keras": _keras(
            {"lr": 0.001, "initial_accumulator_value": 0.1, "eps": 1e-7},
            _KERAS,
            keras_adagrad,
            decoupled=True,
            absent=("lr_decay",),
        ),
        "optax": Convention(
            {"lr": None, "initial_accumulator_value": 0.1, "eps": 1e-7},
            _OPTAX,
            optax_adagrad,
            absent=("lr_decay", "weight_decay"),
        ),
    },
    "Adadelta": {
        "keras": _keras({"lr": 0.001, "rho": 0.95, "eps": 1e-7}, _KERAS, decoupled=True),
        "optax": Convention({"lr": None}, _OPTAX, fixed={"weight_decay_mask": None}),
    },
    "Adam": {
        "keras": _keras({"eps": 1e-7}, _KERAS_BETAS, keras_adam, decoupled=True, absent=("decoupled_weight_decay",)),
        "optax": Convention(
            {"lr": None},
            _OPTAX_BETAS,
            optax_adam,
            absent=("weight_decay", "decoupled_weight_decay"),
            fixed=_OPTAX_ONLY,
        ),
    },
    "AdamW": {
        "keras": _keras({"eps": 1e-7, "weight_decay": 0.004}, _KERAS_BETAS, keras_adam, decoupled=True),
        "optax": Convention(
            {"lr": None, "weight_decay": 1e-4}, _OPTAX_BETAS, decoupled=True, absent=("amsgrad",), fixed=_OPTAX_ONLY
        ),
    },
    "Adamax": {
        "keras": _keras({"lr": 0.001, "eps": 1e-7}, _KERAS_BETAS, keras_adamax, decoupled=True),
        "optax": Convention({"lr": None}, _OPTAX_BETAS, absent=("weight_decay",)),
    },
    "NAdam": {
        # The momentum of Keras rises as PyTorch's does with momentum_decay=1.
        "keras": _keras(
            {"lr": 0.001, "eps": 1e-7, "momentum_decay": 1.0},
            _KERAS_BETAS,
            decoupled=True,
            absent=("decoupled_weight_decay",),
        ),
        "optax": Convention(
            {"lr": None},
            _OPTAX_BETAS,
            optax_nadam,
            absent=("weight_decay", "decoupled_weight_decay", "momentum_decay"),
            fixed={**_OPTAX_ONLY, "nesterov": True},
        ),
    },
    "LAMB": {
        "keras": _keras({"eps": 1e-7}, _KERAS_BETAS, keras_lamb, decoupled=True, absent=_LAMB_FLAGS),
        "optax": Convention({"lr": None}, _OPTAX_BETAS, absent=_LAMB_FLAGS, fixed={"eps_root": 0.0}),
        "timm": Convention(
            {"weight_decay": 0.01, "max_norm": 1.0, "always_adapt": False},
            {"max_grad_norm": "max_norm"},
            fixed={"grad_averaging": True, "caution": False, "corrected_weight_decay": False},
        ),
        "pytorch_optimizer": Convention(
            {},
            {},
            pytorch_optimizer_lamb,
            decoupled=True,
            absent=_LAMB_FLAGS,
            fixed={
                "weight_decouple": True,
                "fixed_decay": False,
                "rectify": False,
                "grad_averaging": True,
                "adam": False,
                "pre_norm": False,
                "adam_debias": False,
            },
        ),
    },
    "LARS": {
        "optax": Convention(
            {"lr": None},
            _OPTAX,
            optax_lars,
            has_rate=True,
            absent=("adapt",),
            fixed={"eps": 0.0, "weight_decay_mask": True, "trust_ratio_mask": True},
        )
    },
    "RAdam": {
        "optax": Convention(
            {"lr": None},
            _OPTAX_BETAS,
            optax_radam,
            absent=("weight_decay", "decoupled_weight_decay"),
            fixed={"eps_root": 0.0, "threshold": 5.0, "nesterov": False},
        )
    },
    "AdaBelief": {
        "optax": Convention(
            {"lr": None},
            _OPTAX_BETAS,
            optax_adabelief,
            absent=("weight_decay",),
            fixed={"eps_root": 1e-16, "nesterov": False},
        )
    },
    "Adan": {
        "optax": Convention({"lr": None}, {**_OPTAX_BETAS, "b3": "betas[2]"}, optax_adan, fixed={"eps_root": 1e-8})
    },
    "Rprop": {
        "optax": Convention(
            {"lr": None},
            {
                **_OPTAX,
                "eta_minus": "etas[0]",
                "eta_plus": "etas[1]",
                "min_step_size": "step_sizes[0]",
                "max_step_size": "step_sizes[1]",
            },
            optax_rprop,
        )
    },
    "Lion": {
        "keras": _keras({"lr": 0.001}, {k: v for k, v in _KERAS_BETAS.items() if k != "epsilon"}),
        "optax": Convention({"lr": None, "weight_decay": 1e-3}, _OPTAX_BETAS, fixed={"mu_dtype": None}),
    },
    "Adafactor": {
        "keras": _keras(
            {"lr": 0.001, "eps": (1e-30, 1e-3)},
            {
                **_KERAS,
                "beta_2_decay": "beta2_decay",
                "epsilon_1": "eps[0]",
                "epsilon_2": "eps[1]",
                "clip_threshold": "d",
            },
            keras_adafactor,
            decoupled=True,
            absent=("beta1", "beta2_cap", "scale_parameter", "relative_step", "warmup_init", "min_dim_size_to_factor"),
            fixed={"relative_step": True},
        ),
        "optax": Convention(
            {"lr": None, "eps": (1e-30, 1e-3), "relative_step": False, "min_dim_size_to_factor": 128},
            {
                **_OPTAX,
                "decay_rate": "-beta2_decay",
                "eps": "eps[0]",
                "clipping_threshold": "d",
                "momentum": "beta1",
                "multiply_by_parameter_scale": "scale_parameter",
                "weight_decay_rate": "weight_decay",
            },
            optax_adafactor,
            absent=("relative_step", "warmup_init"),
            none={"beta1": 0.0, "weight_decay": 0.0},
            fixed={"factored": True, "decay_offset": 0, "weight_decay_mask": None, "dtype_momentum": "float32"},
        ),
        "transformers": Convention(
            {"eps": (1e-30, 1e-3)},
            {"clip_threshold": "d", "decay_rate": "beta2_decay"},
            transformers_adafactor,
            none={"lr": 1e-2, "beta1": 0.0},
        ),
    },
}
"""The conventions of each optimizer, by the name of its class."""
