"""The options that every optimizer shares: what they add to a step, and the same done with PyTorch.

A ratio is the other's time over Piste's: above 1, Piste is faster. PyTorch clips with `clip_grad_norm_` or
`clip_grad_value_` before the best of its steps, and finds a bad step by the norm. `clip_grad_norm_`
writes the gradients. State in 8 bits and random rounding have torchao and bitsandbytes as rivals, where these are
installed.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import importlib.util
import json
import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import piste

from . import optim
from .optim import FUSED, LR, parameters
from .timing import in_turns, listed, machine, numbers, shown

WORKLOADS = {**optim.WORKLOADS, "96 x (512,512)": lambda: [(512, 512)] * 96}  # whole blocks, as torchao needs them
CLIPPING: dict[str, dict[str, Any]] = {
    "max_norm": {"max_norm": 1.0},
    "max_value": {"max_value": 0.5},
    'nonfinite="skip"': {"nonfinite": "skip"},
    "both": {"max_norm": 1.0, "nonfinite": "skip"},
}
PRECISIONS = ("plain", "kahan", "master", "stochastic")
OTHERS = {
    "8 bits": {"torchao": "AdamW8bit", "bitsandbytes": "AdamW8bit"},
    "random rounding": {"torchao": "adam._AdamW"},
}
"""The optimizers of other libraries, by their names in the module `optim`."""
DEFAULT_WORKLOADS = {
    "clipping": ("1 x 25M", "100 x (64,64)", "2000 x 32", "ResNet-18"),
    "precision": ("1 x 25M", "100 x (64,64)", "2000 x 32", "ResNet-18"),
    "storage": ("96 x (512,512)",),
}
"""The tensors of each table, where none are given."""


def torch_steps(name: str, params: list[Tensor], option: str) -> dict[str, Callable[[], object]]:
    """The steps of torch.optim with the same done to the gradients by torch.nn.utils."""

    def done(step: Callable[[], object]) -> Callable[[], object]:
        def clipped() -> None:
            if option == "max_value":
                torch.nn.utils.clip_grad_value_(params, 0.5)
            elif option == 'nonfinite="skip"':
                norm = torch.nn.utils.get_total_norm([p.grad for p in params if p.grad is not None])
                if not math.isfinite(norm.item()):
                    return
            else:
                torch.nn.utils.clip_grad_norm_(params, 1.0)
            step()

        return clipped

    return {side: done(step) for side, step in plain_torch_steps(name, params).items()}


def plain_torch_steps(name: str, params: list[Tensor]) -> dict[str, Callable[[], object]]:
    """The foreach step of torch.optim, and the fused one where there is one."""
    make = getattr(torch.optim, name)
    found = {"foreach": make(params, lr=LR, foreach=True).step}
    if name in FUSED:
        found["fused"] = make(params, lr=LR, fused=True).step
    return found


def best_of_torch(seconds: dict[str, float]) -> float:
    """The least time of torch.optim in a row."""
    return min(seconds[side] for side in ("foreach", "fused") if side in seconds)


def clipping_rows(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Each option against the same step without it, the norm alone, and PyTorch."""
    for workload in arguments.workloads or DEFAULT_WORKLOADS["clipping"]:
        params = parameters(WORKLOADS[workload]())
        gradients = [p.grad for p in params if p.grad is not None]
        for name in arguments.optimizers:
            make = piste.optim.OPTIMIZERS[name]
            for option, options in CLIPPING.items():
                sides: dict[str, Callable[[], object]] = {
                    "piste": make(params, lr=LR, **options).step,
                    "without": make(params, lr=LR).step,
                    "norm": partial(torch.nn.utils.get_total_norm, gradients),
                    **torch_steps(name, params, option),
                }
                for threads in arguments.threads:
                    torch.set_num_threads(threads)
                    seconds = in_turns(sides, rounds=arguments.rounds, budget=arguments.budget)
                    yield {
                        "workload": workload,
                        "optimizer": name,
                        "option": option,
                        "threads": threads,
                        "seconds": seconds,
                    }


def clipping_table(found: list[dict[str, Any]]) -> Iterator[str]:
    """The lines of the table of clipping."""
    yield "| tensors | optimizer | option | threads | Piste | over no option | best of torch | ratio |"
    yield f"|{'---|' * 8}"
    for row in found:
        s = row["seconds"]
        theirs = best_of_torch(s)
        yield (
            f"| {row['workload']} | {row['optimizer']} | {row['option']} | {row['threads']} | {shown(s['piste'])} "
            f"| {s['piste'] / s['without']:.2f} | {shown(theirs)} | {theirs / s['piste']:.2f} |"
        )


