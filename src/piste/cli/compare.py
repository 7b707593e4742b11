"""`piste compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InvalidValue
from .app import FAILED, INTERRUPTED, Debug, app, in_a_sentence, say
from .arguments import read_loops, read_names, read_rates, read_search
from .comparison_output import show

if TYPE_CHECKING:
    from ..compare.comparison import Comparison
    from ..compare.task import Task


@app.command()
def compare(
    task: Annotated[str, typer.Argument(help="A built-in task (see `piste tasks`), my_task.py:make, or a data.csv.")],
    target: Annotated[str | None, typer.Option(help="The column of data.csv to predict from the others.")] = None,
    kind: Annotated[
        str | None,
        typer.Option(help="Predict the column of data.csv as classes or as a number; by its cells if not given."),
    ] = None,
    group: Annotated[
        str | None, typer.Option(help="A column of data.csv whose equal values stay in one part of the split.")
    ] = None,
    time: Annotated[
        str | None, typer.Option(help="A column of data.csv with dates or numbers: the latest quarter of rows judges.")
    ] = None,
    validation: Annotated[
        str | None, typer.Option(help="A file with the columns of data.csv whose rows judge, instead of a split.")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="seeds: every seed draws its own split of a table or a built-in task; fixed: all use one."),
    ] = None,
    drop: Annotated[
        list[str] | None, typer.Option(help="A column of data.csv to leave out; may be given again for others.")
    ] = None,
    class_weights: Annotated[
        str | None, typer.Option(help="balanced: weight the classes of data.csv by the inverse of their shares.")
    ] = None,
    decimal: Annotated[
        str | None, typer.Option(help="The decimal sign in data.csv, . or , where its cells leave it open.")
    ] = None,
    encoding: Annotated[
        str | None, typer.Option(help="The encoding of data.csv, such as cp1252; recognised if not given.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Examples per batch; the task's if not given. A DataLoader keeps its own.")
    ] = None,
    optimizers: Annotated[
        str | None, typer.Option(help="Names, with commas between, or all; the usual seven if not given.")
    ] = None,
    losses: Annotated[str | None, typer.Option(help="Names, with commas between; the task's if not given.")] = None,
    schedule: Annotated[
        str | None,
        typer.Option(help="The learning rate over a run: constant, linear or cosine; several are compared."),
    ] = None,
    warmup: Annotated[
        float | None, typer.Option(help="Updates, or a share of them below 1, in which the rate rises from 0.")
    ] = None,
    clip_norm: Annotated[float | None, typer.Option(help="The largest norm of all gradients together.")] = None,
    accumulate: Annotated[int | None, typer.Option(help="Batches whose gradients make one update.")] = None,
    autocast: Annotated[str | None, typer.Option(help="The precision of forward passes: bfloat16 or float16.")] = None,
    ema: Annotated[float | None, typer.Option(help="The decay of averaged weights, which are evaluated.")] = None,
    patience: Annotated[
        int | None, typer.Option(help="Evaluations without a better metric after which a run ends.")
    ] = None,
    freeze: Annotated[
        list[str] | None, typer.Option(help="A part of the model that is not trained; may be given again for others.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training data; the task's if not given.")] = None,
    steps: Annotated[int | None, typer.Option(help="The length of a run in steps, instead of epochs.")] = None,
    seed: Annotated[int, typer.Option(help="The first seed.")] = 0,
    seeds: Annotated[int | None, typer.Option(help="How many seeds, from the first on; 5 if not given.")] = None,
    lr: Annotated[str | None, typer.Option(help="One for all (0.01), or by name (adam=0.01,sgd=0.1).")] = None,
    trials: Annotated[
        int | None, typer.Option(help="Learning rates to try per candidate and seed; fitted to --budget if not given.")
    ] = None,
    defaults: Annotated[
        bool, typer.Option("--defaults", help="Compare the default learning rates alone, without a search.")
    ] = False,
    metric: Annotated[
        str | None, typer.Option(help="The metric that ranks the candidates, and after commas others to report.")
    ] = None,
    search: Annotated[
        list[str] | None,
        typer.Option(help="Another option to search, such as momentum=0,0.9; may be given several times."),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(help="A time, such as 3m, that seeds, trials and length are fitted to; 1m if nothing says more."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The folder for curves, table and numbers; piste-compare/TASK if not given.")
    ] = None,
    save_model: Annotated[
        Path | None,
        typer.Option(help="A folder for the recommended model of data.csv, fitted again, and its predictions."),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget the runs that the folder holds.")] = False,
    storage: Annotated[
        str | None, typer.Option(help="A database for finished runs, such as postgresql://user@host/database.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="Where models are trained: cpu, cuda or mps.")] = None,
    jobs: Annotated[int, typer.Option(help="How many runs at a time, each in a process of its own.")] = 1,
    ray: Annotated[str | None, typer.Option(help="Make the runs on a Ray cluster: auto, or its address.")] = None,
    track: Annotated[str | None, typer.Option(help="Also tell mlflow, tensorboard, or both of every run.")] = None,
    practical: Annotated[
        float | None,
        typer.Option(help="The largest difference too small to matter; one standard error if not given."),
    ] = None,
    debug: Debug = False,
) -> None:
    """Train one model with several optimizers and losses under equal conditions, and report the evidence.

    The exit status is 0 if every run ended, 1 if a run failed or all diverged, 2 after an error, and 130 after Ctrl-C.
    """
    say(f"piste compare {task}: preparing data and candidates ...")
    with in_a_sentence(debug):
        from ..compare import compare_task
        from ..compare.comparison import UnsavedReport
        from ..compare.task import check_device

        of_table = {"kind": kind, "group": group, "time": time, "validation": validation, "drop": drop,
                    "class_weights": class_weights, "decimal": decimal, "encoding": encoding}  # fmt: skip
        made = _task(task, target, batch_size, {name: value for name, value in of_table.items() if value is not None})
        if save_model is not None:
            _check_saving(task, save_model)
        if class_weights is not None:
            _check_weighted_loss(made.loss, losses)
        if metric is not None:
            made.metric = read_names(metric)
        if device is not None:
            made.device = check_device(device)
        if defaults and (trials, budget, search) != (None, None, None):
            raise InvalidValue("--defaults searches nothing; it excludes --trials, --search and --budget.")
        of_loop = {"warmup": warmup, "clip_norm": clip_norm, "accumulate": accumulate, "autocast": autocast, "ema": ema,
                   "patience": patience, "freeze": freeze}  # fmt: skip
        given = {name: value for name, value in of_loop.items() if value is not None}
        made.loop = read_loops(made.loop, read_names(schedule), given)
        tuned = not defaults and lr is None and trials is None
        out = out or Path("piste-compare") / _folder_name(task, made)
        try:
            comparison = compare_task(
                made, optimizers=read_names(optimizers), loss=read_names(losses), epochs=epochs, steps=steps,
                seed=seed, seeds=seeds, lr=read_rates(lr), trials=trials, search=read_search(search), out=out,
                fresh=fresh, budget=budget, tuned=tuned, storage=storage, jobs=jobs, ray=ray, track=read_names(track),
                practical=practical, split=split, progress=True,
            )  # fmt: skip
        except UnsavedReport as unsaved:
            show(unsaved.comparison)
            raise
        show(comparison)
        if comparison.rows:
            say(f"\nReport, curves and numbers are in {out}{'/' * (str(out) != '.')}: open {out / 'report.html'}.")
        if save_model is not None:
            _save_model(made, comparison, optimizers, losses, save_model)
    if comparison.interrupted:
        raise typer.Exit(INTERRUPTED)
    if comparison.failed or all(row.diverged for row in comparison.rows):
        raise typer.Exit(FAILED)


def _task(text: str, column: str | None, batch_size: int | None, of_table: dict[str, Any]) -> Task:
    """Return the task named on the command line; `of_table` are the options given for a table."""
    from ..compare import tasks
    from ..compare.csv import task as csv_task
    from ..compare.task import check_whole_number
    from ..compare.task_file import is_task_file, load_task

    if csv_task.is_table(text):
        loaded = csv_task.table(text, column, batch_size=batch_size, **of_table)
        say(loaded.about)
        return loaded
    if column is not None:
        raise InvalidValue(f"--target names a column of a table, such as data.csv; `{text}` isn't one. Help: omit it.")
    for name in of_table:
        flag = name.replace("_", "-")
        raise InvalidValue(f"--{flag} is for a table, such as data.csv; `{text}` isn't one. Help: omit it.")
    found = load_task(text) if is_task_file(text) else tasks.task(text)
    if batch_size is not None:
        found.batch_size = check_whole_number("batch_size", batch_size, least=1)
    return found


def _check_saving(task: str, folder: Path) -> None:
    """Reject `--save-model` before training where the model couldn't be saved."""
    from ..compare.csv.task import is_table
    from ..compare.report.files import make_output_folder

    if not is_table(task):
        raise InvalidValue(f"--save-model is for a table, such as data.csv; `{task}` isn't one. Help: omit it.")
    make_output_folder(folder)


