"""Metrics of classes and labels: accuracy, balanced accuracy, F1, AUC and log loss."""

from __future__ import annotations

import torch
from torch.nn import functional

from ..errors import InvalidValue
from .conventions import Convention

LOGITS = Convention("logits")


def accuracy(output: torch.Tensor, target: torch.Tensor, convention: Convention = LOGITS) -> torch.Tensor:
    """Return the share of correct predictions, for each example.

    Args:
        output: One score for each class (N, C, ...), or one output for each label (N, ...).
        target: Class indices (N, ...) or class probabilities (N, C, ...), one-hot or soft, for scores of classes: the
            prediction is the class of the largest score, and the correct class the most probable one. Two labels, 0 and
            1 or -1 and 1, of the output's shape: the prediction is the label on whose side of the convention's
            threshold the output is.
        convention: The threshold, and the class index of positions that do not count.

    Returns:
        A tensor (N,). With further dimensions (one class per pixel), the share of correct predictions in each example.
        Examples whose positions are all ignored are left out.

    Raises:
        InvalidValue: If a class index is outside [0, C - 1] or a label is neither of two, or the shapes do not match.
    """
    predicted, true, counted = _decide("accuracy", output, target, convention)
    if not bool(counted.all()):
        return _mean_of_counted((predicted == true).double(), counted)
    return (predicted == true).reshape(len(true), -1).double().mean(1)


def balanced_accuracy(output: torch.Tensor, target: torch.Tensor, convention: Convention = LOGITS) -> float:
    """Return the mean over the classes of the share of their examples that are predicted correctly.

    Takes outputs and targets as `accuracy` does; every position counts as an example.
    """
    from sklearn.metrics import balanced_accuracy_score

    predicted, true, counted = _decide("balanced_accuracy", output, target, convention)
    return float(balanced_accuracy_score(true[counted].cpu(), predicted[counted].cpu()))


def f1(output: torch.Tensor, target: torch.Tensor, convention: Convention = LOGITS) -> float:
    """Return the harmonic mean of precision and recall of class 1; of more than two classes, the mean of all classes.

    Takes outputs and targets as `accuracy` does; every position counts as an example.
    """
    from sklearn.metrics import f1_score

    predicted, true, counted = _decide("f1", output, target, convention)
    predicted, true = predicted[counted].cpu(), true[counted].cpu()
    classes = 2 if _is_of_labels(output, target, convention) else convention.by_class(output).shape[1]
    average = "binary" if classes == 2 else "macro"
    labels = None if classes == 2 else list(range(classes))
    return float(f1_score(true, predicted, average=average, labels=labels, zero_division=0.0))


def auc(output: torch.Tensor, target: torch.Tensor, convention: Convention = LOGITS) -> float:
    """Return the area under the ROC curve; of more than two classes, the mean over each class against the others.

    Takes outputs and targets as `accuracy` does; every position counts as an example.

    Raises:
        InvalidValue: If the targets hold a single class.
    """
    from sklearn.metrics import roc_auc_score

    _, true, counted = _decide("auc", output, target, convention)
    true = true[counted].cpu()
    if true.unique().numel() < 2:
        raise InvalidValue("auc needs examples of every class; all targets are of one class. Help: use log_loss.")
    if _is_of_labels(output, target, convention):
        return float(roc_auc_score(true, output.double()[counted].cpu()))
    scores = convention.by_class(output).double().movedim(1, -1)[counted].cpu()
    if scores.shape[1] == 2:
        return float(roc_auc_score(true, scores[:, 1] - scores[:, 0]))
    shares = scores if _has_shares(convention) else scores.softmax(1)
    shares = shares / shares.sum(1, keepdim=True)
    return float(roc_auc_score(true, shares, multi_class="ovr", labels=list(range(scores.shape[1]))))


def log_loss(output: torch.Tensor, target: torch.Tensor, convention: Convention = LOGITS) -> torch.Tensor:
    """Return the negative logarithm of the probability of the correct class, for each example.

    Takes outputs and targets as `accuracy` does, and returns a tensor (N,) as it does.

    Raises:
        InvalidValue: If the loss reads the outputs as values, which are no probabilities.
    """
    _, true, counted = _decide("log_loss", output, target, convention)
    if convention.reading in ("values", "logarithms"):
        raise InvalidValue(
            "log_loss takes logits or probabilities; the loss reads the outputs as values. Help: use accuracy or auc."
        )
    of_labels = _is_of_labels(output, target, convention)
    scores = (output if of_labels else convention.by_class(output)).double()
    tiny = torch.finfo(torch.float64).tiny
    if of_labels and convention.reading == "probabilities":
        loss = -torch.where(true == 1, scores, 1 - scores).clamp_min(tiny).log()
    elif of_labels:
        loss = functional.binary_cross_entropy_with_logits(scores, true.double(), reduction="none")
    else:
        logs = scores.clamp_min(tiny).log() if _has_shares(convention) else scores.log_softmax(1)
        loss = -logs.gather(1, true.where(counted, 0).unsqueeze(1)).squeeze(1)
    return _mean_of_counted(loss, counted)


