"""The runner of PyTorch's own tests, on a small checkout that is made here."""

import pytest

from .pytorch import __main__ as runner
from .pytorch.differences import DIFFERENCES, Difference

TESTS = """
import os, time, torch
PATCHED = not torch.optim.Adam.__module__.startswith("torch.")

def test_adam_is_torchs_or_pistes():
    assert torch.optim.Adam.__module__.startswith("piste." if PATCHED else "torch.")

def test_that_differs():
    assert not PATCHED, "this message"

def test_that_fails_with_both():
    assert False

def test_slow_under_the_patch():
    while PATCHED:
        time.sleep(0.01)

def test_that_ends_the_process_under_the_patch():
    if PATCHED:
        os._exit(3)

def test_after_it():
    pass
"""
MEANT = Difference("*test_that_differs", "this message", "Piste refuses it")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The differences of a checkout with one file, found by a real run."""
    folder = tmp_path_factory.mktemp("checkout")
    (folder / "test").mkdir()
    (folder / "test" / "test_optim.py").write_text(TESTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "SECONDS", 0.5)
        return runner.collect(folder, [])


def test_a_test_that_passes_with_pytorch_alone_is_a_difference_with_its_error(found):
    found = {name.rpartition("::")[2]: error for name, error in found.items()}
    assert list(found) == [
        "test_that_differs", "test_slow_under_the_patch", "test_that_ends_the_process_under_the_patch",
        "test_after_it",
    ]  # fmt: skip
    differs, slow, ended, after = found.values()
    assert "AssertionError: this message" in differs
    assert slow == "failed TimeoutError: the test ran longer than 0.5 s"
    assert (ended, after) == ("crashed", "did not run")


def test_a_difference_that_is_not_listed_fails_the_run(found, capsys):
    assert runner.report(found, [MEANT]) == 1
    shown = capsys.readouterr().out
    assert "differs: test_optim.py::test_slow_under_the_patch\n    failed TimeoutError" in shown
    assert "test_that_differs" not in shown
    assert "1 meant differences, 3 others" in shown


def test_listed_differences_are_meant(found, capsys):
    rest = Difference("*", "", "all others")
    assert runner.report(found, [MEANT, rest]) == 0
    assert "4 meant differences, 0 others" in capsys.readouterr().out


def test_another_error_of_a_listed_test_is_not_meant_and_its_entry_is_named(found, capsys):
    other = Difference(MEANT.tests, "another message", MEANT.reason)
    assert runner.report(found, [other]) == 1
    shown = capsys.readouterr().out
    assert "differs: test_optim.py::test_that_differs" in shown
    assert "no test differs any more: *test_that_differs (Piste refuses it)" in shown


def test_tests_that_cannot_be_collected_end_the_run(tmp_path, capsys):
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "test_optim.py").write_text("from torch import no_such_name")
    assert runner.main(tmp_path, []) == 2
    shown = capsys.readouterr().out
    assert "test_optim.py did not run with PyTorch" in shown and "no_such_name" in shown


def test_a_folder_without_tests_is_rejected(tmp_path, capsys):
    assert runner.main(tmp_path, []) == 2
    assert "clone PyTorch at the tag of the installed version" in capsys.readouterr().out


def test_every_listed_difference_has_an_error_and_a_reason():
    assert all(len(entry.error) > 10 and len(entry.reason) > 10 for entry in DIFFERENCES)
