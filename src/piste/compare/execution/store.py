"""The store of finished runs: in memory, or in a database, so that a killed comparison can be resumed."""

from __future__ import annotations

import contextlib
import getpass
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...errors import InvalidType, InvalidValue, PisteError, Unsupported
from ..plan import MAX_TRIALS, Plan
from ..records import record_of, result_of
from ..results import Result
from ..search_space import format_options
from .executor import Job
from .lock import DatabaseLock, FolderLock
from .settings import describe_difference, extended_settings

DATABASE_FILE = "runs.db"
SETTINGS_STUDY = "settings"
CREATION_ATTEMPTS, CREATION_SECONDS = 5, 0.5
"""How often, and how long apart, a database is opened whose tables another process creates."""


class Store:
    """Finished runs by their job, in memory."""

    def __init__(self) -> None:
        self._results: dict[str, tuple[Job, Result]] = {}
        self.settings: dict[str, Any] = {}
        self.held = contextlib.ExitStack()  # the locks

    def bind(self, plan: Plan) -> None:
        """Bind the store to this comparison; a store of another one raises InvalidValue with the difference.

        More or fewer seeds, trials and candidates are the same comparison: what is finished is used.
        """
        self.settings = plan.settings()

    def get(self, job: Job) -> Result | None:
        """Return the result of a job, or None."""
        found = self._results.get(_key(job))
        return found[1] if found else None

    def put(self, job: Job, result: Result) -> None:
        """Keep the result of a job."""
        self._results[_key(job)] = job, result

    def count(self, plan: Plan) -> int:
        """Return the number of finished runs that the plan needs, as far as can be told before its searches."""
        names, seeds = {c.name for c in plan.candidates}, len(plan.seeds)

        def is_needed(job: Job) -> bool:
            number, trial = divmod(job.number, MAX_TRIALS) if job.role == "search" else (job.number, 0)
            return job.candidate in names and number < seeds and (trial < plan.trials or job.role != "search")

        return sum(is_needed(job) for job, _ in self._results.values())

    def __len__(self) -> int:
        return len(self._results)

    def close(self) -> None:
        """Release what the store holds."""
        self.held.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class DatabaseStore(Store):
    """Finished runs in an Optuna storage; each run is one transaction.

    Args:
        url: The address of the database.
        name: The prefix of this comparison's studies; empty if the database holds one comparison alone.
        where: The name of the database in messages.
        fresh: Whether to discard the runs of this comparison.
        writer: The machine and folder of this call, which are kept with each run; `fresh` discards no runs of others.
    """

    def __init__(self, url: str, name: str, where: str, fresh: bool = False, writer: str = "") -> None:
        import optuna

        super().__init__()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna, self._prefix, self.where = optuna, f"{name}/" if name else "", where
        self._writer = writer
        self._storage = _open_storage(url)
        self._studies: dict[str, Any] = {}
        if fresh:
            self._discard()
        self.settings = self._study(SETTINGS_STUDY).user_attrs.get("settings", {})
        for name in self._names():
            for trial in self._study(name.removeprefix(self._prefix)).trials:
                result = result_of(json.loads(trial.user_attrs["result"]))
                job = Job(
                    result.role, result.candidate, trial.user_attrs["number"], result.seed, trial.user_attrs.get("lr"),
                    result.options,
                )  # fmt: skip
                super().put(job, result)

    def _discard(self) -> None:
        names = self._names()
        for other in sorted((self._writers(names) if names else set()) - {self._writer}):
            raise InvalidValue(
                f"{self.where} was written from {other}; --fresh (fresh=True) discards only the runs of this folder, "
                f"{self._writer}. Help: give another folder with --out (out=)."
            )
        self._studies.clear()
        for name in names:
            self._optuna.delete_study(study_name=name, storage=self._storage)

    def _writers(self, names: list[str]) -> set[str]:
        """Return the machines and folders that have written into these studies."""
        first = self._study(SETTINGS_STUDY).user_attrs.get("writer", self._writer)
        trials = [trial for name in names for trial in self._study(name.removeprefix(self._prefix)).trials]
        return {first, *(trial.user_attrs.get("writer", first) for trial in trials)}

    def bind(self, plan: Plan) -> None:
        settings = json.loads(json.dumps(plan.settings()))
        study = self._study(SETTINGS_STUDY)
        if self.settings:
            difference = describe_difference(self.settings, settings)
            if difference:
                raise InvalidValue(
                    f"{self.where} holds another comparison: {difference}. "
                    f"Help: give another folder with --out (out=), or start over with --fresh (fresh=True)."
                )
            settings = extended_settings(self.settings, settings)
        with self._storing("the plan"):
            if self.settings != settings:
                study.set_user_attr("settings", settings)
            if "writer" not in study.user_attrs:
                study.set_user_attr("writer", self._writer)
        self.settings = settings

    def put(self, job: Job, result: Result) -> None:
        super().put(job, result)
        attributes = {"number": job.number, "lr": job.lr, "result": json.dumps(record_of(result))}
        if self._writer:
            attributes["writer"] = self._writer
        states = self._optuna.trial.TrialState
        finished = result.status == "done"
        trial = self._optuna.trial.create_trial(
            state=states.COMPLETE if finished else states.PRUNED,
            value=result.metrics[-1] if finished else None,
            user_attrs=attributes,
        )
        with self._storing(f"the run of {job}"):
            self._study(f"{result.role}: {result.candidate}").add_trial(trial)

    @contextlib.contextmanager
    def _storing(self, subject: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise PisteError(
                f"{subject} can't be stored in {self.where}: {_reason(error)}. Runs stored before it are kept. "
                f"Help: free the disk or restore the database, and repeat the call."
            ) from error

    def _names(self) -> list[str]:
        return [n for n in self._optuna.get_all_study_names(self._storage) if n.startswith(self._prefix)]

    def _study(self, name: str) -> Any:
        if name not in self._studies:
            self._studies[name] = self._optuna.create_study(
                storage=self._storage, study_name=f"{self._prefix}{name}", load_if_exists=True
            )
        return self._studies[name]


def open_store(folder: Path | None, storage: str | None = None, name: str = "", fresh: bool = False) -> Store:
    """Return the store of a comparison.

    Args:
        folder: The output folder, which holds an SQLite file unless `storage` is given. Without either, the store is in
            memory.
        storage: The address of a database.
        name: The name of the comparison in the database; the name of the folder takes precedence.
        fresh: Whether to discard earlier runs.
    """
    with contextlib.ExitStack() as held:
        if folder is not None:
            held.callback(FolderLock(folder).release)
        if storage is not None:
            store = _open_database(storage, name if folder is None else folder.resolve().name, fresh, folder, held)
        else:
            store = Store() if folder is None else _open_folder(folder, fresh)
        store.held = held.pop_all()
        return store


def _open_storage(url: str) -> Any:
    """Return an Optuna storage, whose tables another process may be creating at the same moment."""
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

    for _ in range(CREATION_ATTEMPTS):
        try:
            return RDBStorage(url)
        except (IntegrityError, ProgrammingError):
            pass
        except OperationalError as error:
            if "already exists" not in str(error):
                raise
        time.sleep(CREATION_SECONDS)
    return RDBStorage(url)


def _open_folder(folder: Path, fresh: bool) -> Store:
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import DatabaseError, OperationalError

    file = folder / DATABASE_FILE
    if fresh:
        file.unlink(missing_ok=True)
    try:
        return DatabaseStore(f"sqlite:///{file.resolve()}", "", str(file))
    except (OperationalError, StorageInternalError) as error:  # a full disk, missing permissions
        raise InvalidValue(
            f"{file} can't be used: {_reason(error)}. Help: free the disk and check its permissions, or give another "
            f"folder with --out (out=)."
        ) from error
    except (DatabaseError, ValueError, KeyError) as error:
        raise InvalidValue(
            f"{file} can't be read: {_reason(error)}. Help: start over with --fresh (fresh=True), or give another "
            f"folder with --out (out=)."
        ) from error


def _open_database(storage: Any, name: str, fresh: bool, folder: Path | None, held: contextlib.ExitStack) -> Store:
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError

    if not isinstance(storage, str):
        raise InvalidType(f"`storage` must be the address of a database, {_EXAMPLE}; received {storage!r}.")
    try:
        shown = make_url(storage).render_as_string(hide_password=True)
    except ArgumentError:
        raise InvalidValue(f"`storage` must be the address of a database, {_EXAMPLE}; received {storage!r}.") from None
    try:
        name, writer = f"{getpass.getuser()}/{name}", f"{socket.gethostname()}:{(folder or Path.cwd()).resolve()}"
        held.callback(DatabaseLock(storage, name, f"{name} in {shown}").release)
        return DatabaseStore(storage, name, f"{name} in {shown}", fresh, writer)
    except ImportError as error:
        raise Unsupported(f"`storage` {shown} needs a driver: {str(error).rstrip('.')}. {_DRIVER}") from error
    except (SQLAlchemyError, StorageInternalError, OSError) as error:
        raise InvalidValue(f"`storage` {shown} can't be opened: {_reason(error)}.") from error


_EXAMPLE = "such as postgresql://user@host/database or sqlite:///runs.db"
_DRIVER = "For PostgreSQL: pip install 'piste[postgresql]'."


def _key(job: Job) -> str:
    return f"{job.role}/{job.candidate}/{job.number}/{job.lr!r}/{format_options(job.options)}"


def _reason(error: BaseException) -> str:
    """Return the innermost cause, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip().split("\n")[0] or type(error).__name__).rstrip(".")
