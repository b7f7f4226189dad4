"""How long a queue waits, and for how many items."""

import pytest

from coordinator.engine.flush_policy import flush_policy
from tcc._internal.batcher import FlushPolicy


@pytest.mark.parametrize(
    ("begun", "is_saturated", "expected"),
    [
        (0, False, FlushPolicy(0.025, 1)),
        (1, False, FlushPolicy(0.025, 1)),
        (60, False, FlushPolicy(0.025, 30)),
        (1_000, False, FlushPolicy(0.025, 500)),
        (60, True, FlushPolicy(0.025, 96)),
        (143, True, FlushPolicy(0.025, 96)),
        (144, True, FlushPolicy(0.05, 144)),
        (1_000, True, FlushPolicy(0.05, 500)),
    ],
)
def test_half_of_what_is_live_is_enough_and_more_where_others_wait_outside(
    begun: int,
    is_saturated: bool,  # noqa: FBT001 - a parameter of the table
    expected: FlushPolicy,
) -> None:
    assert flush_policy(begun, is_saturated=is_saturated) == expected
