"""The parts of a report: raw runs, plots of the search, fonts, axes of flat curves, and the methods for notebooks."""

import copy
import csv
import dataclasses
import html
import io
import json
import math
import re
import sys
import types

import pytest
import torch
from matplotlib.text import Text

from piste.compare import Loop, compare_task
from piste.compare.report import fonts
from piste.compare.report.figures import COLOURS, DASHES, new_figure, save_figure, style_numbers, widened
from piste.compare.report.files import to_json_data
from piste.compare.report.html import render_html
from piste.compare.report.learning_rates import learning_rate_figure
from piste.compare.report.log_axes import set_log_scale
from piste.compare.report.plots import page_plots
from piste.errors import Unsupported
from tests.compare.small import task

AXES = {"loss": "training loss", "metric": "accuracy", "time": "accuracy"}


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


def test_to_pandas_has_the_rows_of_the_csv_file(found, monkeypatch):
    fake = types.SimpleNamespace(DataFrame=list)
    monkeypatch.setitem(sys.modules, "pandas", fake)
    assert found.to_pandas()[0]["accuracy"] == found.results[0].metrics[-1]
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(
        Unsupported, match=r"`to_pandas` needs pandas: pip install pandas\. runs\.csv has the same rows"
    ):
        found.to_pandas()


def test_a_comparison_has_a_figure_and_a_short_repr(found):
    tuned, default, loss = found.plot().axes
    assert (tuned.get_ylabel(), default.get_ylabel()) == ("accuracy, searched learning rates", "default learning rates")
    assert tuned.get_ylim() == default.get_ylim()
    assert loss.get_ylabel() == "cross_entropy, training"
    assert repr(found) == f"<Comparison 'task': 2 candidates, 4 runs. {found.verdict.sentence}>"


def test_the_page_is_below_two_and_a_half_megabytes_and_holds_each_seed(found):
    page = render_html(found, to_json_data(found))
    assert len(page) < 2_500_000
    assert '"name": "Adam, seed 1"' in page


def test_axes_are_named_by_their_quantity(found):
    plots = {name: plot["figure"]["layout"]["yaxis"] for name, plot in page_plots(found) if name[:-1] in AXES}
    assert {name[:-1]: axis["title"]["text"] for name, axis in plots.items()} == AXES


def test_logarithmic_axes_have_plain_numbers():
    figure = new_figure(4, 3)
    axes = figure.subplots()
    axes.plot([1e-5, 1.0], [0.2, 7.0])
    set_log_scale(axes, "x")
    set_log_scale(axes, "y")
    figure.canvas.draw()
    ticks = [text.get_text() for text in axes.get_xticklabels() if text.get_text()]
    assert {"1e-05", "0.001", "1"} <= set(ticks)
    minor = {text.get_text() for text in axes.get_yticklabels(which="both")}
    assert {"0.3", "1", "4"} <= minor and not any("$" in text for text in (*ticks, *minor))


def test_an_svg_has_colours_for_dark_pages_that_match_its_styles(tmp_path):
    found = compare_task(task(), optimizers=["Adadelta", "SGD"], seeds=2, progress=False)
    svg, _ = save_figure(found.plot(), tmp_path, "curves")
    dark, _, drawn = svg.read_text().partition("@media (prefers-color-scheme: dark)")[2].partition("</style>")
    selected = set(re.findall(r'\*="([^"]+)"', dark)) - {"fill:"}
    assert len(selected) == 7
    assert all(f"{style}" in drawn for style in selected)


def test_every_curve_has_a_style_of_its_own_where_loops_outnumber_the_dashes():
    def styles_of(optimizers, loops):
        rows = [types.SimpleNamespace(optimizer=o, curve=f"{o} · {loop}") for o in optimizers for loop in loops]
        return style_numbers(types.SimpleNamespace(rows=rows))

    few = styles_of("AB", "12345")
    assert {few[f"A · {n}"][0] for n in "12345"} == {0} and {few[f"{o} · 2"][1] for o in "AB"} == {1}
    many = styles_of("AB", "123456789")
    assert len(set(many.values())) == 18
    assert all(colour < len(COLOURS) and dash < len(DASHES) for colour, dash in many.values())


def test_marks_are_whole_at_the_edge_of_their_plot(found):
    plots = dict(page_plots(found))
    assert all(trace["cliponaxis"] is False for trace in plots["smoothness"]["figure"]["data"])


def test_a_picture_without_a_layout_engine_is_saved_as_it_is(tmp_path):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3, 2))
    axes = figure.add_axes((0.1, 0.2, 0.3, 0.4))
    svg, png = save_figure(figure, tmp_path, "picture")
    assert svg.read_text().startswith("<?xml") and png.read_bytes().startswith(b"\x89PNG")
    assert axes.get_position().bounds == pytest.approx((0.1, 0.2, 0.3, 0.4))


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
    assert figure.axes[0].title.get_fontfamily() == [fonts.FONT, "Other", "sans-serif"]
    assert [text.get_text() for text in figure.texts] == [fonts.NOTE]


