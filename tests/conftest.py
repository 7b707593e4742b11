"""The sampling of exhaustive tests; and Ctrl-C, which is tested even where the shell ignores it in the background."""

import os
import signal

collect_ignore = ["optim/record_trajectories.py", "pytorch/recorder.py"]
"""Scripts that run in environments of their own, which the collection of doctests would import."""

pytest_plugins = ["tests.sampling", "pytester"]
os.environ["PISTE_LANG"] = "en"  # tests quote English messages, whatever the locale
signal.signal(signal.SIGINT, signal.default_int_handler)
