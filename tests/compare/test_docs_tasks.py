"""The example of docs/tasks.md runs as it stands."""

import re
from pathlib import Path

TEXT = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text(encoding="utf-8")


def test_the_example_of_custom_steps_runs():
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL) if "training_step" in block)
    names = {}
    exec(compile(code, "docs/tasks.md", "exec"), names)
    assert {row.name for row in names["found"].rows} == {"SGD", "Adam"}
    assert not names["found"].failed
