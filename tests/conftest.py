"""Ctrl-C is tested, also where the tests themselves run in the background and were told to ignore it."""

import signal

signal.signal(signal.SIGINT, signal.default_int_handler)
