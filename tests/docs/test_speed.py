"""The tables of measurements are those of the recorded files."""

from __future__ import annotations

import json

import pytest

from bench import optim as bench
from tools.docs import speed

STEP = {"workload": "1 x 25M", "threads": 2, "setting": "alone", "by_threads": 1.0, "bytes": 4}
SECONDS = {"piste": 0.002, "foreach": 0.009, "for": 0.005}
STEPS = {
    "machine": "Measured on 2030-01-02: a machine, 2 threads.",
    "rows": [
        {**STEP, "optimizer": "Adam", "seconds": SECONDS},
        {**STEP, "optimizer": "Adam", "seconds": {**SECONDS, "piste": 0.001}, "threads": 1},
        {**STEP, "optimizer": "Adam", "seconds": {**SECONDS, "piste": 0.001}, "setting": "interleaved"},
        {**STEP, "optimizer": "SGD", "seconds": {**SECONDS, "for": 0.015}, "workload": "6 small"},
        {**STEP, "optimizer": "Lion", "seconds": {"piste": 0.002}, "workload": "6 small"},
    ],
    "training": [{"optimizer": "Adam", "seconds": {"piste": 1e-4, "torch": 3e-4, "no optimizer": 1e-5}}],
}
RULES = {
    "machine": "Measured on 2030-01-05: a machine.",
    "rows": [{**STEP, "optimizer": "LAMB", "seconds": {"piste": 0.002, "reference": 0.008}}],
    "training": [],
}


def loss(name, size, torch_time):
    seconds = {"piste": 4e-5, "torch": torch_time, "graph": 1e-5, "unchecked": 4e-5}
    return {"loss": name, "shape": [size], "threads": 2, "seconds": seconds}


LOSSES = {
    "machine": "Measured on 2030-01-03: a machine.",
    "rows": [loss("mse", 100, 6e-5), loss("mse", 1000, 4.4e-5), loss("mse", 10000, 8e-5), loss("l1", 100, 4e-5)],
}

COMPOSED = {
    "machine": "Measured on 2030-01-06: a machine.",
    "rows": [{**loss("dice, sigmoid", 100, 6e-5), "shape": [4, 5]}, loss("asymmetric", 100, 8e-5)],
}


def clipped(option, threads, **seconds):
    return {"workload": "1 x 25M", "optimizer": "SGD", "option": option, "threads": threads, "seconds": seconds}


