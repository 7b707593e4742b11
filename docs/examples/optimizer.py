"""A custom optimizer: the update of one element."""

import torch

from piste.formula import sign
from piste.optim import Optimizer
from piste.optim.options import decay, rate


class Signum(Optimizer):
    """signSGD with momentum (Bernstein et al. 2018)."""

    options = {"lr": rate(1e-4), "momentum": decay(0.9, "mu", "how much of the average each step keeps")}
    buffers = {"momentum_buffer": "m"}

    def update(g, m, *, mu):
        m = mu * m + (1 - mu) * g
        return sign(m), m


if __name__ == "__main__":
    w = torch.tensor([1.0, -1.0], requires_grad=True)
    optimizer = Signum([w], lr=0.1)
    w.square().sum().backward()
    optimizer.step()
    print(w, optimizer.explain())
