"""The words of numbers and lists in sentences."""

import pytest

from piste.wording import listed, plural


@pytest.mark.parametrize(("count", "words"), [(0, "0 runs"), (1, "1 run"), (2, "2 runs"), (2000, "2,000 runs")])
def test_a_noun_agrees_with_its_number(count: int, words: str) -> None:
    assert plural(count, "run") == words


def test_a_long_list_ends_with_the_number_of_the_others() -> None:
    assert listed(["a", "b"]) == "a, b"
    assert listed(["a", "b", "c"], most=1) == "a and 2 more"
