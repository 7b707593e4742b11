"""Entries of compiled modules as built-in functions of Python.

CPython calls a built-in function with the addresses of its arguments, which is what an entry takes. Nothing is
converted, which would take longer than many kernels run.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

from .compiler import CompiledModule, load_file
from .openmp import function_address
from .tables import Answer
from .torch_internals import CPYTHON_OFFSETS

__all__ = ["make_fastcall"]

_NAME = ctypes.create_string_buffer(b"kernel")
_FASTCALL = 0x80  # METH_FASTCALL


class _Owner(str):
    """The name of a module, as torch.compile expects of a function, that keeps objects alive."""

    kept: tuple[object, ...] = ()


def make_fastcall(module: CompiledModule, entry: str, block: ctypes.Structure, *keep: object) -> Callable[..., bool]:
    """Return a built-in function that calls an entry `(block, arguments) -> int`: True if the result is not 0.

    The entry receives the address of `block` and that of the addresses of the function's arguments. It runs under the
    GIL. The function accepts any number of arguments: passing too few makes the entry read beyond them.

    Args:
        module: The compiled module, kept alive with the function.
        entry: The name of the entry.
        block: The argument block of the entry, kept alive with the function.
        keep: Further objects to keep alive, such as the memory that the block refers to.
    """
    content = CPYTHON_OFFSETS["BYTES_CONTENT"]
    answer = Answer(
        entry=module.addresses[entry],
        table=ctypes.addressof(block),
        false=id(False),
        true=id(True),
        increase_reference=function_address(ctypes.pythonapi.Py_IncRef),
        name=ctypes.addressof(_NAME),
        function=load_file("native/kernels/answer", ("answer",), BYTES_CONTENT=content).addresses["answer"],
        flags=_FASTCALL,
        doc=0,
    )
    own, owner = bytes(answer), _Owner(__name__)
    owner.kept = module, block, keep
    # `own` becomes the self of the function and `owner` its `__module__`, so the function keeps both alive.
    make = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.py_object, ctypes.py_object)
    new = make(function_address(ctypes.pythonapi.PyCFunction_NewEx))
    return new(id(own) + content + Answer.name.offset, own, owner)  # type: ignore[attr-defined]
