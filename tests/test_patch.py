"""`piste.patch()` replaces the names of PyTorch by the classes and functions of Piste, and restores them."""

import inspect

import pytest
import torch
from torch import nn

import piste
from piste import losses, optim

OPTIMIZERS = [name for name in optim.OPTIMIZERS if hasattr(torch.optim, name)]
MODULES = [name for name in dir(nn) if name.endswith(("Loss", "Loss2d")) and inspect.isclass(getattr(nn, name))]


def names():
    return {
        **{("optim", name): value for name, value in vars(torch.optim).items()},
        **{("nn", name): value for name, value in vars(nn).items()},
        **{("functional", name): value for name, value in vars(nn.functional).items()},
    }


def test_every_optimizer_loss_and_function_that_piste_has_is_replaced():
    before = names()
    with piste.patch():
        for name in OPTIMIZERS:
            assert getattr(torch.optim, name) is getattr(optim, name)
        for name in MODULES:
            assert getattr(nn, name) is getattr(losses, name)
        changed = {key for key, value in names().items() if value is not before[key]}
        shared = {name for name in losses.functional.__all__ if ("functional", name) in before}
        assert {name for where, name in changed if where == "functional"} == shared and len(shared) >= 20
    assert len(OPTIMIZERS) >= 11 and len(MODULES) >= 20
    after = names()
    assert after.keys() == before.keys()
    assert all(after[key] is before[key] for key in before)


def test_undo_restores_once_and_nested_patches_unwind_in_order():
    theirs = torch.optim.SGD
    outer = piste.patch()
    with piste.patch():
        assert torch.optim.SGD is optim.SGD
    assert torch.optim.SGD is optim.SGD
    outer.undo()
    assert torch.optim.SGD is theirs
    outer.undo()
    assert torch.optim.SGD is theirs


def test_an_error_in_the_block_restores_the_names():
    theirs = nn.MSELoss
    with pytest.raises(ZeroDivisionError), piste.patch():
        1 / 0  # noqa: B018
    assert nn.MSELoss is theirs


def test_training_and_the_losses_that_call_torch_work_while_patched():
    """CTC and the losses with a layer call PyTorch's functions, which must not lead back to Piste's."""
    torch.manual_seed(0)
    x = torch.randn(12, 2, 5).log_softmax(2)
    arguments = (x, torch.randint(1, 5, (2, 4)), torch.tensor([12, 12]), torch.tensor([4, 4]))
    expected = nn.functional.ctc_loss(*arguments)
    with piste.patch():
        torch.testing.assert_close(nn.functional.ctc_loss(*arguments), expected)
        layer = nn.Linear(3, 2)
        optimizer = torch.optim.AdamW(layer.parameters())
        nn.CrossEntropyLoss()(layer(torch.randn(4, 3)), torch.tensor([0, 1, 0, 1])).backward()
        before = layer.weight.detach().clone()
        optimizer.step()
        assert not torch.equal(layer.weight, before)
        if hasattr(nn, "LinearCrossEntropyLoss"):
            module = nn.LinearCrossEntropyLoss(3, 4)
            assert torch.isfinite(module(torch.randn(5, 3), torch.tensor([0, 1, 2, 3, 0])))


def test_schedulers_and_averages_can_be_imported_from_piste_optim():
    from piste.optim.lr_scheduler import LRScheduler, StepLR
    from piste.optim.swa_utils import AveragedModel

    assert StepLR is torch.optim.lr_scheduler.StepLR and LRScheduler is torch.optim.lr_scheduler.LRScheduler
    assert AveragedModel is torch.optim.swa_utils.AveragedModel
    assert set(torch.optim.lr_scheduler.__all__) <= set(dir(optim.lr_scheduler))


def test_every_name_of_torch_optim_can_be_imported_from_piste_optim():
    assert set(torch.optim.__all__) <= set(dir(optim))
    name = "swap_in_optimizer_params_and_state"  # of torch 2.13 and later
    assert getattr(optim, name, None) is getattr(torch.optim, name, None)
