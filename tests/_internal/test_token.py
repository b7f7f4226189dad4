"""A token in a file: read when it has changed, and not with each call."""

import os
import time
from pathlib import Path

import pytest

from tcc._internal.token import token_source

# Seconds since the epoch.
LONG_AGO = 1_700_000_000


def written(path: Path, token: str, at: float | None = None) -> None:
    path.write_text(token + "\n")
    if at is not None:
        os.utime(path, (at, at))


def test_a_file_that_stays_as_it_is_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "token"
    written(path, "one", LONG_AGO)
    token = token_source(path)
    assert token() == "one"
    written(path, "two", LONG_AGO)  # nothing shows it
    assert token() == "one"
    os.utime(path, (LONG_AGO, LONG_AGO + 1))
    assert token() == "two"


@pytest.mark.parametrize("at", [None, time.time() + 3_600], ids=["now", "by a clock that is ahead"])
def test_changes_of_the_same_moment_are_seen(tmp_path: Path, at: float | None) -> None:
    path = tmp_path / "token"
    token = token_source(path)
    for each in ("one", "two", "six"):
        written(path, each, at)
        assert token() == each


def test_a_file_is_found_that_takes_the_place_of_another(tmp_path: Path) -> None:
    path, other = tmp_path / "token", tmp_path / "other"
    for each in (path, other):
        written(each, each.name, LONG_AGO)
    token = token_source(path)
    assert token() == "token"
    other.rename(path)
    assert token() == "other"


def test_the_last_token_is_shown_while_the_file_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "token"
    token = token_source(path)
    with pytest.raises(OSError, match="token"):
        token()
    written(path, "one", LONG_AGO)
    assert token() == "one"
    path.unlink()
    assert token() == "one"
    written(path, "two", LONG_AGO)
    assert token() == "two"
