"""The summary of the measurements is read off their tables."""

from __future__ import annotations

import pytest

from tools.docs import speed


@pytest.fixture
def page(tmp_path, monkeypatch):
    file = tmp_path / "performance.md"
    monkeypatch.setattr(speed, "PAGE", file)
    step = "| {} | {} | {} | {} | 1 ms | 2 ms (for) | {} |  |  |  |  |  | 1.00 |  |"
    loss = "| {} | 100 | 1 | 46 us | 68 us | {} | 1.99 | +0.1 us | |"
    file.write_text(
        "\n".join(
            [
                "## The speed of a step",
                step.format("1 x 25M", "Adam", 1, "alone", 3.0),
                step.format("1 x 25M", "Adam", 2, "alone", 2.0),
                step.format("1 x 25M", "Adam", 2, "interleaved", 4.0),
                step.format("6 small", "SGD", 2, "alone", 7.5),
                step.format("6 small", "Lion", 2, "alone", "nan"),
                "### Others",
                step.format("1 x 25M", "Adam", 2, "alone", 9.0),
                "## The speed of a loss",
                *(loss.format("mse", ratio) for ratio in (1.5, 1.1, 2.0)),
            ]
        ).replace("## The", "\n## The")
    )
    return file


def test_steps_are_those_of_two_threads_alone_and_of_the_first_table(page):
    assert speed.step_ratios() == {"Adam": {"1 x 25M": 2.0}, "SGD": {"6 small": 7.5}}
    assert speed.steps_table().splitlines()[2:] == ["| Adam | 2 |  |", "| SGD |  | 7.5 |"]


def test_losses_are_summarized_by_their_extremes_and_their_median(page):
    assert speed.losses_table().splitlines()[-1] == "| mse | 1.10 | 1.50 | 2.00 |"


def test_the_page_in_the_docs_has_the_tables():
    ratios = speed.step_ratios()
    assert len(ratios) >= 11 and all("6 small" in row for name, row in ratios.items() if name != "Lion")
    assert "SGD" in speed.draw_steps()
    assert "| cross_entropy |" in speed.losses_table()
