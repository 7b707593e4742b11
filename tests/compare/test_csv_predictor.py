"""The fitted model of a table: the run that it repeats, its predictions, and its files."""

import csv
import json
import math

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from piste.cli import app
from piste.compare import Loop, Predictor, Task, compare_task, table
from piste.errors import InvalidType, InvalidValue

from .tables import column, lines

ROWS = 80


def sales(target="price"):
    """A table with a number, text, a date, missing cells and a decimal comma; the price depends on all of them."""
    area = [20 + i * 37 % 61 for i in range(ROWS)]
    city = ["Ulm", "Bern", "Rom"]
    rows = [
        f"{'' if i % 9 == 4 else f'{area[i]},5'};{city[i % 3]};{1 + i % 28:02}.{1 + i % 12:02}.2023;"
        f"{area[i] * 10 + 100 * (i % 3)},25;{['cheap', 'dear'][area[i] > 50]}"
        for i in range(ROWS)
    ]
    return "\n".join(["area;city;sold;price;kind", *rows, ""])


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """The task, the comparison and the predictor of each target."""
    folder = tmp_path_factory.mktemp("sales")
    (folder / "data.csv").write_text(sales(), encoding="utf-8")
    found = {}
    for target, other in (("price", "kind"), ("kind", "price")):
        task = table(folder / "data.csv", target, drop=[other])
        comparison = compare_task(task, optimizers=["Adam", "SGD"], lr=0.01, seeds=3, progress=False)
        found[target] = task, comparison, Predictor.fit(task, comparison, optimizers=["Adam", "SGD"])
    return found


@pytest.mark.parametrize("target", ["price", "kind"])
def test_the_median_run_of_the_recommended_candidate_is_repeated(fitted, target):
    task, comparison, predictor = fitted[target]
    training = predictor.training
    assert comparison.verdict.recommended == training["optimizer"]
    assert comparison.verdict.recommendation.startswith(f"Recommended: {training['optimizer']};")
    runs = {r.seed: r.metrics[-1] for r in comparison.results if r.candidate == training["optimizer"]}
    assert training["value"] == runs[training["seed"]] == sorted(runs.values())[1]
    task = task.of_seed(training["seed"])
    with torch.no_grad():
        assert task.metric.value(predictor.model(task.validation[0]), task.validation[1]) == training["value"]


def test_the_rate_found_for_the_seed_of_the_run_is_used_after_a_search(write_table):
    task = table(write_table(sales()), "price", drop="kind")
    found = compare_task(task, optimizers=["Adam", "SGD"], trials=3, seeds=2, epochs=4, progress=False)
    training = Predictor.fit(task, found, optimizers=["Adam", "SGD"]).training
    (run,) = [r for r in found.results if r.candidate == training["optimizer"] and r.seed == training["seed"]]
    assert (training["value"], training["lr"]) == (run.metrics[-1], run.lr)


def test_a_comparison_without_a_recommendation_gives_no_model(write_table):
    task = table(write_table(sales()), "price", drop="kind")
    found = compare_task(task, optimizers=["Adam", "SGD"], lr=1e-9, seeds=2, epochs=1, progress=False)
    assert found.verdict.recommended is None
    assert found.verdict.recommendation.startswith("No recommendation: ")
    with pytest.raises(InvalidValue, match="the comparison recommends no candidate, so there is no model to fit"):
        Predictor.fit(task, found, optimizers=["Adam", "SGD"])


def test_predictions_of_numbers_are_in_the_units_of_the_target(fitted):
    _, _, predictor = fitted["price"]
    _, truth, predicted = zip(*predictor.validation, strict=True)
    rmse = math.sqrt(np.square(np.subtract(truth, predicted)).mean())
    assert rmse == pytest.approx(predictor.training["value"], rel=1e-6)
    prices = {float(line.split(";")[3].replace(",", ".")) for line in sales().split("\n")[1:-1]}
    assert all(min(abs(price - value) for price in prices) < 1e-3 for value in truth)


