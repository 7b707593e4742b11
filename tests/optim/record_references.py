"""`python tests/optim/record_references.py FILE`: record trajectories of reference implementations of optimizers.

Needs torch, pytorch_optimizer, torch_adopt, prodigyopt and soap.py of nikhilvyas/SOAP (the ADOPT, the Prodigy and the
SOAP of their authors), and not Piste. The tests read `references.json`.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch

STEPS = 8
RATES = [0.1, 0.08, 0.1, 0.05, 0.025, 0.01, 0.0, 0.02]
RUNS: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {
    "AdaBelief": [({}, {}), ({"lr": 0.1, "betas": (0.5, 0.75), "weight_decay": 0.3},) * 2],
    "ADOPT": [
        ({}, {}),
        ({"lr": 0.1, "betas": (0.5, 0.75), "weight_decay": 0.3},) * 2,
        (
            {"lr": 0.1, "betas": (0.5, 0.75), "weight_decay": 0.3, "decoupled_weight_decay": True, "clip": False},
            {"lr": 0.1, "betas": (0.5, 0.75), "weight_decay": 0.3, "decouple": True, "clip_lambda": None},
        ),
    ],
    "Adan": [
        ({}, {}),
        (
            {"lr": 0.1, "betas": (0.5, 0.75, 0.6), "weight_decay": 0.3},
            {"lr": 0.1, "betas": (0.5, 0.75, 0.6), "weight_decay": 0.3, "weight_decouple": True},
        ),
    ],
    "LAMB": [
        (
            {"eps": 0.0, "bias_correction": False},
            {"eps": 0.0, "adam_debias": True},
        ),
        (
            {"lr": 0.1, "betas": (0.5, 0.75), "eps": 0.0, "weight_decay": 0.3, "bias_correction": False},
            {"lr": 0.1, "betas": (0.5, 0.75), "eps": 0.0, "weight_decay": 0.3, "weight_decouple": False,
             "adam_debias": True},
        ),
    ],
    "AdamW": [
        (
            {"lr": 0.1, "betas": (0.5, 0.75), "eps": 0.0, "weight_decay": 0.3, "decoupled_decay": "lr_squared"},
            {"lr": 0.1, "betas": (0.5, 0.75), "eps": 0.0, "weight_decay": 0.3, "normalized": True},
        ),
    ],
    "Lion": [
        ({"lr": 0.1, "cautious": True},) * 2,
        (
            {"lr": 0.1, "betas": (0.5, 0.75), "weight_decay": 0.3, "cautious": True, "decoupled_decay": "independent"},
            {"lr": 0.1, "betas": (0.5, 0.75), "weight_decay": 0.3, "cautious": True, "fixed_decay": True},
        ),
    ],
    "LARS": [
        ({}, {}),
        ({"lr": 0.1, "momentum": 0.5, "weight_decay": 0.3, "trust_coefficient": 0.75},) * 2,
        ({"lr": 0.1, "momentum": 0.5, "weight_decay": 0.3, "trust_coefficient": 0.75, "nesterov": True},) * 2,
    ],
    "StableAdamW": [({}, {}), ({"lr": 0.1, "betas": (0.5, 0.75), "weight_decay": 0.3},) * 2],
    "Prodigy": [
        ({}, {}),
        ({"d0": 0.01, "weight_decay": 0.3},) * 2,
        (
            {"d0": 0.01, "weight_decay": 0.3, "decoupled_weight_decay": False, "d_coef": 2.0, "beta3": 0.75},
            {"d0": 0.01, "weight_decay": 0.3, "decouple": False, "d_coef": 2.0, "beta3": 0.75},
        ),
        ({"d0": 0.01, "lr": 0.5, "betas": (0.5, 0.75), "eps": 0.125, "use_bias_correction": True},) * 2,
        (
            {"d0": 0.01, "lr": 0.5, "betas": (0.5, 0.75), "safeguard_warmup": True, "growth_rate": 1.25, "d_coef": 4.0},
        ) * 2,
        ({"d0": 0.01, "lr": 0.5, "beta3": 0.0, "d_coef": 2.0, "growth_rate": 9.0, "safeguard_warmup": True},) * 2,
    ],
    "SOAP": [  # The authors decay the weights after the step. A small eps would magnify the rounding of zeros.
        ({"eps": 0.01, "weight_decay": 0.0},) * 2,
        ({"lr": 0.1, "betas": (0.5, 0.75), "eps": 0.125, "weight_decay": 0.0, "precondition_frequency": 2},) * 2,
        (
            {"lr": 0.1, "shampoo_beta": 0.5, "eps": 0.01, "weight_decay": 0.0, "precondition_frequency": 3,
             "max_precond_dim": 2, "normalize_grads": True},
        ) * 2,
        ({"lr": 0.1, "eps": 0.01, "weight_decay": 0.0, "correct_bias": False},) * 2,
    ],
    "ScheduleFreeSGD": [
        ({}, {}),
        ({"lr": 0.1, "momentum": 0.6, "weight_decay": 0.3, "r": 1.0, "weight_lr_power": 1.0, "warmup_steps": 4},) * 2,
    ],
    "ScheduleFreeAdamW": [
        ({}, {}),
        ({"lr": 0.1, "betas": (0.6, 0.75), "weight_decay": 0.3, "r": 1.0, "warmup_steps": 4},) * 2,
    ],
    "AdEMAMix": [
        ({}, {}),
        (
            {"lr": 0.1, "betas": (0.5, 0.75, 0.875), "weight_decay": 0.3, "alpha": 2.0, "warmup": 5},
            {
                "lr": 0.1, "betas": (0.5, 0.75, 0.875), "weight_decay": 0.3, "weight_decouple": True, "alpha": 2.0,
                "t_alpha_beta3": 5,
            },
        ),
    ],
    "Muon": [
        # K. Jordan's and Moonlight's. Without iterations the arithmetic is that of float64, after one rounding.
        ({"lr": 0.1, "weight_decay": 0.3, "momentum": 0.5, "ns_steps": 0},) * 2,
        (
            {"lr": 0.1, "weight_decay": 0.3, "nesterov": False, "ns_steps": 0, "adjust_lr_fn": "match_rms_adamw"},
            {"lr": 0.1, "weight_decay": 0.3, "nesterov": False, "ns_steps": 0, "use_adjusted_lr": True},
        ),
        (
            {"lr": 0.1, "weight_decay": 0.0, "adjust_lr_fn": "match_rms_adamw"},
            {"lr": 0.1, "weight_decay": 0.0, "use_adjusted_lr": True},
        ),
    ],
    "NorMuon": [
        ({}, {}),
        ({"lr": 0.1, "weight_decay": 0.3, "momentum": 0.5, "beta2": 0.75, "ns_steps": 0},) * 2,
        (
            {"lr": 0.1, "beta2": 0.5, "nesterov": False, "ns_steps": 0, "adjust_lr_fn": "match_rms_adamw"},
            {"lr": 0.1, "beta2": 0.5, "nesterov": False, "ns_steps": 0, "update_scale": "match_rms"},
        ),
    ],
}  # fmt: skip
"""By optimizer: options of Piste, and those of the reference that mean the same."""


NAMES = {"LAMB": "Lamb", "AdamW": "AdamC"}
"""The name of an optimizer in pytorch_optimizer, where it has another one."""
OF_MATRICES = ("Muon", "NorMuon")
"""Optimizers that record a parameter of 3 x 2; its group says use_muon in pytorch_optimizer."""


def gradient(step: int) -> torch.Tensor:
    """Return the gradient of a step, which depends on nothing else."""
    g = torch.linspace(-1.5, 2.0, 6, dtype=torch.float64) * (1 + 0.25 * step) - 0.3 * (step % 3)
    return g.reshape(2, 3)


def trajectory(
    make: Any, options: dict[str, Any], rates: list[float] | None = None, shape: tuple[int, int] = (2, 3)
) -> list[list[float]]:
    """Return the parameter of a shape after each step, with the learning rate of each step."""
    p = torch.linspace(-1.0, 1.0, 6, dtype=torch.float64).reshape(shape).requires_grad_()
    optimizer = make([p], **options)
    found = []
    for step in range(STEPS):
        p.grad = gradient(step).reshape(shape)
        if rates is not None:
            optimizer.param_groups[0]["lr"] = rates[step]
        optimizer.step()
        found.append(p.flatten().tolist())
    return found


def rates_of(options: dict[str, Any]) -> list[float] | None:
    """Return the learning rates of a run: several where the weight decay depends on the largest one."""
    return RATES if options.get("decoupled_decay") == "lr_squared" else None


def shape_of(name: str) -> tuple[int, int]:
    """Return the shape of the parameter that an optimizer steps."""
    return (3, 2) if name in OF_MATRICES else (2, 3)


if __name__ == "__main__":
    from importlib.metadata import version

    import adopt
    import prodigyopt
    import pytorch_optimizer
    import soap

    MODULES = {"ADOPT": adopt, "Prodigy": prodigyopt, "SOAP": soap}

    def reference(name: str) -> Any:
        cls = getattr(MODULES.get(name, pytorch_optimizer), NAMES.get(name, name))
        if name in OF_MATRICES:
            return lambda params, **options: cls([{"params": params, "use_muon": True, **options}])
        return cls

    torch.set_default_dtype(torch.float64)
    runs = [
        {
            "optimizer": name,
            "options": ours,
            "rates": rates_of(ours),
            "trajectory": trajectory(reference(name), theirs, rates_of(ours), shape_of(name)),
        }
        for name, pairs in RUNS.items()
        for ours, theirs in pairs
    ]
    versions = {package: version(package) for package in ("torch", "pytorch_optimizer", "torch_adopt", "prodigyopt")}
    versions["SOAP"] = "commit a1e5535"
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        json.dump({"versions": versions, "runs": runs}, file, indent=1)
