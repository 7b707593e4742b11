"""What pytest says at the start of a run."""

from tests.compare.browser import BROWSER


def pytest_report_header() -> str:
    return (
        f"the report is opened in {BROWSER}" if BROWSER else "no Chromium found: the report isn't opened in a browser"
    )
