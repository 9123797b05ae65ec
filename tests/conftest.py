"""Every test starts from the same random state."""

import pytest
import torch
from hypothesis import settings

# The same examples on every run, and no clock: the machines are shared.
settings.register_profile("steady", derandomize=True, deadline=None, max_examples=60)
settings.load_profile("steady")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
