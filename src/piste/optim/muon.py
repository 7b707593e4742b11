from typing import Any

import torch
from torch import Tensor

from .optimizer import Optimizer
from .options import Choice, Flag, Integer, Number, Numbers, decay, eps, rate, weight_decay


class Muon(Optimizer):
    """Muon: momentum, orthogonalized by Newton-Schulz (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/).

    b <- momentum b + (1 - momentum) g;  u is b, or with `nesterov` momentum b + (1 - momentum) g;  the step is
    scale * orthogonal(u), for the matrix u as a whole: `ns_steps` times x <- a x + (b y + c y^2) x with y = x x^T, from
    x = u / |u|. The weight decay is decoupled. Dimensions of a parameter after the first are the columns of its matrix.

    Muon is for the hidden matrices of a model. `piste.optim.matrix_groups(model)` makes groups in which AdamW steps the
    embeddings, the output layer and the vectors, and prints as a table of all parameters.

    Differs from PyTorch: parameters of more than two dimensions are accepted, and matrices of one shape are
    orthogonalized together. The options from `adamw` on are Piste's.

    Example:
        >>> import torch, piste
        >>> w = torch.zeros(2, 2, requires_grad=True)
        >>> optimizer = piste.optim.Muon([w], lr=0.1)
        >>> (w * torch.eye(2)).sum().backward()
        >>> optimizer.step()
        >>> w.diagonal().abs() < 0.12
        tensor([True, True])
    """

    options = {
        "lr": rate(1e-3),
        "weight_decay": weight_decay(0.1),
        "momentum": decay(0.95, "mu", "how much of the average gradient each step keeps"),
        "nesterov": Flag(True, "look ahead by one step of momentum"),
        "ns_coefficients": Numbers(
            tuple(Number(x, low=-float("inf"), letter=f"ns{i}") for i, x in enumerate((3.4445, -4.7750, 2.0315))),
            "the coefficients a, b and c of the Newton-Schulz polynomial",
        ),
        "eps": eps(1e-7, "the least norm by which a matrix is divided"),
        "ns_steps": Integer(5, "the number of Newton-Schulz iterations", low=0, high=99),
        "adjust_lr_fn": Choice(
            None,
            (None, "original", "match_rms_adamw"),
            "the scale: sqrt(max(1, rows / columns)) for None and original, 0.2 sqrt(max(rows, columns)) for the other",
        ),
        "adamw": Flag(False, "step the parameters of the group by AdamW, with its options"),
        "split": Integer(1, "the number of matrices of equal height in a parameter, 3 for fused QKV", low=1),
        "ns_dtype": Choice("bfloat16", ("bfloat16", "float32"), "the dtype of the Newton-Schulz iterations"),
    }
    buffers = {"momentum_buffer": "b"}
    group_constants = {"decoupled_weight_decay": True}
    extensions = ("adamw", "split", "ns_dtype")
    elementwise = False
    counts_steps = False

    def before(g: Any, b: Any, *, mu: Any, nesterov: bool) -> Any:
        b = mu * b + (1 - mu) * g
        return (mu * b + (1 - mu) * g if nesterov else b), b

    def matrix(  # type: ignore[misc]
        u: Tensor, *, ns_coefficients: Any, eps: float, ns_steps: int, adjust_lr_fn: Any, split: int, ns_dtype: str
    ) -> Tensor:
        u = u.unflatten(1, (split, -1)).flatten(0, 1)
        rows, columns = u.shape[1:]
        scale = 0.2 * max(rows, columns) ** 0.5 if adjust_lr_fn == "match_rms_adamw" else max(1, rows / columns) ** 0.5
        x = orthogonalize(u, ns_coefficients, ns_steps, eps, ns_dtype)
        return x if scale == 1 else x.to(u.dtype).mul_(scale)


def orthogonalize(u: Tensor, coefficients: Any, steps: int, eps: float, dtype: str) -> Tensor:
    """Return matrices whose singular values are near 1, with the singular vectors of the matrices given.

    Args:
        u: The matrices, of shape (count, rows, columns).
        coefficients: a, b and c of the polynomial.
        steps: The number of iterations.
        eps: The least norm by which a matrix is divided.
        dtype: "bfloat16" or "float32", the dtype of the computation.

    Returns:
        Matrices of the shape of `u`, in the dtype of the computation.

    Example:
        >>> import torch
        >>> from piste.optim.muon import orthogonalize
        >>> u = torch.tensor([[[3.0, 0.0], [0.0, 4.0]]])
        >>> x = orthogonalize(u, (1.5, -0.5, 0.0), 12, 1e-7, "float32")
        >>> torch.allclose(x, torch.eye(2))
        True
    """
    a, b, c = map(float, coefficients)
    x = u.to(getattr(torch, dtype))
    is_tall = x.shape[1] > x.shape[2]
    if is_tall:
        x = x.mT
    # A batch of one is slower on a CPU; an index would start CUDA for a fake tensor on torch 2.9.
    x, add_product = (x.squeeze(0), torch.addmm) if len(x) == 1 else (x, torch.baddbmm)
    x = x / torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        y = x @ x.mT
        x = add_product(x, add_product(y, y, y, beta=b, alpha=c), x, beta=a)
    return (x.mT if is_tall else x).view(u.shape)
