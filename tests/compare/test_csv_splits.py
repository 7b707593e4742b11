"""Training and validation rows: at random, by group, by time, from a file, and copies in both parts."""

import numpy as np
import pytest
import torch

from piste.compare import table
from piste.errors import InvalidValue

from .tables import PRICE, X, column, lines


def test_each_class_has_its_share_of_both_parts(write_table):
    kind = column("kind", lambda i: "rare" if i % 10 == 0 else "common", 100)
    task = table(write_table(lines(column("x", str, 100), kind)), column="kind")
    assert sum(task.train[1] == 1) in (7, 8)
    common = int(sum(task.validation[1] == 0))
    assert common in (22, 23)
    assert f"Predicting the most frequent class gives an accuracy of {common / 25:.3g}." in task.about


def test_the_training_data_does_not_depend_on_validation_rows(write_table):
    rows = [[str(i % 7), "abc"[i % 3], "" if i % 4 == 0 else str((i * i) % 17), str(i % 7 + i % 3)] for i in range(80)]
    names = ["a", "b", "c", "y"]

    def task_of(rows):
        path = write_table("\n".join(",".join(row) for row in [names, *rows]) + "\n")
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


def visits(n_patients=12, per_patient=4):
    rows = n_patients * per_patient
    return lines(
        column("patient_id", lambda i: 100 + i // per_patient, rows),
        column("day", lambda i: f"2023-{1 + i * 5 % 12:02}-{1 + i * 5 % 28:02}", rows),
        column("x", lambda i: i * 7 % 11, rows),
        column("y", lambda i: i * 7 % 11 + i / 100, rows),
    )


def validation_rows(task):
    """The positions of the validation rows in the file, from 0 on."""
    return {int(line.split()[1]) - 2 for line in task.validation_lines}


def test_rows_of_a_group_stay_in_one_part(write_table):
    task = table(write_table(visits()), "y", group="patient_id")
    held_out = validation_rows(task)
    assert {row // 4 for row in held_out} & {row // 4 for row in set(range(48)) - held_out} == set()
    assert "Rows of one `patient_id` stay in one part: 9 in training, 3 in validation." in task.about
    assert "`patient_id` (groups the rows)" in task.about


def test_groups_keep_the_shares_of_classes(write_table):
    text = lines(column("g", lambda i: f"g{i // 3}", 96), column("x", lambda i: i * 7 % 13, 96),
                 column("kind", lambda i: "ab"[i // 3 % 2], 96))  # fmt: skip
    task = table(write_table(text), "kind", group="g")
    assert task.train[1].bincount().tolist() == [36, 36]
    assert task.validation[1].bincount().tolist() == [12, 12]


def test_the_latest_rows_are_validation_rows(write_table):
    text = visits()
    task = table(write_table(text), "y", time="day")
    days = [row.split(",")[1] for row in text.split("\n")[1:-1]]
    held_out = validation_rows(task)
    first = min(days[row] for row in held_out)
    assert all(days[row] < first for row in range(48) if row not in held_out)
    assert 12 <= len(held_out) <= 16
    assert f"{first} on." in task.about
    assert "The validation rows are those with `day` from " in task.about
    numbers = table(write_table(lines(column("t", lambda i: i % 20), PRICE)), "price", time="t")
    assert "The validation rows are those with `t` from 15 on." in numbers.about


def test_a_validation_file_holds_the_validation_rows(write_table):
    path = write_table(lines(X, PRICE))
    other = write_table("price,x\n" + "".join(f"{i},{i % 5}\n" for i in range(6)), "later.csv")
    task = table(path, "price", validation=other)
    assert len(task.train[0]) == 40
    assert task.validation_lines == [f"line {i} of {other}" for i in range(2, 8)]
    assert f"The validation rows are those of {other}." in task.about
    mean = np.mean([float(price) for price in PRICE[1:]])
    target = task.validation[1].flatten() * task.table_target.deviation + task.table_target.mean
    np.testing.assert_allclose(target, range(6), atol=1e-4)
    assert task.table_target.mean == pytest.approx(mean)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"group": "patient_id", "time": "day"}, "give one of --group, --time, --validation; received --group and "
         "--time."),
        ({"group": "patient"}, "has no column `patient`. Did you mean `patient_id`?"),
        ({"time": "kind"}, "`kind` must hold dates or numbers to split by time; it holds no dates or numbers, such as "
         "'a' in line 2 of data.csv. Help: write dates as 2024-03-05."),
        ({"time": "gap"}, "`gap` must be known in every row to split by time; received '' in line 4 of data.csv. Help: "
         "fill the cell or delete the row."),
        ({"time": "same"}, "`same` is the same in most rows of data.csv: they can't be split by time."),
        ({"group": "kind"}, "`kind` must have at least 4 different values to group rows by; data.csv has 2."),
        ({"validation": "other.csv"}, "other.csv has no column `patient_id`, which data.csv has. Known: `x`, `same`."),
        ({"validation": "none.csv"}, "there is no file none.csv."),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)  # fmt: skip
def test_splits_that_are_not_possible_are_rejected(write_table, monkeypatch, tmp_path, options, words):
    rows = [
        f"{100 + i // 4},2023-{1 + i % 12:02}-13,{'ab'[i % 2]},{'' if i == 2 else i},7,{i % 9 + 0.5}" for i in range(40)
    ]
    write_table("\n".join(["patient_id,day,kind,gap,same,y", *rows]))
    write_table("x,same\n1,2\n", "other.csv")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidValue) as caught:
        table("data.csv", "y", **options)
    assert words in str(caught.value)


def test_classes_without_a_training_row_are_left_out_of_validation(write_table):
    kind = column("kind", lambda i: "new" if i >= 34 else "ab"[i % 2])
    task = table(write_table(lines(column("t", str), X, kind)), "kind", time="t")
    assert "Left out: 6 validation rows of classes without a training row (new)." in task.about
    assert len(task.validation[1]) == 4


def test_copies_in_both_parts_are_counted(write_table):
    unique = [f"{i},{i % 7},{i % 5 + i / 100}" for i in range(40)]
    assert "copies" not in table(write_table("\n".join(["n,x,y", *unique])), "y").about
    both = unique + unique[:20]
    task = table(write_table("\n".join(["n,x,y", *both])), "y")
    held_out = validation_rows(task)
    copies = sum(any(0 <= twin < 60 and twin not in held_out for twin in (row - 40, row + 40)) for row in held_out)
    assert copies > 1
    assert f"{copies} validation rows are copies of training rows, in every column that is used." in task.about


def test_identifiers_in_both_parts_are_named(write_table):
    about = table(write_table(visits()), "y").about
    assert "values of `patient_id` have rows in both parts: --group patient_id keeps them together." in about
    assert "in both parts" not in table(write_table(visits()), "y", group="patient_id").about
