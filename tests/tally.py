"""How many inputs the reliability tests tried, by kind."""

from collections import Counter

COUNTS: Counter[str] = Counter()


def count(what: str, number: int = 1) -> None:
    """Add inputs of a kind that were tried."""
    COUNTS[what] += number
