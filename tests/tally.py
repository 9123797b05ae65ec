"""How many cases the tests of reliability went through."""

from collections import Counter

COUNTS: Counter[str] = Counter()


def count(what: str, number: int = 1) -> None:
    COUNTS[what] += number
