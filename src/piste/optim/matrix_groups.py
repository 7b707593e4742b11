"""Param groups for optimizers of matrices: hidden matrices in one, and all other parameters in one for AdamW."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from ..errors import InvalidType, InvalidValue
from ..translation import translate
from .adam import AdamW
from .model_groups import ParamGroups, align

__all__ = ["MatrixGroups", "matrix_groups"]

_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)


class MatrixGroups(ParamGroups):
    """Param groups, as a list that prints as a table of all parameters.

    Args:
        groups: The groups.
        reasons: The reason for the group of each parameter, by its name.

    Example:
        >>> import torch, piste
        >>> print(piste.optim.matrix_groups(torch.nn.Linear(3, 2), hidden=lambda name, p: p.dim() == 2))
        group  stepped as  shape   parameter  because
        0      1 matrix    (2, 3)  weight     hidden(name, p) is true
        1      AdamW       (2,)    bias       hidden(name, p) is false
    """

    def __init__(self, groups: list[dict[str, Any]], reasons: Mapping[str, str]) -> None:
        super().__init__(groups)
        self.reasons = dict(reasons)

    def __str__(self) -> str:
        head = [translate("group"), translate("stepped as"), translate("shape"), translate("parameter")]
        table = [[*head, translate("because")]]
        for index, group in enumerate(self):
            split = group.get("split", 1)
            kind = "AdamW" if group["adamw"] else translate("1 matrix" if split == 1 else f"{split} matrices")
            table += [
                [str(index), kind, str(tuple(p.shape)), name, translate(self.reasons[name])]
                for name, p in group["params"]
            ]
        return align(table)


def matrix_groups(
    model: nn.Module,
    split: Mapping[str, int] | None = None,
    adamw: Mapping[str, Any] | None = None,
    hidden: Callable[[str, Any], bool] | None = None,
    loss: nn.Module | None = None,
) -> MatrixGroups:
    """Split the trainable parameters of a model into hidden matrices and parameters for AdamW.

    AdamW steps parameters of fewer than two dimensions, those of embeddings and their tied ones, the weight of the
    output layer, which is the last `Linear` of the model in the order of `model.modules()`, and the parameters of a
    loss.

    Args:
        model: The model. Tied parameters are listed once, and frozen ones not at all.
        split: The number of matrices in fused parameters, by a part of their names: `{"qkv": 3}` orthogonalizes query,
            key and value apart.
        adamw: Options of AdamW that differ from its defaults.
        hidden: A function of name and parameter that returns True for hidden matrices, in place of the rule above.
        loss: A loss with parameters to train, such as a temperature; their names begin with "loss.".

    Returns:
        The groups that have parameters, with their names. Muon takes them, and they print as a table.

    Raises:
        InvalidType: `model` or `loss` is not a module.
        InvalidValue: The model has no hidden matrices, or a part of a name in `split` matches none of them.

    Example:
        >>> import torch, piste
        >>> model = torch.nn.Sequential(torch.nn.Embedding(9, 4), torch.nn.Linear(4, 4), torch.nn.Linear(4, 9))
        >>> groups = piste.optim.matrix_groups(model, adamw={"lr": 3e-4})
        >>> print(groups)
        group  stepped as  shape   parameter  because
        0      1 matrix    (4, 4)  1.weight   hidden matrix
        1      AdamW       (9, 4)  0.weight   embedding
        1      AdamW       (4,)    1.bias     vector
        1      AdamW       (9, 4)  2.weight   output layer
        1      AdamW       (9,)    2.bias     vector
        >>> optimizer = piste.optim.Muon(groups, lr=0.02)
    """
    if not isinstance(model, nn.Module):
        raise InvalidType(f"`model` must be a torch.nn.Module; received {type(model).__name__}.")
    if loss is not None and not isinstance(loss, nn.Module):
        raise InvalidType(f"`loss` must be None or a torch.nn.Module; received {type(loss).__name__}.")
    embedded = {id(p) for m in model.modules() if isinstance(m, _EMBEDDINGS) for p in m.parameters(recurse=False)}
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    output = id(linear[-1].weight) if linear else 0

    def reason(name: str, p: Any) -> str:
        if hidden is not None:
            return f"hidden(name, p) is {'true' if hidden(name, p) else 'false'}"
        if p.dim() < 2:
            return "vector"
        return "embedding" if id(p) in embedded else "output layer" if id(p) == output else "hidden matrix"

    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    reasons = {name: reason(name, p) for name, p in named}
    splits = dict(split or {})
    groups: dict[int, list[tuple[str, Any]]] = {}
    for name, p in named:
        is_matrix = reasons[name] in ("hidden matrix", "hidden(name, p) is true")
        count = next((count for part, count in splits.items() if part in name), 1)
        groups.setdefault(count if is_matrix else 0, []).append((name, p))
    if not groups.keys() - {0}:
        raise InvalidValue(
            f"`model` must have trainable hidden matrices; received {type(model).__name__} with none. Help: use AdamW, "
            "or hidden=lambda name, p: p.dim() >= 2 to choose the matrices."
        )
    matrices = [name for count, parameters in groups.items() if count for name, _ in parameters]
    for part in splits:
        if not any(part in name for name in matrices):
            raise InvalidValue(
                f"`split` must name hidden matrices by a part of their names; received {part!r}, which is in none of "
                f"{', '.join(matrices[:5])}{', ...' * (len(matrices) > 5)}."
            )
    defaults = {name: option.default for name, option in AdamW.options.items()}
    others = groups.pop(0, [])
    if loss is not None:
        held = {id(p) for p in model.parameters()}
        own = [(f"loss.{name}", p) for name, p in loss.named_parameters() if p.requires_grad and id(p) not in held]
        reasons |= {name: "parameter of the loss" for name, _ in own}
        others = [*others, *own]
    found: list[dict[str, Any]] = [
        {"params": parameters, "adamw": False, "split": count} for count, parameters in sorted(groups.items())
    ]
    if others:
        found.append({"params": others, "adamw": True, **defaults, **(adamw or {})})
    return MatrixGroups(found, reasons)
