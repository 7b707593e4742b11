"""The layout of a file: delimiters, names, directives, comments, preambles, units and line breaks."""

import io

import numpy as np
import pytest
import torch

from piste.compare import table
from piste.compare.csv.layout import find_delimiter
from piste.errors import InvalidValue

from .tables import PRICE, X, column, lines


def test_delimiters_are_found_from_the_cells_and_the_suffix(write_table):
    rows = [[str(i % 11), f"{i % 11 * 1.5:.1f}", "a, b"] for i in range(40)]
    comma = '"x";price;"text, quoted, thrice"\n' + "".join(f"{x};{y.replace('.', ',')};{text}\n" for x, y, text in rows)
    tabs = "x\tprice\ttext\n" + "".join(f"{x}\t{y}\t{text}\n" for x, y, text in rows)
    quoted = '"x","price","text, quoted"\r\n' + "".join(f'{x},{y},"{text}"\r\n' for x, y, text in rows)
    tasks = [
        table(write_table(comma), "price"),
        table(write_table(tabs, "data.tsv"), "price"),
        table(write_table("\ufeff" + quoted, "DATA.CSV"), "price"),
    ]
    for task in tasks:
        assert "`price` as a number, from `x`" in task.about
        assert torch.equal(task.train[1], tasks[0].train[1])
        assert torch.equal(task.train[0], tasks[0].train[0])


def text_of(head, rows=40, delimiter=","):
    body = [delimiter.join(map(str, (i * 0.5, 20 + i % 7 * 0.5, 1000 + i * 3 % 11))) for i in range(rows)]
    return "\n".join([*head, *body, ""])


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (["# time,temp,pressure"], "The names stand in line 1, which begins as a comment."),
        (["# XR-7, 2024", "#time,temp,pressure", ""], "The names stand in line 2, which begins as a comment."),
        (["% time,temp,pressure"], "The names stand in line 1, which begins as a comment."),
        (["# measured, twice, here", "time,temp,pressure"], ""),
        (
            ["Instrument: XR-7", "Serial,12345", "", "time,temp,pressure"],
            "Lines above the names in line 4 are skipped.",
        ),
        (["time,temp,pressure", "s,°C,hPa"], "Line 2 holds units (s, °C, hPa) and is left out."),
        (["time,temp,pressure", "[s],,[hPa]"], "Line 2 holds units ([s], [hPa]) and is left out."),
    ],
)
def test_names_are_found_below_and_in_comments_and_above_units(write_table, head, said):
    task = table(write_table(text_of(head)), "pressure")
    assert "`pressure` as a number, from 2 columns: 30 training rows, 10 validation rows." in task.about
    assert said in task.about
    plain = table(write_table(text_of(["time,temp,pressure"])), "pressure")
    assert torch.equal(task.train[0], plain.train[0])
    assert torch.equal(task.train[1], plain.train[1])


def test_a_name_may_be_the_mark_of_a_comment(write_table):
    text = "#,Name,HP,Attack\n" + "".join(f"{i + 1},P{i},{40 + i * 7 % 23},{50 + i * 3 % 17}.5\n" for i in range(40))
    about = table(write_table(text), "Attack").about
    assert "`Attack` as a number, from `HP`" in about
    assert "`#` (counts the rows)" in about


def test_a_first_row_of_missing_values_is_a_row(write_table):
    text = "a,b,y\nunknown,x,1.5\n" + "".join(f"{i % 9},{'xz'[i % 2]},{i % 7 + 0.25}\n" for i in range(40))
    about = table(write_table(text), "y").about
    assert "31 training rows" in about or "30 training rows, 11 validation rows" in about
    assert "units" not in about


def test_numpys_text_with_spaces_is_read(write_table):
    buffer = io.StringIO()
    np.savetxt(buffer, np.arange(120).reshape(40, 3) % [7, 11, 13] + 0.25, header="a b y")
    about = table(write_table(buffer.getvalue()), "y").about
    assert "`y` as a number, from 2 columns: 30 training rows" in about


def test_spaces_in_text_separate_no_cells(write_table):
    text = "new york;y\n" + "".join(f"a b;{i % 7 + 0.5}\n" for i in range(40))
    assert find_delimiter(text) == ";"
    assert find_delimiter("one name\n" + "1.5\n" * 30) == ","


@pytest.mark.parametrize("quote", ["", '"'])
def test_row_names_of_r_are_a_column_without_a_name(write_table, quote):
    rows = "".join(f"{quote}{i + 1}{quote},{i * 7 % 11},{i * 7 % 11 + i % 4}.5\n" for i in range(40))
    task = table(write_table(f"{quote}x{quote},{quote}y{quote}\n{rows}"), "y")
    assert "The first column has no name, as R writes row names." in task.about
    assert "Left out: `column 1` (counts the rows)." in task.about
    assert torch.equal(
        task.train[0], table(write_table(lines(X, column("y", lambda i: i * 7 % 11 + i % 4 + 0.5))), "y").train[0]
    )


def test_names_that_stand_again_are_left_out(write_table):
    half = lines(X, PRICE)
    about = table(write_table(half + half), "price").about
    assert "60 training rows, 20 validation rows." in about
    assert "The names stand again in line 42: left out." in about


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x,y\n1,2\n3,4,5\n6,7\n", "has 3 cells in line 3, and 2 names in line 1. Help: write as many cells in every "
         "line, and put a cell that holds a comma in quotes."),
        ("# made by hand\nx,y\n1,2\n3\n", "has 1 cell in line 4, and 2 names in line 2."),
        ("\nx,x,y\n1,2,3\n", "has the name `x` over columns 1 and 2 in line 2. Help: give each column its own name."),
        ('x,y\n1,5"\n2,"3"4\n', "can't be read at line 3: ',' expected after '\"'. Help: write a quotation mark in a "
         "cell twice, as in \"5\"\" disk\", and end each quoted cell with one."),
        ("x\ty\n1\t2\n3\n", "has 1 cell in line 3, and 2 names in line 1. Help: write as many cells in every line, and "
         "put a cell that holds a tab in quotes."),
    ],
)  # fmt: skip
def test_lines_of_another_shape_are_rejected_with_both_lines(write_table, text, words):
    with pytest.raises(InvalidValue) as caught:
        table(write_table(text), "y")
    assert words in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_directives_comments_and_line_breaks_in_quotes_are_read(write_table, encoding):
    rows = "\r\n".join(f'{i % 9},5;"a\r\nb";{i % 7},25;' for i in range(40))
    text = f'sep=;\r\n# measured, twice\r\n\r\nx;"two\r\nlines";größe\r\n{rows}\r\n'
    about = table(write_table(text.encode(encoding)), "größe").about
    assert "`größe` as a number, from `x`: 30 training rows" in about
    assert "`two lines` (the same in every row)" in about
    with pytest.raises(InvalidValue, match="has 2 cells in line 86, and 3 names in line 5"):
        table(write_table((text + "1;2\r\n").encode(encoding)), "größe")