@pytest.mark.filterwarnings("ignore:Glyph .* missing from font")
def test_code_points_have_room_in_a_figure(monkeypatch, tmp_path):
    monkeypatch.setattr(fonts, "fallback_fonts", lambda characters: ([fonts.FONT], set("优化器")))
    found = compare_task(task(), optimizers={"优化器": torch.optim.SGD}, seeds=1, steps=20, progress=False)
    figure = found.plot()
    save_figure(figure, tmp_path, "curves")
    figure.draw_without_rendering()
    boxes = [(text.get_text(), text.get_window_extent()) for text in figure.findobj(Text)]
    named = [box for text, box in boxes if "\\u4f18\\u5316\\u5668" in text]
    assert len(named) == 3  # the title and the ends of two curves
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.width for box in named)
    (note,) = (box for text, box in boxes if text == fonts.NOTE)
    assert all(note.y1 <= box.y0 for text, box in boxes if text == "step")


def test_plot_uses_fonts_for_other_scripts_as_saved_figures_do():
    found = compare_task(task(name="优化器"), optimizers="SGD", seeds=1, progress=False)
    figure = found.plot()
    families, _ = fonts.fallback_fonts("优化器")
    assert figure._suptitle.get_fontfamily() == [*families, "sans-serif"]


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
    plot = dict(page_plots(found))["time0"]["figure"]
    adam = next(t for t in plot["data"] if t.get("name") == "Adam")
    runs = [r for r in found.results if r.candidate == "Adam"]
    assert adam["x"] == pytest.approx([s * sum(r.step_seconds for r in runs) / 2 for s in runs[0].steps])
    assert plot["layout"]["xaxis"]["title"]["text"] == "seconds"


@pytest.fixture(scope="module")
def searched():
    search = {"momentum": [0.0, 0.9], "betas": [[0.9, 0.999], [0.8, 0.99]]}
    return compare_task(task(), optimizers=["SGD", "Adam"], seeds=2, trials=4, search=search, progress=False)


def test_every_searched_option_has_a_slice_of_the_finished_trials(searched):
    plots = dict(page_plots(searched))
    titles = {plot["title"]: plot["figure"] for plot in plots.values()}
    assert {"Result by learning rate", "Result by momentum", "Result by betas"} <= set(titles)
    (sgd,) = titles["Result by momentum"]["data"]
    done = [r for r in searched.tries if r.candidate == "SGD" and r.status == "done"]
    assert (sgd["name"], sgd["x"]) == ("SGD", [repr(r.options["momentum"]) for r in done])
    assert sgd["y"] == [r.metrics[-1] for r in done]
    assert titles["Result by momentum"]["layout"]["xaxis"]["categoryarray"] == ["0.0", "0.9"]


def test_parallel_coordinates_hold_every_finished_trial(searched):
    plot = dict(page_plots(searched))["parallel"]
    (trace,) = plot["figure"]["data"]
    axes = {axis["label"]: axis for axis in trace["dimensions"]}
    first, *options, last = axes
    assert (first, set(options), last) == ("candidate", {"learning rate", "momentum", "betas"}, "accuracy")
    done = [r for r in searched.tries if r.status == "done"]
    assert [10**v for v in axes["learning rate"]["values"]] == pytest.approx([r.lr for r in done])
    assert axes["accuracy"]["values"] == trace["line"]["color"] == [r.metrics[-1] for r in done]
    names = axes["candidate"]["ticktext"]
    assert [names[i] for i in axes["candidate"]["values"]] == [r.candidate for r in done]
    values = axes["momentum"]["ticktext"]
    shown = [values[i] for i in axes["momentum"]["values"]]
    assert shown == [repr(r.options["momentum"]) if "momentum" in r.options else "–" for r in done]


def test_rates_of_different_searches_are_not_joined(searched, found):
    adam = next(t for t in dict(page_plots(found))["rates"]["figure"]["data"] if t["name"] == "Adam")
    gap = adam["x"].index(None)
    seeds = [{t.split()[1] for t in part} for part in (adam["text"][:gap], adam["text"][gap + 1 :])]
    assert [len(part) for part in seeds] == [1, 1] and seeds[0] != seeds[1]
    assert adam["x"][:gap] == sorted(adam["x"][:gap])


def test_dollar_signs_in_names_are_no_formulas(tmp_path):
    name = "cost in $ of \\frac$"
    found = compare_task(task(name=name), optimizers={name: "SGD", "b": "Adam"}, seeds=1, progress=False, out=tmp_path)
    assert name in found.plot().get_suptitle()
    assert name in html.unescape((tmp_path / "curves.svg").read_text())


