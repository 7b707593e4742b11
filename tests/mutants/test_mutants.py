"""The mutation run itself: it makes the changes it says, puts everything back, and tells what went unnoticed."""

from __future__ import annotations

import ast
import sys
import textwrap
from functools import partial

import pytest

from piste.losses import CTCLoss, NLLLoss2d
from piste.losses.elementwise import ElementwiseLoss
from piste.losses.registry import LOSSES
from tests.losses.domains import DOMAINS
from tests.optim.cases import ELEMENTWISE

from . import contrastive, losses, optim
from .__main__ import main, subjects
from .mutate import mutants
from .subject import RecentFirst, Subject, examine, find

FORMULA = """
    from piste.formula import maximum, sqrt, where

    class Rule:
        per_step = {"c": lambda t, beta: 1 - beta**t}

        def update(g, v, *, rho, eps):
            v = rho * v + g
            return where(v > 0, sqrt(v), -v) / maximum(v, eps), v
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """FORMULA as an imported module."""
    (tmp_path / "a_rule.py").write_text(textwrap.dedent(FORMULA))
    monkeypatch.syspath_prepend(tmp_path)
    yield "a_rule"
    sys.modules.pop("a_rule", None)


def changes(formula):
    tree = ast.parse(textwrap.dedent(FORMULA))
    return [(m.before, m.after) for m in mutants(formula, find(tree, formula))]


def test_every_kind_of_mutant_is_made():
    made = changes("Rule.update")
    for change in [
        ("rho * v + g", "rho * v - g"),
        ("rho * v + g", "rho * v"),
        ("rho * v + g", "g"),
        ("rho * v + g", "-(rho * v + g)"),
        ("rho * v", "rho / v"),
        ("rho", "eps"),
        ("g", "v"),
        ("v > 0", "v >= 0"),
        ("v > 0", "v < 0"),
        ("0", "1"),
        ("sqrt(v)", "v"),
        ("-v", "v"),
        ("maximum(v, eps)", "minimum(v, eps)"),
        ("maximum(v, eps)", "eps"),
        ("where(v > 0, sqrt(v), -v)", "where(v > 0, -v, sqrt(v))"),
        ("where(v > 0, sqrt(v), -v)", "sqrt(v)"),
    ]:
        assert change in made
    assert ("1", "2") in changes("Rule.per_step") and ("beta ** t", "beta") in changes("Rule.per_step")


def test_every_kind_of_mutant_is_made_of_tensors_and_checks():
    formula = """
        def judge(x, k, low, high):
            is_wrong = (low <= x < high) & ~(k == 0)
            return total(torch.where(is_wrong, pick(x, k), 0)) + (x - k).abs() if k in x else log_softmax(x)
    """
    tree = ast.parse(textwrap.dedent(formula))
    made = [(m.before, m.after) for m in mutants("judge", find(tree, "judge"))]
    for change in [
        ("low <= x < high", "low < x < high"),
        ("low <= x < high", "low <= x <= high"),
        ("(low <= x < high) & ~(k == 0)", "(low <= x < high) | ~(k == 0)"),
        ("(low <= x < high) & ~(k == 0)", "low <= x < high"),
        ("~(k == 0)", "k == 0"),
        ("total(torch.where(is_wrong, pick(x, k), 0))", "torch.where(is_wrong, pick(x, k), 0)"),
        ("torch.where(is_wrong, pick(x, k), 0)", "torch.where(is_wrong, 0, pick(x, k))"),
        ("pick(x, k)", "-pick(x, k)"),
        ("(x - k).abs()", "x - k"),
        ("x - k", "x"),  # also what a method is called on
        ("k in x", "k not in x"),
        ("log_softmax(x)", "x"),
    ]:
        assert change in made, change
    assert not any(after.startswith("-(low") for _, after in made)


def test_the_tree_is_restored_after_every_mutant():
    tree = ast.parse(textwrap.dedent(FORMULA))
    before = ast.unparse(tree)
    texts = [ast.unparse(tree) for _ in mutants("Rule.update", find(tree, "Rule.update"))]
    assert ast.unparse(tree) == before
    assert before not in texts


def exact(modules):
    """Kills every change but those that no number can show."""
    rule = modules["a_rule"].Rule
    for g, v in ((3.0, 2.0), (-9.0, 2.0), (0.01, 0.0), (1.0, -4.0)):
        w = 0.5 * v + g
        expected = ((w**0.5 if w > 0 else -w) / max(w, 0.25), w)
        if rule.update(g, v, rho=0.5, eps=0.25) != expected:
            return "another number"
    return None


def test_survivors_and_equivalent_mutants_are_distinguished(module):
    outcome = examine(Subject(module, ("Rule.update",), exact))
    told = [str(m) for m in outcome.survivors]
    assert told == ["Rule.update: v > 0 -> v >= 0"]  # sqrt(0) is -0
    listed = examine(Subject(module, ("Rule.update",), exact, equivalent={told[0]: "0 either way"}))
    assert (listed.survivors, listed.equivalent, listed.stale) == ([], 1, [])
    assert listed.killed == outcome.killed > 30


def test_a_check_that_finds_nothing_kills_no_mutant(module):
    outcome = examine(Subject(module, ("Rule.update", "Rule.per_step"), lambda modules: None))
    assert outcome.killed == 0 and len(outcome.survivors) > 40


def test_the_checks_that_found_the_last_faults_come_first():
    faults = {}
    asked = []

    def judge(place):
        asked.append(place)
        if faults.get(place) == "raises":
            raise ArithmeticError
        return faults.get(place)

    check = RecentFirst(lambda modules: [partial(judge, place) for place in range(4)])
    assert check({}) is None and asked == [0, 1, 2, 3]
    faults[2] = "another number"
    assert check({}) == "another number" and asked[4:] == [0, 1, 2]
    assert check({}) == "another number" and asked[7:] == [2]
    faults[3] = "raises"
    del faults[2]
    with pytest.raises(ArithmeticError):
        check({})
    assert asked[8:] == [2, 0, 1, 3]
    faults.clear()
    assert check({}) is None and asked[12:] == [3, 2, 0, 1]


def test_the_imported_module_is_restored(module):
    examine(Subject(module, ("Rule.update",), exact))
    assert exact(sys.modules) is None


def test_the_command_fails_for_survivors_stale_entries_and_broken_checks(module, capsys):
    equal = {"Rule.update: v > 0 -> v >= 0": "0 either way"}
    assert main([], [Subject(module, ("Rule.update",), exact, equivalent=equal)]) == 0
    assert "nothing to mend" in capsys.readouterr().out
    assert main([], [Subject(module, ("Rule.update",), exact)]) == 1
    assert "survived: Rule.update: v > 0 -> v >= 0   (line 9)" in capsys.readouterr().out
    stale = {**equal, "Rule.update: g -> h": "it was once"}
    assert main([], [Subject(module, ("Rule.update",), exact, equivalent=stale)]) == 1
    assert "listed as equivalent, but killed or gone: Rule.update: g -> h" in capsys.readouterr().out
    assert main([], [Subject(module, ("Rule.update",), lambda modules: "nonsense")]) == 1
    assert "without any change: nonsense" in capsys.readouterr().out
    assert main(["nobody"], [Subject(module, ("Rule.update",), exact)]) == 2


def test_every_optimizer_is_a_subject():
    formulas = {formula for subject in optim.subjects() for formula in subject.formulas}
    assert {f"{name}.update" for name in ELEMENTWISE if name != "AdamW"} <= formulas


def test_every_loss_with_a_formula_is_a_subject():
    formulas = {formula for subject in losses.subjects() for formula in subject.formulas}
    for loss in set(LOSSES.values()) - {CTCLoss, NLLLoss2d}:  # torch's, and NLLLoss
        assert f"{loss.__name__}.formula" in formulas
        if issubclass(loss, ElementwiseLoss):  # derived derivatives have no text to change
            is_derived = hasattr(loss.derivatives, "is_derived")
            assert (f"{loss.__name__}.derivatives" in formulas) != is_derived
            assert is_derived == (loss.name in DERIVED)
        if loss.name not in (
            "l1",
            "mse",
            "smooth_l1",
            "huber",
            "log_cosh",
            "triplet_margin",
            "triplet_margin_with_distance",
            *REGIONS,  # of which test_regions.py states the domains
            *contrastive.PAIRS,
            *contrastive.LOVASZ,
        ):
            assert any(domain.name == loss.name for domain in DOMAINS)  # of values, which these take all


DERIVED = ("l1", "mse", "quantile", "expectile")
REGIONS = ("dice", "jaccard", "tversky", "focal_tversky")
SUBJECTS = {subject.module: subject for subject in subjects()}
MANY = {"piste.losses.margins": 200, "piste.optim.adamax": 50}


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", SUBJECTS)
def test_no_mutant_survives(name):
    outcome = examine(SUBJECTS[name])
    assert outcome.broken is None and not outcome.survivors and not outcome.stale
    assert outcome.killed > MANY.get(name, 0)
