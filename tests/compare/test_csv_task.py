"""A table as a task: model, batches, reproducibility and refusals."""

import csv
import math
import pickle
import random

import pytest
import torch

from piste.compare import compare_task, table
from piste.errors import InvalidType, InvalidValue

from .tables import PRICE, X, column, lines


def test_a_table_gives_the_same_task_each_time_and_can_be_pickled(write_table):
    before = torch.get_rng_state()
    path = write_table(lines(X, PRICE))
    one, other = table(path, "price"), table(str(path), "price")
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(one.train[0], other.train[0])
    assert torch.equal(one.validation[1], other.validation[1])
    sent = pickle.loads(pickle.dumps(one))
    assert sent.metric.value(sent.validation[1] + 1, sent.validation[1]) == one.metric.value(
        one.validation[1] + 1, one.validation[1]
    )


@pytest.mark.parametrize(("rows", "width", "hidden"), [(40, 8, 1), (400, 17, 1), (1000, 27, 2), (30_000, 128, 2)])
def test_the_model_and_the_batches_grow_with_the_table(write_table, rows, width, hidden):
    x, y = column("x", lambda i: i * 7 % 13, rows), column("y", lambda i: i * 7 % 13 + 0.5, rows)
    task = table(write_table(lines(x, y)), column="y")
    layers = [layer for layer in task.new_model(0) if isinstance(layer, torch.nn.Linear)]
    assert layers[0].out_features == width
    assert len(layers) == hidden + 1
    steps = task.epochs * (len(task.train[0]) // task.batch_size)
    assert 150 <= steps <= 1100
    assert 8 <= task.batch_size <= 256


def test_a_comparison_on_a_table_beats_a_guess_by_far(tmp_path):
    draw = random.Random(0)
    with open(tmp_path / "houses.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["area", "city", "price"])
        for _ in range(200):
            area, city = draw.uniform(30, 200), draw.choice(["Ulm", "Bern"])
            rows.writerow([f"{area:.1f}", city, f"{1000 * area * (7 if city == 'Bern' else 3):.0f}"])
    task = table(tmp_path / "houses.csv", column="price")
    found = compare_task(task, optimizers=["Adam"], lr=0.01, seeds=1, progress=False)
    guess = float(task.about.split("rmse of ")[1].split(". ")[0].rstrip(".").replace(",", ""))
    assert math.isfinite(guess)
    assert found.rows[0].metric < guess / 10
    assert found.about == task.about


REFUSED = [
    ("", "y", "data.csv is empty; a table is a line of names and a line for each example."),
    ("\n\n", "y", "data.csv is empty; a table is a line of names"),
    ("\n  \n\t\n", "y", "data.csv is empty; a table is a line of names"),
    ("x,y\n", "y", "data.csv has 0 rows with a `y`; training and validation need at least 20."),
    ("x,y\n1,2\n", "y", "data.csv has 1 row with a `y`; training and validation need at least 20."),
    (lines(X, column("y", lambda i: "" if i % 3 else i)), "y", "data.csv has 14 rows with a `y`;"),
    (lines(X, PRICE), None, "which column of data.csv is to be predicted? Give --target, one of `x`, `price`."),
    (lines(X, PRICE), "prize", "data.csv has no column `prize`. Did you mean `price`?"),
    (lines(X, PRICE), "zzz", "data.csv has no column `zzz`. Known: `x`, `price`."),
    (
        lines(X, PRICE).replace(",", ":"), "price",
        "data.csv has no column `price`. Did you mean `x:price`? Columns are separated by commas, semicolons, tabs or "
        "vertical bars.",
    ),
    (
        lines(X[1:], PRICE[1:]), "price",
        "data.csv has no column `price`, and seems to have no names: its first line holds 0. "
        "Help: name the columns in the first line.",
    ),
    (lines(X, PRICE, X), "price", "data.csv has the name `x` over columns 1 and 3 in line 1. "
     "Help: give each column its own name."),
    (lines(X, PRICE, PRICE), "price", "data.csv has the name `price` over columns 2 and 3 in line 1. "
     "Help: give each column its own name."),
    (
        "x,y\n1,2\n3,4,5\n", "y",
        "data.csv has 3 cells in line 3, and 2 names in line 1. Help: write as many cells in every line, and put a "
        "cell that holds a comma in quotes.",
    ),
    ("x;y\n\n1;2\n3\n", "y", "data.csv has 1 cell in line 4, and 2 names in line 1. Help: write as many cells in every "
     "line, and put a cell that holds a semicolon in quotes."),
    ('x,y\n1,"2\n3,4\n', "y", "data.csv can't be read at line 3: unexpected end of data."),
    ('x,y\n1,"2"3\n', "y", "data.csv can't be read at line 2: ',' expected after '\"'."),
    (b"x,y\n1,2\nM\x81\x8d\x9fnchen,3\n", "y", "data.csv isn't UTF-8 text at line 3: invalid start byte. Help: give "
     "its encoding (--encoding cp1250, encoding= in Python), or save it as UTF-8 (in Excel: Save As, CSV UTF-8)."),
    (lines(X, column("y", lambda i: 5)), "y", "`y` is 5 in every row of data.csv: there is nothing to learn."),
    (lines(X, column("y", lambda i: "yes")), "y", "`y` is yes in every row of data.csv: there is nothing to learn."),
    (
        lines(X, column("y", lambda i: 5.5 if i == 22 else 5)), "y",  # a validation row
        "`y` is 5 in every training row: there is nothing to learn.",
    ),
    (
        lines(X, column("y", lambda i: "inf" if i == 3 else i)), "y",
        "`y` must hold numbers between -1e+30 and 1e+30; received inf in line 5 of data.csv. "
        "Help: leave the cell empty if the number isn't known.",
    ),
    (
        lines(column("x", lambda i: "-Infinity" if i == 3 else i), PRICE), "price",
        "`x` must hold numbers between -1e+30 and 1e+30; received -inf in line 5 of data.csv.",
    ),
    (
        lines(column("x", lambda i: "1e300" if i == 3 else i), PRICE), "price",
        "`x` must hold numbers between -1e+30 and 1e+30; received 1e+300 in line 5 of data.csv.",
    ),
    (
        lines(X, column("price", lambda i: f"v{i}")), "price",
        "`price` is neither a number in every row nor one of a few classes: 'v0' in line 2 of data.csv, and 40 "
        "different values in 40 rows. Help: write numbers plain, such as 1200.5, and leave the cell empty where there "
        "is none.",
    ),
    (
        lines(X, column("price", lambda i: "abc" if i == 5 else i % 12)), "price",
        "`price` is neither a number in every row nor one of a few classes: 'abc' in line 7 of data.csv, and 13 "
        "different values in 40 rows.",
    ),
    (
        lines(X, column("y", lambda i: "b" if i < 2 else "a")), "y",
        "`y` needs two classes of at least 4 rows each; fewer than that in data.csv: b (2).",
    ),
    (
        lines(column("x", lambda i: i % 5, 21), column("y", lambda i: "ab"[i % 2] if i > 2 else "c", 21)), "y",
        "data.csv has 18 rows with a `y`; training and validation need at least 20.",
    ),
    (lines(PRICE), "price", "data.csv has no column to predict `price` from, as it has no other."),
    (
        lines(column("id", lambda i: i), column("key", lambda i: f"k{i}"), PRICE), "price",
        "data.csv has no column to predict `price` from: `id` (counts the rows), "
        "`key` (different in nearly every row, such as 'k0').",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("text", "target", "words"), REFUSED, ids=[words[:60] for *_, words in REFUSED])
def test_rejected_tables_give_one_sentence_with_the_way_out(write_table, monkeypatch, tmp_path, text, target, words):
    write_table(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidValue) as caught:
        table("data.csv", column=target)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_target_is_given_by_its_name(write_table):
    with pytest.raises(InvalidType, match=r"`column` must be the name of a column of .*data\.csv; received 1\."):
        table(write_table(lines(X, PRICE)), column=1)


def test_a_missing_file_and_a_file_that_is_no_table_are_rejected_with_the_way_out(write_table, tmp_path):
    write_table(lines(X, PRICE))
    with pytest.raises(InvalidValue, match=r"there is no file .*dat\.csv\. Did you mean `data\.csv`\?"):
        table(tmp_path / "dat.csv", column="price")
    with pytest.raises(InvalidValue, match=r"there is no file .*data\.csv\.$"):
        table(tmp_path / "nowhere" / "data.csv", column="price")
    with pytest.raises(
        InvalidValue, match=r"a table is a \.csv or \.tsv file; received .*\.xlsx\. Help: save or export"
    ):
        table(tmp_path / "data.xlsx", column="price")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InvalidValue, match=r"folder\.csv can't be read: Is a directory\."):
        table(tmp_path / "folder.csv", column="price")
