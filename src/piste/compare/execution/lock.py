"""A lock on an output folder, so that two processes do not write into it at the same time."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import IO

from ...errors import InvalidValue

LOCK_FILE = "runs.lock"


class FolderLock:
    """Holds the folder until `release`, or until the process ends, however it ends.

    Raises:
        InvalidValue: If another comparison holds the folder.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK_FILE
        self._file: IO[str] | None = None
        while self._file is None:
            file = open(self._path, "a+", encoding="utf-8")  # noqa: SIM115  # held open
            try:
                _lock(file)
            except OSError:
                file.seek(0)
                owner = file.read().strip()
                file.close()
                raise InvalidValue(
                    f"the folder {folder} is in use by another comparison{f' (process {owner})' * bool(owner)}. "
                    f"Help: wait until it ends, or give another folder with --out (out=)."
                ) from None
            if self._path.exists() and os.path.samestat(os.fstat(file.fileno()), self._path.stat()):
                self._file = file
            else:
                file.close()  # its last owner removed it in between
        self._file.seek(0)
        self._file.truncate()
        self._file.write(str(os.getpid()))
        self._file.flush()

    def release(self) -> None:
        """Unlock the folder and remove the lock file."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # Windows removes no open file; it stays, without a lock
                self._path.unlink()
            self._file.close()
            self._file = None


def _lock(file: IO[str]) -> None:
    """Lock an open file without waiting; OSError if another process holds it."""
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
    else:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
