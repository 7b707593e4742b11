"""A PostgreSQL server for tests, where its programs and the driver are installed."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

ACCOUNT = "postgres"
"""The account of the server where the tests run as root, which it refuses."""


def find_programs() -> Path | None:
    """Return the folder with `initdb` and `pg_ctl`; None without them, an account for them, or the driver."""
    found = shutil.which("initdb")
    folders = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not folders or importlib.util.find_spec("psycopg") is None:
        return None
    if os.getuid() == 0 and ACCOUNT not in {entry.pw_name for entry in pwd.getpwall()}:
        return None
    return folders[-1]


class Server:
    """A server on a free port of this machine, with its data in a temporary folder."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs, self._folder = programs, folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self._run("initdb", "--auth=trust", "--username=tester", "--no-sync")

    @property
    def url(self) -> str:
        """The address of a database."""
        return f"postgresql+psycopg://tester@127.0.0.1:{self._port}/postgres"

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        options = f"-p {self._port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
        self._run("pg_ctl", "start", "--wait", f"--log={self._folder / 'log'}", f"--options={options}")

    def stop(self) -> None:
        """Stop the server at once, and end its sessions."""
        self._run("pg_ctl", "stop", "--mode=immediate")

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self._programs / program, f"--pgdata={self._folder / 'data'}", *arguments], check=True, timeout=60,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd="/", user=ACCOUNT if os.getuid() == 0 else None,
        )  # fmt: skip


@contextlib.contextmanager
def running_server(programs: Path) -> Iterator[Server]:
    """Run a server inside `with`."""
    with tempfile.TemporaryDirectory(prefix="piste-postgres-") as folder:
        if os.getuid() == 0:
            shutil.chown(folder, ACCOUNT)
        server = Server(programs, Path(folder))
        server.start()
        try:
            yield server
        finally:
            with contextlib.suppress(subprocess.CalledProcessError):  # the test has stopped it
                server.stop()
