"""Locks on an output folder and on a comparison in a database, so that two processes do not do the same work twice."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from typing import IO

from ...errors import InvalidValue

LOCK_FILE = "runs.lock"
SESSION_LOCK = "SELECT pg_try_advisory_lock(:key)"
"""The statement of PostgreSQL that takes a lock until the session ends, and answers whether it did."""


class FileLock:
    """Holds a file until `release`, or until the process ends, however it ends.

    Args:
        path: The file, which is made and removed.
        subject: The name in the message of what the file stands for.

    Raises:
        InvalidValue: If another process holds the file.
    """

    def __init__(self, path: Path, subject: str) -> None:
        self._path = path
        self._file: IO[str] | None = None
        while self._file is None:
            file = open(self._path, "a+", encoding="utf-8")  # noqa: SIM115  # held open
            try:
                _lock(file)
            except OSError:
                file.seek(0)
                owner = file.read().strip()
                file.close()
                raise in_use(subject, f" (process {owner})" * bool(owner)) from None
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


class FolderLock(FileLock):
    """Holds an output folder.

    Raises:
        InvalidValue: If another comparison holds the folder.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / LOCK_FILE, f"the folder {folder}")


class DatabaseLock:
    """Holds a comparison in a database, by a file next to an SQLite database or in a session of PostgreSQL.

    Args:
        url: The address of the database.
        name: The name of the comparison.
        where: The comparison in messages.

    Raises:
        InvalidValue: If another process holds the comparison.
        sqlalchemy.exc.SQLAlchemyError: If the database can't be opened.
    """

    def __init__(self, url: str, name: str, where: str) -> None:
        from sqlalchemy import create_engine, text
        from sqlalchemy.engine import make_url

        address, digest = make_url(url), hashlib.sha256(name.encode()).digest()
        kind = address.get_backend_name()
        self._release = contextlib.ExitStack()
        if kind == "sqlite" and address.database and Path(address.database).parent.is_dir():
            file = FileLock(Path(f"{address.database}.{digest.hex()[:16]}.lock"), where)
            self._release.callback(file.release)
        elif kind == "postgresql":
            key = int.from_bytes(digest[:8], "big", signed=True)
            engine = create_engine(address, isolation_level="AUTOCOMMIT")
            self._release.callback(engine.dispose)
            session = self._release.enter_context(engine.connect())
            if not session.execute(text(SESSION_LOCK), {"key": key}).scalar():
                self._release.close()
                raise in_use(where)

    def release(self) -> None:
        """Unlock the comparison."""
        self._release.close()


def in_use(subject: str, owner: str = "") -> InvalidValue:
    """Return the error that another process holds a folder or a comparison."""
    return InvalidValue(
        f"{subject} is in use by another comparison{owner}. "
        f"Help: wait until it ends, or give another folder with --out (out=)."
    )


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
