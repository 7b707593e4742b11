"""The sampling of exhaustive tests; and Ctrl-C, which is tested even where the shell ignores it in the background."""

import signal

pytest_plugins = ["tests.sampling", "pytester"]
signal.signal(signal.SIGINT, signal.default_int_handler)
