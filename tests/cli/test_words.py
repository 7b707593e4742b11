"""The command without a comparison: its version, what it can do, and its tasks."""

import piste


def test_the_version(run):
    assert run("--version").output == f"piste {piste.__version__}\n"


def test_without_a_word_it_shows_what_it_can_do(run):
    shown = run().output
    assert all(word in shown for word in ("compare", "tasks", "explain"))


def test_the_tasks_are_listed(run):
    lines = run("tasks").output.strip().split("\n")
    assert {line.split()[0] for line in lines} >= {"digits", "digits-cnn", "diabetes", "line"}
    assert all(len(line.split()) > 5 for line in lines)
