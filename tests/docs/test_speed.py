"""The summary of the measurements is read off their tables."""

from __future__ import annotations

import json

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


STEP = {"workload": "1 x 25M", "threads": 2, "setting": "alone", "by_threads": 1.0, "bytes": 4}
RUN = {
    "machine": "Measured on 2030-01-02: a machine.",
    "rows": [{**STEP, "optimizer": "Adam", "seconds": {"piste": 0.002, "foreach": 0.009, "for": 0.005}}],
    "training": [{"optimizer": "Adam", "seconds": {"piste": 1e-4, "torch": 3e-4, "no optimizer": 1e-5}}],
}
LOSSES = {
    "machine": "Measured on 2030-01-03: a machine.",
    "rows": [
        {
            "loss": "mse",
            "shape": [100],
            "threads": 2,
            "seconds": {"piste": 4e-5, "torch": 7e-5, "graph": 1e-5, "unchecked": 4e-5},
        }
    ],
}


@pytest.fixture
def copies(tmp_path, monkeypatch):
    """The pages of measurements, as copies that a test may change."""
    files = {}
    for original in (speed.PAGE, *speed.READMES):
        files[original.name] = tmp_path / original.name
        files[original.name].write_text(original.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(speed, "PAGE", files["performance.md"])
    monkeypatch.setattr(speed, "READMES", (files["README.md"], files["README.zh-CN.md"]))
    return files


def test_the_json_of_a_bench_is_put_into_the_page_and_the_readmes(copies, tmp_path):
    for name, measured in (("steps.json", RUN), ("losses.json", LOSSES)):
        (tmp_path / name).write_text(json.dumps(measured), encoding="utf-8")
    before = copies["performance.md"].read_text(encoding="utf-8")
    speed.main([str(tmp_path / "steps.json"), str(tmp_path / "losses.json")])
    page = copies["performance.md"].read_text(encoding="utf-8")
    assert "| 1 x 25M | Adam | 2 | alone | 2 ms | 5 ms (for) | 2.50 | 2.50 | 4.50 |" in page
    assert "| Adam | 100 us | 300 us | 3.00 |" in page
    assert "| mse | 100 | 2 | 40.0 us | 70.0 us | 1.75 | 2.00 |" in page
    assert page.count("Measured on 2030-01-02: a machine.") == page.count("Measured on 2030-01-03: a machine.") == 1
    assert speed.step_ratios() == {"Adam": {"1 x 25M": 2.5}}
    for name in ("README.md", "README.zh-CN.md"):
        assert "|---|---|---|---|---|\n| Adam | 2.5 |  |  |  |\n\n" in copies[name].read_text(encoding="utf-8")
    gpu = before[before.index("## The speed of a step on a GPU") : before.index("## The speed of a loss\n")]
    assert gpu in page  # another section, and all other text
    assert [line for line in before.splitlines() if line.startswith("#")] == [
        line for line in page.splitlines() if line.startswith("#")
    ]


def test_a_page_without_the_table_of_a_bench_is_refused(copies):
    copies["performance.md"].write_text("\n## The speed of a loss\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"no table begins with '. loss . shape"):
        speed.record(LOSSES)
