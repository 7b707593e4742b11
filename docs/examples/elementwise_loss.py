"""A custom elementwise loss: the formula of one element, from which the derivatives follow."""

import torch

from piste.formula import log1p
from piste.losses.elementwise import ElementwiseLoss


class CauchyLoss(ElementwiseLoss):
    """The Cauchy (Lorentzian) loss, log(1 + (x - y)^2 / 2), which grows slowly for outliers."""

    name, functional_name = "cauchy", "cauchy_loss"
    denominator = "weights"

    def formula(x, y):
        d = x - y
        return log1p(d * d / 2)


if __name__ == "__main__":
    x = torch.tensor([0.0, 1.0, -2.0], requires_grad=True)
    loss = CauchyLoss()(x, torch.zeros(3))
    loss.backward()
    print(loss.item(), x.grad)
