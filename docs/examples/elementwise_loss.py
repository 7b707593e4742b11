"""A custom elementwise loss: the formula of one element and its derivatives."""

import math

import torch

from piste.formula import exp, log1p, sign
from piste.losses.elementwise import ElementwiseLoss


class LogCoshLoss(ElementwiseLoss):
    """The logarithm of the hyperbolic cosine of the difference, log cosh(x - y)."""

    name, functional_name = "log_cosh", "log_cosh_loss"
    denominator = "weights"

    def formula(x, y):
        d = abs(x - y)
        return d + log1p(exp(-2 * d)) - math.log(2)

    def derivatives(x, y):
        e = exp(-2 * abs(x - y))
        tanh = sign(x - y) * (1 - e) / (1 + e)
        return tanh, -tanh


if __name__ == "__main__":
    x = torch.tensor([0.0, 1.0, -2.0], requires_grad=True)
    loss = LogCoshLoss()(x, torch.zeros(3))
    loss.backward()
    print(loss.item(), x.grad)
