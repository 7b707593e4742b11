"""MLflow and TensorBoard: a run for each trial with its settings and curves, the report, and no duplicates."""

import math

import pytest
import torch

from piste.compare import compare_task
from piste.errors import InvalidType, InvalidValue, Unsupported
from tests.compare.small import task


@pytest.fixture(autouse=True)
def nowhere_else(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def found_by(out, **options):
    options = {"trials": 2, "seeds": 2, "track": "mlflow", **options}
    return compare_task(task(), optimizers=["SGD", "Adam"], out=out, progress=False, **options)


def runs_in(uri, name="task"):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    runs = client.search_runs([client.get_experiment_by_name(f"piste compare {name}").experiment_id])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    return client, parents, [run for run in runs if run not in parents]


def test_mlflow_has_every_trial_and_the_report(tmp_path):
    found = found_by(tmp_path)
    client, (parent,), runs = runs_in(f"sqlite:///{tmp_path}/mlflow.db")
    judged = len(found.results) + len([r for r in found.defaults if r.role == "default"])
    assert len(runs) == len(found.tries) + judged
    assert all(run.data.tags["mlflow.parentRunId"] == parent.info.run_id for run in runs)
    assert {run.info.status for run in runs} == {"FINISHED"}
    result = next(r for r in found.results if r.candidate == "Adam" and r.seed == 1)
    run = next(run for run in runs if run.info.run_name.startswith("judged Adam seed=1"))
    assert run.data.params == {
        "candidate": "Adam", "optimizer": "Adam", "loss": "cross_entropy", "lr": str(result.lr), "seed": "1",
        "role": "judged", "status": "done",
    }  # fmt: skip
    curve = client.get_metric_history(run.info.run_id, "training loss")
    assert {point.step: point.value for point in curve} == dict(zip(result.steps, result.losses, strict=True))
    assert run.data.metrics["validation accuracy"] == result.metrics[-1]
    assert parent.data.params["steps"] == "12"
    assert found.verdict.sentence in parent.data.tags["mlflow.note.content"]
    names = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert {"report.html", "report.md", "results.json", "curves.svg"} <= names


def test_a_resumed_comparison_is_logged_to_mlflow_once(tmp_path):
    found_by(tmp_path, trials=1)
    before = runs_in(f"sqlite:///{tmp_path}/mlflow.db")
    found_by(tmp_path, trials=1)
    after = runs_in(f"sqlite:///{tmp_path}/mlflow.db")
    assert [len(part) for part in after[1:]] == [len(part) for part in before[1:]]


def test_mlflow_follows_its_own_variable_and_needs_no_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/elsewhere.db")
    monkeypatch.chdir(tmp_path)
    found_by(None, trials=1, seeds=1)
    client, (parent,), runs = runs_in(f"sqlite:///{tmp_path}/elsewhere.db")
    assert len(runs) == 2
    assert "report.html" in {file.path for file in client.list_artifacts(parent.info.run_id)}


def test_a_diverged_run_is_tracked_with_what_is_finite(tmp_path):
    x = torch.linspace(-1, 1, 48).unsqueeze(1)
    compare_task(
        task(model=lambda: torch.nn.Linear(1, 1), train=(x, 3 * x), validation=(x, 3 * x), name="it's \"odd\" <b>"),
        optimizers="SGD", lr=1e30, seeds=1, progress=False, out=tmp_path, track=["mlflow", "tensorboard"],
    )  # fmt: skip
    _, _, (run,) = runs_in(f"sqlite:///{tmp_path}/mlflow.db", 'it\'s "odd" <b>')
    assert run.data.params["status"] == "diverged"
    assert all(map(math.isfinite, run.data.metrics.values()))


def test_tensorboard_has_curves_and_settings(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = found_by(tmp_path, track="tensorboard")
    folders = [path for path in (tmp_path / "tensorboard").iterdir() if path.is_dir()]
    assert len(folders) == len(found.tries) + len(found.results) + sum(r.role == "default" for r in found.defaults)
    result = next(r for r in found.results if r.candidate == "SGD" and r.seed == 0)
    (folder,) = (path for path in folders if path.name.startswith("judged_SGD_seed=0"))
    events = EventAccumulator(str(folder)).Reload()
    curve = events.Scalars("validation accuracy")
    assert [point.step for point in curve] == result.steps
    assert [point.value for point in curve] == pytest.approx(result.metrics)
    assert "_hparams_/session_start_info" in events.Tags()["tensors"] or events.summary_metadata
    told = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert any("report" in tag for tag in told.Tags()["tensors"])
    count = sum(1 for _ in (tmp_path / "tensorboard").rglob("events*"))
    found_by(tmp_path, track="tensorboard")
    assert sum(
        1 for path in (tmp_path / "tensorboard").rglob("events*") if path.parent != tmp_path / "tensorboard"
    ) == (count - 1)


def test_invalid_tracking_is_rejected_before_the_first_run(tmp_path, monkeypatch):
    with pytest.raises(InvalidValue, match=r"unknown tracker `mlfow`\. Did you mean `mlflow`\?"):
        found_by(tmp_path, track="mlfow")
    with pytest.raises(InvalidType, match=r"a name or a list of names \(mlflow, tensorboard\); received 3"):
        found_by(tmp_path, track=3)
    with pytest.raises(InvalidValue, match=r"tracking with tensorboard needs an output folder \(out=\)"):
        found_by(None, track="tensorboard")
    with pytest.raises(InvalidValue, match=r"where mlflow\.db is written, or the environment variable MLFLOW_"):
        found_by(None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name in ("mlflow", "tensorboard"):
        with pytest.raises(Unsupported, match=rf"tracking with {name} needs a package: pip install 'piste\[{name}\]'"):
            found_by(tmp_path, track=name)
    assert not (tmp_path / "runs.db").exists()
