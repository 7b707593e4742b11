"""The texts of the command line as values: names, rates, options of a search, loops, numbers and further options."""

from __future__ import annotations

import json
from typing import Any

from ..errors import InvalidValue


def read_names(text: str | None) -> list[str] | None:
    """Read names with commas between."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def read_rates(text: str | None) -> float | dict[str, float] | None:
    """Read a learning rate, or rates by name."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",") if part.strip()]
    try:
        if len(parts) == 1 and "=" not in parts[0]:
            return float(parts[0])
        return {name.strip(): float(value) for name, value in (part.split("=") for part in parts)}
    except ValueError:
        raise InvalidValue(
            f"--lr must be a number (0.01) or numbers by name (adam=0.01,sgd=0.1); received {text!r}."
        ) from None


def read_search(texts: list[str] | None) -> dict[str, list[Any]] | None:
    """Read options and their values, such as momentum=0,0.9."""
    found: dict[str, list[Any]] = {}
    for text in texts or []:
        name, _, values = text.partition("=")
        try:
            found[name.strip()] = json.loads(f"[{values}]")
        except ValueError:
            raise InvalidValue(
                f"--search must be an option and its values, such as momentum=0,0.9 or nesterov=false,true or "
                f"betas=[0.9,0.999],[0.8,0.99]; received {text!r}."
            ) from None
    return found or None


def read_loops(of_task: Any, schedules: list[str] | None, options: dict[str, Any]) -> Any:
    """Return the loops of the command line, or those of the task.

    Raises:
        InvalidValue: If the task has loops of its own.
    """
    from ..compare import Loop

    if schedules is None and not options:
        return of_task
    if of_task is not None:
        raise InvalidValue(
            f"the task has a loop, which --schedule and the other options of a loop would replace; received {of_task}. "
            f"Help: omit them, or change the task."
        )
    loops = {name: Loop(schedule=name, **options) for name in schedules or ["constant"]}
    return loops if len(loops) > 1 else next(iter(loops.values()))


def read_numbers(option: str, text: str) -> Any:
    """Read a JSON array of numbers."""
    import torch

    try:
        return torch.tensor(json.loads(text)).tolist()
    except (ValueError, TypeError, RuntimeError) as error:
        raise InvalidValue(
            f"{option} must be a JSON array of numbers, such as [[1, 1], [1, 1]]; received {text!r} ({error})."
        ) from error


def read_options(arguments: list[str]) -> dict[str, Any]:
    """Read options by flags: `--lr 0.1`, `--betas 0.9,0.99`, `--weight "[1,2]"`, and `--nesterov` for True."""
    options: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        flag = rest.pop(0)
        option, _, text = flag.partition("=")
        if not option.startswith("--"):
            raise InvalidValue(f"an option must begin with --; received {flag!r}. Help: --lr 0.1.")
        if "=" not in flag:
            text = rest.pop(0) if rest and not rest[0].startswith("--") else "true"
        options[option[2:].replace("-", "_")] = _option_value(text)
    return options


def _option_value(text: str) -> Any:
    """Read a number, numbers with commas between, true, false, none, a JSON array, or a word."""
    if text.lower() in ("true", "false", "none"):
        return {"true": True, "false": False, "none": None}[text.lower()]
    try:
        value = json.loads(text if text.startswith("[") or "," not in text else f"[{text}]")
    except ValueError:
        return text
    return tuple(value) if isinstance(value, list) and not text.startswith("[") else value
