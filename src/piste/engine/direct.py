"""A whole step in one call of machine code, which asks libtorch itself where the gradients are.

Asking two thousand parameters for gradient, address, size and layout takes Python longer than stepping them. libtorch
answers the same questions through the functions it exports: AOTInductor's C interface, which is kept stable, and a
few C++ functions by name. Where one is missing `available` says so, and Python asks.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import sys
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import native
from .cpu import ALONE, PLAIN, Launch
from .program import Slot

HELD = 1 << 22
"""Up to this many elements a step keeps Python's lock, so that nobody takes a gradient away: about a millisecond."""

_FUNCTIONS = {
    "grad": ("c10", "_ZNK3c1010TensorImpl4gradEv"),
    "bump_version": ("torch_cpu", "_ZN5torch8autograd4impl12bump_versionERKN2at6TensorE"),
    "is_neg": ("torch_cpu", "_ZN2at6native6is_negERKNS_6TensorE"),
    "is_conj": ("torch_cpu", "_ZN2at6native7is_conjERKNS_6TensorE"),
    "is_defined": ("torch_cpu", "aoti_torch_is_defined"),
    "device": ("torch_cpu", "aoti_torch_get_device_type"),
    "layout": ("torch_cpu", "aoti_torch_get_layout"),
    "dtype": ("torch_cpu", "aoti_torch_get_dtype"),
    "dim": ("torch_cpu", "aoti_torch_get_dim"),
    "sizes": ("torch_cpu", "aoti_torch_get_sizes"),
    "strides": ("torch_cpu", "aoti_torch_get_strides"),
    "address": ("torch_cpu", "aoti_torch_get_data_ptr"),
}
_FIELDS = (
    *("answer", "count", "params", "objects", "impls", "offset", "item"),
    *("forms", "addresses", "dims", "found", "out", "launches", "runs", "threads", "team"),
    *_FUNCTIONS,
)
_AT = {name: place for place, name in enumerate(_FIELDS)}
_FORM = 3  # for each parameter: what is expected of its gradient, its dimensions, its dtype
_ANY, _NONE = -1, -2  # expectations besides a dtype: the eager engine's business; that there is none
_RUN = 7  # for each launch: prepare, body, table, tensors, their places, their gradients, whether a team is worth it


def _source() -> str:
    """The step: first every question, then, if all is as it was, every launch."""
    lines = [
        "def step(table):",
        *(f"    {name} = table[{place}]" for name, place in _AT.items() if name != "answer"),
        "    table[0] = 0",
        "    objects, impls = pointer(objects, int64), pointer(impls, int64)",
        "    forms, addresses = pointer(forms, int64), pointer(addresses, int64)",
        "    dims, found, answer = pointer(dims, int64), pointer(found, int64), pointer(out, int64)",
        "    place = 0",
        "    for i in range(count):",
        "        if call2(item, params, i) != objects[i] or pointer(objects[i] + offset, int64)[0] != impls[i]:",
        "            return",
        f"        expected, d, dtype_ = forms[{_FORM} * i], forms[{_FORM} * i + 1], forms[{_FORM} * i + 2]",
        f"        if expected == {_ANY}:",
        "            continue",
        "        g = call1(grad, impls[i])",
        *_question("is_defined", "g"),
        f"        if ((answer[0] & 255) == 0) != (expected == {_NONE}):",
        "            return",
        f"        if expected == {_NONE}:",
        "            continue",
        "        p = table[4] + 8 * i",
        "        # on the CPU, strided: what is asked next would throw otherwise",
        *(
            line
            for x, kind in (("p", "dtype_"), ("g", "expected"))
            for about, value in (("device", 0), ("layout", 0), ("dtype", kind), ("dim", "d"))
            for line in (*_question(about, x), f"        if answer[0] != {value}:", "            return")
        ),
        *(
            line
            for x in ("p", "g")
            for about in ("sizes", "strides")
            for line in (*_question(about, x), f"        {about}_{x} = pointer(answer[0], int64)")
        ),
        "        elements = 1",
        "        for k in range(d):",
        "            size = dims[place]",
        "            elements *= size",
        "            if sizes_p[k] != size or sizes_g[k] != size:",
        "                return",
        "            if size != 1 and (strides_p[k] != dims[place + 1] or strides_g[k] != dims[place + 2]):",
        "                return",
        "            place += 3",
        *_question("address", "p"),
        "        if answer[0] != addresses[i]:",
        "            return",
        "        # autograd leaves signs and conjugates to be applied later",
        "        if ((call1(is_neg, g) | call1(is_conj, g)) & 255) != 0:",
        "            return",
        *_question("address", "g"),
        "        if answer[0] == 0 and elements != 0:",
        "            return  # a wrapper, with its data elsewhere",
        "        found[i] = answer[0]",
        "    row = pointer(runs, int64)",
        "    for l in range(launches):",
        f"        places = pointer(row[{_RUN} * l + 4], int64)",
        f"        gradients = pointer(row[{_RUN} * l + 5], int64)",
        f"        for k in range(row[{_RUN} * l + 3]):",
        "            gradients[k] = found[places[k]]",
        f"        call1(row[{_RUN} * l], row[{_RUN} * l + 2])",
        f"        if threads > 1 and team != 0 and row[{_RUN} * l + 6] != 0:",
        f"            call4(team, row[{_RUN} * l + 1], row[{_RUN} * l + 2], threads, 0)",
        "        else:",
        f"            call1(row[{_RUN} * l + 1], row[{_RUN} * l + 2])",
        "    # as every in-place operation does: autograd notices that what it has saved has changed",
        "    for i in range(count):",
        f"        if forms[{_FORM} * i] >= 0:",
        "            call1(bump_version, table[4] + 8 * i)",
        "    table[0] = 1",
        "",
    ]
    return "\n".join(lines)


