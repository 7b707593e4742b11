"""Record the steps of Keras and optax, to which the conventions are compared.

Run in an environment with keras, jax and optax: `KERAS_BACKEND=jax python tests/optim/record_trajectories.py`. It
writes trajectories/keras.json and trajectories/optax.json, with the versions. Everything is float64.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import keras
import optax

jax.config.update("jax_enable_x64", True)
keras.config.set_floatx("float64")
HERE = Path(__file__).parent / "trajectories"
START = [1.0, -2.0, 0.5, 3.0]
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
]
TITLES = {"NAdam": "Nadam", "LAMB": "Lamb"}
"""The names of Keras that differ."""


def gradients(scale: float) -> list[list[float]]:
    """Return the gradients of every step; the last parameter has a gradient of 0 at first."""
    steps = [[scale * math.cos(1.7 * i + 0.9 * t) for i in range(len(START))] for t in range(STEPS)]
    steps[0][-1] = 0.0
    return steps


def run_keras(name: str, options: dict, lr: float, falls: bool, scale: float) -> list[list[float]]:
    optimizer = getattr(keras.optimizers, TITLES.get(name, name))(learning_rate=lr, **options)
    p = keras.Variable(jnp.array(START), dtype="float64")
    optimizer.build([p])
    path = []
    for t, g in enumerate(gradients(scale)):
        optimizer.learning_rate = lr / 10 if falls and t >= FALL else lr
        optimizer.apply([jnp.array(g)], [p])
        path.append([float(x) for x in p.value])
    return path


def run_optax(name: str, options: dict, lr: float, falls: bool, scale: float) -> list[list[float]]:
    # Rprop takes a number, the first step.
    schedule = (lambda t: jnp.where(t >= FALL, lr / 10, lr)) if falls and name != "rprop" else lr
    optimizer = getattr(optax, name)(schedule, **options)
    p = jnp.array(START)
    state = optimizer.init(p)
    path = []
    for g in gradients(scale):
        change, state = optimizer.update(jnp.array(g), state, p)
        p = optax.apply_updates(p, change)
        path.append([float(x) for x in p])
    return path


def recorded_runs(cases: list, run) -> list[dict]:
    """Return the runs of a framework: every case at a constant and a falling rate, with large and small gradients."""
    return [
        {"name": name, "options": options | ({"amsgrad": True} if called == "amsgrad" else {}), "lr": lr}
        | {
            "falls": falls,
            "scale": scale,
            "gradients": gradients(scale),
            "path": run(called, options, lr, falls, scale),
        }
        for name, called, options in cases
        for lr in (0.1,)
        for falls in (False, True)
        for scale in (1.0, 1e-6)
    ]


def keras_runs() -> list[dict]:
    """Return the runs of the Keras that is installed."""
    return recorded_runs([(name, name, options) for name, options in KERAS], run_keras)


def optax_runs() -> list[dict]:
    """Return the runs of the optax that is installed."""
    return recorded_runs(OPTAX, run_optax)


def record(framework: str, version: str, runs: list[dict]) -> None:
    versions = {framework: version, "jax": jax.__version__}
    text = ",\n".join(map(json.dumps, runs))
    (HERE / f"{framework}.json").write_text(
        f'{{"versions": {json.dumps(versions)}, "start": {START}, "fall": {FALL}, "runs": [\n{text}\n]}}\n'
    )


if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    record("keras", keras.__version__, keras_runs())
    record("optax", optax.__version__, optax_runs())
