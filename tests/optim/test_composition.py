"""What the base adds to every rule: the sign, weight decay, cautious steps, and the parts of a rule of matrices."""

from __future__ import annotations

import pytest
import torch

from piste.formula.expression import FormulaError
from piste.optim import Optimizer
from piste.optim.options import rate

from .composition_checks import CHECKS


@pytest.mark.parametrize("find_fault", CHECKS)
def test_steps_are_those_computed_by_hand(find_fault):
    assert find_fault(Optimizer) is None


@pytest.mark.parametrize("fused", [None, False])
@pytest.mark.parametrize(("order", "taken"), [("msb", "m, b"), ("smb", "m"), ("sbm", "m, b"), ("mbs", "m, b")])
def test_a_matrix_stage_that_takes_other_buffers_than_the_last_ones_is_refused(order, taken, fused):
    class Misplaced(Optimizer):
        options = {"lr": rate(1.0)}
        buffers = {letter: letter for letter in order}

        def before(g, s):
            return s + g, s + g

    def of_one(u, m):
        return u, m

    def of_two(u, m, b):
        return u, m, b

    Misplaced.matrix = of_one if taken == "m" else of_two
    p = torch.ones(2, 2, requires_grad=True)
    p.grad = torch.ones(2, 2)
    with pytest.raises(FormulaError) as refused:
        Misplaced([p], fused=fused).step()
    assert str(refused.value) == (
        f"Misplaced.matrix must take the last of the buffers declared ({', '.join(order)}), in their order; "
        f"it takes {taken}."
    )
    assert p.tolist() == [[1, 1], [1, 1]]
