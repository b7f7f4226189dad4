"""`tccd config check` and `tccd config show`, as commands."""

import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from coordinator.config.commands import app, masked
from coordinator.config.configuration import load

DEPLOYED = Path(__file__).parents[2] / "deploy" / "tcc.toml"


def tccd(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


def test_check_reports_a_valid_file() -> None:
    result = tccd("check", DEPLOYED)
    assert (result.exit_code, result.stdout) == (0, f"{DEPLOYED} is valid; participants: inventory\n")


def test_check_explains_every_mistake_and_exits_with_1(tmp_path: Path) -> None:
    path = tmp_path / "tcc.toml"
    path.write_text('[log]\nurl = "postgres"\n\n[participants.stock]\nretries = 3\n')
    result = tccd("check", path)
    assert (result.exit_code, result.stdout) == (1, "")
    said = result.stderr.splitlines()
    assert [line.partition(": ")[0] for line in said] == [f"{path}:{n}" for n in (2, 4, 5)]
    assert [line.split(": ")[1] for line in said] == [
        "log.url",
        "participants.stock.target",
        "participants.stock.retries",
    ]


def test_check_of_a_missing_file_exits_with_1(tmp_path: Path) -> None:
    result = tccd("check", tmp_path / "none.toml")
    assert (result.exit_code, "does not exist" in result.stderr) == (1, True)


def test_show_prints_toml_with_the_same_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tcc.toml"
    path.write_text('drain_s = 3\n[participants."a.b"]\ntarget = "x:1"\n')
    monkeypatch.setenv("TCC_LIMITS__LIVE_MAX", "7")
    result = tccd("show", "--config", path)
    assert result.exit_code == 0
    again = tmp_path / "again.toml"
    again.write_text(result.stdout)
    assert load(again) == load(path)
    assert tomllib.loads(result.stdout)["limits"]["live_max"] == 7


def test_show_names_the_origin_of_each_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tcc.toml"
    path.write_text("drain_s = 3\n")
    monkeypatch.setenv("TCC_LIMITS__LIVE_MAX", "7")
    origins = dict(
        line.replace(" ", "").split("#", 1)
        for line in tccd("show", "--config", path).stdout.splitlines()
        if line and not line.startswith(("#", "["))
    )
    assert origins["drain_s=3.0"] == f"{path}:1"
    assert origins["live_max=7"] == "TCC_LIMITS__LIVE_MAX"
    assert origins["workers=1"] == "default"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:secret@h:5/d", "postgresql://u:***@h:5/d"),
        ("postgresql://u:sec:ret@h/d", "postgresql://u:***@h/d"),
        (
            "postgresql://h/d?user=u&password=secret&sslmode=require",
            "postgresql://h/d?user=u&password=***&sslmode=require",
        ),
        ("postgresql://h/d?sslpassword=secret", "postgresql://h/d?sslpassword=***"),
        ("postgresql://u:1/secret@h/d", "postgresql://***"),
        ("https://u:secret@hooks.example/secret?token=secret", "https://hooks.example/***"),
        ("postgresql://u@/d?host=%2Frun", "postgresql://u@/d?host=%2Frun"),
    ],
)
def test_a_password_is_masked(url: str, shown: str) -> None:
    assert masked(url) == shown


def test_show_masks_the_password_of_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TCC_LOG__URL", "postgresql://u:secret@h/d")
    result = tccd("show")
    assert "secret" not in result.output
    assert 'url = "postgresql://u:***@h/d"' in result.stdout
