"""The header of a run, and files for the tests of tables."""

import pytest

from tests.compare.browser import BROWSER


def pytest_report_header() -> str:
    return (
        f"the report is opened in {BROWSER}" if BROWSER else "no Chromium found: the report isn't opened in a browser"
    )


@pytest.fixture
def write_table(tmp_path):
    """A function that writes text or bytes to a file, data.csv by default, and returns its path."""

    def write(content, name="data.csv"):
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return tmp_path / name

    return write
