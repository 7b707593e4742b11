"""Where finished runs are kept: in memory, or at once on disk, so that a comparison that was killed goes on."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from ..errors import InvalidValue
from .trial import Result

FILE = "runs.db"
STUDY = "settings"


class Store:
    """Finished runs by their key (role, candidate, number), in memory."""

    def __init__(self) -> None:
        self._results: dict[str, Result] = {}

    def get(self, role: str, candidate: str, number: int) -> Result | None:
        return self._results.get(f"{role}/{candidate}/{number}")

    def put(self, number: int, result: Result) -> None:
        self._results[f"{result.role}/{result.candidate}/{number}"] = result

    def __len__(self) -> int:
        return len(self._results)


class DiskStore(Store):
    """The same in an Optuna storage, an SQLite file; each run is one transaction.

    A file that holds another comparison is refused, with the difference.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        import optuna

        super().__init__()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna = optuna
        self._storage = optuna.storages.RDBStorage(f"sqlite:///{(folder / FILE).resolve()}")
        self._studies: dict[str, Any] = {}
        study = self._study(STUDY)
        settings = json.loads(json.dumps(settings))
        before = study.user_attrs.get("settings")
        if before is None:
            study.set_user_attr("settings", settings)
        elif before != settings:
            raise InvalidValue(
                f"{folder / FILE} holds another comparison: {_difference(before, settings)}. "
                f"Give another folder with --out (out=), or start over with --fresh (fresh=True)."
            )
        for name in optuna.get_all_study_names(self._storage):
            for trial in self._study(name).trials:
                super().put(trial.user_attrs["number"], _result(trial.user_attrs["result"]))

    def put(self, number: int, result: Result) -> None:
        super().put(number, result)
        attributes = {"number": number, "result": _record(result)}
        states = self._optuna.trial.TrialState
        finished = result.status == "done"
        self._study(f"{result.role}: {result.candidate}").add_trial(
            self._optuna.trial.create_trial(
                state=states.COMPLETE if finished else states.PRUNED,
                value=result.metrics[-1] if finished else None,
                user_attrs=attributes,
            )
        )

    def _study(self, name: str) -> Any:
        if name not in self._studies:
            self._studies[name] = self._optuna.create_study(storage=self._storage, study_name=name, load_if_exists=True)
        return self._studies[name]


def open_store(folder: Path | None, settings: dict[str, Any], fresh: bool = False) -> Store:
    """The store of an output folder; in memory without one. `fresh` forgets what was there."""
    if folder is None:
        return Store()
    if fresh:
        (folder / FILE).unlink(missing_ok=True)
    return DiskStore(folder, settings)


def _record(result: Result) -> str:
    return json.dumps(dataclasses.asdict(result))  # with NaN, which Python's JSON reads back


def _result(text: str) -> Result:
    return Result(**json.loads(text))


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    parts = []
    for key in {**before, **now}:
        old, new = before.get(key), now.get(key)
        if old == new:
            continue
        if key == "fingerprint":
            parts.append("the model or the data changed")
        elif key == "candidates":
            parts.append(f"candidates were {_names(old)}, now {_names(new)}")
        else:
            parts.append(f"{key} was {old}, now {new}")
    return "; ".join(parts)


def _names(candidates: Any) -> str:
    return ", ".join(c["name"] + ("" if c["lr"] is None else f" (lr {c['lr']:g})") for c in candidates or [])
