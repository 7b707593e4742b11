"""The examples of docs/tasks.md run as they stand."""

import re
from pathlib import Path

import pytest

TEXT = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_the_example_of_custom_steps_runs():
    (code,) = (
        block for block in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL) if "training_step=training_step" in block
    )
    names = {}
    exec(compile(code, "docs/tasks.md", "exec"), names)
    assert {row.name for row in names["found"].rows} == {"SGD", "Adam"}
    assert not names["found"].failed


def test_the_example_of_loops_runs():
    (code,) = (block for block in BLOCKS if "loop=" in block)
    names = {}
    exec(compile(code, "docs/tasks.md", "exec"), names)
    names_of_rows = {"SGD · plain", "Adam · plain", "SGD · cosine", "Adam · cosine"}
    assert {row.name for row in names["found"].rows} == names_of_rows


@pytest.mark.parametrize("package", ["lightning", "transformers"])
def test_the_example_of_a_framework_runs(package):
    pytest.importorskip(package)
    (code,) = (block for block in BLOCKS if package in block)
    names = {}
    exec(compile(code, "docs/tasks.md", "exec"), names)
    found = names["found"]
    assert not found.failed and len(found.rows) == 2
    assert all(row.metric > 0.4 for row in found.rows)
