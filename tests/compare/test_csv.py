"""Tables: what is made of a column, that validation rows teach nothing, and every refusal, with its words."""

import csv
import math
import pickle
import random

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from piste.cli import app
from piste.compare import compare_task, table
from piste.compare.csv.reader import TABLES
from piste.compare.csv.task import is_table
from piste.errors import InvalidType, InvalidValue

ROWS = 40


@pytest.fixture
def write(tmp_path):
    def write(text, name="data.csv"):
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return tmp_path / name

    return write


def column(name, make, rows=ROWS):
    """A column as text: its name, and `make(i)` for each row."""
    return [name, *(str(make(i)) for i in range(rows))]


def lines(*columns):
    return "".join(",".join(row) + "\n" for row in zip(*columns, strict=True))


X = column("x", lambda i: (7 * i) % 11)
PRICE = column("price", lambda i: (7 * i) % 11 * 1.5 + i % 3)


def test_numbers_are_predicted_in_their_own_units(write):
    task = table(write(lines(X, PRICE)), column="price")
    mean = task.metric.value(torch.zeros_like(task.validation[1]), task.validation[1])
    assert task.about == (
        f"`price` as a number, from `x`: 30 rows to train on, 10 to judge by. "
        f"The mean of all would have an rmse of {mean:.3g}."
    )
    assert task.name == "data"
    (x, y), (x_validation, y_validation) = task.train, task.validation
    assert x.shape == (30, 1)
    assert y.shape == (30, 1)
    assert x.dtype == y.dtype == torch.float32
    np.testing.assert_allclose(y.mean(), 0, atol=1e-6)
    np.testing.assert_allclose(y.std(correction=0), 1, rtol=1e-5)
    # The whole table is there once, and comes back with one map.
    raw = np.array([float(price) for price in PRICE[1:]])
    both = torch.cat([y, y_validation]).flatten().double().numpy()
    deviation = np.ptp(raw) / np.ptp(both)
    np.testing.assert_allclose(
        np.sort(both * deviation), np.sort(raw) - (raw.max() - both.max() * deviation), atol=1e-5
    )
    assert len(x_validation) == 10
    # One off by one unit of the price everywhere is an rmse of one.
    off = y_validation + 1 / deviation
    assert task.metric.value(off, y_validation) == pytest.approx(1, rel=1e-5)
    assert task.metric.name == "rmse"
    assert not task.metric.higher_is_better


@pytest.mark.parametrize(
    ("make", "labels"),
    [
        (lambda i: ["no", "yes"][i % 2], ["no", "yes"]),
        (lambda i: i % 2 == 0, ["False", "True"]),
        (lambda i: i % 2, ["0", "1"]),
        (lambda i: float(10 + i % 2), ["10", "11"]),
        (lambda i: [10, 9, "n/a"][i % 3], ["9", "10"]),
        (lambda i: 1 + i % 4, ["1", "2", "3", "4"]),
        (lambda i: [1, 2, "A"][i % 3], ["1", "2", "A"]),
    ],
)
def test_text_and_few_whole_numbers_are_classes(write, make, labels):
    task = table(write(lines(X, column("kind", make))), column="kind")
    assert f"`kind` as one of {len(labels)} classes ({', '.join(labels)}), from `x`" in task.about
    whole = all(label.isdigit() for label in labels)
    assert (f"The {len(labels)} different whole numbers in `kind` are taken as classes." in task.about) == whole
    assert task.metric.name == "accuracy"
    assert task.loss == "cross_entropy"
    for _, y in (task.train, task.validation):
        assert set(y.tolist()) == set(range(len(labels)))
    assert task.new_model(0)(task.train[0]).shape == (len(task.train[0]), len(labels))


@pytest.mark.parametrize(
    ("make", "rows", "kind"),
    [
        (lambda i: i % 4 + 0.5, 40, "as a number"),
        (lambda i: i % 2 + 0.5, 40, "as a number"),
        (lambda i: i % 2, 20, "as one of 2 classes (0, 1)"),
        (lambda i: i % 2, 21, "as one of 2 classes (0, 1)"),
        (lambda i: i % 3, 29, "as a number"),
        (lambda i: i % 10, 99, "as a number"),
        (lambda i: i % 10, 100, "as one of 10 classes (0, 1, 2, 3, 4 and 5 more)"),
        (lambda i: i % 11, 300, "as a number"),
    ],
)
def test_many_or_broken_numbers_are_no_classes(write, make, rows, kind):
    text = lines(column("x", lambda i: 7 * i % 13, rows), column("y", make, rows))
    assert f"`y` {kind}, from" in table(write(text), column="y").about