def precision_rows(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A step of bfloat16 parameters in each precision, and torch's on the same."""
    for workload in arguments.workloads or DEFAULT_WORKLOADS["precision"]:
        params = [p.detach().to(torch.bfloat16).requires_grad_() for p in parameters(WORKLOADS[workload]())]
        for p in params:
            p.grad = torch.randn_like(p)
        for name in arguments.optimizers:
            make = piste.optim.OPTIMIZERS[name]
            sides: dict[str, Callable[[], object]] = {
                precision: make(params, lr=LR, precision=precision).step for precision in PRECISIONS
            }
            sides |= plain_torch_steps(name, params)
            for threads in arguments.threads:
                torch.set_num_threads(threads)
                seconds = in_turns(sides, rounds=arguments.rounds, budget=arguments.budget)
                yield {"workload": workload, "optimizer": name, "threads": threads, "seconds": seconds}


def precision_table(found: list[dict[str, Any]]) -> Iterator[str]:
    """The lines of the table of precisions."""
    yield f"| tensors | optimizer | threads | {' | '.join(PRECISIONS)} | best of torch | ratio of plain |"
    yield f"|{'---|' * (5 + len(PRECISIONS))}"
    for row in found:
        s = row["seconds"]
        times = " | ".join(shown(s[precision]) for precision in PRECISIONS)
        yield (
            f"| {row['workload']} | {row['optimizer']} | {row['threads']} | {times} "
            f"| {shown(best_of_torch(s))} | {best_of_torch(s) / s['plain']:.2f} |"
        )


def storage_rows(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """AdamW with state in 8 bits and with random rounding of bfloat16 parameters, and the same of other libraries."""
    for workload in arguments.workloads or DEFAULT_WORKLOADS["storage"]:
        for storage, rivals in OTHERS.items():
            is_narrow = storage == "random rounding"
            options = {"precision": "stochastic"} if is_narrow else {"state_dtype": "int8"}
            params = [p.detach().to(torch.bfloat16 if is_narrow else p.dtype).requires_grad_()
                      for p in parameters(WORKLOADS[workload]())]  # fmt: skip
            for p in params:
                p.grad = torch.randn_like(p)
            made = {
                "piste": piste.optim.AdamW(params, lr=LR, **options),
                "piste, plain": piste.optim.AdamW(params, lr=LR),
            }
            for library, name in rivals.items():
                if importlib.util.find_spec(library) is not None:
                    module, _, cls = f"{library}.optim.{name}".rpartition(".")
                    further = {"bf16_stochastic_round": True} if is_narrow else {}
                    made[library] = getattr(importlib.import_module(module), cls)(params, lr=LR, **further)
            elements = sum(p.numel() for p in params)
            for threads in arguments.threads:
                torch.set_num_threads(threads)
                sides = {side: optimizer.step for side, optimizer in made.items()}
                seconds = in_turns(sides, rounds=arguments.rounds, budget=arguments.budget)
                sizes = {side: _bytes(optimizer.state.values()) / elements for side, optimizer in made.items()}
                yield {
                    "workload": workload, "storage": storage, "threads": threads, "seconds": seconds, "bytes": sizes,
                }  # fmt: skip
            del made, sides
            gc.collect()


def _bytes(states: Iterable[dict[str, Any]]) -> int:
    """Return the bytes of the tensors of states, also of those that tensor subclasses wrap, each once."""

    def parts(x: Any) -> Iterator[Tensor]:
        if hasattr(x, "__tensor_flatten__"):
            for name in x.__tensor_flatten__()[0]:
                yield from parts(getattr(x, name))
        elif isinstance(x, Tensor):
            yield x

    found = {part.data_ptr(): part for state in states for value in state.values() for part in parts(value)}
    return sum(part.untyped_storage().nbytes() for part in found.values())


def storage_table(found: list[dict[str, Any]]) -> Iterator[str]:
    """The lines of the table of state in 8 bits and random rounding: time, and bytes of state per parameter."""
    names = list(dict.fromkeys(library for rivals in OTHERS.values() for library in rivals))
    yield f"| tensors | AdamW with | threads | Piste | Piste, plain | {' | '.join(f'{x} | ratio' for x in names)} |"
    yield f"|{'---|' * (5 + 2 * len(names))}"
    for row in found:
        s, size = row["seconds"], row["bytes"]
        cells = [f"{shown(s[side])}, {size[side]:.3g} B" if side in s else "" for side in ("piste", "piste, plain")]
        for library in names:
            cells += (
                [f"{shown(s[library])}, {size[library]:.3g} B", f"{s[library] / s['piste']:.2f}"]
                if library in s
                else ["", ""]
            )
        yield f"| {row['workload']} | {row['storage']} | {row['threads']} | {' | '.join(cells)} |"


TABLES: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "clipping": (clipping_rows, clipping_table),
    "precision": (precision_rows, precision_table),
    "storage": (storage_rows, storage_table),
}


def main(argv: list[str]) -> None:
    warnings.filterwarnings("ignore", "(?s).*rounded .* of its updates")  # the precision "plain" loses them
    parser = argparse.ArgumentParser("python -m bench options", description=__doc__)
    parser.add_argument("--optimizers", type=listed, default=["SGD", "AdamW", "RMSprop"])
    parser.add_argument(
        "--workloads",
        type=lambda t: [w for w in WORKLOADS if any(x in w for x in listed(t))],
        help="parts of their names, with commas; for the table of storage, 96 x (512,512) if none is given",
    )
    parser.add_argument("--threads", type=numbers, default=sorted({1, torch.get_num_threads()}))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--budget", type=float, default=8.0, help="seconds a row may take")
    parser.add_argument("--tables", type=listed, default=list(TABLES), help=f"some of {', '.join(TABLES)}")
    parser.add_argument("--json", type=Path, help="write every measurement here")
    arguments = parser.parse_args(argv)
    head = f"Measured on {time.strftime('%Y-%m-%d')}: {machine()}."
    print(head, "", sep="\n", flush=True)
    if set(arguments.tables) - set(TABLES):
        parser.error(f"--tables takes {', '.join(TABLES)}; received {', '.join(arguments.tables)}")
    found = {}
    for name in arguments.tables:
        rows, table = TABLES[name]
        found[name] = list(rows(arguments))
        print("\n".join(table(found[name])), "", sep="\n", flush=True)
    if arguments.json:
        record = {"machine": head, "libraries": libraries(), **found}
        arguments.json.write_text(json.dumps(record, indent=1))


def libraries() -> dict[str, str]:
    """Return the versions of the other libraries that are installed."""
    names = dict.fromkeys(library for rivals in OTHERS.values() for library in rivals)
    return {name: version(name) for name in names if importlib.util.find_spec(name) is not None}
