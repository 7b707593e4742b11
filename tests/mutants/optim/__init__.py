"""The formulas of every optimizer, and of the base that completes them."""

from ..subject import Subject
from . import base, conventions, elementwise, rules


def subjects() -> list[Subject]:
    """Every file of a rule, those of the base, and those of other libraries' conventions."""
    return [*elementwise.subjects(), *base.subjects(), *conventions.subjects(), *rules.subjects()]
