"""Sampled tests: a seed draws the cases, each draw is the same again, and a sweep runs everything."""

from __future__ import annotations

import re

import pytest

TESTS = """
    import pytest

    @pytest.mark.sample(3)
    @pytest.mark.parametrize("case", range(20))
    def test_twenty(case):
        print(f"<twenty {case}>")

    @pytest.mark.sample(1, per="name")
    @pytest.mark.parametrize("case", range(10))
    @pytest.mark.parametrize("name", ["first", "second"])
    def test_named(name, case):
        print(f"<{name} {case}>")

    @pytest.mark.sample(1, per="number.imag")
    @pytest.mark.parametrize("way", ["up", "down"])
    @pytest.mark.parametrize("number", [complex(a, b) for a in range(9) for b in (3, 4)])
    def test_numbers(number, way):
        print(f"<number {int(10 * number.real + number.imag)}>")

    @pytest.mark.sample(1, per="number.imag")
    @pytest.mark.parametrize("number", [complex(a, b) for a in range(9) for b in (3, 4)])
    def test_numbers_again(number):
        print(f"<again {int(10 * number.real + number.imag)}>")

    @pytest.mark.sample(2, per="number.imag", of=3)
    @pytest.mark.parametrize("number", [complex(a, b) for a in range(9) for b in range(10, 20)])
    def test_some(number):
        print(f"<some {int(100 * number.real + number.imag)}>")

    @pytest.mark.sample(1, per="number.imag", of=3)
    @pytest.mark.parametrize("way", ["up", "down"])
    @pytest.mark.parametrize("number", [complex(a, b) for a in range(9) for b in range(10, 20)])
    def test_others(number, way):
        print(f"<other {int(100 * number.real + number.imag)}>")

    @pytest.mark.sample(5)
    @pytest.mark.parametrize("case", range(2))
    def test_few(case):
        print(f"<few {case}>")

    def test_inside(drawn):
        for number in drawn(range(30), 4):
            print(f"<inside {number}>")

    def test_unmarked():
        print("<unmarked 0>")
"""


@pytest.fixture
def run(pytester):
    """Run TESTS with these arguments; return which cases ran, in order, and the whole output."""
    pytester.makepyfile(test_drawn=TESTS)

    def run_with(*args: str) -> tuple[list[tuple[str, str]], str]:
        result = pytester.runpytest("-q", "-s", "-p", "tests.sampling", "-p", "no:hypothesispytest", *args)
        text = result.stdout.str()
        assert result.ret == 0, text
        return re.findall(r"<(\w+) (\d+)>", text), text

    return run_with


def test_as_many_cases_run_as_the_mark_says(run):
    ran, text = run()
    names = [name for name, _ in ran]
    counts = {"twenty": 3, "first": 1, "second": 1, "number": 2, "again": 2, "some": 6, "other": 3, "few": 2}
    counts |= {"inside": 4, "unmarked": 1}
    assert {name: names.count(name) for name in names} == counts
    assert len(set(ran)) == len(ran) and "deselected" in text


def test_a_seed_draws_the_same_cases_every_time_and_another_seed_draws_others(run):
    first, text = run("--seed=5")
    assert "--seed=5" in text
    assert run("--seed=5")[0] == first
    assert len({tuple(run(f"--seed={seed}")[0]) for seed in (6, 7)}) > 1


def test_tests_draw_the_same_values_of_the_parameter_that_they_sample(run):
    for seed in range(5):
        ran, _ = run(f"--seed={seed}")
        assert [n for name, n in ran if name == "number"] == [n for name, n in ran if name == "again"]


def test_tests_that_run_some_values_of_a_parameter_run_the_same_ones(run):
    drawn = set()
    for seed in range(5):
        ran, _ = run(f"--seed={seed}")
        some, others = ({int(n) % 100 for name, n in ran if name == test} for test in ("some", "other"))
        assert some == others and len(some) == 3
        drawn |= some
    assert len(drawn) > 3


def test_the_environment_sets_the_seed(run, monkeypatch):
    monkeypatch.setenv("PISTE_TEST_SEED", "77")
    assert run()[0] == run("--seed=77")[0]


def test_a_sweep_runs_every_case(run):
    ran, text = run("--sweep")
    assert len(ran) == 20 + 20 + 36 + 18 + 90 + 180 + 2 + 30 + 1 and "Every case of every test ran" in text


def test_cases_asked_for_by_their_ids_run(run):
    ran, _ = run(*(f"test_drawn.py::test_twenty[{case}]" for case in range(20)))
    assert ran == [("twenty", str(case)) for case in range(20)]


def test_a_draw_does_not_depend_on_which_other_tests_are_collected(run):
    everything, _ = run()
    alone, _ = run("-k", "twenty")
    assert alone == [case for case in everything if case[0] == "twenty"]


def test_a_draw_does_not_depend_on_the_addresses_of_parameters(pytester):
    """Workers of pytest-xdist must collect the same cases, and objects have other addresses in each."""
    pytester.makepyfile(
        """
        import random, pytest
        class Parameter:
            name = "same"
            def __init__(self, label):
                self.label = label
            def __repr__(self):
                return f"<Parameter at {random.SystemRandom().randrange(1 << 40):#x}>"
        @pytest.mark.sample(1, per="case.name")
        @pytest.mark.parametrize("case", map(Parameter, range(6)), ids=range(6))
        def test_one(case):
            print(f"<one {case.label}>")
        """
    )
    results = [pytester.runpytest("-q", "-s", "-p", "tests.sampling", "-p", "no:hypothesispytest") for _ in range(8)]
    assert len({re.search(r"<one (\d)>", result.stdout.str()).group(1) for result in results}) == 1
