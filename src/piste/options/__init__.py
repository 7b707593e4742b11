"""Options, each declared once: its default, its range and its meaning.

An optimizer and a loss list their options; the signature, the validation, the documentation and the type stubs are
derived from that list. `piste.compare` validates its arguments with the same classes.
"""

from .choices import Choice, Flag, Function, TensorOption
from .foreign_names import names_here
from .numeric import Factor, Integer, Limit, Number, NumberOrTensor, Numbers, as_float
from .option import NoLetters, Option, document, make_signature

__all__ = [
    "Choice",
    "Factor",
    "Flag",
    "Function",
    "Integer",
    "Limit",
    "NoLetters",
    "Number",
    "NumberOrTensor",
    "Numbers",
    "Option",
    "TensorOption",
    "as_float",
    "document",
    "make_signature",
    "names_here",
]
