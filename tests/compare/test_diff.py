"""Two comparisons side by side: the changes, their intervals against SciPy's, and the words."""

import dataclasses
import json
import math

import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

from piste.cli import app
from piste.compare import compare_task, diff
from piste.compare.analysis.changes import Side, find_changes
from piste.compare.results import Result
from piste.errors import InvalidType, InvalidValue
from tests.compare.small import task

SEEDS = range(5)


def side(values, scores=None, examples="same", seeds=SEEDS, finish=float):
    """A comparison with the results `values` by candidate, and scores (J, n) by candidate."""
    runs = {
        name: [Result(name, name, "mse", s, 0.1, metrics=[float(v)]) for s, v in zip(seeds, column, strict=True)]
        for name, column in values.items()
    }
    for name in scores or {}:
        for run, own in zip(runs[name], scores[name], strict=True):
            run.scores = list(own)
    return Side(runs, examples, 0 if scores is None else len(next(iter(scores.values()))[0]), finish)


def draw(number, *shape):
    return np.random.default_rng(number).normal(size=shape)


def test_a_paired_interval_over_seeds_is_that_of_the_paired_t_test():
    old, new = draw(0, 5), draw(1, 5) + 1
    (change,), paired = find_changes(side({"a": old}), side({"a": new}), True, math.nan)
    expected = stats.ttest_rel(new, old)
    assert paired
    assert (change.low, change.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert change.p_value == pytest.approx(expected.pvalue, rel=1e-6)


def test_a_longer_comparison_is_paired_by_the_seeds_that_both_have():
    old, new = draw(0, 3), draw(1, 5) + 1
    (change,), paired = find_changes(side({"a": old}, seeds=range(3)), side({"a": new}), True, math.nan)
    expected = stats.ttest_rel(new[:3], old)
    assert paired and (change.before, change.after) == pytest.approx((old.mean(), new.mean()))
    assert change.size == pytest.approx((new[:3] - old).mean())
    assert (change.low, change.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))


def test_comparisons_of_other_examples_are_independent_as_in_welchs_test():
    old, new = draw(0, 5), 3 * draw(1, 7) + 1
    (change,), paired = find_changes(
        side({"a": old}), side({"a": new}, examples="other", seeds=range(7)), True, math.nan
    )
    expected = stats.ttest_ind(new, old, equal_var=False)
    assert not paired
    assert (change.low, change.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))


def test_where_seeds_change_nothing_the_interval_is_over_examples():
    old, new = draw(2, 40), draw(3, 40) + 0.5
    sides = [side({"a": [s.mean()] * 5}, {"a": [s] * 5}) for s in (old, new)]
    (change,), _ = find_changes(*sides, True, math.nan)
    expected = stats.ttest_rel(new, old)
    assert (change.low, change.high) == pytest.approx(tuple(expected.confidence_interval(0.95)), rel=1e-6)


def test_p_values_of_several_candidates_are_corrected_as_by_holm():
    old = {name: draw(i, 5) for i, name in enumerate("abc")}
    new = {name: draw(10 + i, 5) + 2 * i for i, name in enumerate("abc")}
    changes, _ = find_changes(side(old), side(new), True, math.nan)
    plain = sorted(float(stats.ttest_rel(new[n], old[n]).pvalue) for n in "abc")
    holm = [3 * plain[0], max(3 * plain[0], 2 * plain[1])]
    holm.append(max(holm[1], plain[2]))
    assert sorted(c.p_value for c in changes) == pytest.approx([min(p, 1.0) for p in holm], rel=1e-6)


@pytest.mark.parametrize(("higher", "outcome"), [(True, "better"), (False, "worse")])
def test_the_direction_of_the_metric_decides_between_better_and_worse(higher, outcome):
    (change,), _ = find_changes(side({"a": draw(0, 5)}), side({"a": draw(0, 5) + 1 + 0.1 * draw(1, 5)}), higher, 0.1)
    assert change.outcome == outcome


def test_a_change_within_the_margin_is_equal_and_the_same_numbers_are_identical():
    old = {"a": draw(0, 5), "b": draw(1, 5)}
    new = {"a": old["a"] + 0.01 * draw(2, 5), "b": old["b"]}
    a, b = find_changes(side(old), side(new), True, 0.1)[0]
    assert (a.outcome, b.outcome) == ("equal", "identical")
    assert math.isnan(b.low)


def test_a_candidate_without_a_result_on_both_sides_has_no_outcome():
    old, new = side({"a": draw(0, 5), "b": draw(1, 5)}), side({"a": draw(2, 5), "c": draw(3, 5)})
    new.runs["a"][2].status = "diverged"
    changes = find_changes(old, new, True, 0.1)[0]
    assert [(c.name, c.outcome, math.isnan(c.before), math.isnan(c.after)) for c in changes] == [
        ("a", "", False, True), ("b", "", False, True), ("c", "", True, False),
    ]  # fmt: skip


def test_scores_that_do_not_give_the_metric_are_left_out():
    values, scores = {"a": draw(0, 5) + 9}, {"a": draw(1, 5, 40)}
    with_scores = find_changes(side(values, scores), side({"a": draw(2, 5)}, scores), True, math.nan)[0][0]
    without = find_changes(side(values), side({"a": draw(2, 5)}), True, math.nan)[0][0]
    assert dataclasses.asdict(with_scores) == dataclasses.asdict(without)