def _question(about: str, x: str) -> list[str]:
    """`answer[0]` becomes what libtorch says about a tensor; an int32 or bool fills the low bytes only."""
    return ["        answer[0] = 0", f"        call2({about}, {x}, out)"]


class Direct:
    """The step of a plan's parameters by their launches, as long as everything is where it was."""

    def __init__(
        self, params: list[Any], slots: Mapping[int, Slot], launches: Sequence[tuple[Launch, Sequence[int]]]
    ) -> None:
        functions = available()
        assert functions is not None
        self._params, self._launches = list(params), launches  # whoever is kept keeps its address
        served = {i for _, indices in launches for i in indices}
        forms, addresses, dims = array("q"), array("q"), array("q")
        for i, p in enumerate(params):
            if i in served:
                slot = slots[i]
                forms.extend((_number(slot.g.dtype), slot.p.dim(), _number(slot.p.dtype)))
                for shape in zip(slot.p.shape, slot.p.stride(), slot.g.stride(), strict=True):
                    dims.extend(shape)
            else:
                forms.extend((_ANY if i in slots else _NONE, 0, 0))
            addresses.append(p.data_ptr() if i in served else 0)
        places = [array("q", indices) for _, indices in launches]
        runs = array("q")
        for (launch, _), where in zip(launches, places, strict=True):
            entries = launch.kernel.addresses
            runs.extend((entries["prepare"], entries["body"], launch.at, len(where)))
            runs.extend((where.buffer_info()[0], launch.gradients.buffer_info()[0], launch.elements > ALONE))
        columns = {
            "objects": array("q", map(id, params)),
            "impls": array("q", [p._cdata for p in params]),
            "forms": forms,
            "addresses": addresses,
            "dims": dims,
            "found": array("q", bytes(8 * len(params))),
            "out": array("q", [0]),
            "runs": runs,
        }
        known = {"count": len(params), "offset": _offset(), "launches": len(launches), **functions}
        known |= {name: column.buffer_info()[0] for name, column in columns.items()}
        self._table = array("q", [known.get(name, 0) for name in _FIELDS])
        self._keep = [places, *columns.values()]
        kernel = native.load(_source(), ("step",))
        self._at, self._step = self._table.buffer_info()[0], kernel.locked["step"]

    def __call__(self, params: list[Any], values: array[float]) -> bool:
        """Step, and return True; or return False, with nothing changed, where something isn't as it was."""
        table = self._table
        if type(params) is not list or len(params) != table[_AT["count"]]:
            return False
        for launch, _ in self._launches:
            launch.numbers[:] = values
        table[_AT["params"]], table[_AT["threads"]] = id(params), torch.get_num_threads()
        table[_AT["team"]] = native.address_of_team()
        self._step(self._at)
        return table[0] == 1


def serves(params: Sequence[Any], slots: Mapping[int, Slot], launches: Sequence[tuple[Launch, Sequence[int]]]) -> bool:
    """Whether a plan can be stepped directly."""
    return (
        available() is not None
        and sum(launch.elements for launch, _ in launches) <= HELD
        and all(type(p) in PLAIN and not p.is_inference() for p in params)
        and all(slots[i].g is params[i].grad for _, indices in launches for i in indices)
    )


@functools.cache
def available() -> dict[str, int] | None:
    """The addresses of everything that is asked, or None where something is missing."""
    if not getattr(sys, "_is_gil_enabled", lambda: True)() or sys.implementation.name != "cpython" or not _offset():
        return None
    suffix = {"linux": "so", "darwin": "dylib"}.get(sys.platform)
    folder = Path(torch.__file__).parent / "lib"
    try:
        libraries = {name: ctypes.CDLL(str(folder / f"lib{name}.{suffix}")) for name in ("c10", "torch_cpu")}
        functions = {name: getattr(libraries[library], symbol) for name, (library, symbol) in _FUNCTIONS.items()}
        functions["item"] = ctypes.pythonapi.PyList_GetItem
    except (OSError, AttributeError):
        return None
    return {name: native.address(function) for name, function in functions.items()}


@functools.cache
def _offset() -> int:
    """Where in a Python tensor the address of its TensorImpl is: the one word of the object that holds it; 0: none."""
    words = Tensor.__basicsize__ // 8
    places = [
        {k for k, word in enumerate((ctypes.c_int64 * words).from_address(id(x))) if word == x._cdata}
        for x in itertools.islice((torch.empty(()) for _ in itertools.count()), 3)
    ]
    common = set.intersection(*places)
    return 8 * common.pop() if len(common) == 1 else 0


@functools.cache
def _number(dtype: torch.dtype) -> int:
    """How libtorch numbers a dtype."""
    functions = available()
    assert functions is not None
    out = ctypes.c_int32()
    impl = ctypes.c_int64((x := torch.empty(0, dtype=dtype))._cdata)
    ask = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p)(functions["dtype"])
    ask(ctypes.addressof(impl), ctypes.addressof(out))
    del x
    return out.value