def _check_weighted_loss(weighted: dict[str, Any], losses: str | None) -> None:
    """Reject `--losses` that leave out the loss of the table, which holds the class weights."""
    (name,) = weighted
    if name not in (read_names(losses) or [name]):
        raise InvalidValue(
            f"--class-weights weights the loss `{name}`, which --losses leaves out; received --losses {losses}. "
            f'Help: --losses "{name},{losses}" compares them, or omit one of the options.'
        )


def _save_model(task: Any, comparison: Comparison, optimizers: str | None, losses: str | None, folder: Path) -> None:
    """Fit the recommended candidate again, save it, and show how to load it."""
    from ..compare import Predictor
    from ..compare.formats import format_result

    predictor = Predictor.fit(task, comparison, optimizers=read_names(optimizers), loss=read_names(losses))
    predictor.save(folder)
    fitted = predictor.training
    result = format_result(fitted["value"])
    say(
        f"\nThe model of {fitted['optimizer']} with seed {fitted['seed']} ({fitted['metric']} {result}) "
        f"and its predictions are in {folder}:\n\n    from piste.compare import Predictor\n\n"
        f'    Predictor.load("{folder}").predict("new.csv")'
    )


def _folder_name(text: str, task: Task) -> str:
    """Return the default output folder: my_task for my_task.py:make, my_task-other for my_task.py:other."""
    from ..compare.task_file import is_task_file

    function = text.partition(":")[2] if is_task_file(text) else ""
    return f"{task.name}{f'-{function}' * (function not in ('', 'make'))}".replace("/", "-")
