"""Object files of compiled kernels on disk, each under a key that covers everything its machine code depends on.

A file holds a header, the SHA-256 of the object code, and the object code. It is written whole or not at all. A broken
file counts as absent, so its kernel is compiled and written again. Without a writable folder every process compiles
for itself.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from pathlib import Path

__all__ = ["cache_folder", "read_object", "write_object"]

_HEADER = b"piste object 1\n"
_DIGEST_BYTES = hashlib.sha256().digest_size


def cache_folder() -> Path:
    """Return the folder of compiled kernels: $PISTE_CACHE_DIR, or `piste` in the user's cache folder.

    Raises:
        RuntimeError: Python knows no home directory.
    """
    if chosen := os.environ.get("PISTE_CACHE_DIR"):
        return Path(chosen)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "piste"


def read_object(key: str) -> bytes | None:
    """Return the object code stored under a key, or None if it is absent or broken."""
    try:
        stored = (cache_folder() / f"{key}.o").read_bytes()
    except (OSError, RuntimeError):  # RuntimeError: no home directory
        return None
    digest, image = stored[len(_HEADER) :][:_DIGEST_BYTES], stored[len(_HEADER) + _DIGEST_BYTES :]
    if not stored.startswith(_HEADER) or hashlib.sha256(image).digest() != digest:
        return None
    return image


def write_object(key: str, image: bytes) -> None:
    """Store object code under a key. Processes that store the same key at the same time don't disturb each other."""
    try:
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=folder, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(_HEADER + hashlib.sha256(image).digest() + image)
            os.replace(name, folder / f"{key}.o")
        except BaseException:
            os.unlink(name)  # a full disk, or an interrupt, leaves nothing behind
            raise
    except (OSError, RuntimeError):
        pass  # no writable folder
