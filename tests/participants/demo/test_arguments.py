"""The arguments of the demo."""

import sys

import pytest

from participants.demo.__main__ import main


@pytest.mark.parametrize("count", ["0", "-5", "many", ""])
def test_an_invalid_number_of_orders_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], count: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["tccd demo", f"--orders={count}"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("argument --orders: a whole number, at least 1")


def test_redis_that_is_not_installed_ends_the_demo_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(sys, "argv", ["tccd demo", "--redis"])
    assert main() == 1
    expected = "--redis: no redis-server is installed (Debian: apt-get install redis-server)\n"
    assert capsys.readouterr() == ("", expected)
