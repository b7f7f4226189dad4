import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from tcc.admin.v1 import admin_pb2 as admin
from tcc.common.v1 import common_pb2 as common
from tccctl.formatting import ago, due, duration, enum_name, harmless, instant


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.25, "250ms"),
        (40.9, "40s"),
        (192, "3m12s"),
        (3_600, "1h"),
        (3_605, "1h"),
        (5_400, "1h30m"),
        (2 * 86_400 + 4 * 3_600 + 59, "2d4h"),
        (-3, "0s"),
    ],
)
def test_a_duration_is_shown_in_its_two_largest_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_moment_is_shown_in_utc_and_relative_to_now() -> None:
    moment = Timestamp(seconds=1_763_724_654, nanos=120_999_999)
    assert instant(moment) == "2025-11-21T11:30:54.120Z"
    assert ago(moment, 1_763_724_664.2) == "10s ago"
    assert ago(moment, 1_763_724_650) == "in 4s"
    assert (due(moment, 1_763_724_664), due(moment, 1_763_724_650)) == ("now", "in 4s")
    assert (instant(Timestamp()), ago(Timestamp(), 1.0)) == ("-", "-")


@pytest.mark.parametrize(
    ("descriptor", "number", "name"),
    [
        (common.TransactionState.DESCRIPTOR, common.TRANSACTION_STATE_CONFIRMING, "CONFIRMING"),
        (common.CancelReason.DESCRIPTOR, common.CANCEL_REASON_TRY_FAILED, "TRY_FAILED"),
        (admin.BreakerState.DESCRIPTOR, admin.BREAKER_STATE_HALF_OPEN, "HALF_OPEN"),
        (common.TransactionState.DESCRIPTOR, common.TRANSACTION_STATE_UNSPECIFIED, ""),
        (common.TransactionState.DESCRIPTOR, 99, "99"),
    ],
)
def test_an_enum_s_value_is_named_without_the_enum(descriptor, number: int, name: str) -> None:
    assert enum_name(descriptor, number) == name


def test_foreign_text_cannot_control_the_terminal() -> None:
    assert harmless("down\n\x1b[2Jand out\u202e é") == "down\\n\\u001b[2Jand out\\u202e é"
