"""Durations, numbers and times beyond every bound end in a sentence."""

from pathlib import Path

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from tccctl.failures import UsageFailure
from tccctl.formatting import instant, milliseconds_in
from tccctl.settings import Options, settings_of
from tests.tccctl.scripted_admin import scripted

DIGITS = "9" * 5_000


@pytest.mark.parametrize(
    "arguments",
    [
        *(("reconcile", "--min-age", text) for text in ("1e300s", "inf", "-1s", "999999999999999999d")),
        ("reconcile", "--min-age", f"{DIGITS}s"),
        ("reconcile", "--ended-within", "36501d"),
        *(("stats", "--timeout", text) for text in ("1e300", "inf", "nan", "-1", "0", DIGITS)),
        *(("watch", "--every", text) for text in ("1e300", "inf", "nan", "0")),
        ("tx", "hold", "g", "--version", "99999999999999999999"),
        ("tx", "hold", "g", "--version", DIGITS),
        ("tx", "list", "--limit", DIGITS),
    ],
)
def test_a_number_beyond_its_bounds_is_a_usage_failure(arguments: tuple[str, ...]) -> None:
    with scripted() as service:
        result = service.tccctl(*arguments)
    assert result.exit_code == 2, result.exception
    assert len(result.stderr) < 1_000 + len(DIGITS) * (DIGITS in arguments)


@pytest.mark.parametrize("text", ["inf", "nan", "1e300", "-1", "0", DIGITS, "true"])
def test_a_timeout_in_the_file_is_bounded(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tccctl.toml"
    path.write_text(f"timeout_s = {text}\n")
    with pytest.raises(UsageFailure, match=str(path)):
        settings_of(Options(config=path), {})


def test_a_file_that_is_nested_too_deeply_is_a_usage_failure(tmp_path: Path) -> None:
    path = tmp_path / "tccctl.toml"
    path.write_text(f"a = {'[' * 5_000}\n")
    with pytest.raises(UsageFailure, match="recursion"):
        settings_of(Options(config=path), {})


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    path = tmp_path / "tccctl.toml"
    path.write_bytes(b'\xef\xbb\xbfoperator = "ana"\n')
    assert settings_of(Options(config=path), {}).operator == "ana"


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("TCCCTL_ADRESS", "TCCCTL_ADDRESS"),
        ("TCCCTL_CAFILE", "TCCCTL_CA_FILE"),
        ("TCCCTL_KEY", "TCCCTL_KEY_FILE"),
    ],
)
def test_an_unknown_variable_is_refused_and_the_nearest_named(name: str, nearest: str) -> None:
    with pytest.raises(UsageFailure) as caught:
        settings_of(Options(), {name: "x"})
    assert caught.value.message == f"unknown variable {name}"
    assert caught.value.advice == f"did you mean {nearest}?"


@pytest.mark.parametrize("seconds", [2**62, -(2**62), 253_402_300_800])
def test_a_time_beyond_the_calendar_is_shown_as_seconds(seconds: int) -> None:
    assert instant(Timestamp(seconds=seconds)) == f"{seconds} s after 1970"


def test_durations_have_at_most_18_digits() -> None:
    assert milliseconds_in("9" * 18 + "ms") == 10**18 - 1
    assert milliseconds_in("9" * 19 + "ms") is None
