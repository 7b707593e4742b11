"""The inputs made of each column, and the columns that are left out."""

import numpy as np
import pytest
import torch

from piste.compare import table
from piste.errors import InvalidType, InvalidValue

from .tables import PRICE, X, column, lines


def test_numbers_are_scaled_and_missing_ones_filled_with_statistics_of_the_training_rows(write_table):
    gaps = column("x", lambda i: "" if i % 5 == 0 else (i * i) % 23)
    task = table(write_table(lines(gaps, PRICE)), column="price")
    (x, _), (x_validation, _) = task.train, task.validation
    assert x.shape == (30, 2)  # the number, and whether there is none
    np.testing.assert_allclose(x[:, 0].mean(), 0, atol=1e-6)
    np.testing.assert_allclose(x[:, 0].std(correction=0), 1, rtol=1e-5)
    assert set(x[:, 1].tolist()) == {0.0, 1.0}
    assert int(x[:, 1].sum() + x_validation[:, 1].sum()) == 8
    known, filled = x[x[:, 1] == 0, 0], torch.cat([x, x_validation])[torch.cat([x, x_validation])[:, 1] == 1, 0]
    assert filled.unique().numel() == 1
    assert float(filled[0]) == pytest.approx(np.median(known.numpy()))


def test_text_is_an_input_for_each_frequent_value_one_for_others_and_one_for_missing_values(write_table):
    def city(i):
        return ["Ulm", "Bern", "", "Ulm", f"village {i}"][i % 5]

    task = table(write_table(lines(column("city", city, 200), column("price", lambda i: i + 0.5, 200))), column="price")
    assert task.about.endswith(" Read as text: `city`.")
    x = torch.cat([task.train[0], task.validation[0]])
    assert x.shape == (200, 4)
    assert x.sum(0).tolist() == [80, 40, 40, 40]
    assert (x.sum(1) == 1).all()
    many = column("city", lambda i: f"c{i % 50}", 200)
    x = table(write_table(lines(many, column("price", lambda i: i + 0.5, 200))), column="price").train[0]
    assert x.shape == (150, 21)
    assert (x.sum(1) == 1).all()


