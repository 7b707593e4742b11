"""A whole step in one call of machine code, which asks libtorch itself where the gradients are.

Asking two thousand parameters for gradient, address, size and layout takes Python longer than stepping them.
"""

from __future__ import annotations

import ctypes
import functools
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..specs import Slot
from . import torch_internals as libtorch
from .compiler import load
from .fastcall import make_fastcall
from .openmp import function_address, parallel_address
from .step_kernel import ALONE, Launch
from .torch_internals import PLAIN
from .work_sharing import SHARES

HELD = 1 << 22
"""Up to this many elements a step keeps Python's lock, so that nobody takes a gradient away: about a millisecond."""

_FIELDS = (
    *("count", "objects", "impls", "offset", "item"),
    *("forms", "addresses", "dims", "found", "out", "launches", "runs", "threads", "team"),
    *libtorch.NAMES,
)
_AT = {name: place for place, name in enumerate(_FIELDS)}
_FORM = 3  # for each parameter: what is expected of its gradient, its dimensions, its dtype
_ANY, _NONE = -1, -2  # expectations besides a dtype: the eager engine's business; that there is none
_RUN = 7  # for each launch: prepare, body, table, tensors, their places, their gradients, most shares (0: no team)


def _source() -> str:
    """The step: first every question, then, if all is as it was, every launch."""
    lines = [
        "def step(table, given) -> int:",
        "    params = given[0]",
        *(f"    {name} = table[{place}]" for name, place in _AT.items()),
        f"    handles = table[{_AT['impls']}]",
        "    objects, impls = pointer(objects, int64), pointer(impls, int64)",
        "    forms, addresses = pointer(forms, int64), pointer(addresses, int64)",
        "    dims, found, answer = pointer(dims, int64), pointer(found, int64), pointer(out, int64)",
        "    place = 0",
        "    for i in range(count):",
        "        if call2(item, params, i) != objects[i] or pointer(objects[i] + offset, int64)[0] != impls[i]:",
        "            return 0",
        f"        expected, d, dtype_ = forms[{_FORM} * i], forms[{_FORM} * i + 1], forms[{_FORM} * i + 2]",
        f"        if expected == {_ANY}:",
        "            continue",
        "        g = call1(grad, impls[i])",
        *libtorch.question("is_defined", "g", 8),
        f"        if ((answer[0] & 255) == 0) != (expected == {_NONE}):",
        "            return 0",
        f"        if expected == {_NONE}:",
        "            continue",
        "        p = handles + 8 * i",
        "        # on the CPU, strided: what is asked next would throw otherwise",
        *(
            line
            for x, kind in (("p", "dtype_"), ("g", "expected"))
            for about, value in (("device", 0), ("layout", 0), ("dtype", kind), ("dim", "d"))
            for line in (
                *libtorch.question(about, x, 8),
                f"        if answer[0] != {value}:",
                "            return 0",
            )
        ),
        *(
            line
            for x in ("p", "g")
            for about in ("sizes", "strides")
            for line in (
                *libtorch.question(about, x, 8),
                f"        {about}_{x} = pointer(answer[0], int64)",
            )
        ),
        "        elements = 1",
        "        for k in range(d):",
        "            size = dims[place]",
        "            elements *= size",
        "            if sizes_p[k] != size or sizes_g[k] != size:",
        "                return 0",
        "            if size != 1 and (strides_p[k] != dims[place + 1] or strides_g[k] != dims[place + 2]):",
        "                return 0",
        "            place += 3",
        *libtorch.question("address", "p", 8),
        "        if answer[0] != addresses[i]:",
        "            return 0",
        "        # autograd leaves signs and conjugates to be applied later",
        "        if ((call1(is_neg, g) | call1(is_conj, g)) & 255) != 0:",
        "            return 0",
        *libtorch.question("address", "g", 8),
        "        if answer[0] == 0 and elements != 0:",
        "            return 0  # a wrapper, with its data elsewhere",
        "        found[i] = answer[0]",
        "    row = pointer(runs, int64)",
        "    for l in range(launches):",
        f"        places = pointer(row[{_RUN} * l + 4], int64)",
        f"        gradients = pointer(row[{_RUN} * l + 5], int64)",
        f"        for k in range(row[{_RUN} * l + 3]):",
        "            gradients[k] = found[places[k]]",
        f"        most = row[{_RUN} * l + 6] if team != 0 else 0",
        "        shares = threads if threads < most else most",
        f"        pointer(row[{_RUN} * l + 2], int64)[{SHARES}] = shares if shares > 1 else 1",
        f"        call1(row[{_RUN} * l], row[{_RUN} * l + 2])",
        "        if shares > 1:",
        f"            call4(team, row[{_RUN} * l + 1], row[{_RUN} * l + 2], threads, 0)",
        "        else:",
        f"            call1(row[{_RUN} * l + 1], row[{_RUN} * l + 2])",
        "    # as every in-place operation does: autograd notices that what it has saved has changed",
        "    for i in range(count):",
        f"        if forms[{_FORM} * i] >= 0:",
        "            call1(bump_version, handles + 8 * i)",
        "    return 1",
        "",
    ]
    return "\n".join(lines)


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
                forms.extend((libtorch.number(slot.g.dtype), slot.p.dim(), libtorch.number(slot.p.dtype)))
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
            runs.extend((where.buffer_info()[0], launch.gradients.buffer_info()[0]))
            runs.append(launch.shares if launch.elements > ALONE else 0)
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
        known = {"count": len(params), "offset": libtorch.offset(), "launches": len(launches), **functions}
        known |= {name: column.buffer_info()[0] for name, column in columns.items()}
        self._table = array("q", [known.get(name, 0) for name in _FIELDS])
        self._keep = [places, *columns.values()]
        kernel = load(_source(), ("step",))
        self._step = make_fastcall(kernel, "step", self._table)

    def __call__(self, params: list[Any], values: array[float]) -> bool:
        """Step, and return True; or return False, with nothing changed, where something isn't as it was."""
        table = self._table
        if type(params) is not list or len(params) != table[_AT["count"]]:
            return False
        for launch, _ in self._launches:
            launch.numbers[:] = values
        table[_AT["threads"]], table[_AT["team"]] = torch.get_num_threads(), parallel_address()
        return self._step(params)


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
    """The addresses of all functions that are called, or None where one is missing."""
    known = libtorch.functions()
    return {**known, "item": function_address(ctypes.pythonapi.PyList_GetItem)} if known else None
