"""Docstrings of public names, and the words of code and documentation. Ruff's pydocstyle rules check the layout."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import piste
from piste import formula, losses, optim

compare_package, explain_package = (importlib.import_module(f"piste.{name}") for name in ("compare", "explain"))
ROOT = Path(piste.__file__).parents[2]
FORMULAS = {"formula", "derivatives", "update", "before", "matrix", "after", "reduce", "finish"}
"""Methods of losses and optimizers that state a formula; the docstring of the class explains it."""
NOT_IMPORTED = ("kernels", "intrinsics", "tasks", "gpu")
"""Modules that need Numba or Triton at import, and tasks, whose modules are documented."""


def modules() -> Iterator[types.ModuleType]:
    for info in pkgutil.walk_packages(piste.__path__, "piste."):
        if not any(part in NOT_IMPORTED for part in info.name.split(".")) and not info.name.endswith("__main__"):
            yield importlib.import_module(info.name)


def methods(cls: type) -> Iterator[str]:
    for name, value in vars(cls).items():
        is_method = inspect.isfunction(value) or isinstance(value, (classmethod, staticmethod, property))
        if is_method and not name.startswith("_") and name not in FORMULAS:
            yield name


def public_classes() -> Iterator[type]:
    for module in modules():
        for name, value in vars(module).items():
            if isinstance(value, type) and value.__module__ == module.__name__ and not name.startswith("_"):
                yield value


def test_every_public_method_has_a_docstring_of_its_own_or_of_a_base_class():
    missing = [
        f"{cls.__module__}.{cls.__name__}.{name}"
        for cls in public_classes()
        for name in methods(cls)
        if not inspect.getdoc(getattr(cls, name))
    ]
    assert missing == []


def exported() -> Iterator[tuple[str, Any]]:
    """Yield the public classes and functions, without exceptions and protocols."""
    for package in (piste, losses, losses.functional, optim, optim.options, formula, explain_package, compare_package):
        for name in package.__all__:
            value = getattr(package, name)
            is_class = (
                isinstance(value, type) and not issubclass(value, Exception) and value is not optim.options.Option
            )
            if is_class or inspect.isfunction(value):
                yield f"{package.__name__}.{name}", value


EXPORTED = dict(exported())


@pytest.mark.parametrize("name", EXPORTED)
def test_public_classes_and_functions_document_arguments_results_and_an_example(name):
    value = EXPORTED[name]
    text = inspect.getdoc(value) or ""
    parameters = [p for p in inspect.signature(value).parameters if p not in ("self", "args", "kwargs")]
    assert not parameters or "Args:\n" in text or "Attributes:\n" in text
    assert "Example:\n" in text
    if inspect.isfunction(value) and value.__annotations__.get("return") not in (None, "None"):
        assert "Returns:\n" in text


OLD_WORDS = [
    "besides", "beside", "so many", "anew", "one's own", "whoever", "once more", "nobody", "knob", "knobs", "unserved",
    "served", "engines", "eager engine"
]  # fmt: skip
"""Words that the documentation had in place of plain ones, such as "also", "again" or "backend"."""


def texts() -> list[Path]:
    files = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "docs" / "examples").glob("*.py")]
    return [*files, *(ROOT / "src").rglob("*.py")]


@pytest.mark.parametrize("word", OLD_WORDS)
def test_code_and_documentation_avoid_a_word(word):
    pattern = re.compile(rf"(?<![\w-]){word}(?![\w-])", re.IGNORECASE)
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in texts()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if pattern.search(line)
    ]
    assert found == []


@pytest.mark.parametrize("start", ["What", "Whether", "How", "Where", "Which", "Who", "Why"])
def test_no_docstring_of_a_function_begins_with_a_question_word(start):
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in (ROOT / "src").rglob("*.py")
        if "kernels" not in path.parts  # words of machine code
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and not is_property(node)
        if (ast.get_docstring(node) or "").startswith(f"{start} ")
    ]
    assert found == []


def is_property(function: ast.FunctionDef) -> bool:
    return any("property" in ast.unparse(decorator) for decorator in function.decorator_list)
