"""Columns and files for the tests of tables."""

ROWS = 40


def column(name, make, rows=ROWS):
    """A column as text: its name, and `make(i)` for each row."""
    return [name, *(str(make(i)) for i in range(rows))]


def lines(*columns):
    """The text of a file with these columns, with commas between the cells."""
    return "".join(",".join(row) + "\n" for row in zip(*columns, strict=True))


X = column("x", lambda i: (7 * i) % 11)
PRICE = column("price", lambda i: (7 * i) % 11 * 1.5 + i % 4)
