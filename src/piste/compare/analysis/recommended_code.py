"""The lines of code that a comparison recommends to paste."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from ... import losses
from ...optim import OPTIMIZERS
from ...optim.averaging import AveragedWeights
from ..loop import PLAIN, Loop
from ..results import Row
from ..search_space import format_options


def spell_loss(name: str, loss: Any) -> str:
    """Return the expression that makes a loss.

    A loss of Piste is written with its options, a function by its name, and any other as an entry of the caller's
    `losses` dict.

    >>> from piste.losses import FocalLoss
    >>> spell_loss("focal", FocalLoss(gamma=3.0))
    'piste.losses.FocalLoss(gamma=3.0)'
    """
    is_known = getattr(losses, type(loss).__name__, None) is type(loss)
    if is_known and not loss.state_dict():  # tensors can't be written in a line
        return f"piste.losses.{loss!r}"
    if inspect.isfunction(loss) and loss.__name__ == name and name.isidentifier():
        return name
    return f"losses[{name!r}]"


def code_to_paste(
    row: Row,
    known: Sequence[str],
    *,
    loss: str = "",
    trains_loss: bool = False,
    steps_matrices: bool = False,
    loop: Loop = PLAIN,
    is_lightning: bool = False,
) -> str:
    """Return the lines of code that construct the optimizer of `row`, and the parts of its loop.

    Args:
        row: The recommended row.
        known: The names of Piste's optimizers; others are taken from the caller's `optimizers` dict.
        loss: The expression that makes the loss; empty if there was nothing to choose.
        trains_loss: Whether the loss has parameters of its own, which the optimizer steps too.
        steps_matrices: Whether the optimizer takes the groups of `matrix_groups`.
        loop: The options of the training loop.
        is_lightning: Whether the lines are the method of a LightningModule.
    """
    model, updates = ("self", "self.trainer.estimated_stepping_batches") if is_lightning else ("model", "updates")
    lr = "" if row.lr is None else f", lr={row.lr:.3g}"
    options = f", {format_options(row.options)}" * bool(row.options)
    if row.optimizer in known:
        make = f"piste.optim.{row.optimizer}"
    else:
        make = row.optimizer if row.optimizer.isidentifier() else f"optimizers[{row.optimizer!r}]"
    parameters = f"{model}.parameters()" if loop.param_groups is None else f"loop.param_groups({model})"
    if steps_matrices and loop.param_groups is None:
        parameters = f"piste.optim.matrix_groups({model}{', loss=loss' * trains_loss})"
    elif trains_loss:
        own = "*loss.parameters()" if loop.param_groups is None else '{"params": loss.parameters()}'
        parameters = f"[*{parameters}, {own}]"
    lines = [f"loss = {loss}"] * bool(loss)
    lines += [f"loop = Loop({loop.options})  # from piste.compare import Loop"] * (loop != PLAIN)
    lines.append(f"optimizer = {make}({parameters}{lr}{options})")
    if row.optimizer in known and issubclass(OPTIMIZERS[row.optimizer], AveragedWeights):
        lines.append("# with optimizer.averaged(): evaluate and save the model")
    result = "optimizer"
    if loop.schedule != "constant" or loop.warmup:
        meaning = "" if is_lightning else "  # the number of all updates"
        lines.append(f"scheduler = loop.new_scheduler(optimizer, {updates}){meaning}")
        result = '{"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}'
    if is_lightning:
        lines = ["def configure_optimizers(self):", *(f"    {line}" for line in (*lines, f"return {result}"))]
    return "\n".join(lines)
