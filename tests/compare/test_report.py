"""The output files of a comparison, and its progress displays."""

import csv
import html
import io
import itertools
import json
import math
import re
import sys
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest
import torch
from torch import nn

from piste.compare import compare_task
from piste.compare.formats import format_bytes
from piste.compare.listener import Listener
from piste.compare.report.figures import _spread_apart
from piste.compare.report.progress import LiveProgress, LogProgress, make_display, sparkline
from piste.compare.report.tables import rich_tables, table_titles
from piste.compare.training import trial
from tests.compare.small import data, task


@pytest.fixture(scope="module")
def found():
    x = torch.linspace(-1, 1, 48).unsqueeze(1)
    return compare_task(
        task(model=lambda: nn.Linear(1, 1), train=(x, 3 * x), validation=(x, 3 * x), name="a|b"),
        loss={"mse": "mse", "l1 | abs": "l1"}, optimizers=["SGD", "Adam"], lr={"sgd": 30.0}, seeds=2, progress=False,
    )  # fmt: skip


def test_every_output_file_holds_the_same_results(found, tmp_path):
    names = {path.name for path in found.save(tmp_path / "new" / "folder")}
    assert names == {"curves.svg", "curves.png", "report.html", "results.json", "results.csv", "runs.csv", "report.md"}
    folder = tmp_path / "new" / "folder"
    numbers = json.loads((folder / "results.json").read_text(), parse_constant=pytest.fail)
    assert numbers["settings"]["seeds"] == [0, 1]
    assert {"piste", "torch", "numpy", "python", "system", "processor", "threads"} <= set(numbers["versions"])
    assert numbers["versions"]["torch"] == torch.__version__
    assert [row["name"] for row in numbers["rows"]] == [row.name for row in found.rows]
    assert numbers["rows"][-1]["metric"] is None  # diverged: NaN is no JSON
    assert len(numbers["results"]) == 8
    rows = list(csv.DictReader(io.StringIO((folder / "results.csv").read_text())))
    assert float(rows[0]["metric"]) == found.rows[0].metric
    assert rows[-1]["metric"] == ""
    text = (folder / "report.md").read_text()
    assert found.verdict.sentence in text
    assert "l1 \\| abs" in text
    assert "![curves](curves.svg)" in text
    assert json.loads(re.search(r"```json\n(.*)\n```", text, re.DOTALL)[1])["settings"] == numbers["settings"]
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    drawn = "".join(ElementTree.fromstring((folder / "curves.svg").read_text()).itertext())
    assert "Adam" in drawn
    assert "SGD (diverged)" in drawn
    assert "validation" in drawn


class Page(HTMLParser):
    """The resources that a page requests, and its text."""

    def __init__(self, text):
        super().__init__()
        self.fetched, self.tags, self.said = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.fetched += [value for name, value in attributes if name in ("src", "href", "srcset", "data")]

    def handle_data(self, data):
        self.said += data


def test_the_page_is_self_contained_and_escapes_user_text(tmp_path):
    nasty = "</script><script>alert(1)</script>"
    x = torch.linspace(-1, 1, 48).unsqueeze(1)
    found = compare_task(
        task(model=lambda: nn.Linear(1, 1), train=(x, 3 * x), validation=(x, 3 * x), name=nasty, about=nasty),
        loss={nasty: "mse"}, optimizers={nasty: torch.optim.SGD, "wild": torch.optim.SGD}, lr={"wild": 50.0}, seeds=2,
        trials=3, progress=False, out=tmp_path,
    )  # fmt: skip
    text = (tmp_path / "report.html").read_text()
    shown = Page(text)
    assert shown.fetched == []
    assert "alert(1)</script>" not in text
    assert shown.tags.count("script") == 2
    assert found.verdict.sentence in shown.said
    assert "diverged" in shown.said
    plots = json.loads(re.search(r"const plots = (.*);\n", text)[1], parse_constant=pytest.fail)
    assert {"loss0", "metric0", "time0", "rates", "parallel", "smoothness", "path"} == set(plots)
    assert shown.tags.count("tr") == 1 + len(found.rows) + 1  # the baseline
    worst = min(r.metrics[-1] for r in found.tries if r.status == "done")
    ticks = next(t for t in plots["rates"]["data"] if t["name"] == "wild" and "showlegend" in t)
    cut = [r for r in found.tries if r.candidate == "wild" and r.status != "done"]
    assert cut and ticks["x"] == [r.lr for r in cut]
    assert all(y < worst for y in ticks["y"])
    assert ticks["text"][0].startswith(cut[0].note)
    mean = next(t for t in plots["metric0"]["data"] if t.get("name") == html.escape(nasty))
    done = [r.metrics for r in found.results if r.candidate == nasty]
    assert mean["y"] == pytest.approx([(a + b) / 2 for a, b in zip(*done, strict=True)])


def test_user_text_is_escaped_in_markdown(tmp_path):
    nasty = "<img src=x onerror='alert(1)'> a|b\n`&lt;`"
    found = compare_task(
        task(name=nasty, metric=(named(nasty), "max")), optimizers={nasty: torch.optim.SGD, "plain": torch.optim.Adam},
        seeds=2, progress=False, out=tmp_path,
    )  # fmt: skip
    shown, written = found._repr_markdown_(), (tmp_path / "report.md").read_text().partition("## Settings")[0]
    for text in (shown, written):
        prose = "\n".join(line for line in text.split("\n") if not line.startswith("    "))  # but for the code
        assert "\\<img src=x" in prose
        assert not re.search(r"(?<!\\)[<&`]", prose)
    lines = found.table().strip().split("\n")
    assert [line.replace("\\|", "").count("|") for line in lines] == 4 * [11]


