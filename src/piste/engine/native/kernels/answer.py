"""What CPython calls for a built-in function: it calls an entry and returns True or False (see fastcall)."""

from __future__ import annotations

from ..intrinsics import address_of, call_address, view
from ..tables import Answer

BYTES_CONTENT = 0  # from the address of a bytes object to its content


def answer(own, arguments, count) -> int:
    call = view(address_of(own) + BYTES_CONTENT, Answer)
    result = call.false
    if call_address(call.entry, call.table, address_of(arguments)) != 0:
        result = call.true
    call_address(call.increase_reference, result)
    return result
