"""How much the reliability tests try: a little in every run, a lot with L2L_RELIABILITY=full."""

import os

from hypothesis import HealthCheck, settings

FULL = os.environ.get("L2L_RELIABILITY") == "full"


def examples(reduced: int, full: int) -> settings:
    """Settings of a hypothesis test; its fixtures may be shared by all examples."""
    shared = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(max_examples=full if FULL else reduced, suppress_health_check=shared)
