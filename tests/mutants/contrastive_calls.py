"""Calls of the losses of pairs and of the Lovasz losses: their values, and those that are rejected or accepted."""

from __future__ import annotations

import math
from typing import Any

import torch

from piste import losses

A, B = (torch.randn(5, 4, generator=torch.Generator().manual_seed(k), dtype=torch.float64) for k in (0, 1))
X = torch.tensor([[[2.0, -1.0], [0.5, -3.0]], [[-0.25, 1.0], [4.0, 0.0]]], dtype=torch.float64)
Y = torch.tensor([[[1, 1], [0, 0]], [[0, 1], [1, 1]]])
Q = torch.stack([X, -X], 1)
P = Q.softmax(1)
SCALE = torch.tensor(1.25, dtype=torch.float64)
CLASSES = torch.tensor([0, 1, 0, 2, 1])
EYE = torch.eye(3, dtype=torch.float64)
ONES = torch.ones(2, 3, dtype=torch.float64)
NAN = A * math.nan
IGNORED = torch.stack([Y[0], torch.full_like(Y[1], -100)])
VALUES: list[tuple[str, tuple[Any, ...], dict[str, Any], float]] = [
    ("info_nce", (EYE, EYE), {"temperature": 0.02}, math.log1p(2 * math.exp(-50))),
    ("info_nce", (EYE, -EYE), {"temperature": 0.02}, 50 + math.log(2)),
    ("info_nce", (A[:1], B[:1]), {"check": "off"}, 0),
    ("info_nce", (A[:1], A[:1]), {"negatives": -A[:1], "temperature": 1.0}, math.log1p(math.exp(-2))),
    ("info_nce", (A, B), {"negatives": A[:0], "check": "off"}, 0),
    ("info_nce", (A[:0], B[:0]), {"empty": "zero"}, 0),
    ("nt_xent", (A[:1], B[:1]), {"check": "off"}, 0),
    ("nt_xent", (A[:0], B[:0]), {"empty": "zero"}, 0),
    ("supcon", (A[:1], CLASSES[:1]), {"reduction": "sum"}, 0),
    ("supcon", (A[:0], CLASSES[:0]), {"empty": "zero"}, 0),
    ("supcon", (A, torch.arange(5)), {}, math.nan),
    ("supcon", (ONES, torch.tensor([4, 4])), {}, 0),
    ("supcon", (torch.ones(4, 3).double(), torch.tensor([4, 4, 1, 2])), {"normalizer": "count"}, math.log(3) / 2),
    ("supcon", (torch.ones(4, 3).double(), torch.tensor([4, 4, 1, 2])), {"normalizer": "weights"}, math.log(3)),
    ("clip", (EYE, EYE, 50.0), {}, math.log1p(2 * math.exp(-50))),
    ("clip", (A[:1], B[:1], SCALE), {"check": "off"}, 0),
    ("siglip", (A[:1], A[:1], 1.0, 0.0), {}, math.log1p(math.exp(-1))),
    ("siglip", (EYE, EYE, 60.0, -30.0), {}, 3 * math.log1p(math.exp(-30))),
    ("lovasz_hinge", (X, IGNORED), {"reduction": "sum"}, losses.lovasz_hinge_loss(X[:1], Y[:1]).item()),
    ("lovasz_hinge", (X, IGNORED), {}, losses.lovasz_hinge_loss(X[:1], Y[:1]).item()),
    ("lovasz_hinge", (X * math.nan, Y), {}, math.nan),
    ("lovasz_hinge", (torch.tensor([[5.0, 0.5, -3.0]]), torch.tensor([[-100, 0, 0]])), {}, 1.5),
    ("lovasz_hinge", (torch.tensor([[math.nan, 0.5, -3.0]]), torch.tensor([[-100, 0, 0]])), {}, 1.5),
    ("lovasz_hinge", (torch.tensor([[1.0], [0.5]]), torch.tensor([[0], [0]])), {"per_image": False}, 2.0),
    ("lovasz_softmax", (Q, IGNORED), {"per_image": True}, losses.lovasz_softmax_loss(Q[:1], Y[:1]).item()),
    ("lovasz_softmax", (Q, torch.full_like(Y, -100)), {"classes": "all", "empty": "zero"}, 0),
]
REFUSALS: list[tuple[str, tuple[Any, ...], dict[str, Any], str]] = [
    ("info_nce", (A[:1], B[:1]), {}, "`query` must have at least 2 rows"),
    ("nt_xent", (A[:1], B[:1]), {}, "`input1` must have at least 2 rows"),
    ("clip", (A[:1], B[:1], SCALE), {}, "`image` must have at least 2 rows"),
    ("info_nce", (A[0], B[0]), {}, "`query` must be (N, D)"),
    ("info_nce", (A, B.long()), {}, "`key` must hold floating-point vectors"),
    ("clip", (A[None], B[None], SCALE), {}, "`image` must be (N, D)"),
    ("siglip", (A, B[:3], SCALE, SCALE), {}, "the same shape"),
    ("info_nce", (A, NAN), {"check": "nan"}, "`key` holds nan"),
    ("clip", (NAN, B, SCALE), {"check": "nan"}, "`image` holds nan"),
    ("siglip", (A, NAN, SCALE, SCALE), {"check": "nan"}, "`text` holds nan"),
    ("nt_xent", (NAN, B), {"check": "nan"}, "`input1` holds nan"),
    ("supcon", (NAN, CLASSES), {"check": "nan"}, "`input` holds nan"),
    ("info_nce", (A, B), {"negatives": NAN, "check": "nan"}, "`negatives` holds nan"),
    ("info_nce", (A, B), {"negatives": A, "symmetric": True}, "`symmetric` takes"),
    ("info_nce", (A, B), {"negatives": A.long()}, "hold floating-point vectors"),
    ("info_nce", (A, B), {"negatives": A[:, :3]}, "`negatives` must be (M, 4)"),
    ("info_nce", (A, B), {"negatives": A[None, :, :]}, "`negatives` must be (M, 4)"),
    ("info_nce", (A, B), {"negatives": A[0]}, "`negatives` must be (M, 4)"),
    ("info_nce", (A, B), {"negatives": A.expand(5, 5, 5, 4)}, "`negatives` must be (M, 4)"),
    ("info_nce", (A, B), {"negatives": A.expand(5, 5, 4)[..., :3]}, "`negatives` must be (M, 4)"),
    ("info_nce", (A, B), {"negatives": A[:0]}, "at least 1 vector"),
    ("info_nce", (A, B), {"negatives": A.to("meta")}, "`query` and `negatives` must be on one device"),
    ("info_nce", (A, B), {"temperature": -SCALE}, "`temperature` must be in"),
    ("nt_xent", (A, B), {"temperature": -SCALE}, "`temperature` must be in"),
    ("supcon", (A, CLASSES), {"temperature": -SCALE}, "`temperature` must be in"),
    ("clip", (A, B, -SCALE), {}, "`logit_scale` must be in"),
    ("clip", (A, B, -1.0), {}, "`logit_scale` must be in"),
    ("clip", (A, B, torch.ones(2)), {}, "of one number"),
    ("clip", (A, B, torch.tensor(2)), {}, "of one number"),
    ("siglip", (A, B, -SCALE, SCALE), {}, "`logit_scale` must be in"),
    ("siglip", (A, B, SCALE, SCALE * math.nan), {}, "`logit_bias` must be in"),
    ("supcon", (A, CLASSES[:4]), {}, "with `target` (N)"),
    ("supcon", (A[0], CLASSES[0]), {}, "with `target` (N)"),
    ("supcon", (A[None, None], CLASSES[:1]), {}, "with `target` (N)"),
    ("supcon", (A, CLASSES.double()), {}, "of an integer dtype"),
    ("supcon", (A, CLASSES.to(torch.complex64)), {}, "of an integer dtype"),
    ("supcon", (A, CLASSES.to("meta")), {}, "`input` and `target` must be on one device"),
    ("supcon", (A, None), {}, "`target` must be a torch.Tensor"),
    ("lovasz_hinge", (X, Y * 2), {}, "[0, 1], or ignore_index=-100; received 2"),
    ("lovasz_hinge", (X, Y - 1), {}, "received -1"),
    ("lovasz_hinge", (X, Y * 0.5), {}, "received 0.5"),
    ("lovasz_hinge", (X, Y[0]), {}, "the same shape"),
    ("lovasz_hinge", (X[0, 0], Y[0, 0]), {}, "must be (N, d1, ...)"),
    ("lovasz_hinge", (Y, Y), {}, "Help: input.float()"),
    ("lovasz_hinge", (Y, X), {}, "look exchanged"),
    ("lovasz_hinge", (X, Y.to("meta")), {}, "on one device"),
    ("lovasz_hinge", (X, None), {}, "`target` must be a torch.Tensor"),
    ("lovasz_hinge", (X * math.nan, Y), {"check": "nan"}, "`input` holds nan"),
    ("lovasz_softmax", (Q, Y * 2), {}, "[0, 1], or ignore_index=-100; received 2"),
    ("lovasz_softmax", (Q, Y.double()), {}, "of an integer dtype"),
    ("lovasz_softmax", (Q, Y.to(torch.complex64)), {}, "of an integer dtype"),
    ("lovasz_softmax", (Q, Y[:, 0]), {}, "`target` must have shape (2, 2, 2)"),
    ("lovasz_softmax", (Q[:, :1], Y), {}, "at least 2 classes"),
    ("lovasz_softmax", (Q[0, 0], Y[0, 0]), {}, "(N, C, d1, ...)"),
    ("lovasz_softmax", (Y, Y), {}, "Help: input.float()"),
    ("lovasz_softmax", (Y, X), {}, "look exchanged"),
    ("lovasz_softmax", (Q, Y.to("meta")), {}, "on one device"),
    ("lovasz_softmax", (Q, None), {}, "`target` must be a torch.Tensor"),
    ("lovasz_softmax", (P * 0 + 1.0101, Y), {"activation": None}, "`input` must be in [0, 1]"),
    ("lovasz_softmax", (P * 0 - 0.0101, Y), {"activation": None}, "`input` must be in [0, 1]"),
    ("lovasz_softmax", (Q * math.nan, Y), {"check": "nan"}, "`input` holds nan"),
]
TAKEN: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("info_nce", (A, B), {"temperature": -SCALE, "check": "off"}),
    ("nt_xent", (A, B), {"temperature": -SCALE, "check": "off"}),
    ("supcon", (A, CLASSES), {"temperature": -SCALE, "check": "off"}),
    ("clip", (A, B, -SCALE), {"check": "off"}),
    ("siglip", (A, B, -SCALE, SCALE), {"check": "off"}),
    ("siglip", (A, B, SCALE, SCALE * math.inf), {"check": "off"}),
    ("info_nce", (A, NAN), {}),
    ("clip", (A, B, SCALE.reshape(1)), {}),
    ("info_nce", (A, B), {"check": "nan", "negatives": A}),
    ("supcon", (A, CLASSES), {"check": "nan"}),
    ("info_nce", (A.to("meta"), B.to("meta")), {"negatives": A.to("meta"), "check": "nan"}),
    ("info_nce", (A.to("meta"), B.to("meta")), {"temperature": SCALE.to("meta"), "check": "nan"}),
    ("lovasz_hinge", (X, Y * 0.5), {"check": "off"}),
    ("lovasz_hinge", (X.to("meta"), Y.to("meta")), {}),
    ("lovasz_hinge", (X, Y == 1), {}),
    ("lovasz_softmax", (Q.to("meta"), Y.to("meta")), {}),
    ("lovasz_softmax", (Q, Y), {"activation": None, "check": "off"}),
    ("lovasz_softmax", (P * 0 + 1.01, Y), {"activation": None}),
    ("lovasz_softmax", (P * 0 - 0.01, Y), {"activation": None}),
    ("lovasz_softmax", (P * 0, Y), {"activation": None}),
]
DTYPES = [
    ("info_nce", (A.bfloat16(), B.bfloat16()), {}, torch.bfloat16),
    ("info_nce", (A.float(), B), {}, torch.float64),
    ("info_nce", (A, B.float()), {}, torch.float64),
    ("info_nce", (A.half(), B.half()), {"negatives": A.float()}, torch.float32),
    ("nt_xent", (A.half(), B.half()), {}, torch.float16),
    ("supcon", (A.half(), CLASSES), {}, torch.float16),
    ("clip", (A.half(), B.half(), SCALE), {}, torch.float16),
    ("siglip", (A.half(), B.half(), SCALE, SCALE), {}, torch.float16),
    ("lovasz_hinge", (X.half(), Y), {}, torch.float16),
    ("lovasz_softmax", (Q.half(), Y), {}, torch.float16),
]
FLAT: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [  # without a gradient by the first operand
    ("info_nce", (ONES, ONES), {"temperature": 1.0, "normalize": False}),
    ("info_nce", (A[:1], B[:1]), {"check": "off"}),
    ("supcon", (A, torch.arange(5)), {"empty": "zero"}),
    ("supcon", (A[:1], CLASSES[:1]), {"reduction": "sum"}),
    ("lovasz_hinge", (torch.tensor([[1.0, -1.0, 3.0]]), torch.tensor([[1, 0, 1]])), {}),
    ("lovasz_hinge", (X * math.nan, torch.full_like(Y, -100)), {"empty": "zero"}),
    ("lovasz_softmax", (Q * math.nan, torch.full_like(Y, -100)), {"empty": "zero"}),
]