def test_equal_candidates_differ_in_at_most_five_percent_of_diffs():
    """Four candidates, five seeds, 60 examples, effects of seed, example and both; 3 standard errors are allowed."""
    rng, wrong, count = np.random.default_rng(0), 0, 300
    for _ in range(count):
        by_example = rng.normal(size=(2, 4, 1, 60))
        scores = by_example + 0.3 * rng.normal(size=(2, 4, 5, 1)) + rng.normal(size=(2, 4, 5, 60))
        sides = [
            side({n: half[i].mean(1) for i, n in enumerate("abcd")}, dict(zip("abcd", half, strict=True)))
            for half in scores
        ]
        changes, _ = find_changes(*sides, True, math.nan)
        wrong += any(c.outcome in ("better", "worse") for c in changes)
    assert wrong / count <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / count)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("diff")
    for name, lr in (("a", 0.001), ("b", 0.05), ("again", 0.05)):
        compare_task(task(name="x|y"), optimizers=["SGD", "Adam"], lr=lr, seeds=3, progress=False, out=folder / name)
    compare_task(task(), optimizers="SGD", seeds=2, steps=4, progress=False, out=folder / "other")
    return folder


def test_the_command_shows_settings_changes_and_both_recommendations(folders):
    shown = CliRunner().invoke(app, ["diff", str(folders / "a"), str(folders / "b")])
    assert shown.exit_code == 0
    text = shown.stdout
    assert "SGD (lr 0.001), Adam (lr 0.001) → SGD (lr 0.05), Adam (lr 0.05)" in text
    assert "| SGD | 0.001 → 0.05 |" in text
    assert "(Changes over new seeds and new validation examples, paired by seed and validation example" in text
    assert "Before: " in text and "After: " in text
    code = json.loads((folders / "b" / "results.json").read_text())["verdict"]["code"]
    assert code.startswith("optimizer = ") and f"\n\n    {code}\n" in text
    assert text == str(diff(folders / "a", folders / "b")) + "\n"


def test_the_same_comparison_twice_is_identical(folders):
    found = diff(folders / "b", folders / "again")
    assert [c.outcome for c in found.changes] == ["identical", "identical"]
    assert found.sentence.startswith("Identical in accuracy: ") and found.test == ""
    assert found.settings == []
    assert "The settings and versions are the same." in str(found)


def test_code_that_differs_is_named_without_its_hash(folders, tmp_path):
    numbers = json.loads((folders / "b" / "results.json").read_text())
    numbers["settings"]["fingerprint"]["model"] = "0123"
    numbers["settings"]["epochs"] = 4 / 3
    numbers["validation"] = {"examples": 7, "targets": "89ab"}
    numbers["settings"]["candidates"][1]["code"] = {"optimizer": "4567"}
    (tmp_path / "results.json").write_text(json.dumps(numbers))
    text = str(diff(folders / "b", tmp_path))
    assert "- epochs: 4 → 1.33333\n" in text and "- code or values of the model differ\n" in text
    assert "- code or options of the candidates Adam differ\n" in text
    assert "- validation examples: 40 → 7\n- validation targets differ\n" in text
    assert not any(value in text for value in ("0123", "4567", "89ab"))


def test_results_without_scores_are_compared_over_seeds(folders, tmp_path):
    numbers = json.loads((folders / "a" / "results.json").read_text())
    for record in numbers["results"]:
        del record["scores"]
    del numbers["verdict"]["practical"], numbers["validation"]
    (tmp_path / "results.json").write_text(json.dumps(numbers))
    found = diff(tmp_path, folders / "b")
    assert all(change.outcome for change in found.changes)
    assert "(Changes over new seeds, of independent seeds and examples" in found.test
    assert "practically equal" not in found.test


def test_other_examples_and_settings_are_listed(folders):
    found = diff(folders / "a", folders / "other")
    assert {"steps", "seeds"} <= {name for name, _, _ in found.settings}
    assert "Without a result on both sides: Adam." in found.sentence


def test_a_comparison_may_take_the_place_of_a_folder(folders):
    kept = compare_task(task(name="x|y"), optimizers=["SGD", "Adam"], lr=0.05, seeds=3, progress=False)
    assert all(change.outcome == "identical" for change in diff(folders / "b", kept).changes)


def test_a_margin_decides_what_is_practically_equal(folders):
    assert "Practically equal in accuracy: " in diff(folders / "a", folders / "b", practical=50.0).sentence
    with pytest.raises(InvalidValue, match=r"`practical` must be"):
        diff(folders / "a", folders / "b", practical=-1.0)


def test_invalid_comparisons_are_rejected(folders, tmp_path):
    with pytest.raises(InvalidValue, match=r"missing can't be read: No such file.*its --out"):
        diff(folders / "a", tmp_path / "missing")
    with pytest.raises(InvalidType, match="takes output folders of comparisons, or comparisons; received int"):
        diff(3, folders / "a")
    for text, reason in (("{", "it is not JSON"), ("{}", "it has no results of a comparison")):
        (tmp_path / "results.json").write_text(text)
        with pytest.raises(InvalidValue, match=reason):
            diff(folders / "a", tmp_path)
    numbers = json.loads((folders / "a" / "results.json").read_text())
    (tmp_path / "results.json").write_text(json.dumps({**numbers, "metric": "rmse"}))
    shown = CliRunner().invoke(app, ["diff", str(folders / "a"), str(tmp_path)])
    assert shown.exit_code == 2
    assert "both comparisons must have the same metric; received accuracy and rmse" in shown.stderr
