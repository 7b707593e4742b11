"""Memory of a stream in which the blocks of a launch leave their sums: shared by all launches, as they run in order."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .table_ring import keep_for_graphs

__all__ = ["workspace"]

_workspaces: dict[tuple[int, int], Tensor] = {}


def workspace(device: Any, stream: int, words: int, *, is_capturing: bool) -> int:
    """Return the address of the workspace of a stream; its first word, the ticket, is 0 between launches.

    A CUDA graph gets its own for each launch, in its own memory, as it may be replayed on any stream.
    """
    if is_capturing:
        made: Tensor = device.zeros(words)
        keep_for_graphs([made])
        return made.data_ptr()
    key = device.index, stream
    known = _workspaces.get(key)
    if known is None or known.numel() < words:
        # The allocator hands the memory of the old one to later launches of the same stream only.
        known = _workspaces[key] = device.zeros(words)
    return known.data_ptr()
