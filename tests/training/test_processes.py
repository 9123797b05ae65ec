"""What is said of the processes of one run."""

import warnings

import pytest

from l2l_lightning.training.processes import warn_of_shared_store


@pytest.mark.parametrize(
    ("restarts", "shared", "warned"), [("3", "True", True), ("3", "False", False), ("0", "True", False)]
)
def test_a_store_that_restarts_share_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, restarts: str, shared: str, warned: bool
) -> None:
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", restarts)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", shared)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        warn_of_shared_store()
    assert [("TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1" in str(one.message)) for one in said] == [True] * warned
