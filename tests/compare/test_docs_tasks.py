"""The examples of docs/tasks.md run as they stand."""

import re
from pathlib import Path

TEXT = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text(encoding="utf-8")


def test_the_example_of_custom_steps_runs():
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL) if "training_step" in block)
    names = {}
    exec(compile(code, "docs/tasks.md", "exec"), names)
    assert {row.name for row in names["found"].rows} == {"SGD", "Adam"}
    assert not names["found"].failed


def test_the_example_of_loops_runs():
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL) if "loop=" in block)
    names = {}
    exec(compile(code, "docs/tasks.md", "exec"), names)
    names_of_rows = {"SGD · plain", "Adam · plain", "SGD · cosine", "Adam · cosine"}
    assert {row.name for row in names["found"].rows} == names_of_rows
