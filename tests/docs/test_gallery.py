"""The gallery shows the table and the verdict of each recorded comparison, with its command."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.docs.gallery import COMMANDS, gallery

DOCS = Path(__file__).parents[2] / "docs"
REPORT = """# piste compare digits

| candidate | lr | accuracy (higher is better) | training loss | steps to 0.95 (time) |
| --- | ---: | ---: | ---: | ---: |
| Adam ★ | 0.01 | 0.96 | 0.1 | 3 (1 ms) |

**Undecided in accuracy.** (A note.)
"""


@pytest.fixture
def results(tmp_path):
    for name in COMMANDS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.md").write_text(REPORT, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("language", ["", ".zh"])
def test_a_comparison_is_shown_with_its_command_its_table_and_its_verdict(results, language):
    page = gallery(results, language)
    for command in COMMANDS.values():
        assert f"```console\n{command}\n```" in page
    assert "| Adam ★ | 0.01 | 0.96 |\n" in page
    assert "\n> Undecided in accuracy.\n" in page
    assert "A note" not in page


@pytest.mark.parametrize("language", ["", ".zh"])
def test_the_committed_page_has_every_comparison_and_its_picture(language):
    page = (DOCS / f"gallery{language}.md").read_text(encoding="utf-8")
    for name, command in COMMANDS.items():
        assert command in page
        assert (DOCS / "assets" / "gallery" / f"{name}.svg").exists()