def test_predictions_of_classes_are_their_labels(fitted):
    _, _, predictor = fitted["kind"]
    where, truth, predicted = zip(*predictor.validation, strict=True)
    assert np.mean([a == b for a, b in zip(truth, predicted, strict=True)]) == pytest.approx(
        predictor.training["value"]
    )
    kinds = [line.split(";")[4] for line in sales().split("\n")[1:-1]]
    assert list(truth) == [kinds[int(line.split()[1]) - 2] for line in where]


@pytest.mark.parametrize("target", ["price", "kind"])
def test_a_saved_model_predicts_the_same_from_the_same_rows(fitted, tmp_path, target):
    _, _, predictor = fitted[target]
    files = predictor.save(tmp_path / "model")
    assert [file.name for file in files] == ["model.pt", "model.json", "predictions.csv"]
    loaded = Predictor.load(tmp_path / "model")
    (tmp_path / "new.csv").write_text(sales(), encoding="utf-8")
    predicted = loaded.predict(tmp_path / "new.csv")
    assert predicted == predictor.predict(tmp_path / "new.csv")
    assert len(predicted) == ROWS
    for where, _, value in predictor.validation:
        row = predicted[int(where.split()[1]) - 2]
        assert row == value if target == "kind" else row == pytest.approx(value, rel=1e-5)
    assert loaded.training == predictor.training


def test_the_predictions_are_a_table(fitted, tmp_path):
    _, _, predictor = fitted["kind"]
    predictor.save(tmp_path)
    rows = list(csv.reader((tmp_path / "predictions.csv").read_text(encoding="utf-8").splitlines()))
    assert rows[0] == ["row", "kind", "predicted"]
    assert [tuple(row) for row in rows[1:]] == list(predictor.validation)


def test_new_rows_need_no_target_and_no_order_of_columns(fitted, write_table):
    _, _, predictor = fitted["kind"]
    text = "sold;note;city;area\n05.03.2023;x;Ulm;80,5\n05.03.2023;y;Paris;21,5\n"
    assert predictor.predict(write_table(text)) == ["dear", "cheap"]
    assert predictor.predict(write_table("sold;city;area\n")) == []


def test_one_new_row_is_read_by_the_convention_of_the_table(fitted, write_table):
    _, _, predictor = fitted["price"]
    point, comma = (predictor.predict(write_table(f"sold;city;area\n05.03.2023;Ulm;{a}\n")) for a in ("50", "50,000"))
    assert point == comma


def test_cells_that_are_no_number_or_date_count_as_missing_with_a_warning(fitted, write_table):
    _, _, predictor = fitted["price"]
    with pytest.warns(UserWarning) as said:
        strange = predictor.predict(write_table("sold;city;area\nsoon;Ulm;big\n"))
    path = write_table("sold;city;area\n;Ulm;\n")
    assert sorted(str(it.message) for it in said) == [
        f"1 cell of `area` without a number, such as 'big' in line 2 of {path}: counted as missing.",
        f"1 cell of `sold` without a date, such as 'soon' in line 2 of {path}: counted as missing.",
    ]
    assert strange == predictor.predict(path)


def test_numbers_in_another_unit_count_as_missing_with_a_warning(write_table):
    weight = column("weight", lambda i: f"{i % 9} kg", 80)
    task = table(write_table(lines(weight, column("y", lambda i: i % 9 + i % 4, 80))), "y", kind="number")
    found = compare_task(task, optimizers="Adam", lr=0.01, seeds=1, epochs=2, progress=False)
    predictor = Predictor.fit(task, found, optimizers="Adam")
    same, plain = (predictor.predict(write_table(f"weight\n{cell}\n")) for cell in ("5 kg", "5"))
    assert same == plain
    with pytest.warns(UserWarning, match="1 cell of `weight` without a number, such as '5000 g' in line 2"):
        assert predictor.predict(write_table("weight\n5000 g\n")) == predictor.predict(write_table("weight\n?\n"))


