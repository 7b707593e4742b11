"""A custom row-wise loss: a formula over the logits of one row and the class of that row."""

import torch

from piste.formula import exp
from piste.formula.row_functions import log_softmax, pick
from piste.losses.class_loss import ClassLoss


class PolyLoss(ClassLoss):
    """The Poly-1 loss, -log p + 2 (1 - p), of the probability p of the row's class (Leng et al. 2022)."""

    name, functional_name = "poly", "poly_loss"
    denominator = "count"

    def formula(x, k):
        log_p = pick(log_softmax(x), k)
        return -log_p + 2 * (1 - exp(log_p))


if __name__ == "__main__":
    x = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0]], requires_grad=True)
    loss = PolyLoss()(x, torch.tensor([0, 2]))
    loss.backward()
    print(loss.item(), x.grad)