def test_each_class_is_in_both_parts_by_its_share(write):
    kind = column("kind", lambda i: "rare" if i % 10 == 0 else "common", 100)
    task = table(write(lines(column("x", str, 100), kind)), column="kind")
    assert sum(task.train[1] == 1) in (7, 8)
    common = int(sum(task.validation[1] == 0))
    assert common in (22, 23)
    assert f"The most frequent class for all would have an accuracy of {common / 25:.3g}." in task.about


def test_numbers_are_scaled_and_gaps_are_filled_by_the_training_part(write):
    gaps = column("x", lambda i: "" if i % 5 == 0 else (i * i) % 23)
    task = table(write(lines(gaps, PRICE)), column="price")
    (x, _), (x_validation, _) = task.train, task.validation
    assert x.shape == (30, 2)  # the number, and whether there is none
    np.testing.assert_allclose(x[:, 0].mean(), 0, atol=1e-6)
    np.testing.assert_allclose(x[:, 0].std(correction=0), 1, rtol=1e-5)
    assert set(x[:, 1].tolist()) == {0.0, 1.0}
    assert int(x[:, 1].sum() + x_validation[:, 1].sum()) == 8
    known, filled = x[x[:, 1] == 0, 0], torch.cat([x, x_validation])[torch.cat([x, x_validation])[:, 1] == 1, 0]
    assert filled.unique().numel() == 1
    assert float(filled[0]) == pytest.approx(np.median(known.numpy()))


