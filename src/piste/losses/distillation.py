"""Losses of a student's logits against those of a teacher."""

from __future__ import annotations

import math
from typing import Any

import torch

from ..errors import InvalidType, InvalidValue
from ..formula.row_functions import log_softmax, total
from ..formula.words import exp, log, where
from ..options import Choice, Flag, Number
from .rowwise import Rows, RowwiseLoss
from .value_checks import check_same_device, check_same_shape, check_tensors, shape_of

__all__ = ["DistillationLoss"]


_KL = '"forward" is KL(teacher, student), and "reverse" is KL(student, teacher)'
_DIVERGENCES = {
    **dict.fromkeys(("kl", "kld", "kl_div", "kldiv", "kl_divergence"), _KL),
    **dict.fromkeys(("fkl", "forward_kl"), '"forward" is KL(teacher, student)'),
    **dict.fromkeys(("rkl", "reverse_kl"), '"reverse" is KL(student, teacher)'),
    **dict.fromkeys(("js", "gjs", "jensen_shannon"), '"jsd" is the Jensen-Shannon divergence'),
}


class DistillationLoss(RowwiseLoss):
    """A divergence of the softmax of a student's logits from that of a teacher's, at a temperature T (Hinton 2015).

    From https://arxiv.org/abs/1503.02531. With p = softmax(teacher / T) and q = softmax(student / T) the divergence is
    "forward" KL(p, q) = sum p log(p / q); "reverse" KL(q, p); or "jsd" b KL(p, m) + (1 - b) KL(q, m) with m = b p +
    (1 - b) q and b = `beta` (https://arxiv.org/abs/2306.13649). It is multiplied by T^2, which keeps the size of the
    gradients, unless scale=False. A mean divides by the number of rows.

    Shape:
        student: (C), (N, C) or with more dimensions, the classes last; floating logits. 16-bit floats are computed in
            float32 and rounded once.
        teacher: That of `student`, floating logits. It takes gradients too: detach a teacher that is fixed.
        Returns a 0-dimensional tensor, or one of the shape of `student` without C with reduction="none".

    Raises:
        InvalidValue: An option is out of its range, the rows have fewer than 2 classes, or the shapes or the devices
            differ.
        InvalidType: An operand is no floating tensor.

    Differs from torch: torch has no such loss. torch.nn.KLDivLoss(reduction="batchmean") of log_softmax(student / T)
    and softmax(teacher / T), times T^2, has the same values; TRL's generalized_jsd_loss is "jsd" with scale=False.

    Example:
        >>> import torch, piste
        >>> student, teacher = torch.tensor([[0., 0.]]), torch.tensor([[2., 0.]])
        >>> piste.losses.DistillationLoss(temperature=2.0)(student, teacher)
        tensor(0.4438)
    """

    name, functional_name, aliases = "distillation", "distillation_loss", ("knowledge_distillation", "kd")
    arguments = ("student", "teacher")
    options = {
        "temperature": Number(1.0, "what the logits are divided by", above=True),
        "divergence": Choice(
            "forward", ("forward", "reverse", "jsd"), "from the teacher, from the student, or both", _DIVERGENCES
        ),
        "beta": Number(0.5, 'the share of the teacher in the mixture of "jsd"', high=1.0, above=True),
        "scale": Flag(True, "whether the loss is multiplied by the square of the temperature"),
    }
    signature = "reduction, temperature, divergence, beta, scale"
    expects = "logits of a student and of a teacher, both (N, C)"
    example = "torch.randn(3, 5), torch.randn(3, 5)"
    symbols = {"x": "a row of student", "y": "a row of teacher"}

    def formula(x, y, *, temperature, divergence, scale, beta=0.5):
        s, t = log_softmax(x / temperature), log_softmax(y / temperature)
        if divergence == "forward":
            loss = total(divergence_from(t, s))
        elif divergence == "reverse":
            loss = total(divergence_from(s, t))
        else:
            mixture = beta * exp(t) + (1 - beta) * exp(s)
            m = log(where(mixture == 0, 1, mixture))  # a class of probability 0 in both adds 0, with any number here
            loss = total(beta * divergence_from(t, m) + (1 - beta) * divergence_from(s, m))
        return temperature * temperature * loss if scale else loss

    @classmethod
    def rows(cls, operands: tuple[Any, ...], check: str, **options: Any) -> Rows:
        """Return rows of logits of a student, each with one of a teacher."""
        name = cls.__name__
        check_tensors(name, cls.arguments, operands)
        check_same_shape(name, cls.arguments, operands)
        check_same_device(name, cls.arguments, operands)
        for argument, x in zip(cls.arguments, operands, strict=True):
            if not x.is_floating_point():
                raise InvalidType(
                    f"{name}: `{argument}` must hold floating-point logits; received {x.dtype}. Help: CrossEntropyLoss "
                    "takes class indices as targets."
                )
        student, teacher = operands
        if student.dim() == 0 or student.shape[-1] < 2:
            raise InvalidValue(
                f"{name}: `student` must be (N, C) with at least 2 classes; received {shape_of(student)}. Help: the "
                "softmax of a single class is 1 whatever its logit."
            )
        if options["divergence"] != "jsd":
            del options["beta"]
        dtype = torch.promote_types(student.dtype, teacher.dtype)
        obstacle = None if student.dtype == teacher.dtype else "the kernel takes logits of one dtype"
        return Rows(cls.formula, operands, ("row", "row"), options, dtype, obstacle=obstacle)


def divergence_from(p: Any, q: Any) -> Any:
    """Return e^p (p - q) of log-probabilities: a class of probability 0 adds 0, whatever q is."""
    return exp(p) * where(p == -math.inf, 0, p - q)