OPTIONS = {
    "machine": "Measured on 2030-01-04: a machine.",
    "libraries": {"torchao": "1.2", "bitsandbytes": "3.4"},
    "clipping": [
        clipped("max_norm", 1, piste=0.001, without=0.001, norm=0.001, foreach=0.009),
        clipped("max_norm", 2, piste=0.002, without=0.001, norm=0.001, foreach=0.009, fused=0.003),
        clipped("both", 2, piste=0.004, without=0.001, norm=0.001, foreach=0.005),
    ],
    "precision": [
        {
            "workload": "2000 x 32",
            "optimizer": "Adam",
            "threads": 2,
            "seconds": {
                "plain": 0.002,
                "kahan": 0.003,
                "master": 0.004,
                "stochastic": 0.001,
                "foreach": 0.02,
                "fused": 0.03,
            },
        }
    ],
    "storage": [
        {
            "workload": "96 x (512,512)",
            "storage": "8 bits",
            "threads": 1,
            "seconds": {"piste": 0.3, "piste, plain": 0.05, "torchao": 1.5},
            "bytes": {"piste": 2.03, "piste, plain": 8.0, "torchao": 2.04},
        }
    ],
}


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """Other measurements than the committed ones, and copies of the pages."""
    (tmp_path / "steps.json").write_text(json.dumps(STEPS), encoding="utf-8")
    (tmp_path / "rules.json").write_text(json.dumps(RULES), encoding="utf-8")
    (tmp_path / "composed.json").write_text(json.dumps(COMPOSED), encoding="utf-8")
    (tmp_path / "losses.json").write_text(json.dumps(LOSSES), encoding="utf-8")
    (tmp_path / "options.json").write_text(json.dumps(OPTIONS), encoding="utf-8")
    copies = {}
    for original in (*speed.PAGES, *speed.READMES):
        copies[original.name] = tmp_path / original.name
        copies[original.name].write_text(original.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(speed, "MEASUREMENTS", tmp_path)
    monkeypatch.setattr(speed, "PAGES", (copies["performance.md"], copies["performance.zh.md"]))
    monkeypatch.setattr(speed, "READMES", (copies["README.md"], copies["README.zh-CN.md"]))
    return copies


def test_steps_are_those_of_two_threads_alone(recorded):
    assert speed.step_ratios() == {"Adam": {"1 x 25M": 2.5}, "SGD": {"6 small": 4.5}}
    assert speed.steps_table().splitlines()[2:] == ["| Adam | 2.5 |  |", "| SGD |  | 4.5 |"]


def test_rules_are_compared_with_their_reference(recorded):
    assert speed.steps_table(record="rules").splitlines() == ["| | 1 x 25M |", "|---|---|", "| LAMB | 4 |"]
    assert "    | 1 x 25M | LAMB | 2 | alone | 2 ms | 8 ms (reference) | 4.00 |" in speed.rules_in_full()
    assert speed.optimizer_rows("LAMB") == ["| 1 x 25M | 2 | 2 ms | 8 ms (reference) | 4.00 |"]


def test_losses_are_summarized_by_their_extremes_and_their_median(recorded):
    assert speed.losses_table().splitlines()[2:] == ["| mse | 1.10 | 1.50 | 2.00 |", "| l1 | 1.00 | 1.00 | 1.00 |"]


def test_every_measurement_is_in_the_full_tables(recorded):
    steps, losses = speed.steps_in_full(), speed.losses_in_full()
    assert '??? note "1 x 25M"\n\n    | tensors | optimizer |' in steps and '??? note "6 small"' in steps
    assert "    | 1 x 25M | Adam | 2 | alone | 2 ms | 5 ms (for) | 2.50 | 2.50 | 4.50 |" in steps
    assert "\n| Adam | 100 us | 300 us | 3.00 |" in steps
    assert "    | mse | 100 | 2 | 40.0 us | 60.0 us | 1.50 |" in losses and '??? note "l1"' in losses
    assert speed.optimizer_rows("Adam") == [
        "| 1 x 25M | 2 | 2 ms | 5 ms (for) | 2.50 |",
        "| 1 x 25M | 1 | 1 ms | 5 ms (for) | 5.00 |",
    ]
    assert speed.loss_rows("l1") == ["| 100 | 2 | 40.0 us | 40.0 us | 1.00 |"]


def test_losses_that_torch_lacks_are_compared_with_operations(recorded):
    assert speed.composed_in_full().splitlines() == [
        "Measured on 2030-01-06: a machine.",
        "",
        "| loss, forward and backward | shape | threads | Piste | torch operations | ratio |",
        "|---|---|---|---|---|---|",
        "| dice, sigmoid | 4x5 | 2 | 40 us | 60 us | 1.50 |",
        "| asymmetric | 100 | 2 | 40 us | 80 us | 2.00 |",
    ]
    assert speed.composed_rows("dice") == ["| 4x5, sigmoid | 2 | 40 us | 60 us | 1.50 |"]
    assert speed.composed_rows("mse") == []


def test_options_are_summarized_on_two_threads(recorded):
    clipping, precision, storage = (
        [line for line in part.splitlines() if line.startswith("|")]
        for part in speed.summaries()["options"].split(":\n\n")[1:]
    )
    assert clipping == [
        "| | | 1 x 25M |",
        "|---|---|---|",
        "| SGD | `max_norm` | 1.5 (2.00) |",
        "| SGD | both | 1.25 (4.00) |",
    ]
    assert precision[0] == "| | | kahan | master | stochastic | torch |"
    assert precision[2:] == ["| 2000 x 32 | Adam | 1.5 | 2 | 0.5 | 10 |"]
    assert storage[2:] == ["| 96 x (512,512) | 8 bits | 1 | 300 ms, 2.03 B | 50 ms, 8 B | 1.5 s, 2.04 B | 5.00 |  |  |"]
    assert "torchao 1.2, bitsandbytes 3.4:" in speed.summaries()["options"]
    assert "torchao 1.2, bitsandbytes 3.4：" in speed.summaries(".zh")["options"]
    full = speed.shared_options_in_full()
    assert '??? note "clipping"' in full and "    | 1 x 25M | SGD | max_norm | 1 | 1 ms | 1.00 | 9 ms | 9.00 |" in full
    assert '??? note "precision"' in full


def test_the_command_writes_the_summaries_into_the_pages_and_the_readmes(recorded):
    before = recorded["performance.md"].read_text(encoding="utf-8")
    speed.main()
    page, chinese = (recorded[name].read_text(encoding="utf-8") for name in ("performance.md", "performance.zh.md"))
    assert "<!-- steps -->\nMeasured on 2030-01-02: a machine, 2 threads.\n\n| | 1 x 25M | 6 small |\n" in page
    assert "| mse | 1.10 | 1.50 | 2.00 |\n| l1 | 1.00 | 1.00 | 1.00 |\n<!-- end -->" in page
    assert "<!-- rules -->\nMeasured on 2030-01-05: a machine.\n\n| | 1 x 25M |\n|---|---|\n| LAMB | 4 |\n" in page
    assert "测量于 2030-01-02：a machine，2 个线程。" in chinese
    assert "| 损失 | 最小 | 中位数 | 最大 |\n|---|---|---|---|\n| mse | 1.10 |" in chinese
    assert [line for line in before.splitlines() if line.startswith("#")] == [
        line for line in page.splitlines() if line.startswith("#")
    ]
    for name in ("README.md", "README.zh-CN.md"):
        assert "|---|---|---|---|---|\n| Adam | 2.5 |  |  |  |\n" in recorded[name].read_text(encoding="utf-8")


def test_a_page_without_the_marks_is_refused(recorded):
    recorded["performance.md"].write_text("# Performance\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"the page has 0 parts <!-- steps --> ... <!-- end -->; it needs one"):
        speed.main()


def test_the_committed_pages_have_the_recorded_summaries():
    for page, language in zip(speed.PAGES, ("", ".zh"), strict=True):
        text = page.read_text(encoding="utf-8")
        for name, summary in speed.summaries(language).items():
            assert f"<!-- {name} -->\n{summary}\n<!-- end -->" in text
    for file in speed.READMES:
        assert speed.steps_table(*speed.README_TENSORS) in file.read_text(encoding="utf-8")
    assert "SGD" in speed.draw_steps()


HEAD = "Measured on 2030-01-02: a machine, 2 threads."


def test_a_bench_keeps_the_rows_that_it_does_not_measure(tmp_path):
    file = tmp_path / "steps.json"
    adam, lion = ({**STEP, "optimizer": name, "seconds": {"piste": 0.002}} for name in ("Adam", "Lion"))
    training = [{"optimizer": "Adam", "seconds": {"piste": 1e-4}}]
    bench.record(file, HEAD, [{**lion, "workload": "6 small"}, adam], training)
    faster = {**adam, "seconds": {"piste": 0.001}}
    bench.record(file, HEAD.replace("01-02", "01-03"), [faster, lion])
    recorded = json.loads(file.read_text(encoding="utf-8"))
    assert recorded["machine"] == "Measured on 2030-01-03: a machine, 2 threads."
    assert recorded["rows"] == [faster, lion, {**lion, "workload": "6 small"}]
    assert recorded["training"] == training


def test_a_bench_drops_the_rows_of_another_machine(tmp_path):
    file = tmp_path / "steps.json"
    row = {**STEP, "optimizer": "Adam", "seconds": {"piste": 0.002}}
    bench.record(file, "Measured on 2030-01-02: another machine, 2 threads.", [{**row, "threads": 1}], [{}])
    bench.record(file, HEAD, [row])
    assert json.loads(file.read_text(encoding="utf-8")) == {"machine": HEAD, "rows": [row], "training": []}
