"""Numbers in tables: values by convention, the choice of a convention for a column, and the words of refusals."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piste.compare import table
from piste.compare.csv.cells import Cells
from piste.compare.csv.numbers import read_number_columns
from piste.errors import InvalidValue


def read(*columns, delimiter=";", decimal=None):
    names = [f"c{i}" for i in range(len(columns))]
    cells = [Cells(column) for column in columns]
    return read_number_columns(
        cells, names, lambda row: f"line {2 + row} of data.csv", delimiter=delimiter, decimal=decimal
    )


def values(*cells, **options):
    return without_nan(read(cells, **options)[0].values)


def without_nan(values):
    return [None if math.isnan(value) else value for value in values]


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("1401", 1401), ("-0.5", -0.5), (".5", 0.5), ("5.", 5), ("+7", 7), ("1,401.5", 1401.5), ("1.401,5", 1401.5),
        ("12,345,678", 12345678), ("12.345.678", 12345678), ("1 401", 1401), ("1\u202f401,25", 1401.25),
        ("1\u00a0401.25", 1401.25), ("1'401.5", 1401.5), ("1’401’000", 1401000), ("12,34,567.5", 1234567.5),
        ("1,00,000", 100000), ("9,77", 9.77), ("0,125", 0.125), ("1234,567", 1234.567), ("$60", 60), ("-$60", -60),
        ("$-60", -60), ("$1,401.50", 1401.5), ("60 €", 60), ("1.401,50 €", 1401.5), ("US$ 60", 60), ("CHF 1'401", 1401),
        ("₹12,34,567", 1234567), ("￥１２００", 1200), ("60 m2", 60), ("60m²", 60), ("1 401 km", 1401), ("12 %", 12),
        ("12%", 12), ("5.5 °C", 5.5), ("3 km/h", 3), ("5 ft", 5), ("(60)", -60), ("($1,401.50)", -1401.5),
        ("60-", -60), ("\u221260", -60), ("–60", -60), ("1.5e3", 1500), ("1,5E+03", 1500), ("2E-3 mol", 0.002),
        ("1.5D+03", 1500), ("1.5x10^3", 1500), ("3eV", 3), ("٣٫٥", 3.5), ("2024年", 2024),
    ],
)  # fmt: skip
def test_a_cell_has_its_value(cell, value):
    assert values(cell) == [value]


@pytest.mark.parametrize(
    "cell",
    ["", "abc", "5.3.2024", "05.03.24", "2024-01-05", "12:30", "1,2,3", "10-20", "1,23,45", "12 34", "030 123", "A1",
     "BMW 320", "5 ft 11", "--5", "(-5)", "(5", "1..5", "10/12", "0,123,456", "1_000", "2024年3月5日", "10.0.0.1"],
)  # fmt: skip
def test_other_text_is_no_number(cell):
    assert values(cell, *["1"] * 20) == [None, *[1.0] * 20]


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["1.014", "9,77"], [1014, 9.77]),
        (["1,014", "9.77"], [1014, 9.77]),
        (["1.014", "0.5"], [1.014, 0.5]),
        (["1,014", "1,014,000"], [1014, 1014000]),
        (["1.014", "12345.5"], [1.014, 12345.5]),
        (["1,140", "977"], [1140, 977]),  # decimals would be 977,000 or 1,14
        (["1.140", "977"], [1140, 977]),
        (["1.014", "1400"], [1.014, 1400]),  # thousands would be 1.400
        (["10.014", "1400", "20.300"], [10014, 1400, 20300]),  # four digits may stand without a separator
        (["1.877e+03", "2.022e+03"], [1877, 2022]),  # scientific notation separates no thousands
        (["1,877E+03", "2,022E+03", "1.014"], [1877, 2022, 1014]),
        (["1,401 m2", "60 m2"], None),
        (["60 m2", "70"], [60, 70]),
        (["1 year", "2 years"], [1, 2]),
    ],
)
def test_all_cells_decide_how_each_is_read(cells, expected):
    if expected is None:
        with pytest.raises(InvalidValue, match="can be read in two ways"):
            values(*cells)
        assert values(*cells, delimiter=",") == [1401, 60]
    else:
        assert values(*cells) == expected


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_another_column_settles_the_decimal_sign(delimiter):
    first, second = read(["977", "1.014"], ["9,77", "10,14"], delimiter=delimiter)
    assert first.values.tolist() == [977, 1014]
    assert second.values.tolist() == [9.77, 10.14]


def test_a_decimal_point_is_assumed_between_commas_only():
    assert values("1.014", "2.355", delimiter=",") == [1.014, 2.355]
    assert values("1,014", "2,355", delimiter=",") == [1014, 2355]
    assert values("1.014", "2.355", decimal=",") == [1014, 2355]
    assert values("1.014", "2.355", decimal=".") == [1.014, 2.355]


def test_two_readings_are_rejected_with_both_values_and_the_way_out():
    with pytest.raises(InvalidValue) as caught:
        values("977", "1.014")
    assert str(caught.value) == (
        "`c0` can be read in two ways: '1.014' in line 3 of data.csv is 1.014 with a decimal point and 1014 with a "
        "decimal comma, and no other cell decides. Help: give the decimal sign (--decimal . or --decimal , in the "
        "command, decimal= in Python), or save the file with plain numbers."
    )


def test_a_column_that_shows_both_signs_before_three_digits_is_rejected():
    for cells in (["1.877", "2,022", "977"], ["2,022", "1.877"]):
        with pytest.raises(InvalidValue, match="can be read in two ways"):
            values(*cells)
        assert values(*cells, decimal=".")[0] == float(cells[0].replace(",", ""))


def test_scientific_notation_with_both_signs_or_another_decimal_sign_is_rejected():
    with pytest.raises(InvalidValue, match=r"received '1\.877e\+03' in line 2 of data\.csv and '2,022e\+03' in line 3"):
        values("1.877e+03", "2,022e+03")
    with pytest.raises(InvalidValue, match=r"numbers with the decimal sign ','; received '1\.877e\+03' in line 2"):
        values("1.877e+03", "2.022e+03", decimal=",")


def test_two_conventions_are_rejected_with_both_lines():
    with pytest.raises(InvalidValue) as caught:
        values("5", "9.77", "9,75", "8.25")
    assert str(caught.value) == (
        "`c0` must hold numbers written in one way; received '9.77' in line 3 of data.csv and '9,75' in line 4 of "
        "data.csv. Help: write all numbers of the column alike, such as 1200.5."
    )
    with pytest.raises(InvalidValue) as caught:
        values("5", "9,75", decimal=".")
    assert str(caught.value) == (
        "`c0` must hold numbers with the decimal sign '.'; received '9,75' in line 3 of data.csv. Help: leave "
        "`decimal` out, or write all numbers of the column alike."
    )


@pytest.mark.parametrize("cells", [["5 kg", "300 g"], ["12 %", "0.5"], ["10K", "7"], ["$5", "€5"], ["5 mW", "5 MW"]])
def test_numbers_in_several_units_have_no_value(cells):
    (column,) = read(cells)
    assert without_nan(column.values) == [None, None]
    assert len(column.units) == 2


def group_western(digits, separator):
    parts = []
    while digits:
        digits, part = digits[:-3], digits[-3:]
        parts.append(part)
    return separator.join(reversed(parts))


@given(
    st.lists(st.integers(-(10**12), 10**12), min_size=1, max_size=20),
    st.sampled_from([(".", ","), (".", " "), (".", "'"), (",", "."), (",", " "), (",", "'"), (".", ""), (",", "")]),
    st.integers(1, 4),
    st.sampled_from(["{}", "${}", "{} €", "{} m2", "{} %"]),
)
def test_numbers_written_in_a_convention_are_read_back(numbers, convention, places, pattern):
    decimal, separator = convention
    places += places == 3  # three decimals alone can be thousands
    cells = []
    for number in numbers:
        digits = str(abs(number)).rjust(places + 1, "0")
        text = group_western(digits[:-places], separator) + decimal + digits[-places:]
        cells.append(("-" if number < 0 else "") + pattern.format(text))
    assert values(*cells) == [float(f"{number}e-{places}") for number in numbers]


def test_values_and_units_are_stated_in_the_report(tmp_path):
    rows = [f'"${900 + 7 * i:,}",{i % 9} m2,{i % 7 + 0.5}' for i in range(40)]
    (tmp_path / "data.csv").write_text("price,area,y\n" + "\n".join(rows))
    about = table(tmp_path / "data.csv", "y").about
    assert "Numbers as they are read: `price` '$1,005' is 1005; `area` '0 m2' is 0." in about
    mixed = [f"{i} {'kg' if i % 2 else 'g'},{i % 9},{i % 7 + 0.5}" for i in range(40)]
    (tmp_path / "data.csv").write_text("weight,x,y\n" + "\n".join(mixed))
    assert "Left out: `weight` (numbers in several units: g, kg; write all in one)." in (
        table(tmp_path / "data.csv", "y").about
    )


def test_a_decimal_sign_must_be_a_point_or_a_comma(tmp_path):
    with pytest.raises(InvalidValue, match=r"`decimal` must be '\.' or ','; received ';'\."):
        table(tmp_path / "data.csv", "y", decimal=";")
