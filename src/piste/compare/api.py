"""The function `piste.compare`; the packages that it takes are imported at the first call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import InvalidType

if TYPE_CHECKING:
    from .comparison import Comparison


def compare(
    model: Any,
    data: Any,
    *,
    loss: Any = None,
    optimizers: Any = None,
    metric: Any = None,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int = 64,
    device: Any = None,
    loop: Any = None,
    training_step: Any = None,
    validation_step: Any = None,
    seed: int = 0,
    seeds: int | None = None,
    lr: Any = None,
    target: float | None = None,
    trials: int | None = None,
    search: Any = None,
    budget: Any = None,
    tuned: bool = False,
    out: Any = None,
    fresh: bool = False,
    storage: str | None = None,
    jobs: int = 1,
    ray: str | None = None,
    track: Any = None,
    practical: float | None = None,
    progress: bool | None = None,
) -> Comparison:
    """Train copies of a model with several optimizers and losses, from the same weights on the same batches.

    The model, the data and the global random state stay unchanged. A run that diverges is a row of the table, not an
    error. docs/compare.md defines every number.

    Args:
        model: An nn.Module, or a function that makes one. With a function each seed has its own initial weights; with a
            module every seed starts from the weights of the module.
        data: (train, validation), each a pair of tensors (X, y), a Dataset, a DataLoader, or a function that makes one
            of these.
        loss: A name ("cross_entropy"), a module, a function (output, target) -> scalar, or a list or dict of these.
            None selects cross entropy for class indices and MSE for numbers.
        optimizers: Names, classes, or a dict of name -> class or function of the parameters. None selects SGD, RMSprop,
            Adagrad, Adadelta, Adam, AdamW and Adamax; "all" every optimizer of Piste but
            LBFGS, Muon, NorMuon and SparseAdam, which are not for every model. AdamW with its defaults steps the
            vectors, embeddings and output layer of a model that Muon trains, as with `piste.optim.matrix_groups`.
        metric: "accuracy", "balanced_accuracy", "f1", "auc", "log_loss", "rmse", "mae", "r2", a `Metric`, or (function,
            "max" or "min"); None infers it from the targets. Candidates are ranked by the metric alone, never by the
            value of their loss. Of a list the first metric decides, and the others are reported.
        epochs: The length of a run in passes over the training data (10).
        steps: The length of a run in steps, instead of `epochs`.
        batch_size: Examples per batch; an incomplete batch at the end of an epoch is skipped. A DataLoader keeps its
            own.
        device: Where models are trained, such as "cuda" or "mps"; None leaves model and batches where the model is.
        loop: A `Loop` (from piste.compare) with a schedule, gradient clipping, accumulation, precision, averaged
            weights or early stopping, or a dict of loops, which are candidates with every optimizer.
        training_step: A function (model, batch, loss) -> scalar, or a dict of losses, for batches of any structure. The
            loss is the candidate's, or None without `loss`.
        validation_step: A function (model, batch, loss) -> (output, target) for the metric. Without it the validation
            batches are pairs (X, y).
        seed: The first seed.
        seeds: The number of seeds (5).
        lr: One learning rate for all optimizers, or a dict by name; None uses the defaults.
        target: The metric that counts as learned; None takes 90 % of the way from the start to the best candidate.
        trials: Number of learning rates to try per candidate and seed, on held-out seeds. Defaults to 1 (no search).
            The first trial is the default rate; the others are Optuna's choice within three decades to either side.
        search: Other options to search, such as {"momentum": [0, 0.9]}, for every optimizer that takes them. The
            default is always among the values and comes first.
        budget: A time, such as "3m", or a number of seconds. Seeds, trials and length that are not given are chosen to
            fit into it, equally for all candidates, after measuring a few steps.
        tuned: Whether the budget must include a search of learning rates, at least three trials for three seeds each.
            Without a budget that is a minute, or the least search where it takes longer.
        out: A folder for the report, figures and numbers; None writes nothing. Each finished run is stored there at
            once: the same call resumes an interrupted comparison, and another comparison is rejected.
        fresh: Whether to discard the runs in `out`.
        storage: The address of a database for finished runs, such as postgresql://user@host/database; None stores them
            in an SQLite file in `out`. The name of `out` (or of the model) identifies the comparison there.
        jobs: The number of runs at a time, each in its own process; 1 runs them in this process.
        ray: "auto" or the address of a Ray cluster for the runs.
        track: "mlflow", "tensorboard" or both: log each finished run and the report there.
        practical: The largest difference of the metric that is too small to matter. None takes one standard error of
            the best candidate's metric over the validation examples.
        progress: True prints progress, False prints nothing; None shows a live table if stdout is a terminal.

    Returns:
        A `Comparison`, which prints as a table with a verdict.

    Raises:
        InvalidValue: If an argument is out of range; before any training.
        InvalidType: If an argument has the wrong type; before any training.
        UnsavedReport: If the report can't be written, such as on a full disk; its `comparison` holds the results.

    Example:
        >>> import piste, torch
        >>> x = torch.linspace(-1, 1, 32).unsqueeze(1)
        >>> found = piste.compare(
        ...     torch.nn.Linear(1, 1), ((x, 3 * x), (x, 3 * x)), optimizers=["SGD", "Adam"], lr=0.1, epochs=5, seeds=2
        ... )
        >>> sorted(row.name for row in found.rows)
        ['Adam', 'SGD']
    """
    from .run import compare_task
    from .task import Task

    if not isinstance(data, (tuple, list)) or len(data) != 2:
        raise InvalidType(
            f"`data` must be (train, validation), each a pair of tensors (X, y), a Dataset or a DataLoader; "
            f"received {type(data).__name__}{f' of {len(data)}' if isinstance(data, (tuple, list)) else ''}."
        )
    name = type(model).__name__ if hasattr(model, "parameters") else getattr(model, "__name__", "model")
    name = name if name.isidentifier() else "model"  # of a lambda
    train, validation = data
    task = Task(
        model, train, validation, loss=loss, metric=metric, batch_size=batch_size, target=target, device=device,
        training_step=training_step, validation_step=validation_step, name=name,
    )  # fmt: skip
    return compare_task(
        task, optimizers=optimizers, loop=loop, epochs=epochs, steps=steps, seed=seed, seeds=seeds, lr=lr,
        trials=trials, search=search, budget=budget, tuned=tuned, out=out, fresh=fresh, storage=storage, jobs=jobs,
        ray=ray, track=track, practical=practical, progress=progress,
    )  # fmt: skip
