"""`piste tasks`."""

from __future__ import annotations

from .app import Debug, app, in_a_sentence, say


@app.command()
def tasks(debug: Debug = False) -> None:
    """List the built-in tasks, and what each is for."""
    with in_a_sentence(debug):
        from ..compare import tasks as built_in

        width = max(map(len, built_in.names()))
        for name in built_in.names():
            say(f"{name:<{width}}  {built_in.about(name)}")
        say("Also: a table (piste compare data.csv --target COLUMN), or your own (my_task.py:make).")
