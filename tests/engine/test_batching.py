"""How many items a queue waits for."""

import pytest

from coordinator.engine.batching import enough


@pytest.mark.parametrize(
    ("begun", "is_full", "wanted"),
    [(0, False, 1), (1, False, 1), (60, False, 30), (1_000, False, 500), (60, True, 96), (1_000, True, 500)],
)
def test_half_of_what_is_live_is_enough_and_more_where_others_wait_outside(
    begun: int,
    is_full: bool,  # noqa: FBT001 - a parameter of the table
    wanted: int,
) -> None:
    assert enough(begun, is_full=is_full) == wanted
