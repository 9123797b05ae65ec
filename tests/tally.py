"""How often something was tried, printed at the end of the tests: kills survived, inputs refused."""

from collections import Counter

COUNTS: Counter[str] = Counter()


def count(what: str, number: int = 1) -> None:
    COUNTS[what] += number
