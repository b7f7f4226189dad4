from pathlib import Path

import pytest

from tccctl.failures import UsageFailure
from tccctl.settings import DEFAULT_ADDRESS, Options, settings_of


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """The environment of a user whose settings file is empty."""
    (tmp_path / ".config").mkdir()
    (tmp_path / ".config" / "tccctl.toml").touch()
    return {"HOME": str(tmp_path), "USER": "unix-name"}


def write(home: dict[str, str], text: str) -> None:
    (Path(home["HOME"]) / ".config" / "tccctl.toml").write_text(text)


def test_without_settings_the_defaults_and_the_user_name_apply() -> None:
    settings = settings_of(Options(), {"USER": "ana"})
    assert (settings.address, settings.operator, settings.timeout_s) == (DEFAULT_ADDRESS, "ana", 10.0)


def test_an_option_is_above_the_environment_and_that_above_the_file(home: dict[str, str]) -> None:
    write(home, 'address = "file:1"\noperator = "file"\ntimeout_s = 3')
    assert settings_of(Options(), home).address == "file:1"
    assert settings_of(Options(), home).operator == "file"
    assert settings_of(Options(), home).timeout_s == 3.0
    home |= {"TCCCTL_ADDRESS": "environment:1", "TCCCTL_OPERATOR": "environment"}
    assert settings_of(Options(), home).address == "environment:1"
    assert settings_of(Options(), home).operator == "environment"
    given = settings_of(Options(address="option:1", operator="option", timeout_s=1.5), home)
    assert (given.address, given.operator, given.timeout_s) == ("option:1", "option", 1.5)


def test_redactions_add_up(home: dict[str, str]) -> None:
    write(home, 'redact = ["a"]\ndescriptor_sets = ["/x"]\n[messages]\n"p/a" = "m.A"\n"p/b" = "m.B"')
    home["TCCCTL_REDACT"] = "b, c.d,"
    settings = settings_of(
        Options(redact=["e"], descriptor_sets=[Path("/y")], messages=["p/b=m.C"]),
        home,
    )
    assert settings.redact == ["a", "b", "c.d", "e"]
    assert settings.descriptor_sets == [Path("/x"), Path("/y")]
    assert settings.messages == {"p/a": "m.A", "p/b": "m.C"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("adress = 1", "unknown key adress; known keys: address"),
        ("address = 1", "address must be a string"),
        ("timeout_s = -1", "timeout_s must be a positive number"),
        ("timeout_s = true", "timeout_s must be a positive number"),
        ('redact = "a"', "redact must be a list"),
        ('[messages]\n"p/a" = 1', "messages must be a table"),
        ("address = ", "tccctl.toml: "),
    ],
)
def test_a_mistake_in_the_file_is_reported(home: dict[str, str], text: str, said: str) -> None:
    write(home, text)
    with pytest.raises(UsageFailure, match=said):
        settings_of(Options(), home)


def test_a_file_that_is_named_must_be_there(home: dict[str, str]) -> None:
    with pytest.raises(UsageFailure, match="there is no configuration file /nonexistent"):
        settings_of(Options(config=Path("/nonexistent")), home)
    with pytest.raises(UsageFailure, match="there is no configuration file /nonexistent"):
        settings_of(Options(), home | {"TCCCTL_CONFIG": "/nonexistent"})


@pytest.mark.parametrize("text", ["p/a", "p/a=", "=m.A"])
def test_a_message_is_named_with_what_it_is_for(text: str) -> None:
    with pytest.raises(UsageFailure, match=r"PARTICIPANT/ACTION=PACKAGE\.MESSAGE"):
        settings_of(Options(messages=[text]), {})
