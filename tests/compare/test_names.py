"""The names of `piste.compare`: the function, the package, and the import forms in the documentation."""

import re
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import nn

import piste
from piste.compare import Metric, Task, compare, compare_task, table
from tests.compare.small import data

PAGES = Path(__file__).parents[2] / "docs"


def test_piste_compare_is_the_function():
    import piste.compare as imported

    assert piste.compare is imported is compare
    assert isinstance(compare, types.FunctionType)


def test_the_package_holds_names_only():
    package = sys.modules["piste.compare"]
    assert type(package) is types.ModuleType
    names = {"Loop", "Metric", "Predictor", "Task", "UnsavedReport", "compare", "compare_task", "diff", "table"}
    assert set(package.__all__) == names
    assert [Metric, Task, compare_task, table] == [
        getattr(package, n) for n in ("Metric", "Task", "compare_task", "table")
    ]


@pytest.mark.parametrize(
    "code",
    [
        "import piste; piste.compare.__name__",
        "from piste.compare import Task; import piste; assert callable(piste.compare)",
        "import piste.compare as c; assert c is __import__('piste').compare",
        "import piste.compare.api; import piste; assert piste.compare.__name__ == 'compare'",
        "from piste import compare; compare(1, 2, progress=False) if False else None",
        "import piste.compare.comparison_diff; from piste.compare import diff; assert diff.__name__ == 'diff'",
        "from piste.compare import *; assert Task.__name__ == 'Task' and callable(compare)",
    ],
)
def test_every_order_of_imports_gives_the_same_function(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_names_that_the_package_lacks_are_refused():
    with pytest.raises(ImportError, match="cannot import name 'Tasks'"):
        exec("from piste.compare import Tasks", {})


def test_piste_imports_neither_trials_nor_reports_before_the_first_comparison():
    code = "import sys, piste; print(*(name for name in sys.modules if name.startswith('piste.compare')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert set(done.stdout.split()) == {"piste.compare", "piste.compare.api"}


@pytest.mark.parametrize("page", ["compare.md", "tasks.md"])
def test_documented_imports_work(page):
    lines = re.findall(r"from piste[.\w]* import [\w, ]+", (PAGES / page).read_text(encoding="utf-8"))
    assert lines
    for line in lines:
        exec(line, {})


def test_the_documentation_calls_nothing_as_an_attribute_of_the_function():
    for page in [*PAGES.glob("*.md"), PAGES.parent / "README.md", PAGES.parent / "CHANGELOG.md"]:
        assert not re.search(r"piste\.compare\.\w+\(|`piste\.compare\.\w+`", page.read_text(encoding="utf-8")), page


def test_a_comparison_of_a_lambda_is_named_model():
    found = compare(lambda: torch.nn.Linear(2, 2), (data(), data(40, 1)), optimizers="SGD", seeds=1, steps=2)
    assert found.name == "model"


def test_soap_and_prodigy_take_part_in_a_comparison_by_name():
    x = torch.linspace(-1, 1, 32).unsqueeze(1)
    found = compare(
        lambda: nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1)), ((x, x * x), (x, x * x)), metric="rmse",
        optimizers=["prodigy", "soap"], epochs=1, seeds=1, lr=0.1, progress=False,
    )  # fmt: skip
    assert {row.optimizer for row in found.rows} == {"Prodigy", "SOAP"}
    assert all(row.metric < 10 for row in found.rows)