def test_columns_without_information_are_left_out_with_the_reason(write_table):
    path = write_table(
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


def test_a_counter_is_left_out_where_rows_are_missing(write_table):
    task = table(
        write_table(lines(column("id", lambda i: 100 + i), X, column("y", lambda i: "" if i % 9 == 3 else i + 0.5))),
        column="y",
    )
    assert "5 rows without a `y` are left out." in task.about
    assert "Left out: `id` (counts the rows)." in task.about
    assert len(task.train[0]) + len(task.validation[0]) == 35


def test_a_counter_that_is_the_only_input_is_kept(write_table):
    task = table(write_table(lines(column("t", lambda i: i), column("y", lambda i: i * i))), column="y")
    assert "`y` as a number, from `t`" in task.about
    assert task.train[0].unique().numel() == 30


def test_stray_words_among_numbers_count_as_missing_and_are_reported(write_table):
    area = column("area", lambda i: "unknown" if i == 3 else i % 13 * 2.5)
    task = table(write_table(lines(area, PRICE)), column="price")
    assert "1 cell of `area` without a number, such as 'unknown', counts as missing." in task.about
    area[10] = "nothing"
    assert "2 cells of `area` without a number, such as 'unknown', count as missing." in (
        table(write_table(lines(area, PRICE)), column="price").about
    )


def test_dropped_columns_are_left_out(write_table):
    task = table(write_table(lines(column("a", lambda i: i * 5 % 13), X, PRICE)), "price", drop=["a"])
    assert task.train[0].shape == (30, 1)
    assert "Left out: `a` (as asked)." in task.about
    assert torch.equal(table(write_table(lines(X, PRICE)), "price").train[0], task.train[0])
    with pytest.raises(InvalidValue, match=r"`drop` names `price`, the column to predict\. Help: omit it\."):
        table(write_table(lines(X, PRICE)), "price", drop="price")
    with pytest.raises(InvalidValue, match="has no column `b`"):
        table(write_table(lines(X, PRICE)), "price", drop="b")
    mixed = column("a", lambda i: ["9.77", '"9,75"'][i % 2])  # refused where it is read
    assert torch.equal(table(write_table(lines(mixed, X, PRICE)), "price", drop=["a"]).train[0], task.train[0])
    with pytest.raises(InvalidType, match="`drop` must be a list of names of columns; received 3"):
        table(write_table(lines(X, PRICE)), "price", drop=3)


@pytest.mark.parametrize(
    ("name", "make", "kind"),
    [
        ("zip", lambda i: f"{i % 6:05}", "postal codes"),
        ("PLZ", lambda i: 50000 + i % 7, "postal codes"),
        ("postal_code", lambda i: 50000 + i % 7, "postal codes"),
        ("article", lambda i: f"{i % 6:04}", "codes"),
        ("store_id", lambda i: 900 + i % 7, "identifiers"),
        ("userId", lambda i: 900 + i % 7, "identifiers"),
    ],
)
def test_numbers_whose_size_means_nothing_are_read_as_text(write_table, name, make, kind):
    about = table(write_table(lines(column(name, make), X, PRICE)), "price").about
    assert f"Read as text: `{name}` ({kind})." in about


@pytest.mark.parametrize("name", ["valid", "paid", "monkey", "grid", "rooms", "humidity"])
def test_names_that_only_end_like_an_identifier_hold_numbers(write_table, name):
    assert "Read as text" not in table(write_table(lines(column(name, lambda i: 900 + i % 7), X, PRICE)), "price").about


def test_an_identifier_of_each_row_is_left_out(write_table):
    about = table(
        write_table(lines(column("customer_id", lambda i: 39482 + i * 7919 % 10007), X, PRICE)), "price"
    ).about
    assert "Left out: `customer_id` (identifiers, different in nearly every row, such as '39482')." in about


@pytest.mark.parametrize(
    ("sentinel", "shown"), [("-999", "-999"), ("-9999.0", "-9999"), ("9999", "9999"), ("-999.25", "-999.25")]
)
def test_numbers_far_from_all_others_that_stand_for_missing_ones_count_as_missing(write_table, sentinel, shown):
    gaps = column("x", lambda i: sentinel if i % 8 == 0 else i % 9)
    task = table(write_table(lines(gaps, PRICE)), "price")
    assert f"`x` is {shown} in 5 rows, far from all other numbers (0 to 8): counted as missing." in task.about
    empty = column("x", lambda i: "" if i % 8 == 0 else i % 9)
    assert torch.equal(task.train[0], table(write_table(lines(empty, PRICE)), "price").train[0])


@pytest.mark.parametrize(
    "make",
    [
        lambda i: 999 if i % 8 == 0 else 700 + i * 11 % 400,  # among the others
        lambda i: -999 if i == 3 else i % 9,  # once
        lambda i: -998 if i % 8 == 0 else i % 9,
    ],
)
def test_other_numbers_are_no_sentinels(write_table, make):
    assert "counted as missing" not in table(write_table(lines(column("x", make), PRICE)), "price").about


@pytest.mark.parametrize(
    ("leak", "target"),
    [
        (lambda i: ["no", "yes"][i * 7 % 5 < 2], lambda i: int(i * 7 % 5 < 2)),  # the same under other labels
        (lambda i: i % 3 + 10 * (i * 7 % 5 < 2), lambda i: int(i * 7 % 5 < 2)),  # a threshold
        (lambda i: f"{(i * 37 % 50 + 3) * 1.08:.2f}", lambda i: i * 37 % 50 + 3),  # another unit
        (lambda i: -((i * 37 % 50 + 3) ** 3), lambda i: i * 37 % 50 + 3),
    ],
    ids=["labels", "threshold", "unit", "falling"],
)
def test_columns_that_give_the_target_away_are_named(write_table, leak, target):
    about = table(write_table(lines(column("leak", leak), X, column("y", target))), "y").about
    assert "`leak` alone tells `y` in every row: leave it out (--drop) if it is not known beforehand." in about


def test_columns_that_nearly_tell_the_target_are_not_named(write_table):
    kind = column("kind", lambda i: "ab"[(i * 7 % 5 < 2) != (i in (3, 4, 5, 9, 10))])
    near = column("near", lambda i: i * 37 % 50 + i % 3)
    about = table(write_table(lines(near, kind, column("y", lambda i: int(i * 7 % 5 < 2)))), "y").about
    assert "alone tell" not in about
    assert "alone tell" not in table(write_table(lines(near, X, column("y", lambda i: i * 37 % 50))), "y").about


def test_constants_and_missing_values_give_nothing_away(write_table):
    assert (
        "alone tell" not in table(write_table(lines(column("x", lambda i: "" if i % 2 else 5), PRICE)), "price").about
    )


def test_the_assumed_decimal_point_is_reported_with_both_readings(write_table):
    text = "x,y\n" + "".join(f"{1 + i % 9}.{100 + i * 37 % 900},{'ab'[i % 2]}\n" for i in range(40))
    about = table(write_table(text), "y").about
    assert (
        "A decimal point is assumed, since commas separate the cells: `x` '1.100' as 1.1 (1100 with a decimal comma). "
        "--decimal decides."
    ) in about
    decided = table(write_table(text), "y", decimal=".").about
    assert "assumed" not in decided
    assert "assumed" not in table(write_table(text.replace("1.100", "1.1001")), "y").about
