"""The parts of a report: raw runs, fonts, axes of flat curves, and what a notebook shows."""

import csv
import io
import sys
import types

import pytest

from piste.compare import compare_task
from piste.compare.report import fonts
from piste.compare.report.figures import new_figure, save_figure, widened
from piste.compare.report.files import to_json_data
from piste.compare.report.html import _plots, render_html
from piste.errors import Unsupported
from tests.compare.small import task


@pytest.fixture(scope="module")
def found():
    return compare_task(task(), optimizers=["SGD", "Adam"], seeds=2, trials=2, progress=False)


def test_raw_runs_are_rows_of_a_csv_file(found, tmp_path):
    assert "runs.csv" in {path.name for path in found.save(tmp_path)}
    rows = list(csv.DictReader(io.StringIO((tmp_path / "runs.csv").read_text())))
    assert [row["role"] for row in rows[:4]] == ["judged"] * 4
    assert len(rows) == len(found.results) + sum(r.role == "default" for r in found.defaults) + len(found.tries)
    assert float(rows[0]["accuracy"]) == found.results[0].metrics[-1]
    assert {row["role"] for row in rows} <= {"judged", "default", "search"}


def test_pandas_gets_the_same_rows(found, monkeypatch):
    fake = types.SimpleNamespace(DataFrame=list)
    monkeypatch.setitem(sys.modules, "pandas", fake)
    assert found.to_pandas()[0]["accuracy"] == found.results[0].metrics[-1]
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(
        Unsupported, match=r"`to_pandas` needs pandas: pip install pandas\. runs\.csv has the same rows"
    ):
        found.to_pandas()


def test_a_notebook_gets_a_figure_and_a_short_repr(found):
    assert len(found.plot().axes) == 3  # loss, tuned metric, metric at the defaults
    assert repr(found) == f"<Comparison 'task': 2 candidates, 4 runs. {found.verdict.sentence}>"


def test_the_page_is_below_two_and_a_half_megabytes_and_holds_each_seed(found):
    page = render_html(found, to_json_data(found))
    assert len(page) < 2_500_000
    assert '"name": "Adam, seed 1"' in page


def test_a_flat_curve_has_an_axis_wider_than_its_rounding():
    assert widened(0.5, 0.5 + 1e-12) == pytest.approx((0.49975, 0.50025))
    assert widened(0.0, 0.0) == (-0.5, 0.5)
    assert widened(0.2, 0.9) == (0.2, 0.9)


@pytest.mark.filterwarnings("ignore:Glyph .* missing from font")  # of the characters that are said to have one
def test_characters_of_other_scripts_use_an_installed_font_or_their_code_points(monkeypatch, tmp_path):
    families, missing = fonts.fallback_fonts("aé")
    assert (families, missing) == ([fonts.FONT], set())
    figure = new_figure(3, 2)
    figure.subplots().set_title("优化器 é")
    monkeypatch.setattr(fonts, "fallback_fonts", lambda characters: ([fonts.FONT, "Other"], {"优"}))
    svg, _ = save_figure(figure, tmp_path, "named")
    assert "优化器 é" in svg.read_text()
    assert figure.axes[0].get_title() == "\\u4f18化器 é"
    assert figure.axes[0].title.get_fontfamily() == [fonts.FONT, "Other"]
    assert [text.get_text() for text in figure.texts] == [fonts.NOTE]


def test_a_font_of_boxes_is_no_font_for_a_character():
    families, missing = fonts.fallback_fonts({"优", "\U0010ffff"})
    assert "\U0010ffff" in missing  # unassigned: only the placeholder has a box for it
    assert not [name for name in families if name.startswith(fonts.PLACEHOLDER)]


def test_fonts_installed_after_matplotlibs_list_was_made_are_found(monkeypatch):
    from matplotlib import font_manager

    manager = font_manager.fontManager
    own = font_manager.findfont(fonts.FONT)
    monkeypatch.setattr(manager, "ttflist", [e for e in manager.ttflist if e.name == fonts.FONT])
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: ["/new.ttf", own, "/broken.woff"])
    monkeypatch.setattr(fonts, "_glyphs", lambda path: {"优"} if path == "/new.ttf" else set())

    def add(path):
        if path != "/new.ttf":
            raise RuntimeError
        entry = font_manager.FontEntry(fname=path, name="New", style="normal")
        monkeypatch.setattr(manager, "ttflist", [*manager.ttflist, entry])

    monkeypatch.setattr(manager, "addfont", add)
    assert fonts.fallback_fonts({"优"}) == ([fonts.FONT, "New"], set())


def test_no_box_is_drawn_for_a_name_in_chinese(tmp_path, recwarn):
    figure = new_figure(3, 2)
    figure.subplots().set_title("优化器")
    save_figure(figure, tmp_path, "named")
    assert not [w for w in recwarn if "missing from font" in str(w.message)]


def test_the_command_stands_in_the_report(found, monkeypatch):
    assert to_json_data(found)["command"] == ""
    monkeypatch.setattr(sys, "argv", ["/bin/piste", "compare", "my task.py", "--seeds", "2"])
    numbers = to_json_data(found)
    assert numbers["command"] == "piste compare 'my task.py' --seeds 2"
    assert "piste compare &#x27;my task.py&#x27; --seeds 2" in render_html(found, numbers)


def test_time_is_steps_times_the_median_time_of_a_step(found):
    plot = dict(_plots(found))["time0"]["figure"]
    adam = next(t for t in plot["data"] if t.get("name") == "Adam")
    runs = [r for r in found.results if r.candidate == "Adam"]
    assert adam["x"] == pytest.approx([s * sum(r.step_seconds for r in runs) / 2 for s in runs[0].steps])
    assert plot["layout"]["xaxis"]["title"]["text"] == "seconds"
