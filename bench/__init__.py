"""Measurements of Piste against PyTorch, in one process, side by side: `python -m bench --help`."""