def check_class_indices(
    target: torch.Tensor, output: torch.Tensor, convention: Convention, of: str = "the targets"
) -> None:
    """Raise for the first class index without an output of the model."""
    outputs = output.shape[-1 if convention.is_ordinal else convention.class_dim]
    classes = outputs + convention.is_ordinal
    invalid = (target < 0) | (target >= classes)
    if convention.ignore_index is not None:
        invalid &= target != convention.ignore_index
    if bool(invalid.any()):
        position = invalid.nonzero()[0].tolist()
        value = int(target[tuple(position)])
        at = position[0] if len(position) == 1 else tuple(position)
        raise InvalidValue(
            f"class indices must be in [0, {classes - 1}], because the model has {outputs} "
            f"output{'s' * (outputs > 1)}{', steps between ranks' * convention.is_ordinal}; received {value} at "
            f"position {at} of {of}."
        )


def _decide(
    metric: str, output: torch.Tensor, target: torch.Tensor, convention: Convention
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the predicted class and the correct one of every position, and whether the position counts."""
    of_indices = output.dim() == target.dim() + 1
    if convention.is_ordinal and of_indices:
        check_class_indices(target, output, convention)
        predicted, true = convention.numbers(output), target
    elif output.shape == target.shape and _are_probabilities(target, convention):
        predicted, true = output.argmax(convention.class_dim), target.argmax(convention.class_dim)
    elif output.shape == target.shape:
        low, high = _labels(metric, target)
        predicted, true = (output > convention.threshold(low, high)).long(), (target == high).long()
    elif of_indices:
        check_class_indices(target, output, convention)
        predicted, true = output.argmax(convention.class_dim), target
    else:
        raise InvalidValue(
            f"{metric} takes scores of classes (N, C, ...) with class indices (N, ...), or outputs and two labels of "
            f"one shape; received {tuple(output.shape)} and {tuple(target.shape)}."
        )
    counted = torch.ones_like(true, dtype=torch.bool)
    if of_indices and convention.ignore_index is not None:
        counted = target != convention.ignore_index
        if not bool(counted.any()):
            raise InvalidValue(f"{metric} has nothing to count: every target is ignored (`ignore_index` of the loss).")
    return predicted, true, counted


def _labels(metric: str, target: torch.Tensor) -> tuple[float, float]:
    """Return the two labels of a target: -1 and 1 if -1 is among them, else 0 and 1."""
    low = -1.0 if bool((target == -1).any()) else 0.0
    invalid = target[(target != low) & (target != 1)]
    if len(invalid):
        raise InvalidValue(
            f"{metric} takes targets 0 and 1 (or -1 and 1), one for each output, or class probabilities (N, C, ...) "
            f"that sum to 1; received {float(invalid[0]):.3g}."
        )
    return low, 1.0


def _mean_of_counted(values: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """Return the mean over the positions that count, for each example that has any."""
    values, counted = (part.reshape(len(part), -1) for part in (values, counted))
    counts = counted.sum(1)
    return ((values * counted).sum(1) / counts)[counts > 0]


def _is_of_labels(output: torch.Tensor, target: torch.Tensor, convention: Convention) -> bool:
    """Return whether each output is that of a label, rather than of a class."""
    return not convention.is_ordinal and output.shape == target.shape and not _are_probabilities(target, convention)


def _has_shares(convention: Convention) -> bool:
    """Return whether the scores of classes are probabilities."""
    return convention.reading == "probabilities" or convention.is_ordinal


def _are_probabilities(target: torch.Tensor, convention: Convention) -> bool:
    """Return whether each row is a probability distribution over at least two classes."""
    dim = convention.class_dim
    if target.dim() < 2 or target.shape[dim] < 2 or bool((target < 0).any()):
        return False
    return bool(((target.sum(dim, dtype=torch.float64) - 1).abs() < 1e-3).all())
