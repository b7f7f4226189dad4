"""How long a queue waits, and for how many items."""

import pytest

from coordinator.engine.batching import pace
from tcc.outbox import Pace


@pytest.mark.parametrize(
    ("begun", "is_full", "expected"),
    [
        (0, False, Pace(0.025, 1)),
        (1, False, Pace(0.025, 1)),
        (60, False, Pace(0.025, 30)),
        (1_000, False, Pace(0.025, 500)),
        (60, True, Pace(0.025, 96)),
        (143, True, Pace(0.025, 96)),
        (144, True, Pace(0.05, 144)),
        (1_000, True, Pace(0.05, 500)),
    ],
)
def test_half_of_what_is_live_is_enough_and_more_where_others_wait_outside(
    begun: int,
    is_full: bool,  # noqa: FBT001 - a parameter of the table
    expected: Pace,
) -> None:
    assert pace(begun, is_full=is_full) == expected