def named(name):
    def metric(output, target):
        return (output.argmax(1) == target).double()

    metric.__name__ = name
    return metric


def test_the_same_results_make_the_same_svg(found, tmp_path):
    found.save(tmp_path / "a")
    found.save(tmp_path / "b")
    assert (tmp_path / "a" / "curves.svg").read_bytes() == (tmp_path / "b" / "curves.svg").read_bytes()


def test_a_comparison_prints_its_table_and_verdict(found):
    text = str(found)
    assert found.table() in text
    assert found.verdict.sentence in text
    head = found.table().split("\n")[0]
    for column in ("lr", "rmse (lower is better)", "time per step", "memory per step", "descent share", "evenness"):
        assert column in head
    lines = found.table().strip().split("\n")
    assert len(lines) == 2 + 4 + 1
    assert all(line.replace("\\|", "").count("|") == 11 for line in lines)


@pytest.mark.parametrize(("width", "parts"), [(220, 1), (80, 3), (60, 4)])
def test_a_terminal_of_any_width_shows_every_column(found, width, parts):
    from rich.console import Console

    tables = rich_tables(found, width)
    assert len(tables) == parts
    shown_titles = [" ".join(column.header.split()) for table in tables for column in table.columns[1:]]
    assert shown_titles == table_titles(found)[1:]
    console = Console(file=io.StringIO(), width=width)
    for table in tables:
        console.print(table)
    shown = console.file.getvalue()
    assert all(shown.count(row.name) == parts for row in found.rows)
    assert all(word in shown for title in table_titles(found) for word in title.split())


def test_bytes_are_formatted_with_decimal_units():
    assert [format_bytes(n) for n in (0, 999, 1000, 2_500_000, 3_210_000_000)] == [
        "0 B",
        "999 B",
        "1 kB",
        "2.5 MB",
        "3.21 GB",
    ]


def test_labels_move_apart_and_stay_inside():
    moved = _spread_apart([0.0, 0.0, 0.5, 0.99, 1.0], 0.1)
    assert all(b - a >= 0.1 - 1e-9 for a, b in itertools.pairwise(moved))
    assert moved[0] >= 0
    assert moved[-1] <= 1
    assert moved[2] == 0.5


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_display_follows_progress_and_the_terminal():
    assert type(make_display(False, Terminal())) is Listener
    assert type(make_display(None, io.StringIO())) is Listener
    assert type(make_display(True, io.StringIO())) is LogProgress
    assert type(make_display(None, Terminal())) is LiveProgress


def test_a_log_shows_the_plan_and_a_line_per_run(capsys):
    compare_task(task(name="tiny"), optimizers=["SGD", "Adam"], seeds=2, progress=True)
    lines = capsys.readouterr().out.strip().split("\n")
    plan, expected = lines[0].split("4 runs, about ")
    assert plan == (
        "tiny: 2 optimizers with cross_entropy; 2 seeds, 12 steps each; ranked by accuracy on 40 validation examples. "
    )
    assert re.fullmatch(r"(\d+m)?\d+s\.", expected)
    assert len(lines) == 5
    assert lines[1].startswith("[1/4]")
    assert "seed 0  SGD   loss 0." in lines[1]
    assert "\x1b" not in "".join(lines)


def test_a_log_marks_a_diverged_run(capsys):
    x = torch.linspace(-1, 1, 48).unsqueeze(1)
    compare_task(
        task(model=lambda: nn.Linear(1, 1), train=(x, 3 * x), validation=(x, 3 * x)),
        optimizers="SGD", lr=30.0, seeds=1, progress=True,
    )  # fmt: skip
    assert "DIVERGED: the loss rose from" in capsys.readouterr().out


def test_a_terminal_shows_a_live_table(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr("sys.stdout", stream)
    compare_task(task(name="tiny"), optimizers=["SGD", "Adam"], seeds=2)
    shown = stream.getvalue()
    assert "of 4 runs" in shown
    assert "Ctrl-C keeps finished runs" in shown


def test_sparklines_have_one_scale_and_point_up_for_better():
    assert sparkline([0.0, 1.0], [0.0, 1.0], True) == "▁█"
    assert sparkline([0.0, 1.0], [0.0, 1.0], False) == "█▁"
    assert len(sparkline([math.sin(i) for i in range(90)], [-1.0, 1.0])) == 24
    assert sparkline([], []) == ""


def test_an_interruption_keeps_finished_runs(tmp_path, monkeypatch):
    started = []
    original = trial.run_trial

    def run_trial(*args, **kwargs):
        started.append(1)
        if len(started) > 3:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    for module in [m for m in list(sys.modules.values()) if getattr(m, "run_trial", None) is original]:
        monkeypatch.setattr(module, "run_trial", run_trial)
    found = compare_task(task(train=data()), optimizers=["SGD", "Adam"], seeds=5, progress=False, out=tmp_path)
    assert found.interrupted == "Interrupted after 3 of 10 runs; finished runs are kept."
    assert [row.seeds for row in found.rows] == [2, 1] or [row.seeds for row in found.rows] == [1, 2]
    assert json.loads((tmp_path / "results.json").read_text())["interrupted"] == found.interrupted
    assert (tmp_path / "curves.svg").exists()
    assert "one seed can't separate" in found.verdict.sentence  # one whole round


def test_an_interruption_before_the_first_run_is_raised(tmp_path):
    def model():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare_task(task(model=model), progress=False, out=tmp_path)
