"""Makers of the operands of losses, from a shape and a dtype, and a tensor subclass."""

from __future__ import annotations

import torch


class Own(torch.Tensor):
    """A tensor subclass, which the eager backend computes."""


def real(shape, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype), torch.randn(shape, dtype=dtype)


def probabilities(shape, dtype=torch.float64):
    return torch.rand(shape, dtype=dtype).clamp(0.02, 0.98), torch.rand(shape, dtype=dtype).clamp(0.02, 0.98)


def logits(shape, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype) * 3, torch.rand(shape, dtype=dtype)


def indices(shape, dtype=torch.float64):
    rows = shape[:1] + shape[2:] if len(shape) > 1 else ()
    x = torch.randn(shape, dtype=dtype) * 3
    return x, torch.randint(shape[min(1, len(shape) - 1)], rows)


def log_rows(shape, dtype=torch.float64):
    x, y = indices(shape, dtype)
    return torch.log_softmax(x, min(1, len(shape) - 1)), y


def soft_rows(shape, dtype=torch.float64):
    dim = min(1, len(shape) - 1)
    return torch.randn(shape, dtype=dtype) * 3, torch.randn(shape, dtype=dtype).softmax(dim)


def pair_of_distributions(shape, dtype=torch.float64):
    x, y = torch.rand(shape, dtype=dtype).clamp_min(0.05).log(), torch.rand(shape, dtype=dtype).clamp_min(0.05)
    return x, y / y.sum(-1, keepdim=True) if shape else y


def pair_of_log_distributions(shape, dtype=torch.float64):
    x, y = pair_of_distributions(shape, dtype)
    return x, y.log()


def counts(shape, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype), torch.randint(5, shape).to(dtype) + 0.25


def rates(shape, dtype=torch.float64):
    x, y = counts(shape, dtype)
    return x.abs() + 0.1, y


def normals(shape, dtype=torch.float64):
    return *real(shape, dtype), torch.rand(shape, dtype=dtype) + 0.2


def one_variance_a_row(shape, dtype=torch.float64):
    return *real(shape, dtype), torch.rand((*shape[:-1], 1), dtype=dtype) + 0.2


def signs(shape, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype), 2 * torch.randint(2, shape) - 1


def pair_and_signs(shape, dtype=torch.float64):
    return *real(shape, dtype), 2 * torch.randint(2, shape) - 1


def label_lists(shape, dtype=torch.float64):
    lists = torch.randint(-1, shape[-1], shape)
    lists[..., 0] = torch.randint(shape[-1], shape[:-1])
    return torch.randn(shape, dtype=dtype), lists


def pair_and_labels(shape, dtype=torch.float64):
    return *real(shape, dtype), 2 * torch.randint(2, shape[:-1]) - 1


def regions(shape, dtype=torch.float64):
    return torch.rand(shape, dtype=dtype).clamp(0.02, 0.98), torch.randint(2, shape).to(dtype)


def region_classes(shape, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype) * 3, torch.randint(shape[1], shape[:1] + shape[2:])


def region_probabilities(shape, dtype=torch.float64):
    x, y = region_classes(shape, dtype)
    return (x.float() / 3).softmax(1).to(dtype), y


def region_logits(shape, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype) * 3, torch.randint(2, shape)


def scores(shape, dtype=torch.float64):
    return (torch.randn(shape, dtype=dtype) * 3,)


def log_probabilities(shape, dtype=torch.float64):
    return tuple(-3 * torch.rand(shape, dtype=dtype) for _ in range(4))


def tokens(shape, dtype=torch.float64):
    p, q = -1 - 0.5 * torch.rand(shape, dtype=dtype), -1 - 0.5 * torch.rand(shape, dtype=dtype)
    return p, q, torch.randn(shape, dtype=dtype)


def cosines(shape, dtype=torch.float64):
    x, y = indices(shape, dtype)
    return x.tanh() * 0.95, y


def ranks(shape, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype) * 3, torch.randint(shape[-1] + 1, shape[:-1])


def triplets(shape, dtype=torch.float64):
    return *real(shape, dtype), torch.randn(shape, dtype=dtype)


def labelled_vectors(shape, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype), 2 * torch.arange(shape[0]) // shape[0]


def captioned(shape, dtype=torch.float64):
    return *real(shape, dtype), torch.tensor(1.5, dtype=dtype)


def captioned_with_bias(shape, dtype=torch.float64):
    return *captioned(shape, dtype), torch.tensor(-0.75, dtype=dtype)


def city_blocks(a, b):
    return (a - b).abs().sum(-1)
