"""`tccd doctor`: the connection to the log, and its standbys."""

import pytest

from coordinator.log.diagnosis import LogFacts
from coordinator.process.checks import CheckStatus
from coordinator.process.log_checks import encryption, replication

OK, WARNING, PROBLEM = CheckStatus


def results(names: str, synchronous: int, standbys: int, behind_bytes: int | None) -> dict[str, CheckStatus]:
    facts = LogFacts(
        synchronous_standbys=synchronous,
        standbys=standbys,
        standby_behind_bytes=behind_bytes,
        settings={"synchronous_standby_names": names},
        read_only=False,
        applied=frozenset(),
        wanted=frozenset(),
        is_newer=False,
        clock_ahead_s=0.0,
        clock_error_s=0.0,
    )
    return {result.check: result.status for result in replication(facts)}


def test_a_server_without_standbys_needs_none() -> None:
    assert results("", 0, 0, None) == {}


def test_a_synchronous_standby_that_keeps_up_is_right() -> None:
    assert results("ANY 1 (*)", 2, 2, 64 * 2**20) == {"standbys": OK, "replication": OK}


def test_a_standby_that_no_write_waits_for_is_a_warning() -> None:
    assert results("", 0, 1, 0) == {"standbys": WARNING, "replication": OK}


def test_a_required_standby_that_is_missing_is_a_problem() -> None:
    assert results("standby", 0, 0, None) == {"standbys": PROBLEM}


def test_a_standby_far_behind_is_a_warning() -> None:
    assert results("a", 1, 2, 64 * 2**20 + 1) == {"standbys": OK, "replication": WARNING}


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("postgresql:///tcc", []),
        ("postgresql:///tcc?host=%2Frun%2Fpostgresql", []),
        ("postgresql://u@127.0.0.1/tcc", []),
        ("postgresql://u@localhost,[::1]/tcc", []),
        ("postgresql://u@db/tcc", [WARNING]),
        ("postgresql://u@localhost,db/tcc?sslmode=require", [WARNING]),
        ("postgresql+psycopg://u@10.0.0.1/tcc?sslmode=verify-ca", [WARNING]),
        ("postgresql://u@a,b/tcc?sslmode=verify-full", [OK]),
    ],
)
def test_a_connection_to_another_machine_needs_verify_full(
    url: str, found: list[CheckStatus], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PGSSLMODE", raising=False)
    assert [result.status for result in encryption(url)] == found


def test_the_mode_of_the_environment_counts_if_the_url_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    assert [result.status for result in encryption("postgresql://u@db/tcc")] == [OK]
    assert [result.status for result in encryption("postgresql://u@db/tcc?sslmode=disable")] == [WARNING]