def test_what_validation_rows_hold_teaches_nothing(write):
    rows = [[str(i % 7), "abc"[i % 3], "" if i % 4 == 0 else str((i * i) % 17), str(i % 7 + i % 3)] for i in range(80)]
    names = ["a", "b", "c", "y"]

    def task_of(rows):
        path = write("\n".join(",".join(row) for row in [names, *rows]) + "\n")
        return table(path, column="y")

    before = task_of(rows)
    from sklearn.model_selection import train_test_split

    _, held_out = train_test_split(np.arange(80), test_size=0.25, random_state=0)
    for row in held_out:
        rows[row] = ["99", "z", "-77", "500"]
    after = task_of(rows)
    for one, other in zip(before.train, after.train, strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(before.validation[0], after.validation[0])


def test_text_is_one_input_for_each_frequent_value_one_for_others_one_for_none(write):
    def city(i):
        return ["Ulm", "Bern", "", "Ulm", f"village {i}"][i % 5]

    task = table(write(lines(column("city", city, 200), column("price", lambda i: i + 0.5, 200))), column="price")
    assert task.about.endswith(" Read as text: `city`.")
    x = torch.cat([task.train[0], task.validation[0]])
    assert x.shape == (200, 4)
    assert x.sum(0).tolist() == [80, 40, 40, 40]
    assert (x.sum(1) == 1).all()
    many = column("city", lambda i: f"c{i % 50}", 200)
    x = table(write(lines(many, column("price", lambda i: i + 0.5, 200))), column="price").train[0]
    assert x.shape == (150, 21)
    assert (x.sum(1) == 1).all()


def test_columns_that_cannot_help_are_left_out_and_said(write):
    path = write(
        lines(
            column("", lambda i: i),
            column("id", lambda i: f"{i:x}-{i * 7919:x}"),
            column("name", lambda i: f"Ms {i}"),
            column("country", lambda i: "EU"),
            column("one", lambda i: 0.1),
            column("nothing", lambda i: ["", "NA", "?", "None", "<NA>", ".", "--"][i % 7]),
            X,
            PRICE,
        )
    )
    task = table(path, column="price")
    assert task.train[0].shape == (30, 1)
    assert (
        "Left out: `column 1` (counts the rows), `id` (different in nearly every row, such as '0-0'), "
        "`name` (different in nearly every row, such as 'Ms 0'), `country` (the same in every row), "
        "`one` (the same in every row), `nothing` (empty)."
    ) in task.about


def test_a_counter_is_left_out_though_rows_are(write):
    task = table(
        write(lines(column("id", lambda i: 100 + i), X, column("y", lambda i: "" if i % 9 == 3 else i + 0.5))),
        column="y",
    )
    assert "5 rows without a `y` are left out." in task.about
    assert "Left out: `id` (counts the rows)." in task.about
    assert len(task.train[0]) + len(task.validation[0]) == 35


def test_a_counter_that_is_all_there_is_is_kept(write):
    task = table(write(lines(column("t", lambda i: i), column("y", lambda i: i * i))), column="y")
    assert "`y` as a number, from `t`" in task.about
    assert task.train[0].unique().numel() == 30


def test_stray_words_among_numbers_count_as_missing_and_are_said(write):
    area = column("area", lambda i: "unknown" if i == 3 else i % 13 * 2.5)
    task = table(write(lines(area, PRICE)), column="price")
    assert "1 cell of `area` without a number, such as 'unknown', counts as missing." in task.about
    area[10] = "nothing"
    assert "2 cells of `area` without a number, such as 'unknown', count as missing." in (
        table(write(lines(area, PRICE)), column="price").about
    )


def test_rows_of_rare_classes_are_left_out_and_said(write):
    kind = column("kind", lambda i: "odd" if i < 2 else "ab"[i % 2])
    task = table(write(lines(X, kind)), column="kind")
    assert "Left out as classes with fewer than 4 rows: odd (2)." in task.about
    assert "2 classes (a, b)" in task.about
    assert len(task.train[0]) + len(task.validation[0]) == 38


def test_semicolons_come_with_decimal_commas_and_tabs_with_tsv(write):
    rows = [[str(i % 11), f"{i % 11 * 1.5:.1f}", "a, b"] for i in range(ROWS)]
    comma = '"x";price;"text, quoted, thrice"\n' + "".join(f"{x};{y.replace('.', ',')};{text}\n" for x, y, text in rows)
    tabs = "x\tprice\ttext\n" + "".join(f"{x}\t{y}\t{text}\n" for x, y, text in rows)
    quoted = '"x","price","text, quoted"\r\n' + "".join(f'{x},{y},"{text}"\r\n' for x, y, text in rows)
    tasks = [
        table(write(comma), "price"),
        table(write(tabs, "data.tsv"), "price"),
        table(write("\ufeff" + quoted, "DATA.CSV"), "price"),
    ]
    for task in tasks:
        assert "`price` as a number, from `x`" in task.about
        assert torch.equal(task.train[1], tasks[0].train[1])
        assert torch.equal(task.train[0], tasks[0].train[0])


def test_the_same_each_time_and_fit_to_be_sent_to_a_process(write):
    before = torch.get_rng_state()
    path = write(lines(X, PRICE))
    one, other = table(path, "price"), table(str(path), "price")
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(one.train[0], other.train[0])
    assert torch.equal(one.validation[1], other.validation[1])
    sent = pickle.loads(pickle.dumps(one))
    assert sent.metric.value(sent.validation[1] + 1, sent.validation[1]) == one.metric.value(
        one.validation[1] + 1, one.validation[1]
    )


@pytest.mark.parametrize(("rows", "width", "hidden"), [(40, 8, 1), (400, 17, 1), (1000, 27, 2), (30_000, 128, 2)])
def test_the_model_follows_the_size_of_the_table(write, rows, width, hidden):
    x, y = column("x", lambda i: i * 7 % 13, rows), column("y", lambda i: i * 7 % 13 + 0.5, rows)
    task = table(write(lines(x, y)), column="y")
    layers = [layer for layer in task.new_model(0) if isinstance(layer, torch.nn.Linear)]
    assert layers[0].out_features == width
    assert len(layers) == hidden + 1
    steps = task.epochs * (len(task.train[0]) // task.batch_size)
    assert 150 <= steps <= 1100
    assert 8 <= task.batch_size <= 256


def test_a_table_is_learned_better_than_by_guessing(tmp_path):
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
    ("x,y\n", "y", "data.csv has 0 rows with a `y` to learn from; at least 20 are needed, some to train on and "),
    ("x,y\n1,2\n", "y", "data.csv has 1 row with a `y` to learn from; at least 20 are needed"),
    (lines(X, column("y", lambda i: "" if i % 3 else i)), "y", "data.csv has 14 rows with a `y` to learn from"),
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
        "The first line must name the columns.",
    ),
    (lines(X, PRICE, X), "price", "data.csv has the name `x` over columns 1 and 3; names must differ."),
    (lines(X, PRICE, PRICE), "price", "data.csv has the name `price` over columns 2 and 3; names must differ."),
    (
        "x,y\n1,2\n3,4,5\n", "y",
        "data.csv has 3 cells in line 3, and 2 names above; every line needs as many, and a cell that holds a comma "
        "stands in quotes.",
    ),
    ("x;y\n\n1;2\n3\n", "y", "data.csv has 1 cell in line 4, and 2 names above; every line needs as "
     "many, and a cell that holds a semicolon stands in quotes."),
    ('x,y\n1,"2\n3,4\n', "y", "data.csv can't be read at line 3: unexpected end of data."),
    ('x,y\n1,"2"3\n', "y", "data.csv can't be read at line 2: ',' expected after '\"'."),
    (b"x,y\n1,2\nM\xfcnchen,3\n", "y", "data.csv isn't UTF-8 text at line 3: invalid start byte. Save it as UTF-8 (in "
     "Excel: Save As, CSV UTF-8)."),
    (lines(X, column("y", lambda i: 5)), "y", "`y` is 5 in every row of data.csv: there is nothing to learn."),
    (lines(X, column("y", lambda i: "yes")), "y", "`y` is yes in every row of data.csv: there is nothing to learn."),
    (
        lines(X, column("y", lambda i: 5.5 if i == 22 else 5)), "y",  # a row to judge by
        "`y` is 5 in every row that would be trained on: there is nothing to learn.",
    ),
    (
        lines(X, column("y", lambda i: "inf" if i == 3 else i)), "y",
        "`y` must hold numbers between -1e+30 and 1e+30; received inf in line 5 of data.csv. "
        "Leave the cell empty if it isn't known.",
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
        "`price` is neither a number in every row nor one of a few classes: data.csv holds 'v0' in line 2, and 40 "
        "different values in 40 rows. Numbers are written plain, such as 1200.5; leave the cell empty where there is "
        "none.",
    ),
    (
        lines(X, column("price", lambda i: "abc" if i == 5 else i % 12)), "price",
        "`price` is neither a number in every row nor one of a few classes: data.csv holds 'abc' in line 7, and 13 "
        "different values in 40 rows.",
    ),
    (
        lines(X, column("y", lambda i: "b" if i < 2 else "a")), "y",
        "`y` needs two classes of at least 4 rows each; fewer than that in data.csv: b (2).",
    ),
    (
        lines(column("x", lambda i: i % 5, 21), column("y", lambda i: "ab"[i % 2] if i > 2 else "c", 21)), "y",
        "data.csv has 18 rows with a `y` to learn from; at least 20 are needed",
    ),
    (lines(PRICE), "price", "data.csv has no column to predict `price` from, as it has no other."),
    (
        lines(column("id", lambda i: i), column("key", lambda i: f"k{i}"), PRICE), "price",
        "data.csv has no column to predict `price` from: `id` (counts the rows), "
        "`key` (different in nearly every row, such as 'k0').",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("text", "target", "words"), REFUSED, ids=[words[:60] for *_, words in REFUSED])
def test_refusals_are_a_sentence(write, monkeypatch, tmp_path, text, target, words):
    write(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidValue) as caught:
        table("data.csv", column=target)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_column_is_named_by_its_name(write):
    with pytest.raises(InvalidType, match=r"`column` must be the name of a column of .*data\.csv; received 1\."):
        table(write(lines(X, PRICE)), column=1)


def test_a_file_that_is_not_there_or_no_table_names_what_to_do(write, tmp_path):
    write(lines(X, PRICE))
    with pytest.raises(InvalidValue, match=r"there is no file .*dat\.csv\. Did you mean `data\.csv`\?"):
        table(tmp_path / "dat.csv", column="price")
    with pytest.raises(InvalidValue, match=r"there is no file .*data\.csv\.$"):
        table(tmp_path / "nowhere" / "data.csv", column="price")
    with pytest.raises(
        InvalidValue, match=r"a table is a \.csv or \.tsv file; received .*\.xlsx\. Save or export it as"
    ):
        table(tmp_path / "data.xlsx", column="price")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InvalidValue, match=r"folder\.csv can't be read: Is a directory\."):
        table(tmp_path / "folder.csv", column="price")


