"""What is mutated and who judges it: a module's formulas, and a check of the module that holds a mutant."""

from __future__ import annotations

import ast
import importlib
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import pytest

from piste.formula import words

from .mutate import Mutant, mutants

Check = Callable[[], str | None]
"""Returns the first fault, or None."""


@dataclass(frozen=True)
class Subject:
    """Formulas of one module.

    `formulas` are paths to functions or class attributes in the module: "Adam.update", "NAdam.per_step". `check` gets
    the modules by name, as they are with the mutant in place, and returns the first fault, or None. Modules that
    import from the mutated one are named in `dependents`, in the order of import, and are made anew. `equivalent`
    lists the changes that change nothing, each with the reason.
    """

    module: str
    formulas: tuple[str, ...]
    check: Callable[[Mapping[str, ModuleType]], str | None]
    dependents: tuple[str, ...] = ()
    equivalent: Mapping[str, str] = field(default_factory=dict)


class RecentFirst:
    """A check that consists of several: those that found the last faults come first, as they often find the next.

    Args:
        checks: Returns the checks for the modules, always the same number in the same order.
    """

    def __init__(self, checks: Callable[[Mapping[str, ModuleType]], Iterable[Check]]) -> None:
        self._checks = checks
        self._found: dict[int, int] = {}  # place -> the number of the last mutant it found
        self._numbers = count(1)

    def __call__(self, modules: Mapping[str, ModuleType]) -> str | None:
        number = next(self._numbers)
        checks = list(self._checks(modules))
        for place in sorted(range(len(checks)), key=lambda place: -self._found.get(place, 0)):
            before, self._found[place] = self._found.get(place, 0), number  # stays if the check raises
            fault = checks[place]()
            if fault is not None:
                return fault
            self._found[place] = before
        return None


@dataclass
class Outcome:
    """What became of a subject's mutants."""

    killed: int = 0
    equivalent: int = 0
    survivors: list[Mutant] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)  # listed as equivalent, but killed or not made any more
    broken: str | None = None  # the fault found without any mutant


def examine(subject: Subject) -> Outcome:
    """Judge every mutant of a subject."""
    file, tree = source(subject.module)
    outcome = Outcome(broken=_fault(subject, tree, file))
    unused = dict(subject.equivalent)
    for path in subject.formulas if outcome.broken is None else ():
        for mutant in mutants(path, find(tree, path)):
            survived = _fault(subject, tree, file) is None
            expected = str(mutant) in subject.equivalent
            if survived:
                unused.pop(str(mutant), None)
            if survived and expected:
                outcome.equivalent += 1
            elif survived:
                outcome.survivors.append(mutant)
            else:
                outcome.killed += 1
    outcome.stale = list(unused)
    outcome.broken = outcome.broken or _fault(subject, tree, file)  # a mutant may not change what comes after it
    return outcome


def source(module: str) -> tuple[Path, ast.Module]:
    """Where a module is written, and what is written there."""
    path = Path(str(importlib.import_module(module).__file__))
    return path, ast.parse(path.read_text(encoding="utf-8"))


def stated(module: str, paths: Iterable[str]) -> tuple[str, ...]:
    """Those of the dotted paths that the module itself states; the others are inherited."""
    tree = source(module)[1]
    return tuple(path for path in paths if _found(tree, path) is not None)


def find(tree: ast.AST, path: str) -> ast.AST:
    """The function or class attribute at a dotted path."""
    node = _found(tree, path)
    if node is None:
        raise LookupError(f"no formula `{path}` is stated there")
    return node


def _found(node: ast.AST | None, path: str) -> ast.AST | None:
    for name in path.split("."):
        node = next((child for child in _children(node) if name in _names(child)), None)
    return node


def _children(node: ast.AST) -> Iterator[ast.AST]:
    """The statements of a body, also those inside its `if`s."""
    for statement in getattr(node, "body", []):
        yield statement
        if isinstance(statement, ast.If):
            yield from _children(statement)


def _names(node: ast.AST) -> Iterable[str]:
    match node:
        case ast.ClassDef(name=name) | ast.FunctionDef(name=name):
            return (name,)
        case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
            return (name,)
    return ()


def _fault(subject: Subject, tree: ast.Module, path: Path) -> str | None:
    """What the check finds with the tree in the module's place; an exception is a fault as well."""
    try:
        with (
            warnings.catch_warnings(),
            in_place(subject.module, compile(tree, str(path), "exec"), subject.dependents) as modules,
        ):
            warnings.simplefilter("ignore")
            return subject.check(modules)
    except (Exception, pytest.fail.Exception) as error:
        return f"{type(error).__name__}: {error}"


@contextmanager
def in_place(name: str, code: CodeType, dependents: Iterable[str]) -> Iterator[dict[str, ModuleType]]:
    """The module made from this code, and its dependents made anew, in the place of those that were imported."""
    originals = {n: sys.modules[n] for n in (name, *dependents)}
    try:
        made = {name: _execute(name, code)}
        for dependent in dependents:
            made[dependent] = _execute(dependent, _compiled(str(originals[dependent].__file__)))
        yield made
    finally:
        for n, original in originals.items():
            _install(n, original)


@cache
def _compiled(path: str) -> CodeType:
    return compile(Path(path).read_text(encoding="utf-8"), path, "exec")


def _execute(name: str, code: CodeType) -> ModuleType:
    original = sys.modules[name]
    module = ModuleType(name)
    module.__file__, module.__package__ = original.__file__, name.rpartition(".")[0]
    vars(module).update({word: getattr(words, word) for word in words.__all__})  # a mutant may use any word
    _install(name, module)
    exec(code, vars(module))
    return module


def _install(name: str, module: ModuleType) -> None:
    """Both ways in which an import may find a module."""
    sys.modules[name] = module
    parent, _, last = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], last, module)


def run_tests(module: ModuleType, *leave_out: str) -> None:
    """Run the tests of a module with the cases of its parameters; a failure is an exception."""
    for name, test in list(vars(module).items()):
        if not name.startswith("test_") or name in leave_out:
            continue
        marks = [mark for mark in getattr(test, "pytestmark", []) if mark.name == "parametrize"]
        for case in _cases(marks):
            test(**case)


def _cases(marks: list[Any]) -> Iterator[dict[str, Any]]:
    if not marks:
        yield {}
        return
    names = marks[0].args[0]
    names = [n.strip() for n in names.split(",")] if isinstance(names, str) else list(names)
    for values in marks[0].args[1]:
        own = dict(zip(names, values if len(names) > 1 else (values,), strict=True))
        for others in _cases(marks[1:]):
            yield {**own, **others}
