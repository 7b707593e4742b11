"""Tables on the command line."""

import pytest
from typer.testing import CliRunner

from piste.cli import app
from piste.compare import table
from piste.compare.csv.decoding import TABLES
from piste.compare.csv.task import is_table

from .tables import PRICE, X, column, lines


def test_a_suffix_of_a_table_file_means_a_table():
    assert all(is_table(f"data{ending}") and is_table(f"DATA{ending.upper()}") for ending in (*TABLES, ".xlsx"))
    assert not any(is_table(text) for text in ("digits", "my_task.py", "my_task.py:make", "csv"))


def test_the_command_predicts_a_column(write_table, tmp_path, monkeypatch):
    write_table(lines(column("id", lambda i: i), X, PRICE))
    monkeypatch.chdir(tmp_path)
    words = ["compare", "data.csv", "--target", "price", "--optimizers", "adam", "--seeds", "1", "--epochs", "2",
             "--defaults"]  # fmt: skip
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert done.output.split("\n")[1] == table("data.csv", "price").about
    assert "data: 1 optimizer with mse; 1 seed, " in done.output
    assert "ranked by rmse on 10 validation examples" in done.output
    assert "Left out: `id` (counts the rows)." in (tmp_path / "piste-compare" / "data" / "report.html").read_text()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["data.csv"], "piste: which column of data.csv is to be predicted? Give --target, one of `x`, `price`."),
        (["data.csv", "--target", "prize"], "piste: data.csv has no column `prize`. Did you mean `price`?"),
        (["data.xlsx", "--target", "price"], "piste: a table is a .csv or .tsv file; received data.xlsx. Help: "),
        (["none.csv", "--target", "price"], "piste: there is no file none.csv."),
        (
            ["digits", "--target", "price"],
            "piste: --target names a column of a table, such as data.csv; `digits` isn't one. Help: omit it.",
        ),
        (["digits", "--decimal", ","], "piste: --decimal is for a table, such as data.csv; `digits` isn't one."),
        (["data.csv", "--target", "price", "--decimal", ";"], "piste: `decimal` must be '.' or ','; received ';'."),
        (["my_task.py", "--target", "0.9"], "`my_task.py` isn't one. Help: omit it."),
        (["digit"], "Help: give a custom task as file.py:function, a table as data.csv with --target COLUMN."),
    ],
)
def test_the_command_refuses_in_one_sentence(write_table, tmp_path, monkeypatch, words, told):
    write_table(lines(X, PRICE))
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["compare", *words])
    assert done.exit_code == 2
    assert told in done.output
    assert "Traceback" not in done.output


def test_losses_without_the_weights_of_the_classes_are_refused(write_table, tmp_path, monkeypatch):
    write_table(lines(X, column("kind", lambda i: "rare" if i % 4 == 0 else "common")))
    monkeypatch.chdir(tmp_path)
    words = ["compare", "data.csv", "--target", "kind", "--class-weights", "balanced", "--losses", "focal"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2
    assert (
        "piste: --class-weights weights the loss `balanced cross_entropy`, which --losses leaves out; received "
        '--losses focal. Help: --losses "balanced cross_entropy,focal" compares them, or omit one of the options.'
    ) in done.output


def test_the_list_of_tasks_names_tables():
    shown = CliRunner().invoke(app, ["tasks"]).output.strip().split("\n")
    assert shown[-1] == "Also: a table (piste compare data.csv --target COLUMN), or your own (my_task.py:make)."
