"""Files as programs export them: each gives the same inputs and targets as the same table in plain UTF-8."""

import csv
import datetime
import io

import numpy as np
import pytest
import torch

from piste.compare import table

ROWS = range(48)
AREA = [1030 + i * 37 % 50 + i % 4 / 4 for i in ROWS]
CITY = [["Köln", "Besançon", "Ulm"][i % 3] for i in ROWS]
SOLD = [datetime.date(2023, 1 + i % 12, 1 + i * 5 % 28) for i in ROWS]
PRICE = [round(a * 100 + i * 7919 % 13 * 130.25, 2) for i, a in enumerate(AREA)]


def plain(*columns):
    """The table as Python writes it."""
    return "\n".join(",".join(map(str, row)) for row in [NAMES[: len(columns)], *zip(*columns, strict=True)]) + "\n"


NAMES = ["area", "city", "sold", "price"]


def german(value):
    return f"{value:,.2f}".translate(str.maketrans(".,", ",."))


def french(value):
    return f"{value:,.2f}".replace(",", "\u202f").replace(".", ",")


def rows(pattern, *columns, end="\r\n"):
    return "".join(pattern.format(*row) + end for row in zip(*columns, strict=True))


def excel_german():
    body = rows("{};{};{:%d.%m.%Y};{} €", map(german, AREA), CITY, SOLD, map(german, PRICE))
    return ("area;city;sold;price\r\n" + body).encode("cp1252")


def excel_french():
    body = rows("{};{};{:%d/%m/%Y};{}", map(french, AREA), CITY, SOLD, map(french, PRICE))
    return ("sep=;\r\narea;city;sold;price\r\n" + body.replace("\u202f", "\xa0")).encode("cp1252")


def excel_us():
    sold = [f"{day.month}/{day.day}/{day.year}" for day in SOLD]
    return "\ufeffarea,city,sold,price\r\n" + rows('"{:,}",{},{},"${:,.2f}"', AREA, CITY, sold, PRICE)


def excel_unicode_text():
    return ("area\tcity\tsold\tprice\r\n" + rows("{}\t{}\t{}\t{}", AREA, CITY, SOLD, PRICE)).encode("utf-16")


def libreoffice():
    out = io.StringIO()
    writer = csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerows([NAMES, *zip(AREA, CITY, SOLD, PRICE, strict=True)])
    return out.getvalue()


def chinese_excel():
    text = "area,city,sold,price\r\n" + rows("{},{},{:%Y/%m/%d},{}", AREA, CITY, SOLD, PRICE)
    return text.replace("Köln", "北京").replace("Besançon", "上海").replace("Ulm", "广州").encode("gbk")


def pandas_index():
    return ",area,city,sold,price\n" + rows("{},{},{},{} 00:00:00,{}", ROWS, AREA, CITY, SOLD, PRICE, end="\n")


def r_write_csv():
    return '"",' + r_write_table()


def r_write_table():
    body = rows('"{}",{},"{}",{},{}', range(1, 49), AREA, CITY, SOLD, PRICE, end="\n")
    return '"area","city","sold","price"\n' + body


def instrument():
    head = "Recorder;XR-7\nSerial;12345\n\narea;city;sold;price\nm²;;;€\n"
    return head + rows("{};{};{};{}", map(german, AREA), CITY, SOLD, map(german, PRICE), end="\n")


def logger():
    head = "# XR-7, serial 12345\n# 2024-03-05, 12:00\n#\narea,city,sold,price\n"
    return head + rows("{:.6e},{},{},{:.8e}", AREA, CITY, SOLD, PRICE, end="\n")


FILES = [
    excel_german,
    excel_french,
    excel_us,
    excel_unicode_text,
    libreoffice,
    chinese_excel,
    pandas_index,
    r_write_csv,
    r_write_table,
    instrument,
    logger,
]


@pytest.mark.parametrize("make", FILES, ids=lambda make: make.__name__)
def test_an_exported_file_gives_the_same_data_as_the_plain_table(write_table, make):
    expected = table(write_table(plain(AREA, CITY, SOLD, PRICE)), "price")
    task = table(write_table(make()), "price")
    assert "from 3 columns: 36 training rows, 12 validation rows." in task.about
    for given, wanted in zip((*task.train, *task.validation), (*expected.train, *expected.validation), strict=True):
        assert torch.equal(given, wanted)


@pytest.mark.parametrize("delimiter", [" ", ",", "\t"])
@pytest.mark.parametrize("comments", ["# ", "% ", ""])
def test_a_file_of_numpy_gives_the_same_data_as_the_plain_table(write_table, delimiter, comments):
    out = io.StringIO()
    np.savetxt(out, np.stack([AREA, PRICE], 1), header=delimiter.join(["area", "price"]), delimiter=delimiter,
               comments=comments)  # fmt: skip
    text = "\n".join(",".join(map(str, row)) for row in [("area", "price"), *zip(AREA, PRICE, strict=True)])
    expected, task = table(write_table(text), "price"), table(write_table(out.getvalue(), "numpy.csv"), "price")
    for given, wanted in zip((*task.train, *task.validation), (*expected.train, *expected.validation), strict=True):
        assert torch.equal(given, wanted)
