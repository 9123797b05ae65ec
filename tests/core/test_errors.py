import pytest

from l2l_lightning.core.errors import InputError, check_choice, check_non_negative, check_positive, check_positive_int

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (check_positive_int, [1, 7, 10**12], [0, -1, True, 1.0, "1", None, [1]]),
        (check_positive, [1, 5e-324, 3e38], [0, 0.0, -1, True, NAN, INF, "1", None]),
        (check_non_negative, [0, 0.0, -0.0, 3e38], [-1, -5e-324, False, NAN, INF, "0", None]),
        (lambda owner, **values: check_choice(owner, ("a", "b"), **values), ["a", "b"], ["c", "", "A", None, 0]),
    ],
    ids=["positive_int", "positive", "non_negative", "choice"],
)
def test_good_passes_and_bad_is_named(check, good, bad):
    class Owner: ...

    for value in good:
        check(Owner(), size=value)
    for value in bad:
        with pytest.raises(InputError) as caught:
            check(Owner(), size=value)
        assert str(caught.value).startswith("Owner: size must be ")
        assert str(caught.value).endswith(f", got {value!r}.")


def test_choices_are_listed():
    with pytest.raises(InputError, match="one of left, right, got 'up'"):
        check_choice(object(), ("left", "right"), way="up")
