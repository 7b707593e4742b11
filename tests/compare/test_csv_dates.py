"""Dates: formats, the order of day and month, and the inputs made of them."""

import datetime

import numpy as np
import pytest

from piste.compare import table
from piste.compare.csv.cells import Cells
from piste.compare.csv.dates import calendar, describe_date, find_date_formats, read_date

from .tables import PRICE, column, lines

DAY = datetime.date(2024, 3, 5)
DAYS = (DAY - datetime.date(1970, 1, 1)).days


@pytest.mark.parametrize(
    ("text", "format", "fraction"),
    [
        ("2024-03-05", "year-month-day", 0), ("2024/3/5", "year-month-day", 0), ("20240305", "yearmonthday", 0),
        ("2024-03-05T06:00:00Z", "year-month-day", 0.25), ("2024-03-05 06:00:00.123", "year-month-day", 0.25),
        ("2024-03-05T08:00:00+02:00", "year-month-day", 0.25), ("2024-03-05 6:00 PM", "year-month-day", 0.75),
        ("2024-03-05 12:00 am", "year-month-day", 0), ("05.03.2024", "day.month.year", 0),
        ("5. 3. 24", "day.month.year", 0), ("5.3.24", "day.month.year", 0), ("5.3.2024 18:00", "day.month.year", 0.75),
        ("05/03/2024", "day/month/year", 0), ("3/5/2024", "month/day/year", 0), ("05-03-2024", "day/month/year", 0),
        ("5 Mar 2024", "day name year", 0), ("5-Mar-24", "day name year", 0), ("5. März 2024", "day name year", 0),
        ("5 mars 2024", "day name year", 0), ("March 5, 2024", "name day year", 0),
        ("2024年3月5日", "year年month月day日", 0),
    ],
)  # fmt: skip
def test_a_date_has_its_day(text, format, fraction):
    assert read_date(text, format) == pytest.approx(DAYS + fraction, abs=1e-9)
    assert format in find_date_formats(Cells([text]))


def test_a_month_without_a_day_is_its_first_day():
    assert read_date("2024-03", "year-month") == DAYS - 4


@pytest.mark.parametrize(
    "text",
    ["2024-13-05", "2024-02-30", "31.04.2024", "5 Foo 2024", "1.5", "12:30", "2024", "10.0.0.1", "5-3", "1001-3", "x"],
)
def test_other_text_is_no_date(text):
    assert find_date_formats(Cells([text] * 3)) == []


@pytest.mark.parametrize(
    ("cells", "formats"),
    [
        (["05/03/2024", "25/03/2024"], ["day/month/year"]),
        (["03/05/2024", "03/25/2024"], ["month/day/year"]),
        (["01/03/2024", "01/04/2024", "01/05/2024"], ["day/month/year"]),  # the first of each month
        (["03/01/2024", "04/01/2024", "05/01/2024"], ["month/day/year"]),
        (["03/03/2024", "04/04/2024"], ["day/month/year"]),  # the same either way
        (["05/03/2024", "06/04/2024"], ["day/month/year", "month/day/year"]),
    ],
)
def test_all_cells_decide_the_order_of_day_and_month(cells, formats):
    assert find_date_formats(Cells(cells)) == formats


def test_dates_whose_order_is_unknown_are_left_out_with_the_way_out(write_table):
    date = column("d", lambda i: f"{2 + i % 11:02}/{3 + i % 7:02}/2023")
    about = table(write_table(lines(date, column("x", lambda i: i * 7 % 11), PRICE)), "price").about
    assert (
        "Left out: `d` (dates whose day and month can't be told apart, such as '02/03/2023'; write 2024-03-05)."
    ) in about


def test_a_date_becomes_days_year_and_circles_of_month_weekday_and_hour():
    days, year, *circles = calendar(np.array([DAYS + 0.25]))[0]
    assert (days, year) == (DAYS + 0.25, 2024)
    angles = [2 * np.pi * part for part in (2 / 12, DAY.weekday() / 7, 0.25)]
    np.testing.assert_allclose(circles, [f(angle) for angle in angles for f in (np.sin, np.cos)], atol=1e-12)
    assert np.isnan(calendar(np.array([np.nan]))).all()
    years = calendar(np.array([-1.0, 0.0, 364.0, 365.0]))[:, 1]
    assert years.tolist() == [1969, 1970, 1970, 1971]


def test_dates_are_inputs_and_are_reported(write_table):
    def sold(i):
        return "" if i == 7 else "soon" if i == 9 else f"2023-{1 + i % 12:02}-{1 + i * 5 % 28:02}"

    task = table(write_table(lines(column("sold", sold), PRICE)), "price")
    assert (
        "Dates, as elapsed days, year, month and day of the week: `sold` '2023-01-01' is Sunday 2023-01-01."
    ) in task.about
    assert "1 cell of `sold` without a date, such as 'soon', counts as missing." in task.about
    x = task.train[0].numpy()
    assert x.shape[1] in (5, 6)  # days, month, weekday; whether missing, if a training row is; one year, no hours
    np.testing.assert_allclose(x[:, 0].mean(), 0, atol=1e-6)
    np.testing.assert_allclose(x[:, 0].std(), 1, rtol=1e-5)


def test_a_date_is_described_with_its_weekday():
    assert describe_date(DAYS) == "Tuesday 2024-03-05"
    assert describe_date(DAYS + 0.75) == "Tuesday 2024-03-05 18:00"
