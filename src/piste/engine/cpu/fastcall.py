"""Entries of compiled modules as built-in functions of Python.

CPython calls a built-in function with the addresses of its arguments, which is what an entry takes. Nothing is
converted, which would take longer than many kernels run.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Callable

from .compiler import CompiledModule, load
from .openmp import function_address

__all__ = ["BYTES_HEADER", "make_fastcall"]

BYTES_HEADER = bytes.__basicsize__ - 1
"""Bytes from the address of a `bytes` object to its content."""
_NAME = ctypes.create_string_buffer(b"kernel")
_FASTCALL = 0x80
_ANSWER = f"""
def answer(own, given, many) -> int:
    words = pointer(place(own) + {BYTES_HEADER}, int64)
    said = words[3] if call2(words[0], words[1], place(given)) != 0 else words[2]
    call1(words[4], said)
    return said
"""


def make_fastcall(module: CompiledModule, entry: str, table: array[int], *keep: object) -> Callable[..., bool]:
    """Return a built-in function that calls an entry `(table, arguments) -> int`: True if the result is not 0.

    The entry receives the address of `table` and that of the addresses of the function's arguments. It runs under the
    GIL. The function accepts any number of arguments: passing too few makes the entry read beyond them.

    Args:
        module: The compiled module, kept alive with the function.
        entry: The name of the entry.
        table: The argument block of the entry, kept alive with the function.
        keep: Further objects to keep alive, such as the memory that the table refers to.
    """
    increase = function_address(ctypes.pythonapi.Py_IncRef)
    words = module.addresses[entry], table.buffer_info()[0], id(False), id(True), increase
    code = load(_ANSWER, ("answer",)).addresses["answer"]
    definition = ctypes.addressof(_NAME), code, _FASTCALL, 0  # CPython's PyMethodDef
    own = array("q", [*words, *definition]).tobytes()
    # `own` is the self of the function and the tuple its module, so the function keeps both alive.
    make = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.py_object, ctypes.py_object)
    new = make(function_address(ctypes.pythonapi.PyCFunction_NewEx))
    return new(id(own) + BYTES_HEADER + 8 * len(words), own, (module, table, *keep))
