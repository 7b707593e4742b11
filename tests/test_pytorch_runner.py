"""The runner of PyTorch's own tests, on a small checkout that is made here."""

import pytest

from . import pytorch

SMALL = """
import torch

def test_adam_is_pistes():
    assert torch.optim.Adam.__module__.startswith("piste.")

def test_a_negative_rate_is_accepted():
    torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=-1.0)
"""


@pytest.fixture
def checkout(tmp_path):
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "test_optim.py").write_text(SMALL)
    return tmp_path


def test_a_difference_that_is_not_listed_fails_the_run(checkout, tmp_path, capsys):
    assert pytorch.main(checkout, [], tmp_path, {}) == 1
    shown = capsys.readouterr().out
    assert "differs: test_optim.py::test_a_negative_rate_is_accepted" in shown
    assert "test_adam_is_pistes" not in shown
    assert "test_nn.py: not in this checkout" in shown


def test_a_listed_difference_is_meant(checkout, tmp_path, capsys):
    assert pytorch.main(checkout, [], tmp_path, {"*negative_rate*": "Piste refuses it"}) == 0
    assert "1 meant differences, 0 others" in capsys.readouterr().out


def test_a_listed_difference_that_is_gone_fails_the_run(checkout, tmp_path, capsys):
    listed = {"*negative_rate*": "Piste refuses it", "*gone*": "an old reason"}
    assert pytorch.main(checkout, [], tmp_path, listed) == 1
    assert "no test differs any more: *gone* (an old reason)" in capsys.readouterr().out


def test_a_folder_without_tests_is_refused(tmp_path, capsys):
    assert pytorch.main(tmp_path, [], tmp_path, {}) == 2
    assert "clone PyTorch at the tag of the installed version" in capsys.readouterr().out