def test_a_missing_column_is_rejected(fitted, write_table):
    _, _, predictor = fitted["price"]
    with pytest.raises(
        InvalidValue, match=r"must have the columns that the model uses; missing: `area`, `sold`\. Help:"
    ):
        predictor.predict(write_table("city;x\nUlm;1\n"))


def test_a_folder_without_a_model_is_rejected(fitted, tmp_path):
    with pytest.raises(
        InvalidValue, match=r"holds no model: No such file or directory\. Help: give a folder of --save"
    ):
        Predictor.load(tmp_path)
    fitted["price"][2].save(tmp_path)
    description = json.loads((tmp_path / "model.json").read_text(encoding="utf-8"))
    (tmp_path / "model.json").write_text(json.dumps(description | {"format": 2}), encoding="utf-8")
    with pytest.raises(InvalidValue, match="holds a model in format 2; this version of Piste reads 1"):
        Predictor.load(tmp_path)


def test_only_the_comparison_of_a_table_can_be_fitted(fitted):
    _, comparison, _ = fitted["price"]
    other = Task(torch.nn.Linear(1, 1), (torch.ones(8, 1), torch.ones(8, 1)), (torch.ones(8, 1), torch.ones(8, 1)))
    with pytest.raises(InvalidType, match="`task` must be the task of a table; received Task"):
        Predictor.fit(other, comparison)
    with pytest.raises(InvalidValue, match="`optimizers` and `loss` must be those of the comparison"):
        Predictor.fit(fitted["price"][0], comparison, optimizers=["Lion"])


def test_the_command_saves_the_model_and_shows_how_to_load_it(write_table, tmp_path, monkeypatch):
    rows = 80
    text = lines(column("x", lambda i: i % 8, rows), column("y", lambda i: ["low", "high"][i % 8 > 3], rows))
    write_table(text)
    monkeypatch.chdir(tmp_path)
    words = ["compare", "data.csv", "--target", "y", "--optimizers", "adam", "--lr", "0.05", "--seeds", "1"]
    done = CliRunner().invoke(app, [*words, "--save-model", "model"])
    assert done.exit_code == 0, done.output
    assert "The model of Adam with seed 0 (accuracy 1) and its predictions are in model:" in done.output
    shown = done.output[done.output.index("    from piste.compare import Predictor") :]
    write_table("x\n0\n7\n", "new.csv")
    code = "\n".join(line.strip() for line in shown.strip().split("\n")).replace(
        "Predictor.load", "found = Predictor.load"
    )
    names = {}
    exec(code, names)
    assert names["found"] == ["low", "high"]


def test_the_command_refuses_to_save_the_model_of_another_task():
    done = CliRunner().invoke(app, ["compare", "digits", "--save-model", "model"])
    assert done.exit_code == 2
    assert "piste: --save-model is for a table, such as data.csv; `digits` isn't one. Help: omit it." in done.output


def test_the_loop_of_the_comparison_is_needed_to_fit_again(write_table):
    task = table(write_table(sales()), "kind", drop="price")
    task.loop = Loop(ema=0.5)
    options = {"optimizers": ["SGD", "Adam"], "lr": 0.1, "seeds": 3, "epochs": 3, "progress": False}
    found = compare_task(task, **options)
    found.verdict.recommended = found.rows[0].name  # whatever the evidence says
    predictor = Predictor.fit(task, found, optimizers=["SGD", "Adam"])
    run = next(r for r in found.results if (r.candidate, r.seed) == (found.rows[0].name, predictor.training["seed"]))
    assert predictor.training["value"] == run.metrics[-1]
    task.loop = None
    with pytest.raises(InvalidValue) as caught:
        Predictor.fit(task, found, optimizers=["SGD", "Adam"])
    assert str(caught.value) == "`task.loop` must be that of the comparison, Loop(ema=0.5); received Loop()."
