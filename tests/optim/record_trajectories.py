"""Record the steps of other libraries, to which the conventions are compared.

Run in an environment with keras, jax, optax, torch, timm, transformers and pytorch_optimizer:
`KERAS_BACKEND=jax python tests/optim/record_trajectories.py`. It writes trajectories/keras.json and a file for each
other library, with the versions. Everything is float64.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import keras
import optax

jax.config.update("jax_enable_x64", True)
keras.config.set_floatx("float64")
HERE = Path(__file__).parent / "trajectories"
START = [1.0, -2.0, 0.5, 3.0]
MATRIX = [[1.0, -2.0, 0.5], [3.0, 0.25, -1.0]]
"""The parameter of an optimizer that reduces over rows and columns."""
STEPS, FALL, LR = 8, 4, 0.1
"""The learning rate falls to a tenth after FALL steps, where it falls."""

KERAS = [
    ("SGD", {}),
    ("SGD", {"momentum": 0.9}),
    ("SGD", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    ("RMSprop", {}),
    ("RMSprop", {"rho": 0.95, "epsilon": 1e-3, "momentum": 0.9}),
    ("RMSprop", {"centered": True, "momentum": 0.5, "weight_decay": 0.1}),
    ("Adagrad", {}),
    ("Adagrad", {"initial_accumulator_value": 0.0, "epsilon": 1e-6, "weight_decay": 0.1}),
    ("Adadelta", {}),
    ("Adadelta", {"rho": 0.9, "epsilon": 1e-6, "weight_decay": 0.1}),
    ("Adam", {}),
    ("Adam", {"beta_1": 0.8, "beta_2": 0.99, "epsilon": 1e-3, "weight_decay": 0.1}),
    ("Adam", {"amsgrad": True}),
    ("AdamW", {}),
    ("Adamax", {}),
    ("Adamax", {"beta_1": 0.8, "epsilon": 1e-3, "weight_decay": 0.1}),
    ("NAdam", {}),
    ("NAdam", {"beta_1": 0.8, "epsilon": 1e-3, "weight_decay": 0.1}),
    ("Lion", {}),
    ("Lion", {"beta_1": 0.8, "beta_2": 0.95, "weight_decay": 0.1}),
    ("LAMB", {}),
    ("LAMB", {"beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-3, "weight_decay": 0.1}),
    ("Adafactor", {}),
    ("Adafactor", {"beta_2_decay": -0.5, "epsilon_1": 1e-2, "epsilon_2": 2.0, "clip_threshold": 1.25}),
    ("Adafactor", {"weight_decay": 0.1}),
]
OPTAX = [
    ("SGD", "sgd", {}),
    ("SGD", "sgd", {"momentum": 0.9}),
    ("SGD", "sgd", {"momentum": 0.9, "nesterov": True}),
    ("RMSprop", "rmsprop", {}),
    ("RMSprop", "rmsprop", {"decay": 0.95, "eps": 1e-3, "momentum": 0.9}),
    ("RMSprop", "rmsprop", {"centered": True}),
    ("Adagrad", "adagrad", {}),
    ("Adagrad", "adagrad", {"initial_accumulator_value": 0.0}),
    ("Adadelta", "adadelta", {}),
    ("Adadelta", "adadelta", {"rho": 0.95, "weight_decay": 0.1}),
    ("Adam", "adam", {}),
    ("Adam", "adam", {"b1": 0.8, "b2": 0.99, "eps": 1e-3}),
    ("Adam", "amsgrad", {}),
    ("AdamW", "adamw", {}),
    ("Adamax", "adamax", {}),
    ("Adamax", "adamax", {"b1": 0.8, "eps": 1e-3}),
    ("NAdam", "nadam", {}),
    ("NAdam", "nadam", {"b1": 0.8, "eps": 1e-3}),
    ("Lion", "lion", {}),
    ("Lion", "lion", {"b1": 0.8, "b2": 0.95, "weight_decay": 0.1}),
    ("LAMB", "lamb", {}),
    ("LAMB", "lamb", {"b1": 0.8, "b2": 0.95, "eps": 1e-3, "weight_decay": 0.1}),
    ("LARS", "lars", {"trust_coefficient": 0.5}),
    ("LARS", "lars", {"momentum": 0.0, "weight_decay": 0.1}),
    ("LARS", "lars", {"momentum": 0.5, "nesterov": True, "weight_decay": 0.1, "trust_coefficient": 0.5}),
    ("RAdam", "radam", {}),
    ("RAdam", "radam", {"b1": 0.8, "b2": 0.95, "eps": 1e-3}),
    ("AdaBelief", "adabelief", {}),
    ("AdaBelief", "adabelief", {"b1": 0.8, "b2": 0.95, "eps": 1e-3}),
    ("Adan", "adan", {}),
    ("Adan", "adan", {"b1": 0.9, "b2": 0.8, "b3": 0.95, "eps": 1e-3, "weight_decay": 0.1}),
    ("Rprop", "rprop", {}),
    ("Rprop", "rprop", {"eta_minus": 0.25, "eta_plus": 1.5, "min_step_size": 0.05, "max_step_size": 0.2}),
    ("Adafactor", "adafactor", {}),
    ("Adafactor", "adafactor", {"min_dim_size_to_factor": 2, "decay_rate": 0.5, "eps": 1e-2}),
    ("Adafactor", "adafactor", {"min_dim_size_to_factor": 2, "weight_decay_rate": 0.1, "clipping_threshold": 1.25}),
    (
        "Adafactor",
        "adafactor",
        {"momentum": 0.75, "clipping_threshold": None, "multiply_by_parameter_scale": False, "weight_decay_rate": 0.1},
    ),
    (
        "Adafactor",
        "big_vision",
        {"momentum": 0.75, "clipping_threshold": None, "multiply_by_parameter_scale": False}
        | {"beta2_cap": 0.6, "min_dim_size_to_factor": 2},
    ),
]
TIMM = [
    ("LAMB", {}),
    ("LAMB", {"max_grad_norm": None, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1}),
    ("LAMB", {"max_grad_norm": None, "weight_decay": 0.1, "trust_clip": True, "bias_correction": False}),
    ("LAMB", {"max_grad_norm": None, "weight_decay": 0.0}),
    ("LAMB", {"max_grad_norm": None, "weight_decay": 0.0, "always_adapt": True}),
]
PYTORCH_OPTIMIZER = [
    ("LAMB", {}),
    ("LAMB", {"betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1}),
]
RELATIVE = [
    ("Adafactor", {}),
    ("Adafactor", {"warmup_init": True, "decay_rate": -0.5, "eps": (1e-2, 2.0), "clip_threshold": 1.25}),
    ("Adafactor", {"beta1": 0.75, "weight_decay": 0.1}),
]
"""Runs of transformers, without a learning rate."""
TRANSFORMERS = [
    ("Adafactor", {"relative_step": False}),
    ("Adafactor", {"relative_step": False, "scale_parameter": False, "weight_decay": 0.1}),
    ("Adafactor", {"relative_step": False, "beta1": 0.75, "weight_decay": 0.1, "eps": (1e-2, 2.0)}),
]
TITLES = {"NAdam": "Nadam", "LAMB": "Lamb"}
"""The names of other libraries that differ."""


def gradients(scale: float, start: list) -> list[list]:
    """Return the gradients of every step; the last element has a gradient of 0 at first."""
    count, is_matrix = jnp.size(jnp.array(start)), isinstance(start[0], list)
    steps = [[scale * math.cos(1.7 * i + 0.9 * t) for i in range(count)] for t in range(STEPS)]
    steps[0][-1] = 0.0
    return [[g[i : i + len(start[0])] for i in range(0, count, len(start[0]))] if is_matrix else g for g in steps]


def run_keras(name: str, options: dict, lr: float, falls: bool, scale: float, start: list) -> list:
    optimizer = getattr(keras.optimizers, TITLES.get(name, name))(learning_rate=lr, **options)
    p = keras.Variable(jnp.array(start), dtype="float64")
    optimizer.build([p])
    path = []
    for t, g in enumerate(gradients(scale, start)):
        optimizer.learning_rate = lr / 10 if falls and t >= FALL else lr
        optimizer.apply([jnp.array(g)], [p])
        path.append(p.value.tolist())
    return path


def big_vision(lr: Any, momentum: float, beta2_cap: float, min_dim_size_to_factor: int, **fixed: Any) -> Any:
    """Return the Adafactor of big_vision, which composes it of the same transformations of optax."""
    assert fixed == {"clipping_threshold": None, "multiply_by_parameter_scale": False}
    return optax.chain(
        optax.scale_by_factored_rms(
            min_dim_size_to_factor=min_dim_size_to_factor,
            decay_rate_fn=lambda i, power: jnp.minimum(beta2_cap, 1 - (jnp.array(i, jnp.float32) + 1) ** -power),
        ),
        optax.ema(momentum, debias=False),
        optax.scale_by_learning_rate(lr),
    )


def run_torch(make: Any, name: str, options: dict, lr: float | None, falls: bool, scale: float, start: list) -> list:
    import torch

    p = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    optimizer = make(name)([p], **options, **({} if lr is None else {"lr": lr}))
    path = []
    for t, g in enumerate(gradients(scale, start)):
        if lr is not None:
            optimizer.param_groups[0]["lr"] = lr / 10 if falls and t >= FALL else lr
        p.grad = torch.tensor(g, dtype=torch.float64)
        optimizer.step()
        path.append(p.tolist())
    return path


def run_optax(name: str, options: dict, lr: float, falls: bool, scale: float, start: list) -> list:
    # Rprop takes a number, the first step.
    schedule = (lambda t: jnp.where(t >= FALL, lr / 10, lr)) if falls and name != "rprop" else lr
    optimizer = big_vision(schedule, **options) if name == "big_vision" else getattr(optax, name)(schedule, **options)
    p = jnp.array(start)
    state = optimizer.init(p)
    path = []
    for g in gradients(scale, start):
        change, state = optimizer.update(jnp.array(g), state, p)
        p = optax.apply_updates(p, change)
        path.append(p.tolist())
    return path


def recorded_runs(cases: list, run: Callable[..., list], lr: float | None = LR) -> list[dict]:
    """Return the runs of a library: every case at a constant and a falling rate, with large and small gradients."""
    return [
        {"name": name, "options": options | ({"amsgrad": True} if called == "amsgrad" else {}), "lr": lr}
        | {
            "falls": falls,
            "scale": scale,
            **({} if start is START else {"start": start}),
            "gradients": gradients(scale, start),
            "path": run(called, options, lr, falls, scale, start),
        }
        for name, called, options in cases
        for start in ((START, MATRIX) if name == "Adafactor" else (START,))
        for falls in ((False,) if lr is None or called == "big_vision" else (False, True))
        for scale in (1.0, 1e-6)
    ]


def keras_runs() -> list[dict]:
    """Return the runs of the Keras that is installed."""
    return recorded_runs([(name, name, options) for name, options in KERAS], run_keras)


def optax_runs() -> list[dict]:
    """Return the runs of the optax that is installed."""
    return recorded_runs(OPTAX, run_optax)


def torch_runs(library: str, cases: list, lr: float | None = LR) -> list[dict]:
    """Return the runs of a library for torch that is installed."""
    module = import_module({"timm": "timm.optim", "transformers": "transformers.optimization"}.get(library, library))
    run = partial(run_torch, lambda name: getattr(module, TITLES.get(name, name)))
    return recorded_runs([(name, name, options) for name, options in cases], run, lr)


RUNS: dict[str, Callable[[], list[dict]]] = {
    "keras": keras_runs,
    "optax": optax_runs,
    "timm": lambda: torch_runs("timm", TIMM),
    "transformers": lambda: torch_runs("transformers", TRANSFORMERS) + torch_runs("transformers", RELATIVE, None),
    "pytorch_optimizer": lambda: torch_runs("pytorch_optimizer", PYTORCH_OPTIMIZER),
}
"""The runs of each library that is installed."""


def record(framework: str, runs: list[dict]) -> None:
    packages = (framework, "jax" if framework in ("keras", "optax") else "torch")
    versions = {package: version(package) for package in packages}
    text = ",\n".join(map(json.dumps, runs))
    (HERE / f"{framework}.json").write_text(
        f'{{"versions": {json.dumps(versions)}, "start": {START}, "fall": {FALL}, "runs": [\n{text}\n]}}\n'
    )


if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    for library, runs in RUNS.items():
        record(library, runs())
