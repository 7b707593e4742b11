"""Timing several contenders fairly: in turns, in blocks, by the median."""

from __future__ import annotations

import ctypes
import platform
import random
import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import TypeVar

import torch

Step = Callable[[], object]
Name = TypeVar("Name", bound=Hashable)


def in_turns(
    contenders: Mapping[Name, Step],
    *,
    rounds: int = 9,
    block: float = 0.03,
    between: Step | None = None,
    before: Callable[[Name], object] = lambda name: None,
    budget: float = 20.0,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Name, float]:
    """Seconds a call takes, for each contender, as the median over rounds.

    A round gives every contender a block of calls of about `block` seconds, in an order of its own, so that nobody
    always comes after the same one; the first call, which finds the caches and the team of threads as somebody else
    left them, is not counted. `before` is called with a contender's name before its block, to set the scene for it.
    With `between`, that runs before every call and is not counted. A row ends after `budget` seconds, but not before
    three rounds. `clock` is time.process_time for the time of the processor, on a machine that others use.
    """
    order = random.Random(0)
    calls = {}
    for name, step in contenders.items():
        before(name)
        step()  # warm up: state, compilation, the team
        step()
        began = time.perf_counter()
        _once(step, between)
        calls[name] = max(1, min(2000, int(block / (time.perf_counter() - began))))
    seconds: dict[Name, list[float]] = {name: [] for name in contenders}
    start = time.perf_counter()
    for turn in range(rounds):
        for name in order.sample(list(contenders), len(contenders)):
            before(name)
            _once(contenders[name], between)
            if between is None:
                began = clock()
                for _ in range(calls[name]):
                    contenders[name]()
                seconds[name].append((clock() - began) / calls[name])
            else:
                seconds[name].append(statistics.median(_once(contenders[name], between) for _ in range(calls[name])))
        if turn >= 2 and time.perf_counter() - start > budget:
            break
    return {name: statistics.median(times) for name, times in seconds.items()}


def _once(step: Step, between: Step | None) -> float:
    if between is not None:
        between()
    began = time.perf_counter()
    step()
    return max(time.perf_counter() - began, 1e-7)


def keep_memory() -> None:
    """Have glibc keep what is freed, up to the largest pieces that it would ever keep.

    Else it hands memory back to the system whenever enough of it is free at the end of the heap, which depends on what
    the program happens to hold there; the pages then fault in anew at every call, of one contender or of another.
    """
    if platform.libc_ver()[0] == "glibc":
        trim_threshold, mmap_threshold = -1, -3
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_threshold, 32 << 20)
        libc.mallopt(trim_threshold, 1 << 30)


def machine() -> str:
    """The processor, its cores and the versions that matter, for the head of a table."""
    import numba

    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return (
        f"{model}, {torch.get_num_threads()} threads, torch {torch.__version__}, Numba {numba.__version__}, "
        f"Python {platform.python_version()}"
    )


def shown(seconds: float) -> str:
    """A time with three digits and a unit."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= scale or unit == "us":
            return f"{seconds / scale:.3g} {unit}"
    raise AssertionError


def listed(text: str) -> list[str]:
    """What an option names, with commas between."""
    return [part.strip() for part in text.split(",") if part.strip()]


def numbers(text: str) -> list[int]:
    return [int(part) for part in listed(text)]