def test_which_words_mean_a_table():
    assert all(is_table(f"data{ending}") and is_table(f"DATA{ending.upper()}") for ending in (*TABLES, ".xlsx"))
    assert not any(is_table(text) for text in ("digits", "my_task.py", "my_task.py:make", "csv"))


def test_the_command_predicts_a_column(write, tmp_path, monkeypatch):
    write(lines(column("id", lambda i: i), X, PRICE))
    monkeypatch.chdir(tmp_path)
    words = ["compare", "data.csv", "--target", "price", "--optimizers", "adam", "--seeds", "1", "--epochs", "2"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert done.output.split("\n")[1] == table("data.csv", "price").about
    assert "data: 1 optimizer with mse; 1 seed, " in done.output
    assert "ranked by rmse on 10 validation examples" in done.output
    assert "Left out: `id` (counts the rows)." in (tmp_path / "piste-compare" / "report.html").read_text()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["data.csv"], "piste: which column of data.csv is to be predicted? Give --target, one of `x`, `price`."),
        (["data.csv", "--target", "prize"], "piste: data.csv has no column `prize`. Did you mean `price`?"),
        (["data.xlsx", "--target", "price"], "piste: a table is a .csv or .tsv file; received data.xlsx."),
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
def test_the_command_refuses_in_a_sentence(write, tmp_path, monkeypatch, words, told):
    write(lines(X, PRICE))
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["compare", *words])
    assert done.exit_code == 2
    assert told in done.output
    assert "Traceback" not in done.output


def test_the_list_of_tasks_says_that_tables_are_taken_too():
    shown = CliRunner().invoke(app, ["tasks"]).output.strip().split("\n")
    assert shown[-1] == "Besides: a table (piste compare data.csv --target COLUMN), or your own (my_task.py:make)."