def test_the_metric_of_a_user_is_escaped_in_every_plot(tmp_path):
    def metric(output, target):
        return (output.argmax(1) == target).double()

    metric.__name__ = "<i>m</i>"
    search = {"momentum": [0.0, 0.9]}
    found = compare_task(
        task(metric=(metric, "max")), optimizers=["SGD"], seeds=1, trials=2, search=search, progress=False
    )
    titles = json.dumps([plot["figure"]["layout"] for plot in dict(page_plots(found)).values()])
    assert "&lt;i&gt;m" in titles and "<i>" not in titles


@pytest.fixture(scope="module")
def of_loops():
    return compare_task(
        task(), optimizers=["SGD", "Adam"], loss=["cross_entropy", "multi_margin"], seeds=2, trials=2,
        loop={"plain": Loop(), "slow": Loop(schedule="cosine")}, epochs=1, progress=False,
    )  # fmt: skip


def test_every_loop_has_curves_of_its_own(of_loops):
    plots = {name: plot["figure"]["data"] for name, plot in page_plots(of_loops)}
    figure = of_loops.plot()
    for i, loss in enumerate(("cross_entropy", "multi_margin")):
        panel = figure.axes[i]
        shown = {t["name"]: t for t in plots[f"loss{i}"] if t.get("showlegend", True)}
        drawn = {line.get_label(): line for line in panel.get_lines() if not line.get_label().startswith("_")}
        names = [f"{optimizer} · {loop}" for optimizer in ("SGD", "Adam") for loop in ("plain", "slow")]
        assert sorted(shown) == sorted(drawn) == sorted(names)
        for name in names:
            optimizer, _, loop = name.partition(" · ")
            runs = [r.losses for r in of_loops.results if r.candidate == f"{optimizer} · {loss} · {loop}"]
            mean = [sum(values) / 2 for values in zip(*runs, strict=True)]
            assert len(runs) == 2
            assert shown[name]["y"] == pytest.approx(mean)
            assert list(drawn[name].get_ydata()) == pytest.approx(mean)
        for name in ("SGD", "Adam"):
            plain, slow = (shown[f"{name} · {loop}"]["line"] for loop in ("plain", "slow"))
            assert plain["color"] == slow["color"] and (plain["dash"], slow["dash"]) == ("solid", "dash")


def test_marks_and_learning_rates_tell_loops_apart(of_loops):
    plots = {name: plot["figure"]["data"] for name, plot in page_plots(of_loops)}
    marks = {(trace["marker"]["color"], trace["marker"]["symbol"]) for trace in plots["smoothness"]}
    assert len(marks) == 4  # of two losses
    entries = learning_rate_figure(of_loops).legends[0]
    assert sorted(text.get_text() for text in entries.get_texts()) == [
        "Adam · plain", "Adam · slow", "SGD · plain", "SGD · slow",
    ]  # fmt: skip
    assert len({(line.get_color(), line.get_linestyle()) for line in entries.get_lines()}) == 4


@pytest.mark.parametrize(("errors", "axis"), [([0.5, 1.0, 40.0], "log"), ([0.5, 1.0, 4.0], "linear")])
def test_results_of_a_search_that_span_decades_have_logarithmic_axes(of_loops, errors, axis):
    found = copy.copy(of_loops)
    found.higher_is_better = False
    finished = [r for r in of_loops.tries if r.status == "done"][:3]
    found.tries = [dataclasses.replace(r, metrics=[e]) for r, e in zip(finished, errors, strict=True)]
    plots = dict(page_plots(found))
    rates = plots["rates"]["figure"]
    assert rates["layout"]["yaxis"].get("type", "linear") == axis
    assert rates["layout"]["yaxis"].get("exponentformat") == ("power" if axis == "log" else None)
    assert rates["layout"]["xaxis"]["exponentformat"] == "power"
    last = plots["parallel"]["figure"]["data"][0]["dimensions"][-1]
    shown = [math.log10(e) for e in errors] if axis == "log" else errors
    assert last["values"] == pytest.approx(shown)
    assert learning_rate_figure(found).axes[0].get_yscale() == axis
    found.higher_is_better = True
    assert dict(page_plots(found))["rates"]["figure"]["layout"]["yaxis"].get("type", "linear") == "linear"
    assert learning_rate_figure(found).axes[0].get_yscale() == "linear"


def test_the_longest_candidate_fits_into_the_margin_of_the_parallel_coordinates(of_loops):
    margin = dict(page_plots(of_loops))["parallel"]["figure"]["layout"]["margin"]["l"]
    assert margin >= 6 * len("Adam · cross_entropy · plain")
