"""The store of finished runs: in memory, or in a database, so that a killed comparison can be resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...errors import InvalidType, InvalidValue, Unsupported
from ..plan import Plan
from ..results import Result
from ..training.example_scores import pack_scores, unpack_scores

DATABASE_FILE = "runs.db"
SETTINGS_STUDY = "settings"


class Store:
    """Finished runs by their key (role, candidate, number), in memory."""

    def __init__(self) -> None:
        self._results: dict[str, Result] = {}
        self.settings: dict[str, Any] = {}

    def bind(self, plan: Plan) -> None:
        """Bind the store to this comparison; a store of another one raises InvalidValue with the difference."""
        self.settings = plan.settings()

    def get(self, role: str, candidate: str, number: int) -> Result | None:
        return self._results.get(f"{role}/{candidate}/{number}")

    def put(self, number: int, result: Result) -> None:
        self._results[f"{result.role}/{result.candidate}/{number}"] = result

    def __len__(self) -> int:
        return len(self._results)


class DatabaseStore(Store):
    """Finished runs in an Optuna storage; each run is one transaction.

    Args:
        url: The address of the database.
        name: The prefix of this comparison's studies; empty if the database holds one comparison alone.
        where: The name of the database in messages.
        fresh: Whether to discard the runs of this comparison.
    """

    def __init__(self, url: str, name: str, where: str, fresh: bool = False) -> None:
        import optuna

        super().__init__()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna, self._prefix, self.where = optuna, f"{name}/" if name else "", where
        self._storage = optuna.storages.RDBStorage(url)
        self._studies: dict[str, Any] = {}
        if fresh:
            for name in self._names():
                optuna.delete_study(study_name=name, storage=self._storage)
        self.settings = self._study(SETTINGS_STUDY).user_attrs.get("settings", {})
        for name in self._names():
            for trial in self._study(name.removeprefix(self._prefix)).trials:
                super().put(trial.user_attrs["number"], _from_json(trial.user_attrs["result"]))

    def bind(self, plan: Plan) -> None:
        settings = json.loads(json.dumps(plan.settings()))
        if not self.settings:
            self._study(SETTINGS_STUDY).set_user_attr("settings", settings)
        elif self.settings != settings:
            raise InvalidValue(
                f"{self.where} holds another comparison: {_difference(self.settings, settings)}. "
                f"Help: give another folder with --out (out=), or start over with --fresh (fresh=True)."
            )
        self.settings = settings

    def put(self, number: int, result: Result) -> None:
        super().put(number, result)
        attributes = {"number": number, "result": _to_json(result)}
        states = self._optuna.trial.TrialState
        finished = result.status == "done"
        self._study(f"{result.role}: {result.candidate}").add_trial(
            self._optuna.trial.create_trial(
                state=states.COMPLETE if finished else states.PRUNED,
                value=result.metrics[-1] if finished else None,
                user_attrs=attributes,
            )
        )

    def _names(self) -> list[str]:
        return [n for n in self._optuna.get_all_study_names(self._storage) if n.startswith(self._prefix)]

    def _study(self, name: str) -> Any:
        if name not in self._studies:
            self._studies[name] = self._optuna.create_study(
                storage=self._storage, study_name=f"{self._prefix}{name}", load_if_exists=True
            )
        return self._studies[name]


def open_store(folder: Path | None, storage: str | None = None, name: str = "", fresh: bool = False) -> Store:
    """The store of a comparison.

    Args:
        folder: The output folder, which holds an SQLite file unless `storage` is given. Without either, the store is in
            memory.
        storage: The address of a database.
        name: The name of the comparison in the database; the name of the folder takes precedence.
        fresh: Whether to discard earlier runs.
    """
    if storage is not None:
        return _open_database(storage, name if folder is None else folder.resolve().name, fresh)
    if folder is None:
        return Store()
    if fresh:
        (folder / DATABASE_FILE).unlink(missing_ok=True)
    return DatabaseStore(f"sqlite:///{(folder / DATABASE_FILE).resolve()}", "", str(folder / DATABASE_FILE))


def _open_database(storage: Any, name: str, fresh: bool) -> Store:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError

    if not isinstance(storage, str):
        raise InvalidType(f"`storage` must be the address of a database, {_EXAMPLE}; received {storage!r}.")
    try:
        shown = make_url(storage).render_as_string(hide_password=True)
    except ArgumentError:
        raise InvalidValue(f"`storage` must be the address of a database, {_EXAMPLE}; received {storage!r}.") from None
    try:
        return DatabaseStore(storage, name, f"{name} in {shown}", fresh)
    except ImportError as error:
        raise Unsupported(f"`storage` {shown} needs a driver: {str(error).rstrip('.')}. {_DRIVER}") from error
    except SQLAlchemyError as error:
        reason = str(error.__cause__ or error).strip().split("\n")[0]
        raise InvalidValue(f"`storage` {shown} can't be opened: {reason.rstrip('.')}.") from error


_EXAMPLE = "such as postgresql://user@host/database or sqlite:///runs.db"
_DRIVER = "For PostgreSQL: pip install 'piste[postgresql]'."


def _to_json(result: Result) -> str:
    fields = {**vars(result), "scores": pack_scores(result.scores)}
    return json.dumps(fields)  # with NaN, which Python's JSON reads


def _from_json(text: str) -> Result:
    fields = json.loads(text)
    if isinstance(fields["scores"], str):  # written before scores were packed
        fields["scores"] = unpack_scores(fields["scores"])
    options = fields.pop("options", {}).items()
    return Result(**fields, options={name: tuple(v) if isinstance(v, list) else v for name, v in options})


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    parts = []
    for key in {**before, **now}:
        old, new = before.get(key), now.get(key)
        if old == new:
            continue
        if key == "fingerprint":
            parts.append("the model or the data changed")
        elif key == "candidates":
            parts.append(f"candidates were {_list_candidates(old)}, now {_list_candidates(new)}")
        else:
            parts.append(f"{key} was {old}, now {new}")
    return "; ".join(parts)


def _list_candidates(candidates: Any) -> str:
    return ", ".join(c["name"] + ("" if c["lr"] is None else f" (lr {c['lr']:g})") for c in candidates or [])
