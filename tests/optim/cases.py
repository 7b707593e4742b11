"""The options of the tests of each optimizer: each on, off, and combined with related ones."""

from __future__ import annotations

from typing import Any

import torch

from piste.optim import OPTIMIZERS

ELEMENTWISE = {name: cls for name, cls in OPTIMIZERS.items() if cls.elementwise}
"""The optimizers whose step is a formula of one element, by name."""

DECAYS: list[dict[str, Any]] = [
    {},
    {"weight_decay": 0.3},
    {"maximize": True},
    {"weight_decay": 0.3, "maximize": True},
]

MOMENTS: list[dict[str, Any]] = [
    *DECAYS,
    {"lr": 0.25, "betas": (0.5, 0.75), "eps": 0.125, "weight_decay": 0.3},
    {"lr": 0.25, "betas": (0.0, 0.0), "eps": 0.125},
]

DECOUPLED: list[dict[str, Any]] = [
    {"lr": 0.25, "weight_decay": 0.3, "decoupled_weight_decay": True},
    {"lr": 0.25, "weight_decay": 0.3, "decoupled_weight_decay": True, "maximize": True},
]

OPTIONS: dict[str, list[dict[str, Any]]] = {
    "SGD": [
        *DECAYS,
        {"lr": 0.25, "momentum": 0.9},
        {"lr": 0.25, "momentum": 0.9, "dampening": 0.3},
        {"lr": 0.25, "momentum": 0.9, "nesterov": True},
        {"lr": 0.25, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.3, "maximize": True},
        {"lr": 0.25, "momentum": 0.9, "nesterov": True, "weight_decay": 0.3, "maximize": True},
    ],
    "RMSprop": [
        *DECAYS,
        {"lr": 0.25, "alpha": 0.75, "eps": 0.125},
        {"lr": 0.25, "alpha": 0.75, "eps": 0.125, "centered": True},
        {"lr": 0.25, "alpha": 0.75, "eps": 0.125, "momentum": 0.9},
        {"lr": 0.25, "alpha": 0.75, "centered": True, "momentum": 0.9, "weight_decay": 0.3, "maximize": True},
    ],
    "Adagrad": [
        *DECAYS,
        {"lr": 0.25, "lr_decay": 0.5},
        {"lr": 0.25, "initial_accumulator_value": 0.7, "eps": 0.125},
        {
            "lr": 0.25,
            "lr_decay": 0.5,
            "initial_accumulator_value": 0.7,
            "weight_decay": 0.3,
            "maximize": True,
        },
    ],
    "Adadelta": [
        *DECAYS,
        {"lr": 0.25, "rho": 0.75, "eps": 0.125, "weight_decay": 0.3},
        {"rho": 0.0},
    ],
    "Adam": [
        *MOMENTS,
        {"amsgrad": True},
        {
            "lr": 0.25,
            "betas": (0.5, 0.25),
            "eps": 0.125,
            "amsgrad": True,
            "weight_decay": 0.3,
            "maximize": True,
        },
        *DECOUPLED,
    ],
    "AdamW": [
        *MOMENTS,
        {"weight_decay": 0},
        {
            "lr": 0.25,
            "betas": (0.5, 0.25),
            "eps": 0.125,
            "amsgrad": True,
            "weight_decay": 0.3,
            "maximize": True,
        },
    ],
    "Adamax": MOMENTS,
    "NAdam": [
        *MOMENTS,
        {"momentum_decay": 0},
        {"lr": 0.25, "momentum_decay": 0.5, "eps": 0.125},
        *DECOUPLED,
    ],
    "RAdam": [
        *MOMENTS,
        {"lr": 0.25, "betas": (0.9, 0.9), "eps": 0.125},
        {"lr": 0.25, "betas": (0.5, 0.6)},  # the longest average is 4 steps, where the rectification has a pole
        *DECOUPLED,
    ],
    "ASGD": [
        *DECAYS,
        {"lr": 0.25, "lambd": 0.5},
        {"lr": 0.25, "lambd": 0.5, "alpha": 0.25, "t0": 2, "weight_decay": 0.3, "maximize": True},
        {"lr": 0.25, "lambd": 0, "t0": 0},
    ],
    "Rprop": [
        {},
        {"maximize": True},
        {"lr": 0.25, "etas": (0.25, 3.0)},
        {"lr": 0.25, "step_sizes": (0.2, 0.3)},
        {"lr": 0.25, "step_sizes": (0.5, 50)},
    ],
    "Lion": [
        *DECAYS,
        {"lr": 0.25, "betas": (0.5, 0.75), "weight_decay": 0.3},
        {"lr": 0.25, "betas": (0.2, 0.5)},
        {"lr": 0.25, "betas": (0.0, 0.0)},
    ],
    "AdaBelief": MOMENTS,
    "ADOPT": [
        *MOMENTS,
        {"lr": 0.25, "betas": (0.5, 0.75), "eps": 0.125, "clip": False},
        *DECOUPLED,
    ],
    "LAMB": [
        *MOMENTS,
        {"bias_correction": False},
        {"lr": 0.25, "betas": (0.5, 0.75), "eps": 0.125, "weight_decay": 0.3, "bias_correction": False},
        {"lr": 0.25, "betas": (0.5, 0.75), "weight_decay": 0.3, "trust_clip": True, "always_adapt": False},
        {"lr": 0.25, "betas": (0.5, 0.75), "trust_clip": True},
        {"lr": 0.25, "betas": (0.5, 0.75), "always_adapt": False},
    ],
    "LARS": [
        *DECAYS,
        {"momentum": 0.0},
        {"lr": 0.25, "momentum": 0.5, "trust_coefficient": 0.75, "weight_decay": 0.3},
        {"lr": 0.25, "momentum": 0.5, "trust_coefficient": 0.75, "weight_decay": 0.3, "nesterov": True},
        {"lr": 0.25, "momentum": 0.5, "trust_coefficient": 0.75, "weight_decay": 0.3, "adapt": False},
    ],
    "StableAdamW": MOMENTS,
    "Adan": [
        *DECAYS,
        {"lr": 0.25, "betas": (0.5, 0.75, 0.6), "eps": 0.125, "weight_decay": 0.3},
        {"lr": 0.25, "betas": (0.0, 0.0, 0.0), "eps": 0.125},
    ],
    "ScheduleFreeSGD": [
        *DECAYS,
        {"lr": 0.25, "momentum": 0.5, "weight_decay": 0.3, "r": 2.0, "weight_lr_power": 1.0, "warmup_steps": 3},
    ],
    "ScheduleFreeAdamW": [
        *DECAYS,
        {"lr": 0.25, "betas": (0.5, 0.75), "eps": 0.125, "weight_decay": 0.3, "r": 2.0, "weight_lr_power": 1.0},
        {"lr": 0.25, "betas": (0.5, 0.75), "eps": 0.125, "warmup_steps": 3},
    ],
    "AdEMAMix": [
        *DECAYS,
        {"lr": 0.25, "betas": (0.5, 0.75, 0.875), "eps": 0.125, "weight_decay": 0.3, "alpha": 2.0},
        {"lr": 0.25, "betas": (0.5, 0.75, 0.875), "eps": 0.125, "alpha": 2.0, "warmup": 3},
        {"lr": 0.25, "betas": (0.0, 0.0, 0.0), "eps": 0.125, "alpha": 0.0},
        {"lr": 0.25, "betas": (0.0, 0.75, 0.875), "eps": 0.125, "alpha": 2.0, "warmup": 4},
        {"lr": 0.25, "betas": (0.0, 0.75, 0.0), "eps": 0.125, "alpha": 2.0, "warmup": 4},
    ],
}


def cases() -> list[tuple[str, dict[str, Any]]]:
    """Return every optimizer with each of its option sets."""
    return [(name, options) for name, many in OPTIONS.items() for options in many]


def fullest(name: str) -> dict[str, Any]:
    """Return the option set of a rule with the most options."""
    return max(OPTIONS[name], key=len)


def kernels() -> list[tuple[str, dict[str, Any], torch.dtype]]:
    """What the tests make kernels of: all in float64; in the other dtypes each rule with most options on.

    Making one takes a second or so where none is cached yet.
    """
    others = [(name, fullest(name), dtype) for name in OPTIONS for dtype in (torch.float32, *HALVES)]
    return [(name, options, torch.float64) for name, options in cases()] + others


HALVES = (torch.bfloat16, torch.float16)


def label(case: Any) -> str:
    """Return the id of a case in pytest."""
    if isinstance(case, dict):
        return ",".join(f"{k}={v}" for k, v in case.items()).replace(" ", "") or "defaults"
    return str(getattr(case, "__name__", case))
