"""The direction of imports: each module imports only from lower layers, and no circles exist.

Imports inside functions and under TYPE_CHECKING count too.
"""

from __future__ import annotations

import ast
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"

LAYERS: list[list[str]] = [
    ["piste.translation"],
    ["piste.errors", "piste.version", "piste.torch_internals", "piste.text_encoding", "piste.wording"],
    ["piste.options", "piste.formula"],
    ["piste.engine.*"],  # specs and the passes that all code generators share
    ["piste.engine.native"],
    ["piste.engine.eager", "piste.engine.cpu", "piste.engine.gpu"],
    ["piste.engine.autograd"],
    ["piste.engine.step_dispatch", "piste.engine.loss_dispatch"],
    ["piste.engine.matrix_step", "piste.engine.gradient_sums"],
    ["piste.engine"],
    ["piste.optim", "piste.losses"],
    ["piste.explain", "piste.patching", "piste.compare.requirements"],
    ["piste.compare.formats", "piste.compare.results"],
    ["piste.compare.records"],
    [
        "piste.compare.search_space",
        "piste.compare.conventions",
        "piste.compare.batches",
        "piste.compare.identity",
        "piste.compare.loop",
        "piste.compare.training.random_state",
        "piste.compare.training.threads",
        "piste.compare.training.memory",
        "piste.compare.training.smoothness",
    ],
    ["piste.compare.objective", "piste.compare.class_metrics"],
    ["piste.compare.frameworks", "piste.compare.data_sources"],
    ["piste.compare.candidates", "piste.compare.data", "piste.compare.metrics", "piste.compare.task"],
    ["piste.compare.training", "piste.compare.task_file", "piste.compare.splits"],
    ["piste.compare.plan"],
    ["piste.compare.training.timing", "piste.compare.listener"],
    ["piste.compare.budget"],
    ["piste.compare.execution", "piste.compare.analysis", "piste.compare.report"],
    ["piste.compare.comparison", "piste.compare.comparison_diff"],
    ["piste.compare.run"],
    ["piste.compare.api"],
    ["piste.compare.csv", "piste.compare.tasks"],
    ["piste.compare"],
    ["piste"],
    ["piste.cli.app"],
    ["piste.cli"],
    ["piste.__main__"],
    ["_piste_command"],
]
"""Packages and modules from low to high. A module belongs to its longest prefix; it may import from its own entry and
from lower layers, but not from another entry of its layer. `piste`, `piste.compare` and `piste.engine` mean the
`__init__` of the package alone."""
INIT_ALONE = {"piste", "piste.compare", "piste.engine"}


def read_imports(module: str, path: Path, modules: set[str]) -> set[str]:
    """The modules of the package that the file imports, with relative imports resolved."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            base = ".".join(parents[: len(parents) - node.level + 1] if node.level else [])
            source = ".".join(filter(None, [base, node.module]))
            for alias in node.names:
                name = f"{source}.{alias.name}"
                found.add(name if name in modules else source)
    return found & modules - {module}


@cache
def import_graph() -> dict[str, set[str]]:
    paths = {}
    for path in SOURCE.rglob("*.py"):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        paths[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return {module: read_imports(module, path, set(paths)) for module, path in paths.items()}


def layer_entry(module: str) -> tuple[int, str]:
    """The index of the module's layer, and its entry there."""
    matching = [
        (len(entry), index, entry)
        for index, layer in enumerate(LAYERS)
        for entry in layer
        if module == entry or (module.startswith(f"{entry.removesuffix('.*')}.") and entry not in INIT_ALONE)
    ]
    assert matching, f"{module} belongs to no layer: add it to LAYERS"
    _, index, entry = max(matching)
    return index, entry


def find_violations(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    violations: dict[str, set[str]] = {}
    for module, imported in graph.items():
        index, entry = layer_entry(module)
        for other in imported:
            other_index, other_entry = layer_entry(other)
            if other_index > index or (other_index == index and other_entry != entry):
                violations.setdefault(module, set()).add(other)
    return violations


def find_circle(graph: dict[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_imports_point_to_lower_layers():
    assert find_violations(import_graph()) == {}


def test_optimizers_and_losses_import_nothing_below_the_engine():
    graph = import_graph()
    for module in graph:
        if module.startswith(("piste.optim", "piste.losses")):
            assert not {name for name in graph[module] if name.startswith("piste.engine.")}, module


def test_there_are_no_import_circles():
    assert find_circle(import_graph()) == []


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("piste.errors", "piste.options"),
        ("piste.formula.expression", "piste.engine.specs"),
        ("piste.engine.eager.step", "piste.engine.cpu.step_kernel"),
        ("piste.losses.loss", "piste.optim"),
        ("piste.compare.results", "piste.compare.training.trial"),
        ("piste.compare.report.files", "piste.compare.execution.store"),
        ("piste.compare.execution.scheduler", "piste.compare.comparison"),
        ("piste.compare.comparison", "piste.compare.api"),
    ],
)
def test_an_import_from_a_higher_or_sibling_layer_is_a_violation(importer, imported):
    assert find_violations({importer: {imported}}) == {importer: {imported}}


def test_relative_imports_are_resolved(tmp_path):
    file = tmp_path / "store.py"
    lines = [
        "from ...errors import A",
        "from ..plan import B",
        "from . import search",
        "def f():",
        "    import piste.cli",
    ]
    file.write_text("\n".join(lines))
    modules = {"piste.errors", "piste.compare.plan", "piste.compare.execution.search", "piste.cli"}
    assert read_imports("piste.compare.execution.store", file, modules) == modules


def test_a_circle_is_found():
    assert set(find_circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})) == {"a", "b", "c"}
