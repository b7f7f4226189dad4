from pathlib import Path

import pytest

from tccctl.channel import open_channel
from tccctl.failures import UsageFailure
from tccctl.settings import DEFAULT_ADDRESS, Options, Settings, settings_of
from tests.support.identities import Authority


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """The environment of a user whose settings file is empty."""
    (tmp_path / ".config").mkdir()
    (tmp_path / ".config" / "tccctl.toml").touch()
    return {"HOME": str(tmp_path)}


def write(home: dict[str, str], text: str) -> None:
    (Path(home["HOME"]) / ".config" / "tccctl.toml").write_text(text)


def test_without_settings_the_defaults_and_the_user_name_apply() -> None:
    settings = settings_of(Options(), {}, user_name=lambda: "ana")
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


@pytest.mark.parametrize(
    "address", ["127.0.0.1:65536", "[::1]:70000", "dns:///tcc.example:70000", f"tcc.example:{'9' * 5_000}"]
)
def test_an_address_has_a_port_that_exists(home: dict[str, str], address: str) -> None:
    """gRPC takes it modulo 65,536: the call would go to another server."""
    for options, environment in (
        (Options(address=address), home),
        (Options(), home | {"TCCCTL_ADDRESS": address}),
    ):
        with pytest.raises(UsageFailure, match="the highest is 65535"):
            settings_of(options, environment)


@pytest.mark.parametrize("address", ["127.0.0.1:65535", "tcc.example:07091", "unix:/run/tcc:70000", "::1"])
def test_other_addresses_are_left_to_grpc(home: dict[str, str], address: str) -> None:
    assert settings_of(Options(address=address), home).address == address


def test_a_ca_file_without_a_certificate_is_named(tmp_path: Path) -> None:
    pair = Authority().issue("tcc.test")
    key, empty = tmp_path / "ca.key", tmp_path / "empty"
    key.write_bytes(pair.key_pem)
    empty.touch()
    for file, found in ((key, "PRIVATE KEY"), (empty, "nothing in PEM")):
        with (
            pytest.raises(UsageFailure, match=f"{file} contains no certificate in PEM, but {found}"),
            open_channel(Settings(ca_file=file)),
        ):
            pass


def test_a_certificate_and_a_key_that_do_not_belong_together_are_named(tmp_path: Path) -> None:
    authority = Authority()
    ca, certificate, key = (tmp_path / name for name in ("ca.crt", "tls.crt", "tls.key"))
    ca.write_bytes(authority.own.certificate_pem)
    certificate.write_bytes(authority.issue("tcc.test").certificate_pem)
    key.write_bytes(authority.issue("tcc.test").key_pem)
    with (
        pytest.raises(UsageFailure, match=r"tls\.crt and .*tls\.key do not match"),
        open_channel(Settings(ca_file=ca, certificate_file=certificate, key_file=key)),
    ):
        pass
    with (
        pytest.raises(UsageFailure, match="the first contains PRIVATE KEY, the second CERTIFICATE"),
        open_channel(Settings(ca_file=ca, certificate_file=key, key_file=certificate)),
    ):
        pass
