"""The version of Piste."""

__version__ = "0.1.0"
