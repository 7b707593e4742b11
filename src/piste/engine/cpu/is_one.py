"""Whether the gradient that comes to a loss is 1, as it is wherever the backward begins at the loss, or at its sum.

Asking for it in Python takes a few times as long.
"""

from __future__ import annotations

import functools
from array import array
from collections.abc import Callable

import torch
from torch import Tensor

from . import torch_internals as libtorch
from .compiler import load
from .fastcall import make_fastcall

__all__ = ["unit"]

_ONES = {
    torch.float32: ("float32", 1),
    torch.float64: ("float64", 1),
    torch.bfloat16: ("uint16", 0x3F80),
    torch.float16: ("uint16", 0x3C00),
}
_QUESTIONS = ("has_storage", "device", "layout", "dim", "sizes", "strides", "is_neg", "dtype", "address")


def _source() -> str:
    """1 for a plain tensor of one 1, however often it stands there; 0 for whatever else."""
    lines = [
        "def unit(fixed, given) -> int:",
        f"    x, out = given[0] + {libtorch.offset()}, room(1)",
        *(f"    {name} = fixed[{k}]" for k, name in enumerate(_QUESTIONS)),
        "    answer = pointer(out, int64)",
        "    # of one that stands for several, or for another, there is nothing to read",
        "    if (call1(has_storage, pointer(x, int64)[0]) & 255) == 0 or (call1(is_neg, x) & 255) != 0:",
        "        return 0",
    ]
    for about in ("device", "layout"):
        lines += [*libtorch.question(about, "x", 4), "    if answer[0] != 0:", "        return 0"]
    for about in ("dim", "sizes", "strides"):
        lines += [*libtorch.question(about, "x", 4), f"    {about}_ = answer[0]"]
    lines += [
        "    for k in range(dim_):",
        "        size = pointer(sizes_, int64)[k]",
        "        if size == 0 or (size != 1 and pointer(strides_, int64)[k] != 0):",
        "            return 0",
    ]
    lines += [*libtorch.question("dtype", "x", 4), "    kind = answer[0]", *libtorch.question("address", "x", 4)]
    lines += ["    if answer[0] == 0:", "        return 0"]
    for k, (word, one) in enumerate(_ONES.values(), len(_QUESTIONS)):
        lines += [f"    if kind == fixed[{k}] and pointer(answer[0], {word})[0] == {one}:", "        return 1"]
    return "\n".join([*lines, "    return 0", ""])


@functools.cache
def unit() -> Callable[[Tensor], bool]:
    """What says whether a gradient is 1 everywhere; False too where that is not to be seen at a glance."""
    known = libtorch.functions()
    if known is None:
        return lambda grad: False
    table = array("q", [*(known[name] for name in _QUESTIONS), *map(libtorch.number, _ONES)])
    return make_fastcall(load(_source(), ("unit",)), "unit", table)
