"""The gallery shows the table, the verdict and the report of each recorded comparison, with its command."""

from __future__ import annotations

import base64
import gzip
from pathlib import Path

import pytest
from plotly.offline import get_plotlyjs

from piste.compare.tasks import names
from tools.docs.gallery import COMMANDS, add_plotly, gallery

DOCS = Path(__file__).parents[2] / "docs"
REPORT = """# piste compare digits

| candidate | lr | accuracy (higher is better) | training loss | steps to 0.95 (time) |
| --- | ---: | ---: | ---: | ---: |
| Adam ★ | 0.01 | 0.96 | 0.1 | 3 (1 ms) |

**Undecided in accuracy.** (A note.)
"""
CHINESE = """# piste compare digits

| 候选 | lr | 准确率（越高越好） | 训练损失 | 到 0.95 的步数（时间） |
| --- | ---: | ---: | ---: | ---: |
| Adam ★ | 0.01 | 0.96 | 0.1 | 3（1 ms） |

**准确率尚不能判定。**（一条说明。）
"""


def test_every_built_in_task_has_a_comparison():
    assert list(COMMANDS) == names()


@pytest.fixture
def results(tmp_path):
    for name in COMMANDS:
        for suffix, report in (("", REPORT), (".zh", CHINESE)):
            (tmp_path / f"{name}{suffix}").mkdir()
            (tmp_path / f"{name}{suffix}" / "report.md").write_text(report, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("language", "head", "verdict", "note"),
    [
        ("", "| candidate | lr | accuracy (higher is better) |\n", "Undecided in accuracy.", "A note"),
        (".zh", "| 候选 | lr | 准确率（越高越好） |\n", "准确率尚不能判定。", "一条说明"),
    ],
)
def test_a_comparison_is_shown_with_its_command_its_table_and_its_verdict(results, language, head, verdict, note):
    page = gallery(results, language)
    for name, command in COMMANDS.items():
        assert f"```console\n{command}\n```" in page
        assert f"](assets/gallery/{name}{language}.svg)" in page
        assert f"](assets/gallery/{name}{language}.html)" in page
    assert head in page
    assert "| Adam ★ | 0.01 | 0.96 |\n" in page
    assert f"\n> {verdict}\n" in page
    assert note not in page


@pytest.mark.parametrize("language", ["", ".zh"])
def test_the_committed_page_has_every_comparison_with_its_picture_and_its_report(language):
    page = (DOCS / f"gallery{language}.md").read_text(encoding="utf-8")
    for name, command in COMMANDS.items():
        assert command in page
        assert (DOCS / "assets" / "gallery" / f"{name}{language}.svg").exists()
        report = (DOCS / "assets" / "gallery" / f"{name}{language}.html").read_text(encoding="utf-8")
        assert len(report) < 500_000  # without plotly.js
        assert command in report


def test_reports_get_plotly_when_the_site_is_built():
    page = add_plotly('<p>a</p><script type="text/plain" id="plotly"></script><p>b</p>')
    packed = page.removeprefix('<p>a</p><script type="text/plain" id="plotly">').removesuffix("</script><p>b</p>")
    assert gzip.decompress(base64.b64decode(packed)).decode() == get_plotlyjs()
