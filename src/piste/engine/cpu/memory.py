"""Memory for large gradients, reused when it is free: new pages take longer than writing to them."""

from __future__ import annotations

import threading

import torch
from torch import Tensor

from ..native.torch_internals import storage_is_shared

__all__ = ["LARGE", "gradient_like"]

LARGE = 1 << 20  # bytes from which the allocator returns new pages of the system
_kept = threading.local()


def gradient_like(x: Tensor) -> Tensor:
    """Return an uninitialized tensor like `x`; a large one reuses the memory of the previous one if that is free."""
    bytes_ = x.nbytes
    if bytes_ < LARGE or not x.is_contiguous():
        return torch.empty_like(x)
    storage = getattr(_kept, "storage", None)
    if storage is None or storage.nbytes() != bytes_ or storage_is_shared(storage):
        storage = _kept.storage = torch.UntypedStorage(bytes_)
    return torch.empty(0, dtype=x.dtype, device=x.device).set_(storage, 0, x.shape, x.stride())  # type: ignore[call-overload]
