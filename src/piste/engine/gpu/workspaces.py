"""Memory of a stream in which the blocks of a launch leave their sums: shared by all launches, as they run in order."""

from __future__ import annotations

from typing import Any

from torch import Tensor

__all__ = ["workspace"]

_workspaces: dict[tuple[int, int], Tensor] = {}


def workspace(device: Any, stream: int, words: int, *, is_capturing: bool) -> Tensor:
    """Return the workspace of a stream; its first word, the ticket, is 0 between launches.

    A CUDA graph gets its own for each launch, as it may be replayed on any stream. That one is free again once the
    caller has made its launch: the graph replays allocations in the order of the capture.
    """
    if is_capturing:
        made: Tensor = device.zeros(words)
        return made
    key = device.index, stream
    known = _workspaces.get(key)
    if known is None or known.numel() < words:
        known = _workspaces[key] = device.lasting_zeros(words)
    return known
